"""Server processes of the test cluster: start, readiness, memory, logs, end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from localcloud.launcher.processes import Ready, is_ready, log_tail


class ServerFailed(Exception):
    """A server has ended, or did not get ready. The message ends with the last lines of its log."""


class Server:
    """One running server, with its log as ``NAME.log`` in ``folder``."""

    def __init__(self, folder: Path, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """The process ID in the namespace of the cluster."""
        return self._process.pid

    def require_running(self) -> None:
        """Raise an error if the server has ended.

        Raises:
            ServerFailed: It has ended.
        """
        code = self._process.poll()
        if code is not None:
            raise ServerFailed(f"{self.name} ended with code {code}:\n{log_tail(self.log, 12)}")

    def resident_mib(self) -> int:
        """Return the resident memory in MiB."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)

    def stop(self, seconds: float = 10) -> None:
        """Terminate the server, and kill it after ``seconds``."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Servers:
    """The servers of one cluster, in the order of their start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, Server] = {}

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Server:
        """Start a server."""
        server = self.running[name] = Server(self.folder, name, command, environment)
        return server

    def require_running(self) -> None:
        """Raise an error if any server has ended.

        Raises:
            ServerFailed: One has ended.
        """
        for server in self.running.values():
            server.require_running()

    def wait_ready(self, url: str, seconds: float, authority: Path | None = None) -> None:
        """Wait until ``url`` answers that it is ready.

        Args:
            url: A readiness endpoint.
            seconds: How long to wait.
            authority: The certificate authority of an HTTPS endpoint.

        Raises:
            ServerFailed: A server has ended, or the endpoint is not ready in time.
        """
        check = Ready(kind="http", url=url, ca_file=authority)
        self.wait_until(lambda: is_ready(check), seconds, f"{url} is not ready after {seconds:.0f} s; the logs are in {self.folder}")

    def wait_until(self, done: Callable[[], bool], seconds: float, late: str) -> None:
        """Wait until ``done`` returns true.

        Args:
            done: A check.
            seconds: How long to wait.
            late: The message if that is not enough.

        Raises:
            ServerFailed: A server has ended, or the check does not succeed in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.require_running()
            if done():
                return
            if time.monotonic() > deadline:
                raise ServerFailed(late)
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop all servers, the last one first."""
        for server in reversed(self.running.values()):
            server.stop()
