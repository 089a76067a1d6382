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

from temporalio.exceptions import ApplicationError

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
        self.full: set[tuple[str, str]] = set()
        """Workflow and activity of each attempt that could not write a file."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, die: Sequence[Boundary] = (), *, profiles: Collection[str] = WORKERS, full_disk: bool = False) -> None:
        """Start workers and wait until they poll. Each of them kills itself at the boundaries ``die`` that it reaches.

        With ``full_disk``, no activity can write to a file before one of its attempts has failed because of that.
        """
        self._die = [[item.workflow, item.activity, item.loss] for item in die]
        for profile in profiles:
            self._send(profile, full_disk)
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.ready) == len(profiles), 180), "the workers are not ready"

    def _send(self, profile: str, full_disk: bool = False) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps({"profile": profile, "die": self._die, "full_disk": full_disk}) + "\n")
        self._parent.stdin.flush()

    def _read(self) -> None:
        assert self._parent.stdout is not None
        for line in self._parent.stdout:
            kind, *rest = json.loads(line)
            with self._lock:
                if kind == "ready":
                    self.ready.add(rest[0])
                elif kind == "full":
                    self.full.add((rest[0], rest[1]))
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


_messages = 1
"""File descriptor of the pipe to the process that reads messages."""


def _say(*words: str) -> None:
    # One write, so that lines of different children do not mix.
    os.write(_messages, (json.dumps(words) + "\n").encode())


class FullDisk:
    """Lets writes to files fail, as a full disk does, until an attempt of each activity that writes has failed because of that."""

    def __init__(self, attempts: Attempts) -> None:
        self._failed: set[tuple[str, str]] = set()
        self._writing: set[asyncio.Task[Any] | None] = set()
        """Attempts of activities that have failed before. While they run, writes succeed."""
        attempts.on_start, attempts.on_end = self._start, self._end
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def begin(self) -> None:
        """Let writes fail from now on."""
        limit = resource.RLIM_INFINITY if self._writing else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def _start(self, workflow: str, name: str) -> None:
        if (workflow, name) in self._failed:
            self._writing.add(asyncio.current_task())
        self.begin()

    def _end(self, workflow: str, name: str, error: BaseException | None) -> None:
        self._writing.discard(asyncio.current_task())
        if (workflow, name) not in self._failed and no_space(error):
            self._failed.add((workflow, name))
            _say("full", workflow, name)
        self.begin()


def no_space(error: BaseException | None) -> bool:
    """Whether an attempt failed because a file could not be written."""
    return isinstance(error, ApplicationError) and error.type == "DiskFull"


def _child(state: Path, request: dict[str, Any]) -> None:
    attempts = Attempts(lose=[Boundary(*item) for item in request["die"]])

    def die(boundary: Boundary) -> bool:
        _say("dying", boundary.workflow, boundary.activity, boundary.loss)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    attempts.on_loss = die
    for timing in vars(retries).values():
        if isinstance(timing, retries.Timing) and timing.heartbeat is not None:
            object.__setattr__(timing, "heartbeat", HEARTBEAT)
            # The server itself repeats an attempt whose worker is gone. A busy machine also loses attempts whose worker is alive.
            retry = replace(timing.retry, initial_interval=BACKOFF, backoff_coefficient=1.0, maximum_attempts=0)
            object.__setattr__(timing, "retry", retry)
    disk = FullDisk(attempts) if request["full_disk"] else None

    async def run() -> None:
        profile = request["profile"]
        measured = parse_bootstrap((state / "bootstrap.json").read_bytes(), source="bootstrap.json") if profile in GUESTS else None
        async with new_worker(load_settings(profile, path=state / "cleanroom.toml"), measured, attempts):
            if disk is not None:
                disk.begin()
            _say("ready", profile)
            await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    """Fork a child per line of standard input, until it ends."""
    global _messages
    # The SDK writes its warnings to standard output.
    _messages = os.dup(1)
    os.dup2(2, 1)
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
