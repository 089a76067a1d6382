"""The short form of the fault matrix, and checks that it is complete and that its page is current.

``make test-faults`` runs all cells. Here one group of cells per scenario runs, with another fault for each activity.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import activities
from tests.faults.cells import LOSSES, PROCESS_KILLS, WHOLE, kill_cells, wire_cells
from tests.faults.expectations import NOT_COVERED, rule_of
from tests.faults.matrix import Matrix, open_matrix
from tests.faults.proxy import FAULTS, KILLS
from tests.faults.report import PAGE, load_recording
from tests.faults.rows import Cell
from tests.faults.scenarios import SCENARIOS
from tests.faults.services import killable_server
from tests.temporal_env import TEST_KEYRING
from tests.unit.workflows.test_call_sites import EXPECTED

SHORT = ("run", "publish-azure", "publish-s3", "approved-query")
"""Scenarios of the short form."""
EFFECTS = ("lost", "cut", "503", "twice", "reset", "429", "late", "500", "lost after", "lost before")
"""Faults of the short form, in the order in which activities get them."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    folder = tmp_path_factory.mktemp("faults")
    async with killable_server(folder) as (client, server), open_matrix(folder / "cloud", client, TEST_KEYRING) as found:
        found.recording, found.restart_server = load_recording(), server.kill
        yield found


def short_group(matrix: Matrix, scenario: str) -> list[Cell]:
    """One cell per activity: its last write, if it has one that is sent in every run, and the next fault."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in wire_cells(matrix.recording, scenario):
        if rule_of(cell) is None:
            found.setdefault((cell.row.workflow, cell.row.activity), []).append(cell)
    group = []
    for number, cells in enumerate(found.values()):
        fault = EFFECTS[number % len(EFFECTS)]
        writes = [cell for cell in cells if cell.fault == fault and cell.row.request and cell.row.request.method == "PUT"]
        # A watch or a poll may be cancelled before it has a result that could be lost.
        ends = not cells[0].row.activity.startswith(("watch", "await"))
        at_boundary = next(cell for cell in cells if cell.fault == LOSSES[ends and number % 2])
        group.append(writes[-1] if writes else at_boundary)
    return group


@pytest.mark.scenario
@pytest.mark.parametrize("scenario", SHORT)
async def test_a_fault_in_every_activity_changes_nothing(matrix: Matrix, scenario: str) -> None:
    outcomes = await matrix.run_group(short_group(matrix, scenario))
    assert {str(outcome.cell): outcome.wrong for outcome in outcomes if outcome.wrong} == {}
    missed = [str(outcome.cell) for outcome in outcomes if not outcome.hit and outcome.cell.row.request is None]
    assert missed == []


@pytest.mark.scenario
@pytest.mark.parametrize("fault", ["worker killed after", "server killed after"])
async def test_a_killed_process_changes_nothing(matrix: Matrix, fault: str) -> None:
    cells = kill_cells(matrix.recording, "publish-s3")
    [cell] = [cell for cell in cells if (cell.row.activity, cell.fault) == ("propose_document", fault)]
    [outcome] = await matrix.run_group([cell])
    assert (outcome.hit, outcome.wrong) == (True, "")


def defined_activities() -> set[str]:
    """Names of all activities in the package ``activities``."""
    names = set()
    for module in pkgutil.iter_modules(activities.__path__):
        for _, kind in inspect.getmembers(importlib.import_module(f"activities.{module.name}"), inspect.isclass):
            names |= {name for name, member in inspect.getmembers(kind) if hasattr(member, "__temporal_activity_definition")}
    return names


def test_every_activity_of_every_workflow_has_rows() -> None:
    """A new activity needs a scenario that reaches it, and a run of ``make test-faults``."""
    rows = {(row.workflow, row.activity) for row in load_recording().rows if row.request is None}
    assert {item for item in EXPECTED if item[1] not in NOT_COVERED} == rows
    assert {activity for _, activity in rows} | set(NOT_COVERED) == defined_activities()
    assert {kind for scenario in SCENARIOS.values() for kind in scenario.workflows} == {workflow for workflow, _ in EXPECTED}


def test_page_lists_all_activities_and_faults() -> None:
    """``make test-faults`` writes the table again."""
    page = PAGE.read_text()
    for row in load_recording().rows:
        section = page.split(f"### {row.workflow}\n", 1)[1].split("\n### ", 1)[0]
        assert f"| `{row.activity}` |" in section, row
    assert [fault for fault in (*FAULTS, *KILLS, *LOSSES, *WHOLE, *PROCESS_KILLS) if f"`{fault}`" not in page] == []
