"""The page docs/performance.md: the figures of the last run of each benchmark.

The page is also the memory of earlier runs: a run of some benchmarks replaces only their rows.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.framework import Benchmark, Growth, Row

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
HEAD = """# Performance

`make bench` runs the benchmarks in `benchmarks/` and writes this page. Each benchmark compares the product with what
it cannot do without, in one run, so that the figures hold on other machines. The command exits with 1 when a figure
misses its limit. `make bench BENCH="floors codec"` runs some benchmarks, and replaces only their rows.
"""


def write(benchmarks: Mapping[str, Benchmark], found: Mapping[str, tuple[Sequence[Row], float]], page: Path | None = None) -> None:
    """Write the page with the rows of this run and those of earlier runs.

    Args:
        benchmarks: All benchmarks by name.
        found: The rows and seconds of those that ran.
        page: The page; docs/performance.md by default.
    """
    page = page or PAGE
    before = _cells(page.read_text("utf-8")) if page.exists() else {}
    runs, figures, laws = [], [], []
    for name, benchmark in benchmarks.items():
        rows, seconds = found.get(name, ((), None))
        if seconds is not None:
            run = (datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), _commit(), _machine(), f"{seconds:.0f} s")
        else:
            run = before.get((name, benchmark.title), ("–", "–", "–", "–"))
        runs.append((name, benchmark.title, *run))
        new = {row.figure: row for row in rows}
        for figure in benchmark.figures:
            absent = figure.absent()
            # A figure whose limit has changed since its run counts as not measured.
            earlier = Row(figure.name, *before.get((name, figure.name), absent[1:]))
            row = new.get(figure.name, absent if seconds is not None or earlier.limit != absent.limit else earlier)
            (laws if isinstance(figure, Growth) else figures).append((name, *row))
    text = [HEAD, "## Figures", _table(("benchmark", "figure", "measured", "limit", "state"), figures)]
    if laws:
        text += ["## Growth laws", _table(("benchmark", "figure", "fitted law, and the values", "limit", "state"), laws)]
    text += ["## Runs", _table(("benchmark", "what it compares", "date", "commit", "machine", "took"), runs)]
    page.write_text("\n".join(text), "utf-8")


def _cells(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the other cells of each row by its first two. Ignores other lines, such as markers of a merge."""
    rows = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): tuple(row[2:]) for row in rows}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no", "--", ":!docs/performance.md") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


def _machine() -> str:
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Python {platform.python_version()}"
