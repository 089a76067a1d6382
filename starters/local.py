"""``cleanroom up``, ``down``, ``ps``: the whole collaboration on one machine, on stand-ins that are NOT CONFIDENTIAL.

The stand-ins are a separate program (``python -m localcloud``); no product code imports them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cleanroom.errors import CleanRoomError, Internal, NotFound, Unavailable
from starters.entry import command_line
from starters.output import Format, Output, print_json, print_rows, reported, safe, say, talk

DEFAULT_STATE = Path(".cleanroom")
State = Annotated[Path, typer.Option(help="Folder of the local cloud's state, keys and logs.")]


def up(state: State = DEFAULT_STATE, output: Output = Format.TABLE) -> None:
    """Start everything on this machine: Temporal, storage, stand-ins of the clouds, all workers. NOT CONFIDENTIAL.

    Example: cleanroom up
    """
    with reported(output):
        services = start_local_cloud(state)
        _show(services, output)
        if output is Format.TABLE:
            say(f"settings: {state / 'cleanroom.toml'}; stop it with [bold]cleanroom down[/bold]")


def down(state: State = DEFAULT_STATE, output: Output = Format.TABLE) -> None:
    """Stop what `cleanroom up` started."""
    with reported(output):
        stop_local_cloud(state)
        if output is Format.JSON:
            print_json({"stopped": True})


def ps(state: State = DEFAULT_STATE, output: Output = Format.TABLE) -> None:
    """List the services of the local cloud."""
    with reported(output):
        _show(list_local_cloud(state), output)


def _show(services: list[dict[str, Any]], output: Format) -> None:
    print_rows(services, output, columns=("name", "state", "pid", "url", "log"), title="local cloud (NOT CONFIDENTIAL)")


def start_local_cloud(state: Path) -> list[dict[str, Any]]:
    """Start the local cloud detached and wait until every service answers; its progress goes to standard error."""
    _localcloud("up", "--state", str(state), "--detach", "--output", "json", quiet=False)
    return list_local_cloud(state)


def stop_local_cloud(state: Path) -> None:
    """Stop every service of the local cloud and wait until it is gone."""
    try:
        _localcloud("down", "--state", str(state), "--output", "json", quiet=False)
    except NotFound as error:
        if error.code != "NothingStarted":
            raise
        say("nothing was running")


def list_local_cloud(state: Path) -> list[dict[str, Any]]:
    """Name, state, pid, URL and log of every service."""
    text = _localcloud("ps", "--state", str(state), "--output", "json", quiet=True)
    try:
        rows = json.loads(text or "[]")
    except json.JSONDecodeError as error:
        raise Internal("LocalCloudAnswerMalformed", "the local cloud's list of services is not JSON.") from error
    return list(rows)


def _localcloud(*arguments: str, quiet: bool) -> str:
    """Run the local cloud's own command; its talk is passed on as it comes, its error becomes ours."""
    command = [sys.executable, "-m", "localcloud", *arguments]
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
            f"`python -m localcloud {arguments[0]}` ended with {process.returncode}.",
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
