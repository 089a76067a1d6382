"""Outcomes of cells, kept in a file as soon as they are known, so that an interrupted run of the matrix can go on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.proxy import Request
from tests.faults.rows import Cell, Outcome, Row

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / ".cleanroom/fault-outcomes.jsonl"
"""Outcomes of this working copy. Delete it to begin again."""


def key_of(cell: Cell) -> str:
    """Return the name of a cell in the file."""
    row = cell.row
    return "|".join((row.scenario, row.workflow, row.activity, str(row.request or ""), cell.fault))


def cell_of(key: str) -> Cell:
    """Return the cell with a name."""
    scenario, workflow, activity, request, fault = key.split("|")
    return Cell(Row(scenario, workflow, activity, Request(*request.split(" ", 2)) if request else None), fault)


class Outcomes:
    """The outcomes in a file of JSON lines. Of several outcomes of a cell the last one counts."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        self._commit = found.stdout.strip()

    def keep(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        date = datetime.now(UTC).date().isoformat()
        lines = [json.dumps([key_of(item.cell), item.hit, item.wrong, date, self._commit]) + "\n" for item in outcomes]
        # One write, because the parts of the matrix can run at the same time.
        with self._file.open("ab", buffering=0) as file:
            file.write("".join(lines).encode())

    def known(self) -> dict[Cell, Outcome]:
        """Return the last outcome of each cell."""
        found: dict[Cell, Outcome] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            key, hit, wrong, date, commit = json.loads(line)
            cell = cell_of(key)
            found[cell] = Outcome(cell, hit, wrong, date=date, commit=commit)
        return found
