"""The latest transaction of governance's ledger that a process has seen.

Governance runs on several nodes, and any of them can answer a read. So an answer can be older than an earlier one, or older than
the caller's own write (docs/facts/governance-service.md#transactions).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cleanroom.identifiers import TransactionId


@dataclass
class LedgerPosition:
    """The latest transaction that answers of governance have shown to this process. The clients of one process share it.

    A client accepts no answer that is older than the position at the time of its question.
    """

    floor: TransactionId | None = None
    expected: str = ""
    """A transaction that another process has seen, as it says. The next read first waits for it (:meth:`HttpChannel.catch_up`)."""
    wrote_at: float = float("-inf")
    """When this process last wrote, on the monotonic clock."""

    def advance(self, seen: TransactionId) -> None:
        """Take note of a transaction in an answer."""
        if self.floor is None or seen.includes(self.floor):
            self.floor = seen

    def wrote(self, transaction: TransactionId | None) -> None:
        """Take note of a write of this process. ``transaction`` is None if the answer does not tell it."""
        self.wrote_at = time.monotonic()
        if transaction is not None:
            self.advance(transaction)

    def forget(self, lost: TransactionId) -> None:
        """Drop a transaction that governance has rolled back."""
        if self.floor == lost:
            self.floor = None

    def __str__(self) -> str:
        return str(self.floor) if self.floor else ""


_observed: ContextVar[list[TransactionId] | None] = ContextVar("cleanroom_governance_observed", default=None)


@contextmanager
def observed_transactions() -> Iterator[list[TransactionId]]:
    """Collect the transactions of the answers to the reads of a block, in the order of the answers."""
    found: list[TransactionId] = []
    token = _observed.set(found)
    try:
        yield found
    finally:
        _observed.reset(token)


def observe(seen: TransactionId) -> None:
    """Add the transaction of an answer to the enclosing :func:`observed_transactions`."""
    found = _observed.get()
    if found is not None:
        found.append(seen)
