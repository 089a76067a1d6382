"""Finds the open queries that have changed in governance, with few requests. Independent of Temporal.

Docs: docs/decisions/017-one-watcher-of-queries.md.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cleanroom.concurrency import gather_limited
from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.identifiers import TransactionId
from cleanroom.messages.known import Compared, KnownState

READS_PER_LOOK: Final = 100
"""How many queries one look compares at most. There is one look per second, so a busy ledger does not occupy a core."""
APPROVED_PER_LOOK: Final = 20
"""How many accepted queries one look compares at most, in addition. Of these, only consent and the number of runs can change."""
LIST_SECONDS: Final = 60.0
"""Queries are listed again after this time, although nothing has changed in governance: one may have been adopted."""
LONGEST_PAUSE: Final = 600.0
"""Longest pause before a query is woken again that still knows another state than governance has."""


class OpenQueries(Protocol):
    """The open workflows of a collaboration's queries: of drafts, open proposals, and accepted queries."""

    async def list(self) -> Mapping[str, KnownState]:
        """Return what each workflow knows, by the name of its query."""
        ...

    async def known(self, query: str) -> KnownState | None:
        """Return what one workflow knows at this moment; None if it is closed."""
        ...

    async def wake(self, query: str) -> None:
        """Let a workflow read governance again."""
        ...


class WatchedGovernance(Protocol):
    """What the watcher reads in governance."""

    async def position(self) -> str:
        """Return the end of the ledger, or the empty string if governance does not tell it."""
        ...

    async def is_current(self, query: str, known: KnownState) -> bool:
        """Whether governance holds what ``known`` says."""
        ...


@dataclass
class _Watched:
    """A query, and when it was compared with governance."""

    name: str
    known: KnownState
    compared_at: str = ""
    """The position at which governance held what the workflow knows."""
    looked: float = float("-inf")
    again: float = float("-inf")
    """When it may be compared again."""
    differences: int = 0
    """How often the comparison has failed."""


class QueryWatch:
    """Compares what workflows know with governance, whenever the ledger has grown. It remembers nothing that a new one does not find.

    Args:
        queries: The workflows.
        governance: Governance.
        timer: A monotonic clock, in seconds.
        pause: Seconds before a query that differs is compared again. The pause doubles with each wake-up.
    """

    def __init__(self, queries: OpenQueries, governance: WatchedGovernance, timer: Callable[[], float], pause: float = 1.0) -> None:
        self._queries, self._governance, self._timer, self._pause = queries, governance, timer, pause
        self._watched: dict[str, _Watched] = {}
        self._listed_at = ""
        self._listed = self._list_due = float("-inf")
        self._listed_time = dt.datetime.min.replace(tzinfo=dt.UTC)

    async def look(self) -> None:
        """Compare the queries that are due, and wake those that have changed.

        Raises:
            Unavailable: Governance did not answer.
        """
        now = self._timer()
        # Without a position, everything is compared once per period.
        position = await self._governance.position() or f"period {now // LIST_SECONDS:.0f}"
        if now >= self._list_due or (position != self._listed_at and now >= self._listed + len(self._watched) / READS_PER_LOOK):
            await self._list(now, position)

        def due(*, accepted: bool, limit: int) -> list[_Watched]:
            waiting = (item for item in self._watched.values() if item.compared_at != position and now >= item.again)
            chosen = (item for item in waiting if (item.known.state == "Accepted") is accepted)
            return heapq.nsmallest(limit, chosen, key=lambda item: item.looked)

        async def compare(item: _Watched) -> None:
            await self._compare(item, now, position)

        await gather_limited(compare, [*due(accepted=False, limit=READS_PER_LOOK), *due(accepted=True, limit=APPROVED_PER_LOOK)])

    @property
    def compared(self) -> Compared | None:
        """The position at which all queries know what governance holds; None if some were not compared there, or differ."""
        current = TransactionId.parse(self._listed_at) and all(item.compared_at == self._listed_at for item in self._watched.values())
        return Compared(position=self._listed_at, listed=self._listed_time) if current else None

    async def _list(self, now: float, position: str) -> None:
        began = dt.datetime.now(dt.UTC)
        found = await self._queries.list()
        for name in self._watched.keys() - found.keys():
            del self._watched[name]
        for name, known in found.items():
            if name not in self._watched or self._watched[name].known != known:
                self._watched[name] = _Watched(name, known)
        self._listed, self._listed_at, self._list_due = now, position, now + LIST_SECONDS
        self._listed_time = began

    async def _compare(self, item: _Watched, now: float, position: str) -> None:
        item.looked = now
        try:
            current = await self._governance.is_current(item.name, item.known)
        except Unavailable:
            raise
        except CleanRoomError:
            # The workflow reads the document too, and shows the error.
            current = False
        if current:
            item.compared_at, item.differences = position, 0
            return
        item.differences += 1
        item.again = now + min(self._pause * 2 ** min(max(item.differences - 2, 0), 10), LONGEST_PAUSE)
        if item.differences == 1:
            # A command of the query may have made the change. The workflow knows of it in a moment.
            return
        known = await self._queries.known(item.name)
        if known is None:
            del self._watched[item.name]
        elif known != item.known:
            self._watched[item.name] = _Watched(item.name, known)
        else:
            await self._queries.wake(item.name)
