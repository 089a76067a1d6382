"""Cells and groups follow from the rows of a recording, and the page from the outcomes."""

from __future__ import annotations

from pathlib import Path

from tests.faults.cells import FULL_DISK, LOSSES, PER_ACTIVITY, PROCESS_KILLS, SIGNALS, WHOLE, groups, kill_cells, mode_of, wire_cells
from tests.faults.expectations import RULES, exists, expected
from tests.faults.matrix import difference
from tests.faults.outcomes import Outcomes
from tests.faults.proxy import FAULTS, KILLS, Request
from tests.faults.report import BEGIN, END, load_recording, save_recording, states, write_page
from tests.faults.rows import Cell, Outcome, Recording, Row

READ, WRITE, OTHER = Request("cgs", "GET", "/a"), Request("cgs", "PUT", "/b"), Request("entra", "GET", "/c")
RUN = [Row("run", "RunQuery", "revoke", request) for request in (None, READ, WRITE, OTHER)]
QUERY = [Row("approved-query", "PublishQuery", "vote", request) for request in (None, WRITE)]


def test_every_row_has_a_cell_for_each_fault() -> None:
    cells = wire_cells(Recording(rows={*RUN, *QUERY}), "run")
    assert {(cell.row, cell.fault) for cell in cells} == {
        *((row, fault) for row in RUN[1:] for fault in FAULTS),
        *((RUN[0], fault) for fault in (*LOSSES, *WHOLE) if fault not in (*SIGNALS, FULL_DISK)),
    }
    boundary = {cell.fault for cell in wire_cells(Recording(rows={*QUERY}), "approved-query") if cell.row.request is None}
    assert boundary == {*LOSSES, *WHOLE} - {FULL_DISK}


def test_only_activities_that_write_to_files_meet_a_full_disk() -> None:
    other = Row("run", "RunQuery", "watch")
    cells = wire_cells(Recording(rows={*RUN, other}, writers={RUN[0]}), "run")
    assert [cell.row for cell in cells if cell.fault == FULL_DISK] == [RUN[0]]


def test_processes_are_killed_at_each_boundary_and_each_service_at_its_last_write() -> None:
    cells = kill_cells(Recording(rows={*RUN}), "run")
    assert {(cell.row, cell.fault) for cell in cells} == {
        *((RUN[0], fault) for fault in PROCESS_KILLS),
        *((row, fault) for row in RUN[2:] for fault in KILLS),
    }


def test_a_group_has_cells_of_one_path_and_mode_and_few_of_an_activity() -> None:
    cells = [cell for path in ("run", "approved-query") for cell in wire_cells(Recording(rows={*RUN, *QUERY}), path)]
    made = groups(cells)
    assert sorted(map(str, (cell for group in made for cell in group))) == sorted(map(str, cells))
    for group in made:
        assert len({(cell.row.scenario, mode_of(cell.fault)) for cell in group}) == 1
        assert len(group) <= PER_ACTIVITY


def test_a_group_has_cells_of_different_requests() -> None:
    """An attempt that follows one with an effect often leaves the same request out."""
    rows = [Row("run", "RunQuery", "revoke", Request("cgs", "PUT", f"/{number}")) for number in range(PER_ACTIVITY)]
    made = groups([Cell(row, fault) for row in rows for fault in FAULTS])
    assert [len({cell.row for cell in group}) for group in made] == [PER_ACTIVITY] * len(FAULTS)
    assert {len({cell.fault for cell in group}) for group in made} == {PER_ACTIVITY}
    few = groups([Cell(rows[0], fault) for fault in FAULTS], 2)
    assert [len(group) for group in few] == [2, 2, 2, 2, 1]


