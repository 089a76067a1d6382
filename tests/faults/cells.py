"""Generates the cells of the fault matrix from a recording, and distributes them to runs.

A *row* is a request of an activity, or the boundary of an activity. A *cell* is a row and a fault. A *group* is a set of cells of one
scenario that one run meets, in different activities or in different attempts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tests.faults.expectations import rule_of
from tests.faults.proxy import FAULTS, KILLS
from tests.faults.rows import Cell, Recording, Row

PER_ACTIVITY = 8
"""Cells of one activity that one run meets: each attempt meets one."""
LOSSES = ("lost before", "lost after")
"""Faults at the boundary of an activity: the attempt is lost before, or after all its effects."""
PROCESS_KILLS = ("worker killed before", "worker killed after", "server killed before", "server killed after")
"""Faults at the boundary of an activity: SIGKILL of the worker, and of Temporal's server."""
SIGNALS = ("duplicated signals", "reordered signals", "early signals")
"""Faults of paths with a query."""
FULL_DISK = "full disk"
"""A fault of activities that write to files."""
WHOLE = ("lagging governance", "clock jumps", FULL_DISK, *SIGNALS)
"""Faults that last for a whole run, and which every activity meets."""


def _rows(recording: Recording, scenario: str) -> list[Row]:
    return sorted((row for row in recording.rows if row.scenario == scenario), key=str)


def wire_cells(recording: Recording, scenario: str) -> list[Cell]:
    """Return the cells of a scenario for faults other than killed processes, in a fixed order."""
    rows = _rows(recording, scenario)
    signals = any(row.workflow == "PublishQuery" for row in rows)
    whole = [fault for fault in WHOLE if fault != FULL_DISK and (signals or fault not in SIGNALS)]
    cells = [Cell(row, fault) for row in rows for fault in ((*LOSSES, *whole) if row.request is None else FAULTS)]
    return cells + [Cell(row, FULL_DISK) for row in rows if row in recording.writers]


def kill_cells(recording: Recording, scenario: str) -> list[Cell]:
    """Return the cells of a scenario in which a process is killed.

    Workers and Temporal's server are killed at the boundaries of each activity, a service at the last write of each activity to it,
    or at its last read if it writes nothing.
    """
    cells: list[Cell] = []
    last: dict[tuple[str, str, str], Row] = {}
    for row in _rows(recording, scenario):
        if row.request is None:
            cells += [Cell(row, fault) for fault in PROCESS_KILLS]
            continue
        key = (row.workflow, row.activity, row.request.service)
        if key not in last or row.request.method in ("PUT", "DELETE") or last[key].request.method == "GET":  # type: ignore[union-attr]
            last[key] = row
    return cells + [Cell(row, fault) for row in last.values() for fault in KILLS]


def all_cells(recording: Recording) -> list[Cell]:
    """Return the cells of all scenarios, also those that do not exist by a rule."""
    scenarios = sorted({row.scenario for row in recording.rows})
    return [cell for name in scenarios for cell in (*wire_cells(recording, name), *kill_cells(recording, name))]


def groups(cells: Sequence[Cell], per_activity: int = PER_ACTIVITY) -> list[list[Cell]]:
    """Distribute cells to groups with at most ``per_activity`` cells per activity. Cells that differ from the others run alone.

    Cells of one activity in one group have different requests as far as possible: an attempt that has had its effect often does not
    send the same request again.
    """
    alone = [[cell] for cell in cells if rule_of(cell)]
    queues: dict[tuple[str, str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if not rule_of(cell):
            queues[cell.row.scenario, mode_of(cell.fault), cell.row.workflow, cell.row.activity].append(cell)
    made: dict[tuple[str, str], list[list[Cell]]] = defaultdict(list)
    for (scenario, mode, _, _), queue in queues.items():
        found = made[scenario, mode]
        for number, cell in enumerate(_by_turns(queue)):
            while len(found) <= number // per_activity:
                found.append([])
            found[number // per_activity].append(cell)
    return [*alone, *(group for found in made.values() for group in found)]


def _by_turns(cells: Sequence[Cell]) -> list[Cell]:
    """Return cells in an order in which each row has another fault than the row before it, and comes again after all other rows."""
    rows: dict[Row, list[Cell]] = defaultdict(list)
    for cell in cells:
        rows[cell.row].append(cell)
    turns = [(number, row, cell) for row, found in enumerate(rows.values()) for number, cell in enumerate(_rotated(found, row))]
    return [cell for *_, cell in sorted(turns, key=lambda turn: turn[:2])]


def _rotated(cells: list[Cell], by: int) -> list[Cell]:
    return cells[by % len(cells) :] + cells[: by % len(cells)]


def mode_of(fault: str) -> str:
    """Return what a fault has in common with those that one run can meet at the same time."""
    if fault in WHOLE:
        return fault
    return fault.split()[0] if fault in PROCESS_KILLS else ""
