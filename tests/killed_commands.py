"""Kills a command at one of its requests, in this process. Tests then repeat the command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

EVERYWHERE = os.environ.get("CLEANROOM_TEST_KILLS") == "all"
"""Whether to kill at every request (``make test-kills``), and not only around those that have an effect."""


class Killed(BaseException):
    """Ends a command at a request."""


@dataclass
class Requests:
    """Counts the requests of a command, and kills it at one of them."""

    number: int = 0
    kill_at: int | None = None
    """Number of the request at which to kill. None kills at the first one that has an effect."""
    kills: bool = False
    effects: tuple[str, ...] = ()
    """Names of the requests that have an effect."""
    after: bool = False
    """Whether the request is answered before the kill."""
    dead: bool = False
    error: Callable[[str], BaseException] = Killed
    """What ends the command, by the name of the request."""
    spared: tuple[str, ...] = ()
    """Names of the requests that are answered in any case, and not counted."""
    victim: asyncio.Task[Any] | None = None
    """The command. Other tasks of it end with it, as those of a process do."""

    async def pass_through(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a request, or kill the command. A dead command sends nothing."""
        if name in self.spared:
            return await send()
        number, self.number = self.number, self.number + 1
        here = self.kills and not self.dead and (name in self.effects if self.kill_at is None else number == self.kill_at)
        self.dead = self.dead or here
        if self.dead and not (here and self.after):
            self._end()
            raise self.error(name)
        answer = await send()
        if self.dead:
            self._end()
            raise self.error(name)
        return answer

    def _end(self) -> None:
        if self.victim is not None:
            self.victim.cancel()

    async def run(self, command: Coroutine[Any, Any, Any]) -> None:
        """Run a command until it ends or is killed."""
        self.victim = asyncio.ensure_future(command)
        await asyncio.wait([self.victim])
        if not self.dead:
            await self.victim
        elif not self.victim.cancelled():
            self.victim.exception()  # asyncio reports an exception that nothing has read
