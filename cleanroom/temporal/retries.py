"""How long each kind of activity may take, and how it is retried: the only place where workflows get timeouts from.

Errors decide whether a retry happens (``CleanRoomError.retryable``); these decide how often and until when. ``schedule_to_close`` bounds
the whole and is written beside its arithmetic: attempts x start_to_close + backoffs. It counts the time in the task queue too, so a step
on the queue of a person whose worker may be off uses :meth:`Timing.within` with the time that the person is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig


@dataclass(frozen=True)
class Timing:
    """Timeouts and retry policy of an activity call: ``execute_activity(…, **STANDARD.config("summary"))``."""

    start_to_close: timedelta
    schedule_to_close: timedelta | None
    retry: RetryPolicy
    heartbeat: timedelta | None = None
    cancellation: ActivityCancellationType | None = None

    def config(self, summary: str | None = None, *, task_queue: str | None = None) -> ActivityConfig:
        """The keyword arguments of ``workflow.execute_activity``."""
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
        """The same with another bound on the whole, the wait for a worker included."""
        return replace(self, schedule_to_close=schedule_to_close)

    def wait_for_completion_on_cancel(self) -> Timing:
        """The same for a step that leaves something behind to be undone: a cancelled workflow waits until the step has ended, at most one
        attempt's time; otherwise the step could take effect after its undoing."""
        return replace(self, cancellation=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)

    def attempt(self, start_to_close: timedelta, *, heartbeat: timedelta | None = None) -> Timing:
        """The same with another bound on one attempt; give ``heartbeat`` when that exceeds 10 s."""
        return replace(self, start_to_close=start_to_close, heartbeat=heartbeat or self.heartbeat)


def _s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


_ALIVE = _s(10)
"""A worker that was killed is noticed after this: :mod:`cleanroom.temporal.heartbeat` beats for every step. Long enough for a worker whose
event loop is held up for some seconds."""

STANDARD = Timing(
    start_to_close=_s(30),
    schedule_to_close=_s(360),
    heartbeat=_ALIVE,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(30), maximum_attempts=8),
)
"""A call to a service. Worst case: 8 x 30 s + (1 + 2 + 4 + 8 + 16 + 30 + 30) s = 331 s, bounded at 6 min."""

PROPAGATION = Timing(
    start_to_close=_s(30),
    schedule_to_close=_s(900),
    heartbeat=_ALIVE,
    retry=RetryPolicy(initial_interval=_s(5), backoff_coefficient=1.5, maximum_interval=_s(30), maximum_attempts=0),
)
"""A call that fails until a role assignment or a federated credential has spread (Azure names up to 10 minutes for roles, seconds for
credentials): retried every 5 to 30 s until 15 min have passed, at least 15 times and at most 33 times."""

NO_RETRY = Timing(start_to_close=_s(30), schedule_to_close=_s(60), retry=RetryPolicy(maximum_attempts=1))
"""A step whose failure is the answer (verify, evaluate). Worst case: 30 s, bounded at 1 min with its wait for a worker."""

POLL = Timing(
    start_to_close=_s(20),
    schedule_to_close=timedelta(hours=24),
    retry=RetryPolicy(initial_interval=_s(10), backoff_coefficient=1, maximum_interval=_s(10), maximum_attempts=0),
)
"""Retry as poll: the activity raises a retryable ``PreconditionFailed`` until it is so, every 10 s, without growing the history (perf.md
b). Worst case: 24 h; give the real deadline with :meth:`Timing.within`."""

WATCH = Timing(
    start_to_close=timedelta(hours=12),
    schedule_to_close=timedelta(hours=24),
    heartbeat=_ALIVE,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(30), maximum_attempts=0),
)
"""One heartbeating activity that watches a job to its end and resumes from its heartbeat details. A dead worker is noticed after 10 s.
Worst case: 24 h."""

CLEANUP = Timing(
    start_to_close=_s(30),
    schedule_to_close=timedelta(hours=1),
    heartbeat=_ALIVE,
    retry=RetryPolicy(initial_interval=_s(1), backoff_coefficient=2, maximum_interval=_s(60), maximum_attempts=0),
)
"""Revoking grants: tried for an hour, because what it leaves behind is access. Worst case: 1 h."""
