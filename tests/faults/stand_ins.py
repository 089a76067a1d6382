"""Stand-ins as processes that can be killed: ``python -m tests.faults.stand_ins``.

That process imports everything once and forks a child per stand-in, so a killed stand-in is back in a fraction of a second. It reads
requests as lines of JSON, and answers each with a number.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localcloud.standins import maa
from localcloud.standins.cgs import server as cgs
from localcloud.standins.entra import server as entra
from localcloud.standins.keyvault import server as keyvault
from localcloud.standins.kubernetes import server as kubernetes
from localcloud.standins.serving import main as serve
from localcloud.standins.snp import server as snp
from tests.faults import pods

STAND_INS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "entra": (entra.EntraConfig, entra.create_app),
    "snp": (snp.SnpConfig, snp.create_app),
    "maa": (maa.MaaConfig, maa.create_app),
    "keyvault": (keyvault.KeyVaultConfig, keyvault.create_app),
    "cgs": (cgs.CgsConfig, cgs.create_app),
    "kubernetes": (kubernetes.KubernetesConfig, pods.create_app),
}
"""Stand-ins that activities call, in the order of their start."""
START_SECONDS = 60.0


class StandIns:
    """Starts stand-ins as children of one process. :meth:`stop` ends all of them."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.stand_ins"]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._lock = threading.Lock()

    def ask(self, *request: Any) -> int:
        """Send a request, and return the answer."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        with self._lock:
            self._parent.stdin.write(json.dumps(request) + "\n")
            return int(self._parent.stdout.readline())

    def stop(self) -> None:
        """End all stand-ins."""
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(30)


class StandIn:
    """One stand-in.

    Args:
        stand_ins: Where it starts.
        name: Its name.
        config: Its configuration file.
        port: The port in that file.
        log: Log file.
    """

    def __init__(self, stand_ins: StandIns, name: str, config: Path, port: int, log: Path) -> None:
        self._stand_ins, self._start_request, self._port = stand_ins, ("start", name, str(config), str(log)), port
        self._lock = threading.Lock()
        self._pid = self._start()

    def _start(self) -> int:
        pid = self._stand_ins.ask(*self._start_request)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", self._port)) == 0:
                    return pid
            assert time.monotonic() < deadline, f"{self._start_request} does not accept connections"
            time.sleep(0.02)

    def kill(self) -> None:
        """Send SIGKILL and start the stand-in again, with the state that it has on disk."""
        with self._lock:
            os.kill(self._pid, signal.SIGKILL)
            self._stand_ins.ask("wait", self._pid)
            self._pid = self._start()


# ---------------------------------------------------------------------- the forking process and its children


def _child(name: str, config: str, log: str) -> None:
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.close(0)
    serve(name, *STAND_INS[name], argv=["--config", config])


def main() -> None:
    """Start and await children, one request after the other, until standard input ends."""
    alive: set[int] = set()
    for line in sys.stdin:
        kind, *arguments = json.loads(line)
        if kind == "wait":
            os.waitpid(arguments[0], 0)
            alive.discard(arguments[0])
            print(0, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(*arguments)
            os._exit(0)
        alive.add(pid)
        print(pid, flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
