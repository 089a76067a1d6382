"""``cleanroom worker``: run one trust boundary's worker. Also ``python -m starters.worker``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.settings import Settings, load_settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.entry import command_line
from starters.output import ConfigFile, Format, Output, reported

app = typer.Typer(help="Run a worker.")


@app.command()
def worker(
    boundary: Annotated[
        str,
        typer.Argument(
            help="Whose: a collaborator (litware, or collaborator.litware), frontend, clean-room or spark-service.", show_default=False
        ),
    ],
    config: ConfigFile = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written when the worker polls.")] = None,
    health_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Answer GET /healthz at this port: 200 while the worker polls.", show_default=False)
    ] = None,
    health_host: Annotated[str, typer.Option(help="Address of the health port.")] = "127.0.0.1",
    output: Output = Format.TABLE,
) -> None:
    """Serve one trust boundary's task queue until stopped (SIGTERM or Ctrl-C).

    Example: cleanroom worker litware
    """
    from workers.run import configure_logging, serve

    with reported(output):
        configure_logging()
        # The task queue of a collaborator's boundary is its name; its profile is the collaborator's.
        settings = load_settings(boundary.removeprefix("collaborator."), path=Path(config) if config else None)
        asyncio.run(serve(settings, ready_file=ready_file, health_port=health_port, health_host=health_host))


@asynccontextmanager
async def serving_own_queue(settings: Settings) -> AsyncIterator[None]:
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


if __name__ == "__main__":
    command_line(app)
