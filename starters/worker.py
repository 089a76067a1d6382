"""``cleanroom worker``: the worker process of one trust boundary. Also ``python -m starters.worker``."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.errors import Conflict, InvalidInput
from cleanroom.tracing import traced
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, error_boundary

app = typer.Typer(help="Run a worker.")


class LogFormat(StrEnum):
    """Format of a worker's log lines."""

    TEXT = "text"
    JSON = "json"


@app.command()
def worker(
    boundary: Annotated[
        str,
        typer.Argument(
            help="Trust boundary: a collaborator's name (litware or collaborator.litware), frontend, clean-room or spark-service.",
            show_default=False,
        ),
    ],
    config: ConfigFile = None,
    bootstrap: Annotated[
        Path | None, typer.Option(help="Bootstrap file of an attested worker: where governance is.", show_default=False)
    ] = None,
    bootstrap_digest: Annotated[
        str | None,
        typer.Option(help="sha256: and the digest of the bootstrap file, as the container policy measures it.", show_default=False),
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Create this file when the worker polls.")] = None,
    health_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve GET /healthz at this port: status 200 while the worker polls.", show_default=False),
    ] = None,
    health_host: Annotated[str, typer.Option(help="Address of the health endpoint.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve Prometheus metrics with GET /metrics at this port.", show_default=False),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address of the metrics endpoint.")] = "127.0.0.1",
    log_format: Annotated[
        LogFormat, typer.Option(envvar="CLEANROOM_LOG_FORMAT", help="Format of the log lines: text, or one JSON object per line.")
    ] = LogFormat.TEXT,
    build: Annotated[
        str | None,
        typer.Option(
            "--build-id",
            help="Build ID of the code, as the chart names it. An image that states another one does not start.",
            show_default="computed from the code",
        ),
    ] = None,
    unversioned: Annotated[
        bool, typer.Option("--unversioned", help="Start without Worker Versioning. Refused once a version of the deployment is current.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Run the worker of one trust boundary until SIGTERM or Ctrl-C.

    The worker polls the boundary's task queue with the settings of the profile that has the boundary's name. The workers clean-room and
    spark-service also need --bootstrap and --bootstrap-digest, which their container policies measure. Workers other than a collaborator's
    start as a version of their deployment, and receive workflows once `cleanroom versions promote` has made it current.

    Example: cleanroom worker litware
    """
    from cleanroom.temporal.build import stated_build_id
    from cleanroom.trust import read_bootstrap
    from workers.run import Telemetry, configure_logging, serve

    with error_boundary(output):
        # The task queue of a collaborator is named collaborator.NAME, and the profile NAME.
        profile = boundary.removeprefix("collaborator.")
        configure_logging(profile, log_format.value)
        from cleanroom.settings import load_settings

        settings = load_settings(profile, path=Path(config) if config else None)
        if (bootstrap is None) != (bootstrap_digest is None):
            raise InvalidInput("BootstrapIncomplete", "--bootstrap and --bootstrap-digest belong together.", hint="Give both or neither.")
        stated = stated_build_id()
        if build is not None and stated is not None and build != stated:
            raise Conflict(
                "BuildDiffers",
                f"--build-id: this image is build {stated}, not {build}.",
                hint="Set image.buildId of the chart to the build ID of the image in image.digest.",
                party="operator",
            )
        measured = read_bootstrap(bootstrap, bootstrap_digest) if bootstrap is not None and bootstrap_digest is not None else None
        address = (
            None
            if metrics_port is None
            else f"[{metrics_host}]:{metrics_port}"
            if ":" in metrics_host
            else f"{metrics_host}:{metrics_port}"
        )
        telemetry = Telemetry(metrics_address=address, log_format=log_format.value)
        serving = serve(
            settings,
            ready_file=ready_file,
            health_port=health_port,
            health_host=health_host,
            bootstrap=measured,
            telemetry=telemetry,
            versioned=not unversioned,
            build=build,
        )
        with traced(f"cleanroom-{profile}"):
            asyncio.run(serving)


if __name__ == "__main__":
    main(app)
