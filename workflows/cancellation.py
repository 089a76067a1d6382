"""Cancellation helpers: finish a step before the cancellation takes effect, and run cleanup that a cancellation cannot interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from temporalio import workflow

T = TypeVar("T")
ENDS: Final = (Exception, asyncio.CancelledError)
"""What ends a step of a workflow. ``except ENDS`` replaces ``finally`` and ``except BaseException``, which also run when a worker that
shuts down discards the workflow's coroutines. Then there is no event loop, and each call of :mod:`temporalio.workflow` fails."""


async def await_then_cancel(work: Awaitable[T]) -> T:
    """Await ``work`` to its end, then raise if this task was cancelled in the meantime.

    Use it for activities with :meth:`cleanroom.temporal.retries.Timing.wait_for_completion_on_cancel`, and for activities of tasks
    that a signal can cancel: the result may arrive in the same workflow task as the signal, which the SDK handles first.

    Raises:
        asyncio.CancelledError: The task was cancelled while ``work`` ran.
    """
    result = await work
    if cancellation_requested():
        raise asyncio.CancelledError
    return result


def cancellation_requested() -> bool:
    """Whether the current task was cancelled.

    When an activity completes after its cancellation was requested, the SDK returns its result, or raises its error, and does not
    raise the cancellation again. Without this check the task would continue as if it had not been cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling() > 0


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` to its end, even when this task is cancelled repeatedly.

    Use it for cleanup: an interrupted cleanup would leave grants behind.
    """
    task = asyncio.create_task(work)
    while not task.done():
        # A cancellation ends the wait and leaves `task` running.
        with suppress(asyncio.CancelledError):
            await workflow.wait([task])
    return task.result()
