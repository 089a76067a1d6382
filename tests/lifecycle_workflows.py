"""Workflows and activities for the tests of workers, heartbeats and retries."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    from cleanroom.errors import PreconditionFailed
    from cleanroom.temporal import attributes
    from cleanroom.temporal.heartbeat import Heartbeater
    from cleanroom.temporal.retries import POLL, STANDARD, WATCH
    from tests.codec_models import Note


@activity.defn
async def count_to(note: Note) -> list[int]:
    """Count up, recording each number, until the worker leaves on the first attempt or ``number`` is reached; returns where it resumed
    and ended."""
    async with Heartbeater(Note) as beat:
        start = beat.details.number if beat.details else 0
        number = start
        while number < note.number:
            number += 1
            beat.beat(Note(text=note.text, number=number))
            if start == 0 and number == note.number // 2:
                await asyncio.Event().wait()
        return [start, number]


@activity.defn
async def ready_on(note: Note) -> int:
    """Not yet, until the attempt that ``number`` names."""
    attempt = activity.info().attempt
    if attempt < note.number:
        raise PreconditionFailed("NotYet", "not yet", retryable=True)
    return attempt


@workflow.defn
class Counting:
    """One watched activity."""

    @workflow.run
    async def run(self, note: Note) -> list[int]:
        return await workflow.execute_activity(count_to, note, **WATCH.config("count"))


@workflow.defn
class Polling:
    """Polls by retries, waits a month, tells what it does in search attributes."""

    @workflow.run
    async def run(self, note: Note) -> dict[str, Any]:
        waiting = attributes.updates((attributes.STAGE, "waiting"), (attributes.PENDING_FOR, ["contosso", "litware"]))
        workflow.upsert_search_attributes(waiting)
        before = workflow.now()
        attempts = await workflow.execute_activity(ready_on, note, **POLL.within(timedelta(hours=2)).config("poll"))
        await workflow.sleep(timedelta(days=30))
        await workflow.execute_activity(ready_on, Note(text="n"), **STANDARD.config("again"))
        workflow.upsert_search_attributes(attributes.updates((attributes.STAGE, "done"), (attributes.PENDING_FOR, None)))
        return {"attempts": attempts, "days": (workflow.now() - before).days}


WORKFLOWS = [Counting, Polling]
ACTIVITIES = [count_to, ready_on]
