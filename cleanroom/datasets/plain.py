"""Objects whose encryption is the store's own business (SSE, CPK), in the shape in which sealed objects are read."""

from __future__ import annotations

from cleanroom.datasets.encryption import SEGMENT_BYTES, ReadRange
from cleanroom.errors import Unavailable


class PlainObject:
    """Read like a :class:`~cleanroom.datasets.encryption.SealedObject`, in pieces of 1 MiB, without anything to authenticate.

    Args:
        read_range: Reads stored bytes.
        size: Stored size in bytes.
        path: For errors.
    """

    def __init__(self, read_range: ReadRange, size: int, path: str) -> None:
        self._read_range = read_range
        self._path = path
        self.size = size
        self.segments = max(1, -(-size // SEGMENT_BYTES))

    def open_segments(self, first: int, stop: int) -> list[bytes]:
        start, end = first * SEGMENT_BYTES, min(stop * SEGMENT_BYTES, self.size)
        data = self.read_at(start, end - start)
        return [data[offset : offset + SEGMENT_BYTES] for offset in range(0, len(data), SEGMENT_BYTES)] or [b""]

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        data = self._read_range(offset, length)
        if len(data) != length:
            raise Unavailable("ShortRead", f"object {self._path!r}: the store gave {len(data)} of {length} bytes at offset {offset}.")
        return data

    def read_all(self) -> bytes:
        return self.read_at(0, self.size)

    def segment_of(self, offset: int) -> int:
        return offset // SEGMENT_BYTES

    def segment_start(self, index: int) -> int:
        return index * SEGMENT_BYTES
