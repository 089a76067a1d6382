"""Starts, lists and stops the local cloud by running its program, ``python -m localcloud``; no product code imports it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanroom.errors import CleanRoomError, Internal, InvalidInput, NotFound, Unavailable
from starters.terminal.output import err, print_status, safe

DEFAULT_STATE = Path(".cleanroom")
RESTARTS = 5
"""How often in a row the local cloud starts a crashed service again."""
DEMO_STATE = DEFAULT_STATE / "demo"


def find_state(state: Path | None) -> Path:
    """Return ``state``, or the folder in which a local cloud was started.

    The order is the one in which :mod:`cleanroom.settings` looks for ``cleanroom.toml``.
    """
    if state is not None:
        return state
    return next((folder for folder in (DEFAULT_STATE, DEMO_STATE) if (folder / "services.json").exists()), DEFAULT_STATE)


def start_local_cloud(
    state: Path, *, parties: Sequence[str] = (), collaboration: str | None = None, observe: bool = False, cluster: Path | None = None
) -> list[dict[str, Any]]:
    """Start the local cloud in the background, wait until every service is ready, and return :func:`list_local_cloud`.

    In a local cloud that runs, restart the services that have exited.

    Args:
        state: State folder.
        parties: ``NAME:KIND`` of each company; by default those of the folder, or those of the demo.
        collaboration: ID of the contract of ``parties``.
        observe: Whether to trace the workers, and to serve the page with traces and metrics.
        cluster: Description of the cluster that runs the pods; by default the stand-in of Kubernetes.
    """
    options = [f"--restarts={RESTARTS}", *(f"--party={party}" for party in parties)]
    options += [f"--collaboration={collaboration}"] if collaboration is not None else []
    options += [f"--cluster={cluster}"] if cluster is not None else []
    _run("up", state, "--detach", *options, *(["--observe"] if observe else []))
    return list_local_cloud(state)


def observe_url(services: list[dict[str, Any]]) -> str | None:
    """Return the URL of the page with traces and metrics, which is also the OTLP endpoint; None if it was not started."""
    return next((str(service["url"]) for service in services if service["name"] == "observe" and service["state"] == "ready"), None)


def stop_local_cloud(state: Path) -> bool:
    """Stop every service and wait until its process has ended; return False when nothing was running."""
    try:
        stopped = bool(_parse(_run("down", state)).get("stopped"))
    except NotFound as error:
        if error.code != "NothingStarted":
            raise
        stopped = False
    if not stopped:
        print_status("nothing was running")
    return stopped


def list_local_cloud(state: Path) -> list[dict[str, Any]]:
    """Return the name, state, PID, URL, log file and restarts of every service."""
    return list(_parse(_run("ps", state, quiet=True) or "[]"))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Internal("LocalCloudAnswerMalformed", "the output of the local cloud is not JSON.") from error


def _run(command_name: str, state: Path, *options: str, quiet: bool = False) -> str:
    """Run a command of the local cloud, show its progress unless ``quiet``, and return its output.

    Raises:
        InvalidInput: ``StateNotAFolder``, ``StateNotWritable``.
        CleanRoomError: The error that the local cloud printed.
        Unavailable: ``LocalCloudFailed`` when it printed no error.
    """
    if state.exists() and not state.is_dir():
        raise InvalidInput("StateNotAFolder", f"--state: {state} is a file, not a folder.", hint="Name a folder; it may be a new one.")
    if command_name == "up":
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                "StateNotWritable",
                f"--state: cannot create {state}.",
                cause=error.strerror,
                hint="Name a folder that you have permission to create.",
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
            f"`python -m localcloud {command_name}` exited with code {process.returncode}.",
            cause=last[-1000:] or None,
            hint=f"Read the log files in {state}/logs, then retry.",
            party="operator",
        ) from None
