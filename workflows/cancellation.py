"""Cancellation that is not lost, and that loses nothing: steps that run to their end although the workflow is asked to stop meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def then_stop(work: Awaitable[T]) -> T:
    """Await a step of :meth:`~cleanroom.temporal.retries.Timing.wait_for_completion_on_cancel`; raise if this task was cancelled.

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


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, which goes on and is waited for although this task is cancelled: a cleanup that is left in its middle, because
    somebody asks to stop what has stopped already, leaves behind what it would have undone."""
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            # Of whom? When ``work`` itself was cancelled, it is done; otherwise it is waited for again.
            continue
        except Exception:
            break
    return task.result()
