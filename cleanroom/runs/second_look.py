"""Lets releases of one run that are on their way at the same time take their second look at the same time.

A second look asks governance after a write. Looks that begin together share their requests
(:class:`cleanroom.runs.shared_reader.SharedReader`), and each request is still sent after every one of their writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field

from cachetools import LRUCache

GATHER_SECONDS = 0.1
"""How long a release waits for the others at most."""
CONCURRENT_DATASETS = 25
"""For how many datasets of a run something is released at the same time."""

RUNS = 64
"""Of how many runs a process remembers the finished datasets."""


@dataclass
class _Group:
    """Releases that wait for their second look."""

    waiting: int = 0
    begin: asyncio.Event = field(default_factory=asyncio.Event)
    timeout: asyncio.Task[None] | None = None


class SecondLooks:
    """The releases of this process that have written and not looked again, by run.

    Args:
        pause: Waits for a number of seconds.
    """

    def __init__(self, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._pause = pause
        self._groups: dict[str, _Group] = {}
        self._finished: LRUCache[str, set[str]] = LRUCache(RUNS)

    def finish(self, run: str, datasets: Iterable[str]) -> None:
        """Take note that nothing more is released for ``datasets``."""
        self._finished.setdefault(run, set()).update(datasets)

    async def gather(self, run: str, datasets: Collection[str]) -> None:
        """Wait until something was written for each of ``datasets`` that is not finished, or until time is up."""
        expected = len(set(datasets) - self._finished.get(run, set()))
        if expected < 2:
            return
        group = self._groups.get(run)
        if group is None:
            group = self._groups[run] = _Group()
            group.timeout = asyncio.create_task(self._time_out(run, group))
        group.waiting += 1
        if group.waiting >= min(expected, CONCURRENT_DATASETS):
            self._begin(run, group)
            # The others go on in the next turn of the event loop. So does this one, or their requests would not be shared.
            await asyncio.sleep(0)
        else:
            await group.begin.wait()

    def _begin(self, run: str, group: _Group) -> None:
        if self._groups.get(run) is group:
            del self._groups[run]
        group.begin.set()

    async def _time_out(self, run: str, group: _Group) -> None:
        await self._pause(GATHER_SECONDS)
        self._begin(run, group)
