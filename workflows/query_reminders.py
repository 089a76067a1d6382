"""Reminders of a query that waits for people: when each is due, and the activities that notify.

A proposal reminds the owners whose decision is missing after a day, when half of its time has passed, and a day before it expires. The
second time is an escalation, which also reaches the proposer and the operator. An approved query reminds its proposer and its owners a
day before the first approval expires. Periods of less than four days have a quarter instead of a day, and periods of less than an hour
have no reminders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from cleanroom.messages.query import PendingNotification, ReminderKind
from cleanroom.temporal.failures import error_from_failure
from workflows.query_state import QueryStateMachine
from workflows.query_steps import OPERATOR, QuerySteps

DAY = timedelta(days=1)
SHORTEST_PERIOD = timedelta(hours=1)


class Reminder(NamedTuple):
    """A reminder and when it is due."""

    kind: ReminderKind
    at: datetime


def schedule(query: QueryStateMachine) -> tuple[Reminder, ...]:
    """Return the reminders of the current stage that were not sent, in the order of their times."""
    since, expires = query.since, query.expires
    if since is None or expires is None or expires - since < SHORTEST_PERIOD:
        return ()
    period = expires - since
    margin = min(DAY, period / 4)
    found: tuple[Reminder, ...] = ()
    if query.stage == "Proposed":
        found = (
            Reminder("reminder", since + margin),
            Reminder("escalation", since + period / 2),
            Reminder("last-reminder", expires - margin),
        )
    elif query.stage == "Approved":
        found = (Reminder("renewal", expires - margin),)
    return tuple(item for item in found if item.kind not in query.reminded)


class QueryReminders:
    """Sends the reminders of one query, each in the background: a worker that is not running must not delay anything."""

    def __init__(self, query: QueryStateMachine, steps: QuerySteps, pending: Iterable[PendingNotification]) -> None:
        self._query, self._steps = query, steps
        self._tasks: dict[PendingNotification, asyncio.Task[None]] = {}
        self._resumed = tuple(pending)

    @property
    def next_at(self) -> datetime | None:
        """When the next reminder is due; None if all are sent."""
        return min((item.at for item in schedule(self._query)), default=None)

    @property
    def pending(self) -> tuple[PendingNotification, ...]:
        """The notifications that are not sent yet, for continue-as-new."""
        return tuple(self._tasks)

    def resume(self) -> None:
        """Send what the earlier history did not finish. The receiver recognises what it has received already."""
        for item in self._resumed:
            self._start(item)

    def send_due(self, now: datetime) -> None:
        """Send the latest reminder that is due. Earlier ones that were missed, because no worker was running, are dropped."""
        due = [item.kind for item in schedule(self._query) if item.at <= now]
        if not due:
            return
        query, kind = self._query, due[-1]
        pending = query.pending()
        query.record_reminder(now, due)
        recipients = {*pending} if kind != "renewal" else {*map(query.display_name, query.owners), self._steps.proposer}
        if kind == "escalation":
            recipients |= {self._steps.proposer, OPERATOR}
        for name in sorted(recipients):
            self._start(PendingNotification(kind=kind, recipient=name, proposal_id=query.proposal_id))

    def stop(self) -> None:
        """Cancel what is not sent, because the query is closed."""
        for task in self._tasks.values():
            task.cancel()

    def _start(self, item: PendingNotification) -> None:
        if item in self._tasks:
            return
        task = self._tasks[item] = asyncio.create_task(self._notify(item))
        task.add_done_callback(lambda _: self._tasks.pop(item, None))

    async def _notify(self, item: PendingNotification) -> None:
        try:
            await self._steps.notify(item)
        except ActivityError as error:
            if not is_cancelled_exception(error):
                self._query.record(workflow.now(), "not notified", item.recipient, error_from_failure(error).code)
