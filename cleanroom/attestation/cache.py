"""Remember what was verified, by the bytes that were verified or their hash."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class VerifiedCache(Generic[T]):
    """A bounded least-recently-used map from input bytes, or a digest of them (:meth:`key`), to the verified result.

    Only successes belong in it, and nothing that depends on the clock: a refused input is examined anew each time, and validity and
    revocation are judged on every use. Thread-safe.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def key(data: bytes) -> bytes:
        """The key of a long input: its SHA-256."""
        return hashlib.sha256(data).digest()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Drop one entry, if it is there."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)
