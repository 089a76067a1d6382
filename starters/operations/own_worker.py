"""Runs the caller's own activities inside a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from cleanroom.settings import Settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, create_worker


@asynccontextmanager
async def serve_queue(settings: Settings) -> AsyncIterator[None]:
    """Serve the queue of the settings' own person inside this process, beside whatever worker of theirs may run elsewhere."""
    from workers.boundaries import boundary_worker

    mine = boundary_worker(settings)
    client = await connect(settings.temporal, identity=f"{mine.name}/cli")
    spec = WorkerSpec(name=mine.name, task_queue=mine.task_queue, activities=mine.activities, max_concurrent_activities=4)
    async with AsyncExitStack() as stack:
        for resource in mine.resources:
            await stack.enter_async_context(resource)
        await stack.enter_async_context(create_worker(client, spec))
        yield
