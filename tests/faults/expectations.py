"""What each cell of the matrix must end with: the same as without the fault, unless a rule here says otherwise, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.faults.rows import Cell, Left


class OneOf:
    """Equal to each of its values, where the order of two requests decides."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __eq__(self, other: object) -> bool:
        return other in self._values

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return " or ".join(map(repr, self._values))


@dataclass(frozen=True)
class Rule:
    """Cells that do not exist, or that leave something else than the others, by scenario, activity and fault."""

    name: str
    scenarios: tuple[str, ...]
    activity: str
    faults: tuple[str, ...]
    """Ends of the names of the faults."""
    reason: str
    request: str = ""
    """The request of these cells; empty for the boundary."""
    leaves: tuple[tuple[str, Any], ...] = ()
    """What these cells leave instead. Without it, they do not exist."""

    def covers(self, cell: Cell) -> bool:
        """Whether ``cell`` is one of these cells."""
        row = cell.row
        same = row.scenario in self.scenarios and (row.activity, str(row.request or "")) == (self.activity, self.request)
        return same and cell.fault.endswith(self.faults)


WATCHES = "The activity is cancelled when the run ends, so it never has a result that could be lost."
ENDLESS = "The activity watches for an hour, or until its worker stops. The next one compares every query with governance."
VERSIONS = "Key Vault makes a version per request. The document names the version that was answered, so the other one has no use."
CREATE = "keyvault POST /keys/*/create"
RULES: tuple[Rule, ...] = (
    Rule("cancelled watch", ("run", "cancelled-run"), "watch_consent", (" after",), WATCHES),
    Rule("cancelled watch", ("cancelled-run",), "watch_job", (" after",), WATCHES),
    Rule("endless watch", ("approved-query",), "watch_queries", (" after",), ENDLESS),
    Rule("unused key version", ("publish-azure",), "set_key_with_skr", ("twice",), VERSIONS, CREATE, (("keys", 2),)),
    Rule("unused key version", ("publish-azure",), "set_key_with_skr", ("late",), VERSIONS, CREATE, (("keys", OneOf(1, 2)),)),
)
"""All cells of the matrix that do not end as without the fault, or do not exist."""


NOT_COVERED = {"notify": "Reminders are due after hours. `tests/scenario/test_query_in_time.py` and unit tests move the time."}
"""Activities without rows, and why."""


def rule_of(cell: Cell) -> Rule | None:
    """Return the rule for a cell, if there is one."""
    return next((item for item in RULES if item.covers(cell)), None)


def exists(cell: Cell) -> bool:
    """Whether the activity can meet the fault of a cell at all."""
    found = rule_of(cell)
    return found is None or bool(found.leaves)


def expected(cell: Cell, left: Left) -> Left:
    """Return what a cell must leave if its path leaves ``left`` without a fault."""
    found = rule_of(cell)
    return left if found is None else left | dict(found.leaves)
