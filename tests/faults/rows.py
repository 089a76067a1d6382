"""The vocabulary of the fault matrix: rows, cells, outcomes and the recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.faults.proxy import Request

Left = dict[str, Any]
"""What a path of the workflows has left. Two runs of a path leave the same."""


@dataclass(frozen=True, order=True)
class Row:
    """Where a fault happens. ``request`` is None for the boundary of the activity."""

    scenario: str
    workflow: str
    activity: str
    request: Request | None = None

    def __str__(self) -> str:
        return f"{self.workflow} {self.activity}: {self.request or 'boundary'}"


@dataclass(frozen=True)
class Cell:
    """A row and a fault."""

    row: Row
    fault: str

    def __str__(self) -> str:
        return f"{self.row}: {self.fault}"


@dataclass
class Outcome:
    """What happened to a cell."""

    cell: Cell
    hit: bool
    wrong: str = ""
    """How what is left differs from a run without faults; empty if it does not."""
    date: str = ""
    commit: str = ""
    """When it ran, and the commit of the working copy."""


@dataclass
class Recording:
    """Runs without faults: the rows, and what each scenario leaves."""

    rows: set[Row] = field(default_factory=set)
    left: dict[str, Left] = field(default_factory=dict)
    steady: set[Row] = field(default_factory=set)
    """Rows of both runs of a scenario."""
    writers: set[Row] = field(default_factory=set)
    """The boundaries of the activities that fail if they cannot write to a file."""
