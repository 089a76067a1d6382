"""Measures how long a command takes to start: until its help, its refusal without settings, or its first request.

A server on this machine accepts the first connection of a command and answers nothing; the command is killed then. The time is the
processor time of the command, the shortest of several rounds, which other processes affect less than elapsed time. The figures are
those of the slowest command of each kind, compared with a program that only imports Typer and pydantic.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.framework import Benchmark, Value, at_most, reported
from starters.commands import COMMANDS

LIMIT = 0.5
"""Seconds in which every command starts."""
SECONDS = 60.0
FLOOR = ("-c", "import typer, pydantic; from typer import _adapters")
REFUSED = ("query list", "query show x", "query approve x", "run list", "run show x", "dataset list", "audit list", "consent show x", "ui")
TEMPORAL = ("query list", "query show x", "run list", "run show x", "run explain x", "dataset list", "versions list")
GOVERNANCE = (
    "query approve x --plaintext", "query renew x --plaintext", "run start x --plaintext", "audit list", "consent show x", "key publish",
    "members", "dataset preview x",
)  # fmt: skip
"""The first request of these commands is the sign-in."""
SETTINGS = """
[default]
collaboration = "deal"
parties = {{ north = "1f0e" }}
governance.url = "{url}"
[profile.north]
party = "north"
keys_dir = "keys"
[profile.north.credential]
kind = "client-secret"
authority = "{url}"
tenant_id = "tenant"
client_id = "client"
client_secret_file = "secret"
disable_instance_discovery = true
"""


def processor_seconds(
    arguments: Sequence[str], folder: Path, *, until: socket.socket | None = None, temporal: str = "127.0.0.1:1"
) -> float:
    """Run Python with ``arguments``, to its end or to its first connection to ``until``; return its processor time.

    Raises:
        SystemExit: It ended without a connection.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLEANROOM_", "TEMPORAL_"))}
    environment |= {"HOME": str(folder), "TEMPORAL_ADDRESS": temporal}
    command = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert command.stderr is not None
    if until is not None:
        try:
            until.accept()[0].close()
        except TimeoutError:
            raise SystemExit(f"{' '.join(arguments)}: no connection; {command.stderr.read(2000)!r}") from None
        finally:
            command.kill()
    else:
        command.stderr.read()
    _, status, used = os.wait4(command.pid, 0)
    command.returncode = os.waitstatus_to_exitcode(status)
    command.stderr.close()
    return used.ru_utime + used.ru_stime


def slowest(commands: Iterable[str], folder: Path, rounds: int, *, first_request: bool = False) -> float:
    """Return the time of the command that takes longest."""

    def once(words: str) -> float:
        if not first_request:
            return processor_seconds(("-m", "starters.cli", *words.split()), folder)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(SECONDS)
            port = server.getsockname()[1]
            (folder / "deal.toml").write_text(SETTINGS.format(url=f"https://127.0.0.1:{port}"))
            more = ("--config", "deal.toml", "--profile", "north")
            arguments = ("-m", "starters.cli", *words.split(), *more)
            return processor_seconds(arguments, folder, until=server, temporal=f"127.0.0.1:{port}")

    return max(min(once(words) for _ in range(rounds)) for words in commands)


def measure(rounds: int = 5) -> dict[str, Value]:
    """Return the times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text("secret")
        (folder / "secret").chmod(0o600)
        found: dict[str, Value] = {}
        floor = min(processor_seconds(FLOOR, folder) for _ in range(rounds))
        found["help"] = slowest([f"{command} --help" for command in COMMANDS], folder, rounds)
        found["refusal without settings"] = slowest(REFUSED, folder, rounds)
        found["first request, to Temporal"] = slowest(TEMPORAL, folder, rounds, first_request=True)
        found["first request, the sign-in to governance"] = slowest(GOVERNANCE, folder, rounds, first_request=True)
        ratios = {f"{figure}, against the imports of Typer and pydantic": value / floor for figure, value in found.items()}  # type: ignore[operator]
    return found | ratios


STARTS = ("help", "refusal without settings", "first request, to Temporal", "first request, the sign-in to governance")
BENCHMARK = Benchmark(
    "start of the slowest command, processor time",
    measure,
    [
        *(at_most(figure, LIMIT, "s") for figure in STARTS),
        *(reported(f"{figure}, against the imports of Typer and pydantic", "x") for figure in STARTS),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
