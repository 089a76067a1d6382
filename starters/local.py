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

from cleanroom.errors import CleanRoomError, Internal, Unavailable
from starters.output import Format, Output, print_json, print_rows, reported, say

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
    _localcloud("up", "--state", str(state), "--detach", quiet=False)
    return list_local_cloud(state)


def stop_local_cloud(state: Path) -> None:
    """Stop every service of the local cloud and wait until it is gone."""
    _localcloud("down", "--state", str(state), quiet=False)


def list_local_cloud(state: Path) -> list[dict[str, Any]]:
    """Name, state, pid, URL and log of every service."""
    text = _localcloud("ps", "--state", str(state), "--output", "json", quiet=True)
    try:
        rows = json.loads(text or "[]")
    except json.JSONDecodeError as error:
        raise Internal("LocalCloudAnswerMalformed", "the local cloud's list of services is not JSON.") from error
    return list(rows)


def _localcloud(*arguments: str, quiet: bool) -> str:
    command = [sys.executable, "-m", "localcloud", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        error: CleanRoomError = Unavailable(
            "LocalCloudFailed",
            f"`python -m localcloud {arguments[0]}` ended with {done.returncode}.",
            cause=(done.stderr or "").strip()[-1000:] or None,
            hint="Look at the logs below the state folder, then try again.",
            party="operator",
        )
        raise error
    return done.stdout
