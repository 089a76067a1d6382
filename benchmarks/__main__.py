"""Runs benchmarks, each in its own process, and writes docs/performance.md: ``python -m benchmarks [NAME ...]``.

A benchmark that misses a target or fails does not keep the later ones from running. The exit code is then 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page
from benchmarks.framework import Benchmark, Row, table

FOLDER = Path(__file__).parent


def find() -> dict[str, Benchmark]:
    """Return all benchmarks by name."""
    names = sorted(file.stem.removeprefix("bench_") for file in FOLDER.glob("bench_*.py"))
    return {name: importlib.import_module(f"benchmarks.bench_{name}").BENCHMARK for name in names}


def run(name: str, benchmark: Benchmark) -> tuple[Sequence[Row], float]:
    """Run one benchmark; its rows and seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        child = subprocess.run([sys.executable, "-m", f"benchmarks.bench_{name}", "--json", str(file)], cwd=page.ROOT, check=False)
        if not file.exists():
            print(f"{name} failed with exit code {child.returncode}", file=sys.stderr)
            rows: Sequence[Row] = [figure.absent("**failed**") for figure in benchmark.figures]
        else:
            found = {
                key: {int(n): each for n, each in value.items()} if isinstance(value, dict) else value
                for key, value in json.loads(file.read_text()).items()
            }
            rows = benchmark.rows(found)
    return rows, time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    benchmarks = find()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(benchmarks)}; all by default")
    parser.add_argument("--page", action="store_true", help="run nothing; bring the page's rows up to date with what is declared")
    options = parser.parse_args(arguments)
    if unknown := set(options.name) - benchmarks.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    found: dict[str, tuple[Sequence[Row], float]] = {}
    for name in () if options.page else options.name or benchmarks:
        print(f"== {name}: {benchmarks[name].title}", flush=True)
        found[name] = run(name, benchmarks[name])
        page.write(benchmarks, found)  # after each, so that an interruption loses nothing
    page.write(benchmarks, found)
    wrong = [
        row._replace(figure=f"{name}: {row.figure}") for name, (rows, _) in found.items() for row in rows if row.state not in ("ok", "–")
    ]
    if wrong:
        print("== missed", table(wrong), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
