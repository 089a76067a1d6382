"""Positions in governance's ledger: the order of transactions, and the latest one that a process has seen.

Governance runs on several nodes, and any of them can answer a read. So an answer can be older than an earlier one, or older than
the caller's own write (docs/facts/governance-service.md#transactions).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final, Self

_TRANSACTION: Final = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")


@dataclass(frozen=True)
class TransactionId:
    """A transaction ID ``VIEW.SEQNO``: the term of the primary that made it, and the position in the ledger."""

    view: int
    seqno: int

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Parse ``VIEW.SEQNO``; None for any other text."""
        found = _TRANSACTION.fullmatch(text or "")
        return cls(int(found[1]), int(found[2])) if found else None

    def includes(self, other: TransactionId) -> bool:
        """Whether a ledger that ends here contains ``other``, if ``other`` was not rolled back.

        Both numbers must reach those of ``other``. A ledger of an older view can be longer, but its end is rolled back. A ledger
        of a newer view that is shorter shows that ``other`` was rolled back.
        """
        return self.view >= other.view and self.seqno >= other.seqno

    def __str__(self) -> str:
        return f"{self.view}.{self.seqno}"


def is_older(text: str, than: str) -> bool:
    """Whether the transaction ``text`` is known to be before ``than``. False if one of them is no transaction ID."""
    first, second = TransactionId.parse(text), TransactionId.parse(than)
    return first is not None and second is not None and first.seqno < second.seqno


def latest(*texts: str) -> str:
    """Return the latest of several transaction IDs as text; the empty string if there is none."""
    known = [found for text in texts if (found := TransactionId.parse(text)) is not None]
    return str(max(known, key=lambda item: (item.view, item.seqno))) if known else ""


@dataclass
class LedgerPosition:
    """The latest transaction that answers of governance have shown to this process. The clients of one process share it.

    A client accepts no answer that is older than the position at the time of its question.
    """

    floor: TransactionId | None = None
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
