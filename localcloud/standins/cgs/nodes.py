"""The nodes of the governance network, as far as callers notice them: one that lags behind, and commits that take time.

CCF answers reads from the state of the node that has the connection, and commits with the next signature
(docs/facts/governance-service.md#transactions).
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections import deque
from dataclasses import dataclass, field

Row = tuple[str, str, bytes | None, int, bool]
"""One write: table, key, value (None: removed), sequence number, whether earlier values are kept."""


@dataclass
class _Write:
    at: float
    seqno: int
    rows: list[Row] = field(default_factory=list)


class Nodes:
    """What the primary and a node that lags behind have seen and committed.

    Args:
        source: The primary's database.
        lag: Seconds after which the other node has a write. 0: there is one node.
        interval: Seconds between two signatures, which commit.
    """

    def __init__(self, source: sqlite3.Connection, *, lag: float, interval: float) -> None:
        self.lag = lag
        """A test may change it, if it was not 0."""
        self.interval = interval
        """A test may change it, if it was not 0."""
        self._two, self._delayed = lag > 0, lag > 0 or interval > 0
        self._seen = self._base = int(source.execute("SELECT seqno FROM ledger").fetchone()[0])
        self._applied = self._base
        self._recent: deque[_Write] = deque()
        """Writes that may not be committed on every node."""
        self._missing: deque[_Write] = deque()
        """Writes that the second node does not have."""
        self.replica = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if self._two:
            source.backup(self.replica)

    def wrote(self, seqno: int, rows: list[Row]) -> None:
        """Take note of a batch of writes that is on the primary's disk."""
        self._seen = seqno
        write = _Write(time.monotonic(), seqno, rows)
        if self._two:
            self._missing.append(write)
        if self._delayed:
            self._recent.append(write)
        else:
            self._base = seqno

    def lagging(self) -> sqlite3.Connection:
        """Return the database of the node that lags behind, with what it has by now."""
        now = time.monotonic()
        while self._missing and self._missing[0].at <= now - self.lag:
            write = self._missing.popleft()
            for table, key, value, seqno, history in write.rows:
                if value is None:
                    self.replica.execute("DELETE FROM kv WHERE tab = ? AND key = ?", (table, key))
                    continue
                self.replica.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?)", (table, key, value, seqno))
                if history:
                    self.replica.execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?)", (table, key, seqno, value))
            self.replica.execute("UPDATE ledger SET seqno = ?", (write.seqno,))
            self._applied = write.seqno
        return self.replica

    def seen(self, *, lagging: bool) -> int:
        """Return the last sequence number that the node has."""
        if not lagging:
            return self._seen
        self.lagging()
        return self._applied

    def committed(self, *, lagging: bool) -> int:
        """Return the last sequence number that the node knows to be committed."""
        now = time.monotonic()
        while self._recent and self._recent[0].seqno <= (self._applied if self._two else self._seen):
            if self._signed_at(self._recent[0].at) > now - (self.lag if self._two else 0.0):
                break
            self._base = self._recent.popleft().seqno
        until = now - (self.lag if lagging else 0.0)
        known = max([self._base, *(write.seqno for write in self._recent if self._signed_at(write.at) <= until)])
        return min(known, self.seen(lagging=lagging))

    def _signed_at(self, written: float) -> float:
        return (math.floor(written / self.interval) + 1) * self.interval if self.interval else written


class Connections:
    """Assigns every second connection to the node that lags behind."""

    def __init__(self) -> None:
        self._lagging: dict[tuple[str, int], bool] = {}

    def lags(self, client: tuple[str, int] | None) -> bool:
        """Whether the connection from this address and port leads to the node that lags behind."""
        if client is None:
            return False
        return self._lagging.setdefault(client, len(self._lagging) % 2 == 1)
