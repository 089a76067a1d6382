"""Returns the memory of large workflow tasks.

A workflow task with thousands of signals needs memory for a moment: the SDK decodes all of them at once. Afterwards the C library keeps
the freed memory in pieces between blocks that are in use, so the process would stay as large as in that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cleanroom.temporal.memory import resident_bytes, return_freed_memory
from workers.background import BackgroundTask

INTERVAL_SECONDS: Final = 5.0
"""Pause between two looks. A look reads one small file of the kernel."""
GROWTH_BYTES: Final = 16 << 20
"""Growth of the process since the last return from which on memory is returned, which takes milliseconds."""


class FreedMemory(BackgroundTask):
    """Returns freed memory whenever the process has grown, while its context is open.

    Args:
        interval: Seconds between two looks.
        resident: Returns the resident memory of the process.
        release: Returns freed memory. Runs in a thread.
    """

    task_name = "freed-memory"

    def __init__(
        self,
        *,
        interval: float = INTERVAL_SECONDS,
        resident: Callable[[], int] = resident_bytes,
        release: Callable[[], object] = return_freed_memory,
    ) -> None:
        self._interval, self._resident, self._release = interval, resident, release

    async def _repeat(self) -> None:
        size = self._resident()
        while True:
            await asyncio.sleep(self._interval)
            now = self._resident()
            size = min(size, now)
            if now > size + GROWTH_BYTES:
                await asyncio.to_thread(self._release)
                size = self._resident()
