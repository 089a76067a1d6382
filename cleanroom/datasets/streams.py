"""A base for read-only byte streams that implement ``read`` alone."""

from __future__ import annotations

import io


class ReadOnlyStream(io.RawIOBase):
    """A raw stream whose subclasses implement ``read`` and get the other reading methods from it.

    A subclass whose ``read`` is never short before the end may be passed to consumers that take a short read for the end.
    """

    def readable(self) -> bool:
        """Return True."""
        return True

    def readall(self) -> bytes:
        """Return the rest of the stream."""
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read at most ``len(buffer)`` bytes into ``buffer`` and return their number."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
