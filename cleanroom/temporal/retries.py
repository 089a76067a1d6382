"""Timeouts and retry policies of activities: the only place from which workflows take them.

An error decides whether a retry happens (``CleanRoomError.retryable``); these policies decide how often and until when.
``schedule_to_close`` bounds all attempts, and each policy's docstring has the arithmetic: attempts x start_to_close + backoffs. This time
includes the wait in the task queue. A step on the queue of a collaborator whose worker may be offline therefore uses
:meth:`Timing.within` with the time that the collaborator has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig


@dataclass(frozen=True)
class Timing:
    """Timeouts and retry policy of an activity, used as ``execute_activity(…, **STANDARD.config("summary"))``."""

    start_to_close: timedelta
    schedule_to_close: timedelta | None
    retry: RetryPolicy
    heartbeat: timedelta | None = None
    cancellation: ActivityCancellationType | None = None

    def config(self, summary: str | None = None, *, task_queue: str | None = None) -> ActivityConfig:
        """Return keyword arguments for ``workflow.execute_activity``."""
        config = ActivityConfig(start_to_close_timeout=self.start_to_close, retry_policy=self.retry)
        if self.schedule_to_close is not None:
            config["schedule_to_close_timeout"] = self.schedule_to_close
        if self.heartbeat is not None:
            config["heartbeat_timeout"] = self.heartbeat
        if self.cancellation is not None:
            config["cancellation_type"] = self.cancellation
        if summary is not None:
            config["summary"] = summary
        if task_queue is not None:
            config["task_queue"] = task_queue
        return config

    def within(self, schedule_to_close: timedelta) -> Timing:
        """Return a copy with another limit for all attempts, including the wait for a worker."""
        return replace(self, schedule_to_close=schedule_to_close)

    def wait_for_completion_on_cancel(self) -> Timing:
        """Return a copy for a step whose effect the workflow must undo.

        A cancelled workflow then waits until the step has ended, for at most one attempt. Without this, the step could take effect after
        the workflow has undone it.
        """
        return replace(self, cancellation=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)

    def attempt(self, start_to_close: timedelta) -> Timing:
        """Return a copy with another limit for one attempt."""
        return replace(self, start_to_close=start_to_close)


def _s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


_HEARTBEAT = _s(10)
"""The server notices a killed worker after this time, because every step sends heartbeats (:mod:`cleanroom.temporal.heartbeat`). It is
long enough for a worker whose event loop is blocked for some seconds."""

STANDARD = Timing(
    start_to_close=_s(30),
    schedule_to_close=_s(360),
    heartbeat=_HEARTBEAT,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(30), maximum_attempts=8),
)
"""A call to a service. Worst case: 8 x 30 s + (1 + 2 + 4 + 8 + 16 + 30 + 30) s = 331 s, limited to 6 min."""

PROPAGATION = Timing(
    start_to_close=_s(30),
    schedule_to_close=_s(900),
    heartbeat=_HEARTBEAT,
    retry=RetryPolicy(initial_interval=_s(5), backoff_coefficient=1.5, maximum_interval=_s(30), maximum_attempts=0),
)
"""A call that fails until a role assignment or federated credential has propagated. Azure documents up to 10 minutes for roles
(https://learn.microsoft.com/azure/role-based-access-control/troubleshooting). Retried every 5 to 30 s for 15 min, 15 to 33 times."""

WATCH = Timing(
    start_to_close=timedelta(hours=12),
    schedule_to_close=timedelta(hours=24),
    heartbeat=_HEARTBEAT,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(30), maximum_attempts=0),
)
"""One activity that watches a job until it ends, sends heartbeats and resumes from their details. Worst case: 24 h."""

NOTIFY = Timing(
    start_to_close=_s(60),
    schedule_to_close=timedelta(days=1),
    heartbeat=_HEARTBEAT,
    retry=RetryPolicy(initial_interval=_s(10), backoff_coefficient=4, maximum_interval=_s(1800), maximum_attempts=6),
)
"""A reminder to a person, over a webhook. Worst case: 6 x 60 s + (10 + 40 + 160 + 640 + 1800) s = 50 min, after the wait for a worker."""

CLEANUP = Timing(
    start_to_close=_s(30),
    schedule_to_close=timedelta(hours=1),
    heartbeat=_HEARTBEAT,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(60), maximum_attempts=0),
)
"""Revoking grants. Retried for an hour, because a failure leaves access behind. Worst case: 1 h."""

SWEEP = Timing(
    start_to_close=timedelta(minutes=10),
    schedule_to_close=timedelta(hours=1),
    heartbeat=_HEARTBEAT,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(60), maximum_attempts=5),
)
"""A look at all runs of a collaboration. Worst case: 5 x 10 min + 15 s. The next scheduled cleanup looks again."""
