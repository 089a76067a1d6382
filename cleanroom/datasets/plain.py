"""Objects that the store encrypts (SSE, CPK), with the interface of sealed objects."""

from __future__ import annotations

from cleanroom.datasets.encryption import SEGMENT_BYTES, ReadRange
from cleanroom.errors import Unavailable


class PlainObject:
    """An object that is read like a :class:`~cleanroom.datasets.encryption.SealedObject`, in pieces of 1 MiB, without authentication.

    Args:
        read_range: Reads stored bytes.
        size: Stored size in bytes.
        path: The object's path, for error messages.
    """

    def __init__(self, read_range: ReadRange, size: int, path: str) -> None:
        self._read_range = read_range
        self._path = path
        self.size = size
        self.segments = max(1, -(-size // SEGMENT_BYTES))

    def open_segments(self, first: int, stop: int) -> list[bytes]:
        """Return pieces ``first`` (inclusive) to ``stop`` (exclusive)."""
        start, end = first * SEGMENT_BYTES, min(stop * SEGMENT_BYTES, self.size)
        data = self.read_at(start, end - start)
        return [data[offset : offset + SEGMENT_BYTES] for offset in range(0, len(data), SEGMENT_BYTES)] or [b""]

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes ``[offset, offset + length)``, limited to the end of the object.

        Raises:
            Unavailable: ``ShortRead``.
        """
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        data = self._read_range(offset, length)
        if len(data) != length:
            raise Unavailable("ShortRead", f"object {self._path!r}: the store returned {len(data)} of {length} bytes at offset {offset}.")
        return data

    def read_all(self) -> bytes:
        """Return the whole object."""
        return self.read_at(0, self.size)

    def segment_of(self, offset: int) -> int:
        """Return the number of the piece that contains the byte at ``offset``."""
        return offset // SEGMENT_BYTES

    def segment_start(self, index: int) -> int:
        """Return the offset at which piece ``index`` begins."""
        return index * SEGMENT_BYTES
