"""``cleanroom up``, ``down``, ``ps``: the whole collaboration on one machine, on stand-ins that are NOT CONFIDENTIAL.

The stand-ins are a separate program (``python -m localcloud``); no product code imports them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cleanroom.errors import CleanRoomError, Internal, InvalidInput, NotFound, Unavailable
from starters.entry import command_line
from starters.output import Format, Output, print_json, print_rows, reported, safe, say, talk

DEFAULT_STATE = Path(".cleanroom")
WORKER_PREFIX = "worker."
DEMO_STATE = DEFAULT_STATE / "demo"
State = Annotated[Path, typer.Option(help="Folder of the local cloud's state, keys and logs.")]
StartedState = Annotated[
    Path | None,
    typer.Option(help="Folder of the local cloud's state; .cleanroom, or that of the demo where only the demo runs.", show_default=False),
]


def up(state: State = DEFAULT_STATE, output: Output = Format.TABLE) -> None:
    """Start everything on this machine: Temporal, storage, stand-ins of the clouds, all workers. NOT CONFIDENTIAL.

    Example: cleanroom up
    """
    with reported(output):
        services = start_local_cloud(state)
        _show(state, services, output)
        if output is Format.TABLE:
            say(f"settings: {safe(state / 'cleanroom.toml')}; stop it with [bold]cleanroom down{_state_option(state)}[/bold]")


def down(state: StartedState = None, output: Output = Format.TABLE) -> None:
    """Stop what `cleanroom up` started.

    Example: cleanroom down
    """
    with reported(output):
        state = started_state(state)
        stopped = stop_local_cloud(state)
        if stopped:
            say(f"stopped the local cloud of {safe(state)}; its state is kept")
        if output is Format.JSON:
            print_json({"stopped": stopped})


def ps(state: StartedState = None, output: Output = Format.TABLE) -> None:
    """List the services of the local cloud, and say how to start again what has exited.

    Example: cleanroom ps
    """
    with reported(output):
        state = started_state(state)
        services = list_local_cloud(state)
        if not services:
            say(f"nothing was started in {safe(state)}; [bold]cleanroom up[/bold] starts it")
        _show(state, services, output)


def _show(state: Path, services: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        print_json(services)
        return
    print_rows(services, output, columns=("name", "state", "pid", "url"), title=f"local cloud of {state} (NOT CONFIDENTIAL)")
    for folder in sorted({os.path.relpath(Path(service["log"]).parent) for service in services}):
        say(f"logs: {safe(folder)}/<name>.log")
    for advice in _advice(state, services):
        say(advice)


def _advice(state: Path, services: list[dict[str, Any]]) -> Iterator[str]:
    """What to do about services that have exited, one line each, as markup."""
    exited = [str(service["name"]) for service in services if service["state"] == "exited"]
    workers = [name for name in exited if name.startswith(WORKER_PREFIX)]
    if exited and len(exited) == len(services):
        yield f"nothing runs; start it again, on the same state: [bold]cleanroom up{_state_option(state)}[/bold]"
        return
    for name in workers:
        config = "" if state == started_state(None) else f" --config {safe(state / 'cleanroom.toml')}"
        command = f"cleanroom worker {safe(name.removeprefix(WORKER_PREFIX))}{config}"
        yield f"{safe(name)} has exited; unless you did so by hand, start it again: [bold]{command}[/bold]"
    option = _state_option(state)
    for name in (name for name in exited if name not in workers):
        yield f"{safe(name)} has exited; restart all, on the same state: [bold]cleanroom down{option} && cleanroom up{option}[/bold]"


def _state_option(state: Path) -> str:
    return "" if state == DEFAULT_STATE else f" --state {safe(state)}"


def started_state(state: Path | None) -> Path:
    """``state``, or where a local cloud was started: the same order in which settings are looked for (``cleanroom/settings.py``)."""
    if state is not None:
        return state
    return next((folder for folder in (DEFAULT_STATE, DEMO_STATE) if (folder / "services.json").exists()), DEFAULT_STATE)


def start_local_cloud(state: Path) -> list[dict[str, Any]]:
    """Start the local cloud detached and wait until every service answers; its progress goes to standard error."""
    _localcloud("up", state, "--detach")
    return list_local_cloud(state)


def stop_local_cloud(state: Path) -> bool:
    """Stop every service of the local cloud and wait until it is gone; False when nothing was running."""
    try:
        stopped = bool(_parsed(_localcloud("down", state)).get("stopped"))
    except NotFound as error:
        if error.code != "NothingStarted":
            raise
        stopped = False
    if not stopped:
        say("nothing was running")
    return stopped


def list_local_cloud(state: Path) -> list[dict[str, Any]]:
    """Name, state, pid, URL and log of every service."""
    return list(_parsed(_localcloud("ps", state, quiet=True) or "[]"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Internal("LocalCloudAnswerMalformed", "what the local cloud answers is not JSON.") from error


def _localcloud(command_name: str, state: Path, *options: str, quiet: bool = False) -> str:
    """Run the local cloud's own command; its talk is passed on as it comes, its error becomes ours.

    Raises:
        InvalidInput: ``StateNotAFolder``, ``StateNotWritable``.
    """
    if state.exists() and not state.is_dir():
        raise InvalidInput("StateNotAFolder", f"--state: {state} is a file, not a folder.", hint="Name a folder, new or of a local cloud.")
    if command_name == "up":
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                "StateNotWritable", f"--state: {state} cannot be made.", cause=error.strerror, hint="Name a folder that you may write."
            ) from error
    command = [sys.executable, "-m", "localcloud", command_name, "--state", str(state), "--output", "json", *options]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            last = line.strip() or last
            if not quiet and not last.startswith("{"):
                talk.print(safe(last), highlight=False)
        answer = process.stdout.read()
    if process.returncode == 0:
        return answer
    try:
        raise CleanRoomError.from_dict(json.loads(last))
    except json.JSONDecodeError:
        raise Unavailable(
            "LocalCloudFailed",
            f"`python -m localcloud {command_name}` ended with {process.returncode}.",
            cause=last[-1000:] or None,
            hint="Look at the logs below the state folder, then try again.",
            party="operator",
        ) from None


app = typer.Typer(help="The whole collaboration on one machine. NOT CONFIDENTIAL.", no_args_is_help=True)
app.command("up")(up)
app.command("down")(down)
app.command("ps")(ps)

if __name__ == "__main__":
    command_line(app)
