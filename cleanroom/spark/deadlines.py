"""Deadlines of a SparkApplication.

The Spark Operator has none: an application whose driver cannot start stays ``SUBMITTED`` forever
(https://github.com/kubeflow/spark-operator/issues/2667).
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from cleanroom.models import FrozenModel
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.outcome import Outcome, failed_mount, failed_outcome, waiting_executors, waiting_reason
from cleanroom.spark.status import STARTED_STATES, JobStatus


class Deadlines(FrozenModel):
    """Time limits in seconds.

    They count from the application's creation or the driver's start by the cluster's timestamps, so a watch that
    another worker resumes does not start counting again.
    """

    driver_start_seconds: float = Field(default=900, gt=0)
    run_seconds: float = Field(default=6 * 3600, gt=0)
    image_pull_seconds: float = Field(default=120, ge=0)
    """How long to wait for an image that cannot be pulled, because its registry may come back."""
    unreachable_seconds: float = Field(default=120, ge=0)
    """How long the Kubernetes API may be unreachable before the watch fails with ``Unavailable``. The application continues."""


def deadline_outcome(status: JobStatus, deadlines: Deadlines, *, now: datetime | None = None) -> Outcome | None:
    """Return the failure of an application that exceeds a deadline, or None.

    Once the operator has seen the driver run, a driver pod that is missing from one reading counts as started: the
    pod may have ended quickly, or its node may be away, and the run may be about to complete.

    Args:
        status: The latest reading.
        deadlines: The limits.
        now: The current time; defaults to the system clock.
    """
    now = now or datetime.now(UTC)
    age = seconds_since(status.created_at, now)
    container = status.driver_container()
    started = container.started_at if container is not None and container.state != "waiting" else None
    if started is None and status.state not in STARTED_STATES:
        if age < deadlines.driver_start_seconds:
            return None
        reason = waiting_reason(status) or f"the application is {status.state or 'not seen by the operator yet'}"
        return failed_outcome(
            status, _start_failure(status), f"the driver has not started within {deadlines.driver_start_seconds:g} s: {reason}"
        )
    if (age if started is None else seconds_since(started, now)) < deadlines.run_seconds:
        return None
    waiting = waiting_executors(status)
    text = f"the run has taken longer than {deadlines.run_seconds:g} s" + (f": {waiting}" if waiting else "")
    return failed_outcome(status, FailureCode.RUN_DEADLINE, text)


def _start_failure(status: JobStatus) -> FailureCode:
    """Return why a driver has not started in time."""
    pod = status.driver()
    if pod is not None and not pod.scheduled:
        # "Insufficient cpu", "Insufficient memory", "Too many pods": the nodes fit, but are full.
        lacks = any(phrase in (pod.scheduling_message or "") for phrase in ("Insufficient", "Too many pods"))
        return FailureCode.CAPACITY if lacks or not pod.scheduling_message else FailureCode.UNSCHEDULABLE
    return FailureCode.MOUNT_FAILED if failed_mount(status) else FailureCode.START_DEADLINE


def seconds_until_deadline(status: JobStatus, deadlines: Deadlines) -> list[float]:
    """Return the seconds until each deadline that still applies to ``status``; past deadlines are not positive."""
    now = datetime.now(UTC)
    container = status.driver_container()
    started = container.started_at if container is not None else None
    if started is not None:
        return [deadlines.run_seconds - seconds_since(started, now)]
    age = seconds_since(status.created_at, now)
    return [deadlines.driver_start_seconds - age, deadlines.image_pull_seconds - age]


def seconds_since(instant: datetime | None, now: datetime | None = None) -> float:
    """Return the seconds from ``instant`` until ``now``: at least 0, and 0 for None."""
    return max(0.0, ((now or datetime.now(UTC)) - instant).total_seconds()) if instant is not None else 0.0
