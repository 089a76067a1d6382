"""Workflows and activities for the tests of workers, heartbeats and retries."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy, VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from cleanroom.errors import PreconditionFailed
    from cleanroom.temporal import attributes
    from cleanroom.temporal.heartbeat import Heartbeater
    from cleanroom.temporal.retries import STANDARD, WATCH, Timing
    from tests.codec_models import Note

POLL = Timing(timedelta(seconds=20), timedelta(hours=2), RetryPolicy(initial_interval=timedelta(seconds=10), backoff_coefficient=1))
"""Polls by retries, every 10 s."""


@activity.defn
async def count_to(note: Note) -> list[int]:
    """Count up and record each number, until the worker shuts down at the first attempt, or to ``number``. Returns start and end."""
    async with Heartbeater(Note) as beat:
        start = beat.details.number if beat.details else 0
        number = start
        while number < note.number:
            number += 1
            beat.record(Note(text=note.text, number=number))
            if start == 0 and number == note.number // 2:
                await asyncio.Event().wait()
        return [start, number]


@activity.defn
async def ready_on(note: Note) -> int:
    """Raise "not yet" until the attempt ``number``."""
    attempt = activity.info().attempt
    if attempt < note.number:
        raise PreconditionFailed("NotYet", "not yet", retryable=True)
    return attempt


@activity.defn
async def silent(note: Note) -> str:
    """Takes longer than its heartbeat timeout, sends no heartbeats, and completes after a cancellation."""
    if note.text == "cancel":
        await activity.wait_for_cancelled()
    await asyncio.sleep(note.number / 1000)
    return "finished"


@activity.defn
def silent_in_a_thread(note: Note) -> str:
    """The same, in a thread."""
    if note.text == "cancel":
        activity.wait_for_cancelled_sync()
    threading.Event().wait(note.number / 1000)
    return "finished"


@activity.defn
async def without_heartbeats(note: Note) -> None:
    """Run until its cancellation. It has no heartbeat timeout, so that no heartbeat delivers it."""
    await asyncio.Event().wait()


@activity.defn
async def late_heartbeat(note: Note) -> None:
    """Send the first heartbeat after the cancellation has reached the interceptors."""
    await activity.wait_for_cancelled()
    for _ in range(10):
        await asyncio.sleep(0)
    activity.heartbeat()
    await asyncio.Event().wait()


@workflow.defn
class Cancelling:
    """Requests the cancellation of an activity, which ``note`` names, when it is cancelled itself, and ends after the activity."""

    @workflow.run
    async def run(self, note: Note) -> None:
        once = Timing(start_to_close=timedelta(minutes=1), schedule_to_close=None, retry=RetryPolicy(maximum_attempts=1))
        if note.text == "late_heartbeat":
            once = replace(once, heartbeat=timedelta(minutes=1))
        await workflow.execute_activity(note.text, note, **once.wait_for_completion_on_cancel().config("step"))


@workflow.defn
class Stepping:
    """Runs one step without retries that completes once started. A cancelled workflow returns the step's result."""

    @workflow.run
    async def run(self, note: Note) -> str:
        once = Timing(
            start_to_close=timedelta(seconds=30),
            schedule_to_close=None,
            retry=RetryPolicy(maximum_attempts=1),
            heartbeat=timedelta(seconds=1),
        )
        step = silent_in_a_thread if note.text.startswith("thread") else silent
        note = Note(text=note.text.removeprefix("thread "), number=note.number)
        return str(await workflow.execute_activity(step, note, **once.wait_for_completion_on_cancel().config("step")))


@workflow.defn
class Counting:
    """Watches one activity."""

    @workflow.run
    async def run(self, note: Note) -> list[int]:
        return await workflow.execute_activity(count_to, note, **WATCH.config("count"))


@workflow.defn
class Polling:
    """Polls by retries, sleeps for a month, and reports its stage in search attributes."""

    @workflow.run
    async def run(self, note: Note) -> dict[str, Any]:
        waiting = attributes.updates((attributes.STAGE, "waiting"), (attributes.PENDING_FOR, ["contosso", "litware"]))
        workflow.upsert_search_attributes(waiting)
        before = workflow.now()
        attempts = await workflow.execute_activity(ready_on, note, **POLL.config("poll"))
        await workflow.sleep(timedelta(days=30))
        await workflow.execute_activity(ready_on, Note(text="n"), **STANDARD.config("again"))
        workflow.upsert_search_attributes(attributes.updates((attributes.STAGE, "done"), (attributes.PENDING_FOR, None)))
        return {"attempts": attempts, "days": (workflow.now() - before).days}


TURNS: list[str] = []
"""Who took a turn, in order."""


@activity.defn
async def take_turn(note: Note) -> None:
    """Note that ``text`` took a turn."""
    TURNS.append(note.text)


@workflow.defn
class Sharing:
    """Takes one turn on a shared task queue."""

    @workflow.run
    async def run(self, note: Note) -> None:
        await workflow.execute_activity(take_turn, note, **STANDARD.config("turn"))


WORKFLOWS = [Cancelling, Counting, Polling, Stepping]
ACTIVITIES = [count_to, ready_on, silent, silent_in_a_thread, without_heartbeats, late_heartbeat]


@activity.defn
async def until_cancelled() -> None:
    """Send heartbeats until the cancellation."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.05)


class _StoppingActivity:
    """Cancels an activity, does not wait until it has ended, and continues until the signal."""

    def __init__(self) -> None:
        self._ended = False

    async def _stop_one(self) -> None:
        work = workflow.start_activity(
            until_cancelled, start_to_close_timeout=timedelta(seconds=60), heartbeat_timeout=timedelta(seconds=30)
        )
        await workflow.sleep(0.2)
        work.cancel()
        await workflow.wait([work])
        await workflow.wait_condition(lambda: self._ended, timeout=timedelta(seconds=60))

    @workflow.signal
    def end(self) -> None:
        self._ended = True


@workflow.defn(versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class AutoUpgradeStopping(_StoppingActivity):
    @workflow.run
    async def run(self) -> None:
        await self._stop_one()


@workflow.defn(versioning_behavior=VersioningBehavior.PINNED)
class PinnedStopping(_StoppingActivity):
    @workflow.run
    async def run(self) -> None:
        await self._stop_one()
