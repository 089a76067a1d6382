"""Finds the ends of the rows of CSV text, and verifies its quotes, escapes and line ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cleanroom.datasets.csv_problems import BARE_RETURN, MISPLACED_QUOTE, OPEN_QUOTE, CsvProblem, dialect_mismatch, wrong_escape
from cleanroom.documents.dataset import CsvDialect
from cleanroom.errors import InvalidInput

_QUOTE, _RETURN, _FEED = b'"\r\n'


class CsvRows:
    """Rows of CSV text (RFC 4180): they end at line feeds outside of quoted values.

    A quote may only begin a value, end it, or, doubled, stand for itself within a quoted value. Then a position is
    within a quoted value exactly if an odd number of quotes precedes it.

    Args:
        dialect: How the text deviates from RFC 4180; None if it does not.
    """

    def __init__(self, dialect: CsvDialect | None = None) -> None:
        self._dialect = dialect or CsvDialect()
        self._quoted = self._dialect.quoting == "rfc4180"
        self._delimiter = ord(self._dialect.delimiter)
        escape = (self._dialect.escape_character or "").encode()
        others = b'"' if self._quoted else self._dialect.delimiter.encode()
        self._escape = escape
        self._last: tuple[bytes, np.ndarray] = b"", np.empty(0, np.intp)
        self._escaped = re.compile(re.escape(escape) + b"[" + re.escape(escape + others) + b"]") if escape else None

    def last_end(self, text: bytes) -> int:
        """See :class:`RowFormat`."""
        quotes = self._quotes(text)
        end = text.rfind(b"\n") + 1
        while end and (before := int(np.searchsorted(quotes, end))) % 2:
            end = text.rfind(b"\n", 0, int(quotes[before - 1])) + 1
        return end

    def first_end(self, text: bytes) -> int:
        """See :class:`RowFormat`."""
        quotes = self._quotes(text)
        end = text.find(b"\n") + 1
        while end and (before := int(np.searchsorted(quotes, end))) % 2:
            end = text.find(b"\n", int(quotes[before])) + 1 if before < len(quotes) else 0
        return end

    def has_quoted_breaks(self, block: bytes) -> bool:
        """Return whether a quoted value in a block of whole rows contains a line feed or a carriage return."""
        quotes = self._quotes(block)
        if not len(quotes):
            return False
        data = np.frombuffer(block, np.uint8)
        breaks = np.flatnonzero((data == _FEED) | (data == _RETURN))
        return bool(np.any(np.searchsorted(quotes, breaks) % 2))

    def verify(self, block: bytes, names: Sequence[str], where: str, first_row: int | None) -> None:
        """Verify the quotes, escapes and line ends of a block of whole rows.

        Args:
            block: The text.
            names: The columns in file order, for error messages.
            where: The object's path, for error messages.
            first_row: Number of the first row in the file, or None if unknown.

        Raises:
            InvalidInput: ``SchemaMismatch`` with row and column.
        """
        quotes = self._quotes(block)
        problem = self._wrong_escape(block, quotes) or self._wrong_quote(block, quotes) or self._bare_return(block, quotes)
        if problem is not None:
            raise self._error(block, quotes, *problem, names, where, first_row)

    def _quotes(self, text: bytes) -> np.ndarray:
        """Return the positions of all quotes that are not escaped."""
        if not self._quoted or b'"' not in text:
            return np.empty(0, np.intp)
        if self._last[0] is not text:
            self._last = text, np.flatnonzero(np.frombuffer(self._masked(text), np.uint8) == _QUOTE)
        return self._last[1]

    def _masked(self, text: bytes) -> bytes:
        return self._escaped.sub(b"xx", text) if self._escaped and self._escape in text else text

    def _wrong_escape(self, block: bytes, quotes: np.ndarray) -> tuple[int, CsvProblem] | None:
        if not self._escaped or self._escape not in block:
            return None
        place = self._masked(block).find(self._escape)
        if place < 0 and self._quoted:
            starts = np.array([match.start() for match in self._escaped.finditer(block)])
            outside = starts[np.searchsorted(quotes, starts) % 2 == 0]
            place = int(outside[0]) if len(outside) else -1
        return None if place < 0 else (place, wrong_escape(quoted=self._quoted))

    def _wrong_quote(self, block: bytes, quotes: np.ndarray) -> tuple[int, CsvProblem] | None:
        if not len(quotes):
            return None
        data = np.frombuffer(block, np.uint8)
        doubled = _QUOTE if not self._escape else _FEED  # with an escape character, quotes are escaped and not doubled
        opening, closing = quotes[0::2], quotes[1::2]
        before = np.where(opening == 0, _FEED, data[opening - 1])
        after = data[np.minimum(closing + 1, len(data) - 1)]
        after = np.where(closing == len(data) - 1, _FEED, after)
        bad_opening = opening[(before != self._delimiter) & (before != _FEED) & (before != doubled)]
        bad_closing = closing[(after != self._delimiter) & (after != _FEED) & (after != _RETURN) & (after != doubled)]
        first = min([int(bad[0]) for bad in (bad_opening, bad_closing) if len(bad)], default=-1)
        if first >= 0:
            return first, MISPLACED_QUOTE
        return (int(quotes[-1]), OPEN_QUOTE) if len(quotes) % 2 else None

    def _bare_return(self, block: bytes, quotes: np.ndarray) -> tuple[int, CsvProblem] | None:
        if b"\r" not in block or block.count(b"\r") == block.count(b"\r\n"):
            return None
        data = np.frombuffer(block, np.uint8)
        returns = np.flatnonzero(data == _RETURN)
        following = np.where(returns == len(data) - 1, 0, data[np.minimum(returns + 1, len(data) - 1)])
        bare = returns[(following != _FEED) & (np.searchsorted(quotes, returns) % 2 == 0)]
        return (int(bare[0]), BARE_RETURN) if len(bare) else None

    def _error(
        self,
        block: bytes,
        quotes: np.ndarray,
        place: int,
        problem: CsvProblem,
        names: Sequence[str],
        where: str,
        first_row: int | None,
    ) -> InvalidInput:
        """Return the error for the value at ``place``."""
        data = np.frombuffer(block, np.uint8)[:place]

        def outside(byte: int) -> np.ndarray:
            found = np.flatnonzero(data == byte)
            unquoted: np.ndarray = found[np.searchsorted(quotes, found) % 2 == 0]
            return unquoted

        feeds = outside(_FEED)
        start = int(feeds[-1]) + 1 if len(feeds) else 0
        number = int(np.count_nonzero(outside(self._delimiter) >= start))
        skipped = 0 if len(names) == 1 else _empty_rows(block, feeds)
        row = None if first_row is None else first_row + len(feeds) - skipped
        return dialect_mismatch(problem, names, number, where, row)


def _empty_rows(block: bytes, feeds: np.ndarray) -> int:
    """Return the number of empty lines among the lines that end at ``feeds``. They are no rows."""
    starts = np.concatenate(([0], feeds[:-1] + 1)) if len(feeds) else feeds
    return sum(not block[start:end].strip(b"\r") for start, end in zip(starts, feeds, strict=True) if end - start <= 1)
