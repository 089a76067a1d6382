"""A workflow with as many activities as ``Prepare``, in the same order, that do nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

CLEAN_ROOM, SPARK_SERVICE = "noop-clean-room", "noop-spark-service"
BEFORE = (*(CLEAN_ROOM,) * 6, SPARK_SERVICE, CLEAN_ROOM, SPARK_SERVICE, CLEAN_ROOM)
"""Queues of the activities before the secrets."""
AFTER = (CLEAN_ROOM,) * 3
PER_DATASET = 2


@activity.defn
async def do_nothing(text: str) -> str:
    """Return the input."""
    return text


@workflow.defn(name="Noop")
class Noop:
    """Starts the activities."""

    @workflow.run
    async def run(self, datasets: int) -> int:
        """Start the activities for ``datasets`` datasets; returns how many there were."""
        slots = asyncio.Semaphore(25)

        async def one(queue: str) -> None:
            await workflow.execute_activity(
                do_nothing, "x" * 200, task_queue=queue, start_to_close_timeout=timedelta(seconds=30), summary="nothing"
            )

        async def dataset() -> None:
            async with slots:
                for _ in range(PER_DATASET):
                    await one(CLEAN_ROOM)

        for queue in BEFORE:
            await one(queue)
        await asyncio.gather(*(dataset() for _ in range(datasets)))
        for queue in AFTER:
            await one(queue)
        return len(BEFORE) + len(AFTER) + PER_DATASET * datasets


@workflow.defn(name="NoopShape")
class NoopShape:
    """Starts as many activities at a time as another workflow did, one group after the other, and child workflows in the same way."""

    def __init__(self) -> None:
        self._updates = 0

    @workflow.run
    async def run(self, shape: list[list[Any]], updates: int) -> None:
        """Start the groups of ``shape``, whose items are activities or the shapes of children, and wait for updates."""

        async def one(item: Any) -> None:
            if isinstance(item, list):
                await workflow.execute_child_workflow(NoopShape.run, args=[item, 0])
            else:
                await workflow.execute_activity(do_nothing, "x" * 200, start_to_close_timeout=timedelta(seconds=30), summary="nothing")

        for group in shape:
            await asyncio.gather(*map(one, group))
        await workflow.wait_condition(lambda: self._updates >= updates)

    @workflow.update
    async def step(self) -> None:
        """Count an update."""
        self._updates += 1
