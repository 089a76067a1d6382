"""Work that a worker does while it runs, besides its tasks."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self


class BackgroundTask(ABC):
    """Runs :meth:`_repeat` as a task while its context is open, and cancels it when the context closes."""

    task_name: ClassVar[str]
    """Name of the task, for debugging."""

    async def __aenter__(self) -> Self:
        """Start the task."""
        self._task = asyncio.create_task(self._repeat(), name=self.task_name)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Cancel the task, and wait for its end."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @abstractmethod
    async def _repeat(self) -> None:
        """Do the work until the task is cancelled."""