def test_a_cell_that_differs_runs_alone() -> None:
    item = next(item for item in RULES if item.leaves)
    row = Row(item.scenarios[0], "PublishAzureDataset", item.activity, Request(*item.request.split(" ", 2)))
    cells = [Cell(row, fault) for fault in FAULTS]
    assert [[cell.fault for cell in group] for group in groups(cells)[:2]] == [["twice"], ["late"]]
    assert expected(Cell(row, "twice"), {"keys": 1, "failure": ""}) == {"keys": 2, "failure": ""}
    late = expected(Cell(row, "late"), {"keys": 1})
    assert [difference(late, {"keys": keys}) for keys in (1, 2, 3)] == ["", "", "keys: 3 instead of 1 or 2"]
    assert expected(Cell(row, "lost"), {"keys": 1}) == {"keys": 1}


def test_a_boundary_that_cannot_be_met_has_no_cell() -> None:
    assert not exists(Cell(Row("run", "RunQuery", "watch_consent"), "lost after"))
    assert exists(Cell(Row("run", "RunQuery", "watch_consent"), "lost before"))
    assert exists(Cell(Row("run", "RunQuery", "watch_consent", WRITE), "lost"))


def test_a_difference_names_what_is_left_and_what_is_missing() -> None:
    assert difference({"grants": {}, "votes": 1}, {"grants": {}, "votes": 1}) == ""
    text = difference({"grants": {}, "votes": 1}, {"grants": {"a": ["b"]}})
    assert text == "grants: {'a': ['b']} instead of {}; votes: None instead of 1"


def test_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    recording = Recording(rows={*RUN, *QUERY}, left={"run": {"grants": {}}}, steady={*RUN}, writers={RUN[0]})
    save_recording(recording, tmp_path / "recording.json")
    assert load_recording(tmp_path / "recording.json") == recording


def test_last_outcome_of_each_cell_is_kept(tmp_path: Path) -> None:
    first = [Outcome(Cell(RUN[2], "lost"), hit=True), Outcome(Cell(RUN[0], "lost after"), hit=False, wrong="x")]
    Outcomes(tmp_path / "outcomes.jsonl").keep(first)
    Outcomes(tmp_path / "outcomes.jsonl").keep([Outcome(Cell(RUN[0], "lost after"), hit=True)])
    known = Outcomes(tmp_path / "outcomes.jsonl").known()
    assert {(cell, item.hit, item.wrong) for cell, item in known.items()} == {(first[0].cell, True, ""), (first[1].cell, True, "")}
    assert all(item.date and item.commit for item in known.values())


def test_request_that_another_activity_has_sent_is_met_elsewhere() -> None:
    other = Row("run", "RunQuery", "watch", WRITE)
    cells = [Cell(RUN[2], "lost"), Cell(other, "lost"), Cell(other, "cut"), Cell(RUN[0], "lost after")]
    known = {cell: Outcome(cell, hit=cell == cells[0]) for cell in cells}
    assert list(states(cells, known).values()) == ["as expected", "met elsewhere", "not met", "not met"]


def test_page_counts_the_cells_of_each_activity_and_fault(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter.\n")
    cells = [Cell(RUN[1], "lost"), Cell(RUN[2], "lost"), Cell(RUN[0], "lost before"), Cell(QUERY[1], "cut")]
    outcomes = [Outcome(cell, hit=cell.fault != "cut", date="2026-01-02", commit="abc") for cell in cells]
    outcomes[0].wrong = "keys: 2 instead of 1"
    write_page(outcomes, [*cells, Cell(RUN[3], "lost")], 7, page)
    text = page.read_text()
    assert "old" not in text
    first = text.split("\n\n")[2].replace("\n", " ")
    assert first.startswith("The matrix has 5 cells. 4 have run, 2 have met their fault and ended as expected.")
    assert first.endswith("They ran on 2026-01-02, at the commits `abc`.")
    assert "| run | 4 | 2 | 0 | 1 | 0 | 1 |\n| approved-query | 1 | 0 | 0 | 0 | 1 | 0 |" in text
    assert f"| run | {cells[0]} | failed |\n| approved-query | {cells[3]} | not met |\n" in text
    assert "exclude 7 cells" in text
    assert "### RunQuery\n\n| activity | lost | lost before |\n|---|--:|--:|\n| `revoke` | 1/3 | 1 |" in text
    assert text.endswith(f"{END}\n\nAfter.\n")
