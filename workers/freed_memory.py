"""Returns the memory of large workflow tasks.

A workflow task with thousands of signals needs memory for a moment: the SDK decodes all of them at once, and needs about 15 KiB for
each. Afterwards the C library keeps the freed memory in pieces between blocks that are in use, so the process would stay as large as in
that moment. The size of the process alone does not show that moment: it stays the same when memory that is in use is freed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cleanroom.temporal.memory import return_freed_memory, unallocated_bytes
from workers.background import BackgroundTask

INTERVAL_SECONDS: Final = 5.0
"""Pause between two looks. A look reads one small file of the kernel, and the C library's own figures."""
GROWTH_BYTES: Final = 16 << 20
"""Growth of the memory that is not in use since the last return from which on memory is returned, which takes milliseconds."""


class FreedMemory(BackgroundTask):
    """Returns freed memory whenever more of it is kept, while its context is open.

    Args:
        interval: Seconds between two looks.
        kept: Returns the resident memory that is not in use, in bytes.
        release: Returns freed memory. Runs in a thread.
    """

    task_name = "freed-memory"

    def __init__(
        self,
        *,
        interval: float = INTERVAL_SECONDS,
        kept: Callable[[], int] = unallocated_bytes,
        release: Callable[[], object] = return_freed_memory,
    ) -> None:
        self._interval, self._kept, self._release = interval, kept, release

    async def _repeat(self) -> None:
        least = self._kept()
        while True:
            await asyncio.sleep(self._interval)
            now = self._kept()
            least = min(least, now)
            if now > least + GROWTH_BYTES:
                await asyncio.to_thread(self._release)
                least = self._kept()
