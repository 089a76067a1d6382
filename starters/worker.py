"""``cleanroom worker``: run one trust boundary's worker. Also ``python -m starters.worker``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.settings import load_settings
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, error_boundary

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

    with error_boundary(output):
        configure_logging()
        # The task queue of a collaborator's boundary is its name; its profile is the collaborator's.
        settings = load_settings(boundary.removeprefix("collaborator."), path=Path(config) if config else None)
        asyncio.run(serve(settings, ready_file=ready_file, health_port=health_port, health_host=health_host))


if __name__ == "__main__":
    main(app)
