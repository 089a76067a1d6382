"""Governance watched from a workflow: polled outside of history until it says something else than is shown."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from cleanroom.messages.query import GovernanceQueryState
from cleanroom.temporal.failures import error_from_failure
from workflows.query_life import QueryLife
from workflows.query_steps import QuerySteps

UNREADABLE = "governance cannot be read"


class QueryWatch:
    """At most one poll at a time; it compares with what was shown when it began, so whoever changes that stops it first."""

    def __init__(self, life: QueryLife, steps: QuerySteps) -> None:
        self._life = life
        self._steps = steps
        self._task: asyncio.Task[GovernanceQueryState | None] | None = None

    @property
    def task(self) -> asyncio.Task[GovernanceQueryState | None] | None:
        """The poll; another one after each change."""
        return self._task

    def begin(self) -> None:
        self._task = asyncio.create_task(self._poll())

    def take(self) -> GovernanceQueryState | None:
        """What the poll that is done has found; None where governance says nothing."""
        task, self._task = self._task, None
        return task.result() if task is not None else None

    async def stop(self) -> None:
        """End the poll; what it has found and nobody has taken is dropped: the next one finds it again."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            try:
                await task
            except (Exception, asyncio.CancelledError) as error:
                if not is_cancelled_exception(error):
                    raise

    async def _poll(self) -> GovernanceQueryState | None:
        try:
            state = await self._steps.await_query_change()
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            reason = error_from_failure(error).code
        else:
            if state.state != "Missing":
                return state
            reason = "DocumentNotFound"
        # Shown, and tried again after the interval, while messages are still taken.
        self._life.note_once(workflow.now(), UNREADABLE, reason)
        await workflow.sleep(self._steps.interval, summary=UNREADABLE)
        return None
