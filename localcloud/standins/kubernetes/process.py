"""A pod's processes on this machine: started by a shim in a new session, found again after a restart, and stopped together.

The shim (``/bin/sh``; containerd has one as well) outlives the stand-in, waits for the program and writes its exit code to a file. So a
restarted stand-in can read the exit code of a pod that ended while it was down.
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

from localcloud.process_start import running_process, started

# $1 log, $2 exit-code file, then the program. The program runs in the background, so that the shim can handle SIGTERM.
_SHIM = 'log=$1; code=$2; shift 2; trap : TERM; "$@" >"$log" 2>&1 </dev/null & child=$!; \
while :; do wait $child; status=$?; kill -0 $child 2>/dev/null || break; done; \
printf %s "$status" >"$code.tmp" && mv "$code.tmp" "$code"'
LOST = -1
"""Exit code of a process that ended without recording one."""


@dataclass(frozen=True)
class PodProcess:
    """A pod, running or ended, identified by its shim: process ID, and start because process IDs are reused."""

    pid: int
    created: float
    exit_file: Path

    def exit_code(self) -> int | None:
        """Return the program's exit code, or None if it is not known yet; 128 + number for a signal, as in container runtimes."""
        try:
            return int(self.exit_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def alive(self) -> bool:
        """Whether the shim still runs."""
        return running_process(self.pid, self.created) is not None

    async def wait(self) -> int:
        """Wait for the exit code; :data:`LOST` if the shim ended without writing one."""
        if self.alive():
            await _ended(self.pid)
        code = self.exit_code()
        return LOST if code is None else code

    async def stop(self, grace_seconds: float) -> None:
        """Send SIGTERM to every process of the session and SIGKILL after the grace period; return when none is left.

        New processes get the signal as well, and so do processes that have executed another program since: a signal that arrives
        between fork and exec can be lost, and the pod would then run until the end of the grace period.
        """
        if await self._signal(signal.SIGTERM, grace_seconds):
            return
        if not await self._signal(signal.SIGKILL, 10):
            raise RuntimeError(f"Processes of session {self.pid} still run 10 seconds after SIGKILL.")

    async def _signal(self, number: signal.Signals, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        signalled: dict[int, list[str]] = {}
        while left := self._session():
            for process in left:
                try:
                    # Read before the signal is sent, so that a process that executes another program now is signalled again.
                    program = process.cmdline()
                    if signalled.get(process.pid) != program:
                        signalled[process.pid] = program
                        process.send_signal(number)
                except psutil.NoSuchProcess:
                    continue
            if asyncio.get_running_loop().time() >= deadline:
                return False
            # The processes are not children of this one, so their ends can only be awaited one at a time.
            try:
                async with asyncio.timeout(min(0.25, max(0.01, deadline - asyncio.get_running_loop().time()))):
                    await _ended(left[0].pid)
            except TimeoutError:
                continue
        return True

    def _session(self) -> list[psutil.Process]:
        """Return the live processes of the shim's session. PySpark's workers leave its process group, but not its session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE and started(process) >= self.created:
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                continue
        return found


def start(program: Sequence[str], environment: Mapping[str, str], *, cwd: Path, log: Path, exit_file: Path) -> PodProcess:
    """Start ``program`` with exactly the variables ``environment``; its output goes to ``log``."""
    # The shim opens the log a little later, but every running container must have one.
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
    return PodProcess(process.pid, started(psutil.Process(process.pid)), exit_file)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _ended(pid: int) -> None:
    """Wait until a process has ended, and reap it if it is a child of this process."""
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
