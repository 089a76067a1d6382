"""Control of the worker processes of a running local cloud: kill them, and start them again."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from localcloud.launcher.detached import read_status
from localcloud.launcher.processes import Ready, RunningService, Service
from tests.patience import PATIENCE


class Workers:
    """The workers of the local cloud in the folder ``state``, by profile."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._restarted: dict[str, RunningService] = {}
        self._killed: dict[str, tuple[tuple[str, ...], Path, Path]] = {}
        """Command, working directory and ready file of each killed worker."""

    def kill(self, worker: str) -> None:
        """Send SIGKILL to a worker, and remember its command."""
        process = self._process(worker)
        argv = tuple(process.cmdline())
        ready = Path(argv[argv.index("--ready-file") + 1])
        self._killed[worker] = (argv, Path(process.cwd()), ready)
        process.send_signal(signal.SIGKILL)
        running = self._restarted.pop(worker, None)
        if running is not None:
            running.stop()
        else:
            psutil.wait_procs([process], timeout=PATIENCE)

    def command(self, worker: str) -> tuple[str, ...]:
        """Return the command of a running worker."""
        return tuple(self._process(worker).cmdline())

    def restart(self, worker: str) -> None:
        """Start a killed worker with the same command, and wait until it polls."""
        argv, cwd, ready = self._killed.pop(worker)
        service = Service(
            name=f"worker.{worker}",
            argv=argv,
            cwd=cwd,
            ready=Ready(kind="file", path=ready),
            url="",
            log=self._state / f"logs/worker.{worker}.log",
        )
        self._restarted[worker] = RunningService(service)
        self._restarted[worker].wait_ready()

    def restart_killed(self) -> None:
        """Start every worker that a test has killed and not restarted."""
        for worker in tuple(self._killed):
            self.restart(worker)

    def stop_restarted(self) -> None:
        """Stop the workers that this session has started."""
        for service in self._restarted.values():
            service.stop()
        self._restarted.clear()

    def _process(self, worker: str) -> psutil.Process:
        running = self._restarted.get(worker)
        if running is not None:
            return psutil.Process(running.pid)
        status = read_status(self._state)
        assert status is not None
        entry = next(item for item in status["services"] if item["name"] == f"worker.{worker}")
        assert entry["state"] == "ready", f"worker {worker} is {entry['state']}"
        return psutil.Process(entry["pid"])
