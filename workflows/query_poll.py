"""Waits in the background until governance differs from the state that a ``PublishQuery`` workflow shows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from cleanroom.messages.query import GovernanceQueryState
from cleanroom.temporal.failures import error_from_failure
from workflows.cancellation import await_then_cancel, cancellation_requested
from workflows.query_state import QueryStateMachine
from workflows.query_steps import QuerySteps

UNREADABLE = "governance cannot be read"
SHORTEST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
"""Pause before a document that cannot be read is read again. It doubles with each attempt, and a wake-up ends it."""
WAKE_INTERVAL = timedelta(seconds=1)
"""Shortest time between two reads that wake-ups cause."""


class GovernancePoll:
    """At most one poll at a time. A poll reads governance once, and then again whenever it is woken.

    Of an approved query, only consent and the number of runs can change, so its poll reads nothing before it is woken, unless the terms of
    its approvals are unknown.

    A poll compares governance with the state at its start. Stop it before the workflow changes that state: otherwise it reports
    the workflow's own change.
    """

    def __init__(self, query: QueryStateMachine, steps: QuerySteps) -> None:
        self._query = query
        self._steps = steps
        self._pause = SHORTEST_PAUSE
        self._woken, self._read_at = False, workflow.now() - WAKE_INTERVAL
        self._task: asyncio.Task[GovernanceQueryState | None] | None = None

    def wake(self) -> None:
        """Read governance, because it may have changed. The watcher of the collaboration's queries calls this, by a signal."""
        self._woken = True

    def ensure_running(self) -> None:
        """Start a poll unless one is running."""
        if self._task is None:
            self._task = asyncio.create_task(self._poll())

    @property
    def running(self) -> bool:
        """Whether there is a poll, including a finished one."""
        return self._task is not None

    @property
    def finished(self) -> bool:
        """Whether a poll has ended and its result waits for :meth:`take`."""
        return self._task is not None and self._task.done()

    def take(self) -> GovernanceQueryState | None:
        """Return the result of the finished poll; None if governance holds no readable document."""
        assert self._task is not None
        task, self._task = self._task, None
        return task.result()

    async def stop(self) -> None:
        """Cancel the poll and discard its result. The next poll finds the same change again."""
        if self._task is None:
            return
        task = self._task
        task.cancel()
        try:
            # A cancelled activity raises ActivityError.
            with suppress(asyncio.CancelledError, ActivityError):
                await task
        finally:
            # Last, because the main loop then starts the next poll, and the caller must change the state before that.
            if self._task is task:
                self._task = None

    async def _poll(self) -> GovernanceQueryState | None:
        try:
            if self._query.stage == "Approved" and not self._query.read_approvals:
                await workflow.wait_condition(lambda: self._woken)
            while (state := await await_then_cancel(self._read())) is None:
                await workflow.wait_condition(lambda: self._woken)
        except ActivityError as error:
            if is_cancelled_exception(error) or cancellation_requested():
                raise
            reason = error_from_failure(error).code
        else:
            if state.state != "Missing":
                self._pause = SHORTEST_PAUSE
                return state
            reason = "DocumentNotFound"
        # Show the reason and read again after a pause. The workflow handles commands during this time.
        self._query.record_once(workflow.now(), UNREADABLE, reason)
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._woken, timeout=pause, timeout_summary=UNREADABLE)
        return None

    async def _read(self) -> GovernanceQueryState | None:
        """Read governance once. Anyone who reaches Temporal can wake a query, so wake-ups cause at most one read per second."""
        if self._woken and (wait := self._read_at + WAKE_INTERVAL - workflow.now()) > timedelta():
            await workflow.sleep(wait)
        self._woken, self._read_at = False, workflow.now()
        return await self._steps.find_query_change()
