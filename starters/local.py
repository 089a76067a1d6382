"""``cleanroom up``, ``down``, ``ps``: the whole collaboration on one machine, on stand-ins that are NOT CONFIDENTIAL.

The stand-ins are a separate program (``python -m localcloud``); no product code imports them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from starters.operations.local_cloud import (
    DEFAULT_STATE,
    find_state,
    list_local_cloud,
    start_local_cloud,
    stop_local_cloud,
)
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, print_json, print_rows, print_status, safe

WORKER_PREFIX = "worker."
State = Annotated[Path, typer.Option(help="Folder of the local cloud's state, keys and logs.")]
StartedState = Annotated[
    Path | None,
    typer.Option(help="Folder of the local cloud's state; .cleanroom, or that of the demo where only the demo runs.", show_default=False),
]


def up(state: State = DEFAULT_STATE, output: Output = Format.TABLE) -> None:
    """Start everything on this machine: Temporal, storage, stand-ins of the clouds, all workers. NOT CONFIDENTIAL.

    Example: cleanroom up
    """
    with error_boundary(output):
        services = start_local_cloud(state)
        _show(state, services, output)
        if output is Format.TABLE:
            print_status(f"settings: {safe(state / 'cleanroom.toml')}; stop it with [bold]cleanroom down{_state_option(state)}[/bold]")


def down(state: StartedState = None, output: Output = Format.TABLE) -> None:
    """Stop what `cleanroom up` started.

    Example: cleanroom down
    """
    with error_boundary(output):
        state = find_state(state)
        stopped = stop_local_cloud(state)
        if stopped:
            print_status(f"stopped the local cloud of {safe(state)}; its state is kept")
        if output is Format.JSON:
            print_json({"stopped": stopped})


def ps(state: StartedState = None, output: Output = Format.TABLE) -> None:
    """List the services of the local cloud, and say how to start again what has exited.

    Example: cleanroom ps
    """
    with error_boundary(output):
        state = find_state(state)
        services = list_local_cloud(state)
        if not services:
            print_status(f"nothing was started in {safe(state)}; [bold]cleanroom up[/bold] starts it")
        _show(state, services, output)


def _show(state: Path, services: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        print_json(services)
        return
    print_rows(services, output, columns=("name", "state", "pid", "url"), title=f"local cloud of {state} (NOT CONFIDENTIAL)")
    for folder in sorted({os.path.relpath(Path(service["log"]).parent) for service in services}):
        print_status(f"logs: {safe(folder)}/<name>.log")
    for advice in restart_hints(state, services):
        print_status(advice)


def restart_hints(state: Path, services: list[dict[str, Any]]) -> Iterator[str]:
    """What to do about services that have exited, one line each, as markup."""
    exited = [str(service["name"]) for service in services if service["state"] == "exited"]
    workers = [name for name in exited if name.startswith(WORKER_PREFIX)]
    if exited and len(exited) == len(services):
        yield f"nothing runs; start it again, on the same state: [bold]cleanroom up{_state_option(state)}[/bold]"
        return
    for name in workers:
        config = "" if state == find_state(None) else f" --config {safe(state / 'cleanroom.toml')}"
        command = f"cleanroom worker {safe(name.removeprefix(WORKER_PREFIX))}{config}"
        yield f"{safe(name)} has exited; unless you did so by hand, start it again: [bold]{command}[/bold]"
    option = _state_option(state)
    for name in (name for name in exited if name not in workers):
        yield f"{safe(name)} has exited; restart all, on the same state: [bold]cleanroom down{option} && cleanroom up{option}[/bold]"


def _state_option(state: Path) -> str:
    return "" if state == DEFAULT_STATE else f" --state {safe(state)}"


app = typer.Typer(help="The whole collaboration on one machine. NOT CONFIDENTIAL.", no_args_is_help=True)
app.command("up")(up)
app.command("down")(down)
app.command("ps")(ps)

if __name__ == "__main__":
    main(app)
