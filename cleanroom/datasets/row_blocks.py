"""Regroups the text of a dataset's object into blocks that end at the end of a row.

The check of an upload, the pods and the receiver of a result read text through this module. A parser therefore gets
whole rows, whatever the size of the pieces that a source returns, and a text has the same rows everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from cleanroom.datasets.mismatch import schema_mismatch

BLOCK_BYTES = 1 << 20
"""Text is parsed in blocks of about this size."""

MAX_ROW_BYTES = 16 << 20
"""The longest row of a text object in bytes, including its line end."""

BOM = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8. At the start of an object it is not data."""


class Readable(Protocol):
    """A stream for the text readers. ``read`` returns at most ``size`` bytes, and none only at the end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


class RowFormat(Protocol):
    """Knows where the rows of a text end."""

    def last_end(self, text: bytes) -> int:
        """Return the offset after the last row that ends in ``text``, or 0. ``text`` begins at the start of a row."""
        ...

    def first_end(self, text: bytes) -> int:
        """Return the offset after the first row that ends in ``text``, or 0."""
        ...


class LineRows:
    """Rows that end at every line feed."""

    def last_end(self, text: bytes) -> int:
        """See :class:`RowFormat`."""
        return text.rfind(b"\n") + 1

    def first_end(self, text: bytes) -> int:
        """See :class:`RowFormat`."""
        return text.find(b"\n") + 1


def row_blocks(stream: Readable, rows: RowFormat, where: str, *, at_start: bool, blocks: int = 1) -> Iterator[bytes]:
    """Yield the text of ``stream`` in blocks of whole rows. Only the last block may end without a line feed.

    Args:
        stream: The text, from the start of a row.
        rows: The format of the rows.
        where: The object's path, for error messages.
        at_start: Whether the stream begins at the start of the object. If so, a byte order mark is dropped.
        blocks: Number of :data:`BLOCK_BYTES` that are read at a time.

    Raises:
        InvalidInput: ``SchemaMismatch`` for a row above :data:`MAX_ROW_BYTES`.
    """
    rest, size = b"", blocks * BLOCK_BYTES
    while True:
        more = _read_full(stream, size)
        text = rest + more
        if at_start and len(text) >= len(BOM):
            text, at_start = text.removeprefix(BOM), False
        # After a full read the end of the object is not known yet.
        end = rows.last_end(text) if len(more) == size else len(text)
        if max(end, len(text) - end) > MAX_ROW_BYTES and (rows.first_end(text) or len(text)) > MAX_ROW_BYTES:
            raise schema_mismatch(where, None, f"rows of at most {MAX_ROW_BYTES} bytes", "a longer row, or a quote that is never closed")
        if end:
            yield text[:end]
        rest = text[end:]
        if len(more) < size:
            return


def _read_full(stream: Readable, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def is_utf8(block: bytes) -> bool:
    """Return whether a text is UTF-8."""
    if block.isascii():
        return True
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
