"""A pod's processes on this machine: started under a shim in a session of their own, found again after a restart, ended as one.

The shim (``/bin/sh``, as containerd has its own) outlives the stand-in, waits for the program and leaves its exit code in a file, so a
restarted stand-in learns how a pod ended while nobody watched.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# $1 log, $2 exit-code file, then the program. The child runs in the background so that the shim itself can be told to stop.
_SHIM = 'log=$1; code=$2; shift 2; trap : TERM; "$@" >"$log" 2>&1 </dev/null & child=$!; \
while :; do wait $child; status=$?; kill -0 $child 2>/dev/null || break; done; \
printf %s "$status" >"$code.tmp" && mv "$code.tmp" "$code"'
LOST = -1
"""Exit code of a process whose end nobody saw."""


@dataclass(frozen=True)
class PodProcess:
    """A running (or ended) pod by its shim: process id, and start time so that a reused id is not taken for it."""

    pid: int
    created: float
    exit_file: Path

    def exit_code(self) -> int | None:
        """The program's exit code once it is known: signals as 128 + number, like container runtimes."""
        try:
            return int(self.exit_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def alive(self) -> bool:
        """Whether the shim still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def wait(self) -> int:
        """The exit code, when it comes; :data:`LOST` when the shim died without leaving one."""
        if self.alive():
            await _ended(self.pid)
        code = self.exit_code()
        return LOST if code is None else code

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM to every process of the session, and after the grace SIGKILL; returns when none is left.

        Also to those that come later, and to those that have become another program since: a signal that arrives between a fork and
        its exec is lost, and the pod would go on for its whole grace.
        """
        if await self._signal(signal.SIGTERM, grace_seconds):
            return
        if not await self._signal(signal.SIGKILL, 10):
            raise RuntimeError(f"processes of session {self.pid} survive SIGKILL")

    async def _signal(self, number: signal.Signals, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        told: dict[int, list[str]] = {}
        while left := self._session():
            for process in left:
                try:
                    # Asked before the signal is sent: what becomes another program meanwhile is told again.
                    program = process.cmdline()
                    if told.get(process.pid) != program:
                        told[process.pid] = program
                        process.send_signal(number)
                except psutil.NoSuchProcess:
                    continue
            if asyncio.get_running_loop().time() >= deadline:
                return False
            # Members of the session are not our children: the kernel tells us of their end one by one only.
            try:
                async with asyncio.timeout(min(0.25, max(0.01, deadline - asyncio.get_running_loop().time()))):
                    await _ended(left[0].pid)
            except TimeoutError:
                continue
        return True

    def _session(self) -> list[psutil.Process]:
        """Living processes of the shim's session: PySpark's workers leave its process group, but not its session."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    os.getsid(process.pid) == self.pid
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.create_time() >= self.created - 1
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                continue
        return found


def start(program: Sequence[str], environment: Mapping[str, str], *, cwd: Path, log: Path, exit_file: Path) -> PodProcess:
    """Start ``program`` with exactly ``environment``, its output in ``log``."""
    # The shim opens it a little later; a container that runs has a log by then, if an empty one.
    log.touch()
    process = subprocess.Popen(
        ["/bin/sh", "-c", _SHIM, "pod-shim", str(log), str(exit_file), *program],
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return PodProcess(process.pid, psutil.Process(process.pid).create_time(), exit_file)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _ended(pid: int) -> None:
    """Wait for a process, whoever's child it is, and reap it if it is ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    try:
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not block
    except ChildProcessError:
        return
