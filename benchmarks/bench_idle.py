"""Measures what a local cloud costs while nothing happens, after a whole demo.

The server repeats the workflow tasks of a workflow whose versioning behavior is lost, without end (docs/decisions/013). Such a loop
fails nothing and is visible only in processor time and in the number of workflow tasks.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.framework import Benchmark, at_most, reported

SETTLE_SECONDS = 15
"""Ended workers and drained queues cause work shortly after the demo."""
_COMPLETED = re.compile(r'^service_requests\{[^}]*operation="RespondWorkflowTaskCompleted"[^}]*\} (\S+)$', re.MULTILINE)


def measure(seconds: int = 60, rows: int = 20_000) -> dict[str, float]:
    """Play the demo, wait, and return the figures of the next ``seconds``."""
    # `timeout` and Ctrl-C must not leave a cloud running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "cloud"
        try:
            _cleanroom("demo", "--keep", "--rows", str(rows), "--state", str(state))
            services = {item["name"]: item for item in json.loads(_cleanroom("ps", "--state", str(state), "--output", "json"))}
            port = json.loads((state / "ports.json").read_text())["temporal-metrics"]
            time.sleep(SETTLE_SECONDS)
            return _idle(services, f"http://127.0.0.1:{port}/metrics", seconds)
        finally:
            _cleanroom("down", "--state", str(state))


def _idle(services: dict[str, Any], metrics: str, seconds: int) -> dict[str, float]:
    workers = [item["pid"] for name, item in services.items() if name.startswith("worker")]
    server = [services["temporal"]["pid"]]
    before = (_cpu(server), _cpu(workers), _workflow_tasks(metrics))
    time.sleep(seconds)
    after = (_cpu(server), _cpu(workers), _workflow_tasks(metrics))
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return {
        "processor time of the server, per second": spent[0] / seconds * 1000,
        "processor time of all workers, per second": spent[1] / seconds * 1000,
        "workflow tasks completed while idle": spent[2],
        "workflow tasks completed by the demo": before[2],
        "workers": len(workers),
    }


def _cpu(pids: list[int]) -> float:
    """Return the processor seconds of processes and their children."""
    found = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            found += times.user + times.system
    return found


def _workflow_tasks(url: str) -> float:
    """Return how many workflow tasks the server has seen completed."""
    return sum(float(value) for value in _COMPLETED.findall(httpx.get(url, timeout=30).text))


def _cleanroom(*words: str) -> str:
    done = subprocess.run([str(Path(sys.executable).parent / "cleanroom"), *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


BENCHMARK = Benchmark(
    "an idle local cloud, after the demo",
    measure,
    [
        at_most("workflow tasks completed while idle", 5),
        at_most("processor time of the server, per second", 100, "ms"),
        at_most("processor time of all workers, per second", 100, "ms"),
        reported("workflow tasks completed by the demo"),
        reported("workers"),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
