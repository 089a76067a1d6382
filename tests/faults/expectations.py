"""What each cell of the matrix must end with: the same as without the fault, unless this module names a code and a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.faults.rows import Cell, Left


@dataclass(frozen=True)
class Difference:
    """Cells that differ from the others, by scenario, activity and fault, and why."""

    scenario: str
    activity: str
    fault: str
    reason: str
    code: str = ""
    """The code that these cells must end with, and leave nothing behind."""
    leaves: tuple[tuple[str, Any], ...] = ()
    """What these cells leave instead."""
    request: str = ""
    """The request of these cells; empty for the boundary."""

    def covers(self, cell: Cell) -> bool:
        """Whether ``cell`` is one of these cells."""
        row = cell.row
        same = (row.scenario, row.activity, str(row.request or "")) == (self.scenario, self.activity, self.request)
        return same and cell.fault.endswith(self.fault)


WATCHES = "The activity is cancelled when the run ends, so it never has a result that could be lost."
DIFFERENCES: tuple[Difference, ...] = (
    Difference("run", "watch_consent", " after", WATCHES),
    Difference("cancelled-run", "watch_consent", " after", WATCHES),
    Difference("cancelled-run", "watch_job", " after", WATCHES),
    Difference(
        "publish-azure",
        "set_key_with_skr",
        "twice",
        "Key Vault makes a version per request. The document names the version that was answered, so the other one has no use.",
        leaves=(("keys", 2),),
        request="keyvault POST /keys/*/create",
    ),
)
"""All cells of the matrix that do not end as without the fault, or do not exist."""


NOT_COVERED = {"notify": "Reminders are due after hours. `tests/scenario/test_query_in_time.py` and unit tests move the time."}
"""Activities without rows, and why."""


def difference_of(cell: Cell) -> Difference | None:
    """Return how a cell differs from the others, if it does."""
    return next((item for item in DIFFERENCES if item.covers(cell)), None)


def exists(cell: Cell) -> bool:
    """Whether the activity can meet the fault of a cell at all."""
    found = difference_of(cell)
    return found is None or bool(found.code or found.leaves)


def expected(cell: Cell, left: Left) -> Left:
    """Return what a cell must leave if its path leaves ``left`` without a fault."""
    found = difference_of(cell)
    if found is None:
        return left
    if found.code:
        return {"failure": found.code} | {key: left[key] for key in ("open", "grants") if key in left}
    return left | dict(found.leaves)
