"""Servers as child processes: start, readiness check and stop. The supervisor and the tests use it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, ConfigDict, Field

from cleanroom.errors import PreconditionFailed, TimedOut, Unavailable
from cleanroom.transport import ssl_context
from localcloud.launcher.patience import ProcessPatience

_POLL_SECONDS = 0.05
_LOWEST_PORT = 10_000
PORT_RANGE = "CLEANROOM_LOCAL_PORTS"
"""Environment variable with the first and the last port for servers of this process and its children: ``10000-14999``."""


class Ready(BaseModel):
    """The readiness check of a service: an HTTP response, an open port, a successful command, or a file that the service writes."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["http", "tcp", "command", "file"]
    url: str = ""
    ca_file: Path | None = None
    any_status: bool = False
    """Accept any HTTP status; by default only 2xx."""
    port: int = 0
    argv: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    """Texts that the command's output must contain."""
    path: Path | None = None
    """The file. It is removed before the service starts, because an earlier process may have left it."""


class Service(BaseModel):
    """One server process. Pass secrets in files, never in ``argv``, which other users of the machine can see."""

    model_config = ConfigDict(frozen=True)

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    """Variables that are added to this process's environment."""
    cwd: Path | None = None
    ready: Ready
    url: str
    """Address for clients. If it has a port, the service is ready only when the process itself listens there."""
    log: Path
    after: tuple[str, ...] = ()
    """Names of services and steps that must be ready first."""
    seconds: float = 60.0
    """Timeout for becoming ready, without progress (:mod:`localcloud.launcher.patience`)."""
    stop_seconds: float = 15.0
    """Timeout for stopping; then the process is killed."""
    leftovers: tuple[Path, ...] = ()
    """Files that the process leaves behind; they are removed when it has stopped."""


class RunningService:
    """A started service. Its process leads a new session, so that its children can be ended with it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        service.log.parent.mkdir(parents=True, exist_ok=True)
        if service.ready.path is not None:
            service.ready.path.unlink(missing_ok=True)
        with open(service.log, "ab") as log:
            self._process = subprocess.Popen(
                service.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | service.env,
                cwd=service.cwd,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._patience = ProcessPatience(self.pid, service.log, service.seconds)

    def exit_code(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.poll()

    def poll_ready(self) -> bool:
        """Run the readiness check once.

        Raises:
            Unavailable: ``ServiceExited`` if the process has ended; the cause is the end of its log.
            TimedOut: ``ServiceNotReady`` if the service's ``seconds`` have passed without progress.
        """
        service, code = self.service, self.exit_code()
        if code is not None:
            message = f"{service.name} ended with exit code {code} before it was ready."
            raise Unavailable("ServiceExited", message, cause=log_tail(service.log), hint=f"See {service.log}.", retryable=False)
        # The port first, because each readiness command costs a process.
        if self._listens() and is_ready(service.ready):
            return True
        if self._patience.exhausted():
            message = f"{service.name} is not ready, and has made no progress for {service.seconds:.0f} seconds."
            raise TimedOut("ServiceNotReady", message, cause=log_tail(service.log), hint=f"See {service.log}.")
        return False

    def _listens(self) -> bool:
        """Whether this process listens on the port of the service's URL. Another server on that port would pass the check as well."""
        port = urlsplit(self.service.url if "//" in self.service.url else f"//{self.service.url}").port
        if port is None:
            return True
        try:
            leader = psutil.Process(self.pid)
            return any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
                for process in (leader, *leader.children(recursive=True))
                for connection in process.net_connections("tcp")
            )
        except psutil.NoSuchProcess:
            return False

    def wait_ready(self) -> None:
        """Wait until the readiness check succeeds; raises the errors of :meth:`poll_ready`."""
        while not self.poll_ready():
            time.sleep(_POLL_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM to the process and its children, and return immediately."""
        if self.exit_code() is None:
            _signal_group(self.pid, signal.SIGTERM)

    def wait_stopped(self) -> None:
        """Wait until the process has ended; kill it and its children after the service's ``stop_seconds``."""
        try:
            self._process.wait(self.service.stop_seconds)
        except subprocess.TimeoutExpired:
            _signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
        # The leader has ended, but its children may still run.
        _signal_group(self.pid, signal.SIGKILL)
        for path in self.service.leftovers:
            path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Terminate the process and its children; kill them after the timeout."""
        self.terminate()
        self.wait_stopped()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def is_ready(ready: Ready) -> bool:
    """Run a readiness check once."""
    if ready.kind == "file":
        return ready.path is not None and ready.path.exists()
    if ready.kind == "tcp":
        try:
            with socket.create_connection(("127.0.0.1", ready.port), timeout=1):
                return True
        except OSError:
            return False
    if ready.kind == "command":
        try:
            done = subprocess.run(ready.argv, capture_output=True, text=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0 and all(text in done.stdout for text in ready.expect)
    context = ssl_context(ready.ca_file) if ready.ca_file else None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(ready.url, timeout=2) as answer:
            return ready.any_status or 200 <= answer.status < 300
    except urllib.error.HTTPError:
        return ready.any_status
    except OSError:
        return False


@contextmanager
def running(services: Sequence[Service]) -> Iterator[dict[str, RunningService]]:
    """Run services for the duration of the block: each is ready before the next starts, and they stop in reverse order."""
    with ExitStack() as stack:
        started: dict[str, RunningService] = {}
        for service in services:
            process = RunningService(service)
            stack.callback(process.stop)
            process.wait_ready()
            started[service.name] = process
        yield started


def log_tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a log file; empty if it does not exist."""
    try:
        with open(path, "rb") as handle:
            return _tail(handle, lines)
    except FileNotFoundError:
        return ""


def _tail(handle: IO[bytes], lines: int) -> str:
    handle.seek(0, os.SEEK_END)
    handle.seek(max(0, handle.tell() - 16_384))
    return "\n".join(handle.read().decode("utf-8", "replace").splitlines()[-lines:])


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports on which no process listens.

    They lie below the kernel's ephemeral range, so that it does not assign them to another process before they are used. Processes that
    start servers at the same time choose from ranges of their own, if the environment variable :data:`PORT_RANGE` has one for each.

    Raises:
        Unavailable: ``PortsExhausted``.
    """
    span = port_range()
    ports: list[int] = []
    for port in secrets.SystemRandom().sample(span, k=len(span)):
        if len(ports) == count:
            return ports
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    raise Unavailable(
        "PortsExhausted",
        f"Fewer than {count} TCP ports are free between {span.start} and {span.stop}.",
        hint="Stop servers that are not needed.",
        retryable=False,
    )


def port_range() -> range:
    """Return the ports from which :func:`free_ports` chooses."""
    if own := os.environ.get(PORT_RANGE):
        first, last = map(int, own.split("-"))
        return range(first, last + 1)
    return range(_LOWEST_PORT, max(_ephemeral_ports(), _LOWEST_PORT + 1000))


def _ephemeral_ports() -> int:
    """Return the start of the kernel's ephemeral port range."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768  # Linux's default; other systems start higher


def executable(name: str, *, package: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the path of a program: the one that a Python package installed next to this interpreter, else the one on the PATH.

    Raises:
        PreconditionFailed: ``ProgramMissing`` names the package.
    """
    installed = Path(sys.executable).parent / name
    if installed.is_file():
        return str(installed)
    found = shutil.which(name, path=(environment or os.environ).get("PATH"))
    if found is None:
        raise PreconditionFailed(
            "ProgramMissing", f"The program {name} is not installed.", hint=f"Run `pip install {package}`, or `make setup`."
        )
    return found
