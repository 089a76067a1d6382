"""Runs of the Spark service from submit to their end, and what people see of those that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.messages.run import RunFailure
from cleanroom.spark.causes import MEANINGS, Cause, cause_of
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.outcome import Outcome
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service import SparkService, Submission
from cleanroom.spark.status import JobStatus
from cleanroom.temporal.markdown import escape
from starters.operations.runs import failure_record
from tests.cluster.place import Place
from tests.cluster.record import record
from tests.unit.spark_support import make_job
from workflows.story import failure_summary

PATIENCE = 240
"""Seconds after which a test gives up. Nothing depends on it, unless the machine is even slower."""

DEADLINES = Deadlines(driver_start_seconds=PATIENCE, run_seconds=PATIENCE, image_pull_seconds=3)
MAX_MESSAGE = 600
"""A message is read by people: a submission's JVM log has 12,000 characters."""


async def submit(service: SparkService, run: str, profile: PodProfile) -> Submission:
    job = make_job(run)
    return await service.submit(job, profile, pod_policies(job, profile).host_data())


async def finish(
    place: Place,
    service: SparkService,
    run: str,
    profile: PodProfile,
    deadlines: Deadlines = DEADLINES,
    while_running: Callable[[JobStatus], Awaitable[None]] | None = None,
) -> Outcome:
    """Submit a run, watch it to its end, delete it, and return its outcome.

    ``while_running`` is called once, when the driver runs.
    """
    submission = await submit(service, run, profile)
    seen: asyncio.Queue[JobStatus] = asyncio.Queue()
    watch = asyncio.create_task(service.watch(submission.tracking_id, seen.put_nowait, deadlines, uid=submission.uid))
    if while_running is not None:
        while (status := await asyncio.wait_for(seen.get(), PATIENCE)).state != "RUNNING":
            assert not watch.done(), watch.result()
        await while_running(status)
    outcome = await asyncio.wait_for(watch, PATIENCE)
    await asyncio.to_thread(record, place, run, submission.tracking_id, str(outcome.code))
    await service.delete(submission.tracking_id)
    assert await remaining_pods(service, submission.tracking_id) == ()
    return outcome


async def remaining_pods(service: SparkService, name: str) -> tuple[str, ...]:
    try:
        return tuple(pod.name for pod in (await service.status(name)).pods)
    except NotFound:
        return ()


def shown_cause(error: CleanRoomError | None) -> Cause | None:
    """Return the cause of a failure, after a look at what ``run show`` and the Web UI say: cause, meaning and what to do."""
    assert error is not None
    cause = cause_of(error.code)
    if cause is not None:
        shown = failure_record(RunFailure(code=error.code, message=error.message, party=error.party or "", hint=error.hint or ""))
        assert shown is not None
        assert (shown["cause"], shown["meaning"]) == (cause.value, MEANINGS[cause])
        assert error.hint
        assert shown["hint"] == error.hint
        summary = failure_summary("FAILED", error)
        assert f"Cause: **{escape(cause.value)}**" in summary
        assert "Next step: " in summary
        assert len(error.message) < MAX_MESSAGE
        assert "\tat " not in error.message
    return cause


async def outcome_while_waiting(
    place: Place, service: SparkService, tracking_id: str, waits: Callable[[JobStatus], object], run: str
) -> Outcome:
    """Return the outcome of an application whose start deadline passes as soon as ``waits`` accepts a reading, and delete it.

    A fixed deadline would pass before a slow ``spark-submit`` has created the driver pod.
    """
    waiting = asyncio.Event()
    watch = asyncio.create_task(service.watch(tracking_id, lambda status: waiting.set() if waits(status) else None, DEADLINES))
    await asyncio.wait_for(waiting.wait(), PATIENCE)
    watch.cancel()
    outcome = await service.watch(tracking_id, lambda status: None, DEADLINES.model_copy(update={"driver_start_seconds": 1}))
    await asyncio.to_thread(record, place, run, tracking_id, str(outcome.code))
    await service.delete(tracking_id)
    return outcome
