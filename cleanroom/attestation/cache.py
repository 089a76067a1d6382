"""A cache of verified input, by its bytes or their digest."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")


class VerifiedCache(Generic[T]):
    """A bounded least-recently-used map from verified input to the result. Thread-safe.

    Store successes only, and nothing that depends on the clock: rejected input is examined again each time, and validity and revocation
    are checked on every use.
    """

    def __init__(self, size: int) -> None:
        self._values: LRUCache[Hashable, T] = LRUCache(size)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """Return the result for ``key``, or None."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Store a result; the least recently used one is dropped when the cache is full."""
        with self._lock:
            self._values[key] = value
