"""A supervisor in the background: starts it, reads its status, restarts what has exited, and stops it.

:mod:`localcloud.launcher.supervisor` has the supervisor itself, and the format of its status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cleanroom.errors import CleanRoomError, NotFound, TimedOut, Unavailable
from localcloud.launcher.patience import ProcessPatience
from localcloud.launcher.processes import log_tail
from localcloud.process_start import running_process

_POLL_SECONDS = 0.05


def read_status(state: Path) -> dict[str, Any] | None:
    """Return ``services.json``, corrected for processes that have died; None if it does not exist.

    A dead service has the state ``exited``, unless its supervisor starts it again. The status of a dead supervisor is ``stopped``,
    or ``orphaned`` if services still run.
    """
    try:
        value: dict[str, Any] = json.loads((state / "services.json").read_text())
    except FileNotFoundError:
        return None
    supervised = _alive(value["pid"], value["created"])
    for service in value["services"]:
        kept = ("exited", "restarting") if supervised else ("exited",)
        if service["pid"] is not None and service["state"] not in kept and not _alive(service["pid"], service["created"]):
            service["state"] = "exited"
    if value["status"] not in ("stopped", "failed") and not supervised:
        value["status"] = "orphaned" if any(s["state"] in ("ready", "starting") and s["pid"] for s in value["services"]) else "stopped"
    return value


def start_detached(state: Path, argv: Sequence[str], *, seconds: float, on_event: Callable[[str], None]) -> dict[str, Any]:
    """Start a supervisor (``argv``) in the background and wait until it is ready; its output goes to ``supervisor.log``.

    Args:
        state: State folder.
        argv: Arguments of the supervisor's process.
        seconds: Limit without progress of the supervisor and its services.
        on_event: Receives one line per event.

    Raises:
        CleanRoomError: The error that the supervisor reported, ``SupervisorExited`` or ``SupervisorNotReady``.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(_log_file(state), "ab") as log:
        events = _Events(log.name, log.tell(), on_event)
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def ready(status: dict[str, Any] | None) -> bool:
        if status is not None and status["pid"] == process.pid:
            if status["status"] == "failed":
                process.wait(30)
                raise CleanRoomError.from_dict(status["error"])
            return bool(status["status"] == "ready")
        if process.poll() is not None:
            raise _exited(state, process.poll())
        return False

    try:
        return _await_status(state, process.pid, ready, seconds=seconds, events=events)
    except TimedOut:
        process.terminate()
        process.wait(60)
        raise


def restart_exited(state: Path, *, seconds: float, on_event: Callable[[str], None]) -> dict[str, Any]:
    """Let the running supervisor of ``state`` restart the services that have exited, and wait until they are ready.

    Raises:
        CleanRoomError: The error of a service that did not become ready, ``SupervisorExited`` or ``SupervisorNotReady``.
    """
    before = read_status(state)
    supervisor = _process(before["pid"], before["created"]) if before is not None else None
    if before is None or supervisor is None:
        raise _exited(state, None)
    events = _Events(str(_log_file(state)), _log_file(state).stat().st_size, on_event)
    supervisor.send_signal(signal.SIGUSR1)

    def done(status: dict[str, Any] | None) -> bool:
        if status is None or status["status"] not in ("ready", "starting"):
            raise _exited(state, None)
        if status["restarts"] == before["restarts"]:
            return False
        if status["error"] is not None:
            raise CleanRoomError.from_dict(status["error"])
        return True

    return _await_status(state, supervisor.pid, done, seconds=seconds, events=events)


def _log_file(state: Path) -> Path:
    return state / "supervisor.log"


def _exited(state: Path, code: int | None) -> Unavailable:
    return Unavailable(
        "SupervisorExited",
        f"The supervisor ended{'' if code is None else f' with exit code {code}'} before everything was ready.",
        cause=log_tail(_log_file(state)),
        hint=f"See {_log_file(state)}.",
        retryable=False,
    )


@dataclass
class _Events:
    """Passes new lines of the supervisor's log on."""

    file: str
    shown: int
    on_event: Callable[[str], None]

    def show(self) -> None:
        with open(self.file, "rb") as log:
            log.seek(self.shown)
            lines = log.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self.shown += len(line)
                self.on_event(line.decode("utf-8", "replace").rstrip())


def _await_status(
    state: Path, pid: int, done: Callable[[dict[str, Any] | None], bool], *, seconds: float, events: _Events
) -> dict[str, Any]:
    """Poll the status until ``done``; raise ``SupervisorNotReady`` when the supervisor's processes make no progress."""
    patience = ProcessPatience(pid, _log_file(state), seconds)
    while True:
        events.show()
        status = read_status(state)
        if done(status):
            events.show()
            assert status is not None
            return status
        if patience.exhausted():
            message = f"The services are not ready, and have made no progress for {seconds:.0f} seconds."
            raise TimedOut("SupervisorNotReady", message, cause=log_tail(_log_file(state)), hint=f"See {_log_file(state)}.")
        time.sleep(_POLL_SECONDS)


def stop_detached(state: Path, *, seconds: float = 60.0) -> bool:
    """Stop the supervisor of ``state``, and the services that a dead supervisor left. Return False if nothing was running.

    Raises:
        NotFound: ``NothingStarted`` if no supervisor has run there.
        TimedOut: ``SupervisorNotStopped``.
    """
    status = read_status(state)
    if status is None:
        raise NotFound("NothingStarted", f"No services were started in {state}.", hint="Start them with `cleanroom up`.")
    supervisor = _process(status["pid"], status["created"])
    left = [process for s in status["services"] if s["pid"] and (process := _process(s["pid"], s["created"])) is not None]
    if supervisor is None and not left:
        return False
    if supervisor is not None:
        supervisor.terminate()
        try:
            supervisor.wait(seconds)
        except psutil.TimeoutExpired as error:
            raise TimedOut(
                "SupervisorNotStopped",
                f"The supervisor (process {supervisor.pid}) did not stop within {seconds:.0f} seconds.",
                hint=f"See {state / 'supervisor.log'}.",
            ) from error
    for process in left:  # each process leads its session
        if process.is_running():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=10)
    return True


def _process(pid: int, created: float | None) -> psutil.Process | None:
    return None if created is None else running_process(pid, created)


def _alive(pid: int, created: float | None) -> bool:
    return _process(pid, created) is not None
