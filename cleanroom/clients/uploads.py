"""Writes an object to a store part by part: several parts at a time, in bounded memory, and visible only when it is whole."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self

from cleanroom.clients.objects import Progress, UploadLimits, too_large

SENT_BYTES: Final = 24 << 20
"""Most bytes of one upload that are on their way to the store at a time, unless a single part is larger."""

_SENDERS: Final = 3


class PartedUpload(ABC):
    """One object on its way to a store. Use it as a context manager: it aborts the upload unless :meth:`commit` has returned.

    An object of at most one part is one request. The parts of a larger one are sent while the caller produces the next part.

    Args:
        where: The object, for error messages.
        limits: What the store accepts.
        size: The number of bytes, from which the size of the parts follows; None if it is not known.
        on_progress: Called with the number of bytes that the store has received.

    Raises:
        InvalidInput: ``ObjectTooLarge``.
    """

    def __init__(self, where: str, limits: UploadLimits, size: int | None, on_progress: Progress | None = None) -> None:
        self._where, self._on_progress = where, on_progress
        self._part = limits.part_bytes(size, where)
        self._limit = min(limits.largest_object, limits.parts * self._part)
        self._most = max(1, min(_SENDERS, SENT_BYTES // self._part))
        self._pieces: deque[bytes | memoryview] = deque()
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._sending: deque[tuple[Future[Any], int]] = deque()
        self._receipts: list[Any] = []
        self._received = 0
        self._committed = False
        self.size = 0
        """Bytes written so far."""

    def write(self, data: bytes) -> None:
        """Add bytes. Waits while too many bytes are on their way.

        Raises:
            CleanRoomError: From the store, also for an earlier part. ``ObjectTooLarge``.
        """
        self.size += len(data)
        if self.size > self._limit:
            raise too_large(self._where, self._limit)
        self._pieces.append(data)
        self._waiting += len(data)
        while self._waiting > self._part:  # the last part waits, because it may be the only one
            self._send_part(self._part)

    def flush(self) -> None:
        """Send everything that was written, so that nothing is held in memory. An object of one part waits for :meth:`commit`."""
        if self._pool is None:
            return
        if self._waiting:
            self._send_part(self._waiting)
        while self._sending:
            self._await_part()
        self._pool.shutdown()

    def commit(self) -> None:
        """Make the object visible.

        Raises:
            CleanRoomError: From the store.
        """
        self.flush()
        if self._pool is None:
            self._put_whole(self._take(self._waiting))
            self._report(self.size)
        else:
            self._complete(self._receipts)
        self._committed = True

    def abort(self) -> None:
        """Drop what was sent. Nothing becomes visible. Does nothing after :meth:`commit`."""
        self._pieces.clear()
        if self._pool is None or self._committed:
            return
        self._pool.shutdown(cancel_futures=True)
        with contextlib.suppress(Exception):  # the error that led here is the reason
            self._discard()

    def __enter__(self) -> Self:
        """Return the upload."""
        return self

    def __exit__(self, *error: object) -> None:
        """Abort the upload unless it was committed."""
        self.abort()

    def _send_part(self, length: int) -> None:
        if self._pool is None:
            self._begin()
            self._pool = ThreadPoolExecutor(self._most, "upload")
        while len(self._sending) >= self._most:
            self._await_part()
        number = len(self._receipts) + len(self._sending) + 1
        self._sending.append((self._pool.submit(self._send, number, self._take(length)), length))

    def _await_part(self) -> None:
        future, length = self._sending.popleft()
        self._receipts.append(future.result())
        self._report(length)

    def _take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        taken: list[bytes | memoryview] = []
        self._waiting -= length
        while length:
            piece = self._pieces.popleft()
            if len(piece) > length:
                self._pieces.appendleft(memoryview(piece)[length:])
                piece = memoryview(piece)[:length]
            taken.append(piece)
            length -= len(piece)
        return b"".join(taken)

    def _report(self, length: int) -> None:
        self._received += length
        if self._on_progress is not None:
            self._on_progress(self._received)

    @abstractmethod
    def _put_whole(self, data: bytes) -> None:
        """Write the object with one request."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin an object of several parts."""

    @abstractmethod
    def _send(self, number: int, data: bytes) -> Any:
        """Send a part, counted from 1, in one of several threads. Returns what :meth:`_complete` needs of it."""

    @abstractmethod
    def _complete(self, receipts: list[Any]) -> None:
        """Make the parts an object. ``receipts`` are in the order of the parts."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove the parts that were sent."""
