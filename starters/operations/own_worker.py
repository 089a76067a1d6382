"""Runs the activities of the collaborator's worker inside a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from cleanroom.settings import Settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, create_worker


@asynccontextmanager
async def serve_queue(settings: Settings) -> AsyncIterator[None]:
    """Serve the task queue of the settings' collaborator, next to any other worker on that queue."""
    from workers.boundaries import boundary_worker

    boundary = boundary_worker(settings)
    client = await connect(settings.temporal, identity=f"{boundary.name}/cli")
    spec = WorkerSpec(
        name=boundary.name,
        task_queue=boundary.task_queue,
        activities=boundary.activities,
        interceptors=boundary.interceptors,
        names=settings.user_names,
        max_concurrent_activities=4,
    )
    async with AsyncExitStack() as stack:
        for resource in boundary.resources:
            await stack.enter_async_context(resource)
        await stack.enter_async_context(create_worker(client, spec))
        yield
