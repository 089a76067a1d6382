"""``cleanroom up``, ``down`` and ``ps``: the local cloud, which runs a collaboration on one machine. NOT CONFIDENTIAL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cleanroom.errors import NotFound, Unavailable
from starters.operations.local_cloud import DEFAULT_STATE, find_state, list_local_cloud, observe_url, start_local_cloud, stop_local_cloud
from starters.operations.local_cluster import stop_cluster
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, print_json, print_rows, print_status, safe

State = Annotated[Path, typer.Option(help="Folder for the state, keys and logs of the local cloud.")]
RunningState = Annotated[
    Path | None,
    typer.Option(help="Folder of the local cloud's state.", show_default=".cleanroom, or .cleanroom/demo if only the demo runs"),
]


def up(
    state: State = DEFAULT_STATE,
    party: Annotated[
        list[str] | None,
        typer.Option(
            help="A company as NAME:KIND, where KIND is azure, s3 or analyst; repeatable.",
            show_default="contosso:azure, litware:s3, fabrikam:analyst",
            metavar="NAME:KIND",
        ),
    ] = None,
    collaboration: Annotated[str | None, typer.Option(help="With --party: ID of the companies' contract.", show_default="local")] = None,
    observe: Annotated[bool, typer.Option("--observe", help="Trace the workers, and serve a page with traces and metrics.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Start a local cloud: Temporal, storage, stand-ins of the cloud services, and all workers. NOT CONFIDENTIAL.

    The services run in the background until `cleanroom down`. The command writes the settings of all profiles to cleanroom.toml in the
    state folder. A service that crashes is started again after 1, 2, 4, 8 and 16 seconds, and then stays down. In a local cloud that
    runs, the command starts the services that are down.

    Example: cleanroom up --party north:azure --party south:s3 --party ana:analyst
    """
    with error_boundary(output):
        services = start_local_cloud(state, parties=party or (), collaboration=collaboration, observe=observe)
        _print_services(state, services, output)
        if output is Format.TABLE:
            print_status(f"settings: {safe(state / 'cleanroom.toml')}")
            if url := observe_url(services):
                print_status(f"traces and metrics: {safe(url)}")
                print_status(f"To trace commands as well: [bold]export OTEL_EXPORTER_OTLP_ENDPOINT={safe(url)}[/bold]")
            print_status(f"Stop the local cloud with [bold]cleanroom down{_state_option(state)}[/bold]")


def down(state: RunningState = None, output: Output = Format.TABLE) -> None:
    """Stop the local cloud. Its state is kept.

    Example: cleanroom down
    """
    with error_boundary(output):
        state = find_state(state)
        stopped = stop_local_cloud(state)
        stop_cluster(state)
        if stopped:
            print_status(f"stopped the local cloud in {safe(state)}; its state is kept")
        if output is Format.JSON:
            print_json({"stopped": stopped})


def ps(state: RunningState = None, output: Output = Format.TABLE) -> None:
    """List the services of the local cloud, and the command that restarts exited ones.

    `restarts` counts how often a service was started after a crash. One that waits for its next start is `restarting`. The exit code is
    7 when a service is down, and 3 when no local cloud has been started.

    Example: cleanroom ps
    """
    with error_boundary(output):
        state = find_state(state)
        services = list_local_cloud(state)
        if not services:
            print_status(f"No local cloud has been started in {safe(state)}. Start one with [bold]cleanroom up[/bold]")
            if output is Format.JSON:
                print_json([])
            raise typer.Exit(NotFound.exit_code)
        _print_services(state, services, output)
        if any(service["state"] != "ready" for service in services):
            raise typer.Exit(Unavailable.exit_code)


def _print_services(state: Path, services: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        print_json(services)
        return
    print_rows(services, output, columns=("name", "state", "pid", "restarts", "url"), title=f"local cloud in {state} (NOT CONFIDENTIAL)")
    for folder in sorted({os.path.relpath(Path(service["log"]).parent) for service in services}):
        print_status(f"logs: {safe(folder)}/NAME.log")
    for hint in restart_hints(state, services):
        print_status(hint)


def restart_hints(state: Path, services: list[dict[str, Any]]) -> Iterator[str]:
    """Yield lines of Rich markup with the exited services, and the command that restarts them."""
    if waiting := [str(service["name"]) for service in services if service["state"] == "restarting"]:
        yield f"{safe(', '.join(waiting))} crashed, and will be started again. See the log."
    exited = [str(service["name"]) for service in services if service["state"] == "exited"]
    command = f"[bold]cleanroom up{_state_option(state)}[/bold]"
    if exited and len(exited) == len(services):
        yield f"No service is running. Start the local cloud again: {command}"
    elif exited:
        yield f"{safe(', '.join(exited))} {'has' if len(exited) == 1 else 'have'} exited. Restart: {command}"


def _state_option(state: Path) -> str:
    return "" if state == DEFAULT_STATE else f" --state {safe(state)}"


app = typer.Typer(help="The local cloud, which runs a collaboration on one machine. NOT CONFIDENTIAL.", no_args_is_help=True)
app.command("up")(up)
app.command("down")(down)
app.command("ps")(ps)

if __name__ == "__main__":
    main(app)
