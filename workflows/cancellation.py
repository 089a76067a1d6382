"""Cancellation that is not lost: a step that runs to its end hands over its result even though the workflow was asked to stop meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def then_stop(work: Awaitable[T]) -> T:
    """Await a step of :meth:`cleanroom.temporal.retries.Timing.to_the_end`; raise if this task was cancelled while it ran.

    The SDK returns the result of an activity that completes in spite of a cancellation, and a task is cancelled once: without this the
    workflow would go on as if nobody had asked it to stop.

    Raises:
        asyncio.CancelledError: the task was cancelled.
    """
    result = await work
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return result
