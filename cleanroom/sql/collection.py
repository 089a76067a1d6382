"""Cyclic garbage collection waits while a query is checked.

A check makes some ten thousand small objects, all of which live until its end: the collector looks through them again and again and finds
nothing. That was a third of the gate's time. What a check may make is bounded by the length of a query's text.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_waiting = 0
_was_on = False


@contextmanager
def collection_waits() -> Iterator[None]:
    """No cyclic collection inside, on any thread; afterwards as before. May be nested and used by several threads at once."""
    global _waiting, _was_on
    with _lock:
        if _waiting == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _waiting += 1
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1
            if _waiting == 0 and _was_on:
                gc.enable()
