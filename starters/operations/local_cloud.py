"""Starts and stops the local cloud through its own program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cleanroom.errors import CleanRoomError, Internal, InvalidInput, NotFound, Unavailable
from starters.terminal.output import err, print_status, safe

DEFAULT_STATE = Path(".cleanroom")


DEMO_STATE = DEFAULT_STATE / "demo"


def find_state(state: Path | None) -> Path:
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
        print_status("nothing was running")
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
    """Run the local cloud's own command; its err is passed on as it comes, its error becomes ours.

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
                err.print(safe(last), highlight=False)
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
