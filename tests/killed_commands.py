"""Kills a command at one of its requests, in this process. Tests then repeat the command."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
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

    async def pass_through(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a request, or kill the command. A dead command sends nothing."""
        number, self.number = self.number, self.number + 1
        here = self.kills and not self.dead and (name in self.effects if self.kill_at is None else number == self.kill_at)
        self.dead = self.dead or here
        if self.dead and not (here and self.after):
            raise Killed(name)
        answer = await send()
        if self.dead:
            raise Killed(name)
        return answer
