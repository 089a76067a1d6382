"""Starts services in the order of their dependencies, watches them, and stops them in reverse order.

There is one supervisor per state folder, enforced by a lock file. ``services.json`` there holds the current status::

    {"status": "starting | ready | failed | stopping", "pid": 1, "created": 1750000000.0, "error": null, "restarts": 0,
     "services": [{"name", "state": "waiting | starting | ready | restarting | exited", "pid", "created", "url", "log", "exit_code",
                   "restarts"}]}

A service that ends gets the state ``exited``, or ``restarting`` if it crashed and the policy of restarts starts it again after a delay
(:mod:`localcloud.launcher.restarts`). Exit code 0 is no crash. SIGUSR1 starts all such services at once; ``restarts`` at the top counts
these signals, and ``error`` is the error of the last one. ``created`` is the creation time of the process: it prevents a signal
to another process that has got the same process ID since.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from cleanroom.errors import CleanRoomError, Conflict, Internal
from localcloud.launcher.processes import RunningService, Service
from localcloud.launcher.restarts import Crashes, RestartPolicy
from localcloud.process_start import started

_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Step:
    """Work between services, such as preparing governance once it answers."""

    name: str
    run: Callable[[], None]
    after: tuple[str, ...] = ()


@dataclass
class _Entry:
    item: Service | Step
    crashes: Crashes
    state: str = "waiting"
    process: RunningService | None = None
    started: float = 0.0
    created: float | None = None
    exit_code: int | None = None

    @property
    def name(self) -> str:
        return self.item.name

    def to_json(self) -> dict[str, Any]:
        service = self.item if isinstance(self.item, Service) else None
        return {
            "name": self.name,
            "kind": "service" if service else "step",
            "state": self.state,
            "pid": self.process.pid if self.process else None,
            "created": self.created,
            "url": service.url if service else None,
            "log": str(service.log) if service else None,
            "exit_code": self.exit_code,
            "restarts": self.crashes.restarts,
        }


@dataclass
class Supervisor:
    """Runs services and steps in this process until SIGINT, SIGTERM or :meth:`stop`.

    Attributes:
        state: State folder.
        plan: Returns the services and steps. It is called under the lock of the state folder, because it may write there.
        on_event: Receives one line per event.
        policy: When to start a crashed service again; by default never.
    """

    state: Path
    plan: Callable[[], Sequence[Service | Step]]
    on_event: Callable[[str], None] = lambda text: None
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    _entries: dict[str, _Entry] = field(init=False, default_factory=dict)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _status: str = field(init=False, default="starting")
    _error: dict[str, Any] | None = field(init=False, default=None)
    _restart: threading.Event = field(init=False, default_factory=threading.Event)
    _restarts: int = field(init=False, default=0)

    def run(self) -> None:
        """Start everything, wait for SIGINT or SIGTERM, and stop everything.

        Raises:
            Conflict: ``AlreadyRunning`` if another supervisor holds the state folder.
            Internal: ``TopologyInvalid`` if dependencies are unknown or circular.
            CleanRoomError: A service or step could not start. All started services have been stopped.
        """
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _lock(self.state), self._signals():
            try:
                self._make_entries(self.plan())
                self._start_all()
                if not self._stop.is_set():
                    self._report("ready")
                    self._watch()
            except CleanRoomError as error:
                self._error = error.to_dict()
                raise
            finally:
                self._stop_all()

    def stop(self) -> None:
        """Make :meth:`run` stop; safe to call from a signal handler or another thread."""
        self._stop.set()

    def restart(self) -> None:
        """Make :meth:`run` restart the services that have exited; safe to call from a signal handler or another thread."""
        self._restart.set()

    def _make_entries(self, items: Sequence[Service | Step]) -> None:
        self._entries = {item.name: _Entry(item, Crashes(self.policy)) for item in items}
        unknown = {name for item in items for name in item.after} - self._entries.keys()
        if unknown or len(self._entries) != len(items):
            raise Internal("TopologyInvalid", f"The topology has unknown dependencies ({sorted(unknown)}) or a duplicate name.")

    def _start_all(self) -> None:
        self._report("starting")
        while not self._stop.is_set():
            waiting = [entry for entry in self._entries.values() if entry.state == "waiting"]
            startable = [entry for entry in waiting if self._needs_are_ready(entry)]
            for entry in startable:
                self._start(entry)
            starting = [entry for entry in self._entries.values() if entry.state == "starting"]
            if not waiting and not starting:
                return
            if not startable and not starting:
                raise Internal("TopologyInvalid", f"Circular dependencies between {', '.join(entry.name for entry in waiting)}.")
            became_ready = [entry for entry in starting if self._check(entry)]
            if starting and not became_ready:
                self._stop.wait(_POLL_SECONDS)

    def _start(self, entry: _Entry) -> None:
        entry.started = time.monotonic()
        if isinstance(entry.item, Step):
            entry.item.run()
            self._now_ready(entry)
            return
        entry.process = RunningService(entry.item)
        with suppress(psutil.NoSuchProcess):
            entry.created = started(psutil.Process(entry.process.pid))
        entry.state = "starting"
        self._report()

    def _check(self, entry: _Entry) -> bool:
        assert entry.process is not None
        try:
            ready = entry.process.poll_ready()
        except CleanRoomError:
            entry.exit_code = entry.process.exit_code()
            raise
        if ready:
            self._now_ready(entry)
        return ready

    def _now_ready(self, entry: _Entry) -> None:
        entry.state = "ready"
        entry.crashes.ready(time.monotonic())
        where = f" at {entry.item.url}" if isinstance(entry.item, Service) else ""
        self.on_event(f"{entry.name} ready{where} ({time.monotonic() - entry.started:.1f} s)")
        self._report()

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_SECONDS):
            if self._restart.is_set():
                self._restart.clear()
                self._restart_exited()
            for entry in self._entries.values():
                if entry.process is not None:
                    self._look_at(entry, entry.process)

    def _look_at(self, entry: _Entry, process: RunningService) -> None:
        """Notice that a service has ended, and start it again when that is due. It never waits for a service to become ready."""
        if entry.state == "ready" and process.exit_code() is not None:
            self._ended(entry, process)
        elif entry.state == "restarting" and entry.crashes.due(time.monotonic()) and self._needs_are_ready(entry):
            process.wait_stopped()
            entry.exit_code = None
            entry.crashes.restarts += 1
            self._start(entry)
        elif entry.state == "starting":
            try:
                self._check(entry)
            except CleanRoomError:
                process.stop()
                self._ended(entry, process)

    def _needs_are_ready(self, entry: _Entry) -> bool:
        return all(self._entries[name].state == "ready" for name in entry.item.after)

    def _ended(self, entry: _Entry, process: RunningService) -> None:
        entry.exit_code = process.exit_code()
        delay = entry.crashes.crash(time.monotonic()) if entry.exit_code != 0 else None
        entry.state = "exited" if delay is None else "restarting"
        again = "" if delay is None else f" Start {entry.crashes.attempt} of {self.policy.limit} follows in {delay:.0f} s."
        self.on_event(f"{entry.name} ended with exit code {entry.exit_code}.{again} See {process.service.log}")
        self._report()

    def _restart_exited(self) -> None:
        """Start the exited services again, in their order. One that does not become ready is ``exited`` again; the others keep running."""
        for entry in self._entries.values():
            entry.crashes.forget()
            if entry.state in ("exited", "restarting") and entry.process is not None:
                entry.process.wait_stopped()
                entry.state, entry.exit_code = "waiting", None
        self._error = None
        try:
            self._start_all()
        except CleanRoomError as error:
            self._error = error.to_dict()
            for entry in self._entries.values():
                if entry.state in ("waiting", "starting") and entry.process is not None:
                    entry.process.stop()
                    entry.state, entry.exit_code = "exited", entry.process.exit_code()
        self._restarts += 1
        self._report("ready")

    def _stop_all(self) -> None:
        self._report("stopping")
        for wave in self._reverse_waves():
            for process in wave:
                process.terminate()
            for process in wave:
                process.wait_stopped()
                self.on_event(f"{process.service.name} stopped")
        for entry in self._entries.values():
            if entry.process is not None:
                entry.state, entry.exit_code = "exited", entry.process.exit_code()
        self._report("failed" if self._error else "stopped")

    def _reverse_waves(self) -> Iterator[list[RunningService]]:
        """Yield the processes in groups: every service comes after the services that depend on it."""
        left = dict(self._entries)
        while left:
            needed = {name for entry in left.values() for name in entry.item.after}
            wave = [entry for name, entry in left.items() if name not in needed] or list(left.values())
            yield [entry.process for entry in wave if entry.process is not None]
            for entry in wave:
                del left[entry.name]

    def _report(self, status: str | None = None) -> None:
        self._status = status or self._status
        own = psutil.Process()
        write_json(
            self.state / "services.json",
            {
                "status": self._status,
                "pid": own.pid,
                "created": started(own),
                "error": self._error,
                "restarts": self._restarts,
                "services": [entry.to_json() for entry in self._entries.values()],
            },
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self.restart() if number == signal.SIGUSR1 else self.stop()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically; only the owner can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        json.dump(value, handle, indent=2)
    os.replace(temporary, path)


@contextmanager
def _lock(state: Path) -> Iterator[IO[str]]:
    with open(state / "supervisor.lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                "AlreadyRunning", f"Another supervisor runs the services of {state}.", hint="Stop them with `cleanroom down`."
            ) from error
        yield handle


def python(*arguments: str) -> tuple[str, ...]:
    """Return the argument vector that runs a module in this interpreter."""
    return (sys.executable, "-m", *arguments)
