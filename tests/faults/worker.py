"""Worker processes that kill themselves at the boundary of an activity: ``python -m tests.faults.worker STATE``.

This process imports everything once and forks a child per request, a line of JSON on standard input, so a restarted worker is ready in
a fraction of a second. A child runs the worker of one profile as ``cleanroom worker`` does. At a boundary that the request names, it
writes a line and sends itself SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cleanroom.settings import load_settings
from cleanroom.temporal import retries
from cleanroom.trust.bootstrap import parse_bootstrap
from localcloud.launcher.guests import GUESTS
from tests.faults.cloud import WORKERS, new_worker
from tests.faults.labels import BACKOFF, Attempts, Boundary

HEARTBEAT = timedelta(seconds=3)
"""Time after which the server notices a killed worker, in place of 10 s."""


class WorkerProcesses:
    """One process per boundary, restarted when it dies. Use it as :func:`worker_processes`."""

    def __init__(self, state: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.worker", str(state)]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._lock = threading.Condition()
        self._die: list[list[str]] = []
        self._stopping = False
        self.ready: set[str] = set()
        self.died: list[Boundary] = []
        """The boundaries at which a worker killed itself."""
        self.seen: list[tuple[str, str]] = []
        """Workflow and activity of each attempt."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, die: Sequence[Boundary] = (), *, profiles: Collection[str] = WORKERS, file_bytes: int | None = None) -> None:
        """Start workers and wait until they poll. Each of them kills itself at the boundaries ``die`` that it reaches.

        ``file_bytes`` limits the size of files that the first processes write, as a full disk does, until an attempt has failed.
        """
        self._die = [[item.workflow, item.activity, item.loss] for item in die]
        for profile in profiles:
            self._send(profile, file_bytes)
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.ready) == len(profiles), 180), "the workers are not ready"

    def _send(self, profile: str, file_bytes: int | None = None) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps({"profile": profile, "die": self._die, "file_bytes": file_bytes}) + "\n")
        self._parent.stdin.flush()

    def _read(self) -> None:
        assert self._parent.stdout is not None
        for line in self._parent.stdout:
            kind, *rest = json.loads(line)
            with self._lock:
                if kind == "ready":
                    self.ready.add(rest[0])
                elif kind == "attempt":
                    self.seen.append((rest[0], rest[1]))
                elif kind == "dying":
                    self._die = [item for item in self._die if item != rest]
                    self.died.append(Boundary(*rest))
                elif kind == "dead" and not self._stopping:
                    self._send(rest[0])
                self._lock.notify_all()

    def stop(self) -> None:
        """End all processes."""
        self._stopping = True
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(30)


@contextmanager
def worker_processes(state: Path, die: Sequence[Boundary] = (), **options: Any) -> Iterator[WorkerProcesses]:
    """Run one process per boundary for the duration of the block."""
    processes = WorkerProcesses(state)
    try:
        processes.start(die, **options)
        yield processes
    finally:
        processes.stop()


# ---------------------------------------------------------------------- the forking process and its children


def _say(*words: str) -> None:
    # One write, so that lines of different children do not mix.
    os.write(1, (json.dumps(words) + "\n").encode())


def _child(state: Path, request: dict[str, Any]) -> None:
    attempts = Attempts(lose=[Boundary(*item) for item in request["die"]])

    def die(boundary: Boundary) -> bool:
        _say("dying", boundary.workflow, boundary.activity, boundary.loss)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    attempts.on_loss = die
    attempts.on_start = lambda: _say("attempt", *attempts.seen[-1][:2])
    for timing in vars(retries).values():
        if isinstance(timing, retries.Timing) and timing.heartbeat is not None:
            object.__setattr__(timing, "heartbeat", HEARTBEAT)
            # The server itself repeats an attempt whose worker is gone. A busy machine also loses attempts whose worker is alive.
            retry = replace(timing.retry, initial_interval=BACKOFF, backoff_coefficient=1.0, maximum_attempts=0)
            object.__setattr__(timing, "retry", retry)
    if request["file_bytes"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], resource.RLIM_INFINITY))
        attempts.on_error = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    async def run() -> None:
        profile = request["profile"]
        measured = parse_bootstrap((state / "bootstrap.json").read_bytes(), source="bootstrap.json") if profile in GUESTS else None
        async with new_worker(load_settings(profile, path=state / "cleanroom.toml"), measured, attempts):
            _say("ready", profile)
            await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    """Fork a child per line of standard input, until it ends."""
    state = Path(sys.argv[1])
    alive: set[int] = set()
    logging.disable(logging.CRITICAL)

    def wait_for(pid: int, profile: str) -> None:
        os.waitpid(pid, 0)
        alive.discard(pid)
        _say("dead", profile)

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(state, request)
            os._exit(0)
        alive.add(pid)
        threading.Thread(target=wait_for, args=(pid, request["profile"]), daemon=True).start()
    for pid in tuple(alive):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
