"""Returns the memory of large workflow tasks to the operating system.

A workflow task with thousands of signals needs memory for a moment: the SDK decodes all of them at once, and again after a timeout. The
C library keeps freed memory for later allocations, in pieces between those that are in use, so the process would stay as large as in
that moment.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

LARGE_TASK = 500
"""Jobs of a workflow task, such as signals, from which on its memory is returned."""
PAUSE_SECONDS = 2.0
"""After the last large task. The SDK frees its objects when the task is completed."""


def trim() -> None:
    """Return free memory to the operating system, with glibc; other C libraries return it themselves."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)


class HeapTrimmer:
    """Calls ``release`` once after large tasks, in a thread of its own."""

    def __init__(self, release: Callable[[], None] = trim, *, pause: float = PAUSE_SECONDS) -> None:
        self._release, self._pause = release, pause
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def executed(self, jobs: int) -> None:
        """Take note of a workflow task with this number of jobs."""
        if jobs < LARGE_TASK:
            return
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._pause, self._release)
            self._timer.daemon = True
            self._timer.start()
