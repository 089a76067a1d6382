"""Rehearsals without Spark: synthetic rows, the job, stored bytes, and refusals. `sql/test_plan_on_spark.py` executes one in Spark."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cleanroom.datasets.schema import ARROW_TYPES, arrow_schema
from cleanroom.datasets.synthetic import SyntheticInput, synthetic_tables
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import CleanRoomError
from cleanroom.runs.ledger import RUNS_SCOPE, event_scope, runs_event_id
from cleanroom.spark.job import JobParameters
from cleanroom.spark.run_events import EVENT_IDS, RunEvent, event_id
from starters.cli import app
from starters.operations import rehearsal
from starters.operations.datasets import upload_rows
from starters.operations.session import Session
from tests.folder_store import FolderStore
from tests.governance_documents import Governance, use_profiles

runner = CliRunner()
SQL = """SELECT f.origin AS origin, COUNT(*) AS flights FROM f JOIN p ON f.tail = p.tailnum
WHERE p.maker = 'BOEING' AND f.delay > 500 AND f.day >= '2020-06-01' AND f.origin LIKE 'J%' GROUP BY f.origin"""
FLIGHTS = SyntheticInput("f", {"origin": "string", "tail": "string", "delay": "number", "day": "date"}, identity="tail", floor=20)
PLANES = SyntheticInput("p", {"tailnum": "string", "maker": "string", "seats": "integer"}, identity="tailnum", unique=("tailnum",))


def test_rows_are_the_same_for_a_seed_and_others_for_another() -> None:
    made = [synthetic_tables([FLIGHTS, PLANES], [SQL], rows=300, seed=seed) for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0]["f"] != made[2]["f"]


def test_identities_overlap_and_literals_of_the_query_occur() -> None:
    tables = synthetic_tables([FLIGHTS, PLANES], [SQL], rows=2000, seed=1)
    connection = duckdb.connect()
    for view, table in tables.items():
        connection.register(view, table)
    assert connection.sql("SELECT COUNT(*) FROM f JOIN p ON f.tail = p.tailnum").fetchall()[0][0] > 1000
    assert connection.sql(SQL).fetchall()
    for condition in ("p.maker = 'BOEING'", "f.delay > 500", "f.delay < 500", "f.day < '2020-06-01'", "f.day >= '2020-06-01'"):
        assert connection.sql(f"SELECT COUNT(*) FROM f JOIN p ON f.tail = p.tailnum WHERE {condition}").fetchall()[0][0], condition
    assert connection.sql("SELECT COUNT(*) - COUNT(DISTINCT tailnum) FROM p").fetchall() == [(0,)]
    sizes = connection.sql("SELECT COUNT(DISTINCT tail) FROM f GROUP BY origin").fetchall()
    assert min(sizes)[0] < 20 <= max(sizes)[0], "some groups are below the floor"


def test_rows_without_persons_are_unique_where_persons_join_them() -> None:
    weather = SyntheticInput("w", {"origin": "string", "day": "date", "wind": "number"}, min_rows=900)
    sql = "SELECT f.origin AS o, COUNT(*) AS n FROM f JOIN w ON f.origin = w.origin AND f.day = w.day GROUP BY f.origin"
    tables = synthetic_tables([FLIGHTS, weather], [sql], rows=500, seed=3)
    assert tables["w"].num_rows >= 900
    connection = duckdb.connect()
    for view, table in tables.items():
        connection.register(view, table)
    assert connection.sql("SELECT COUNT(*) FROM f JOIN w ON f.origin = w.origin AND f.day = w.day").fetchall()[0][0] > 100
    same = "SELECT COUNT(*) FROM w WHERE origin IS NOT NULL GROUP BY origin, day HAVING COUNT(*) > 1"
    assert connection.sql(same).fetchall() == []


_columns = st.dictionaries(
    st.sampled_from(["a", "B", "year", "c d", "id", "day"]), st.sampled_from(sorted(ARROW_TYPES)), min_size=1, max_size=5
)


@st.composite
def _inputs(draw: st.DrawFn) -> list[SyntheticInput]:
    found = []
    for view in ("v", "w")[: draw(st.integers(1, 2))]:
        types = draw(_columns)
        names = st.sampled_from(list(types))
        unique = draw(st.none() | st.lists(names, min_size=1, max_size=2, unique=True).map(tuple))
        found.append(SyntheticInput(view, types, draw(st.none() | names), unique, draw(st.integers(0, 5)), draw(st.integers(0, 30))))
    return found


@settings(max_examples=30)
@given(
    _inputs(),
    st.lists(st.sampled_from(["a = 5", "id = B", "year > 'x'", "day < '2020-02-30'", "'", "B <> 1e400", "`c d` = 9"]), max_size=3),
)
def test_rows_fit_every_schema(inputs: list[SyntheticInput], conditions: list[str]) -> None:
    tables = synthetic_tables(inputs, ["SELECT * FROM v WHERE " + " AND ".join(conditions)], rows=20, seed=1)
    for item in inputs:
        table = tables[item.view]
        assert table.schema == arrow_schema(item.types)
        assert table.num_rows > 0
        if item.unique:
            rows = [row for row in zip(*(table.column(name).to_pylist() for name in item.unique), strict=True) if None not in row]
            assert len(rows) == len(set(rows))


# ------------------------------------------------------------------ the command

FLOORS = {"minGroupSize": 7, "identityColumn": "tailnum"}
QUERY = {
    "name": "delays",
    "inputs": {"f": "contosso-flights", "p": "litware-planes"},
    "output": "litware-delays",
    "sql": "SELECT f.origin AS origin, COUNT(*) AS flights FROM f JOIN p ON f.tailnum = p.tailnum GROUP BY f.origin",
}


class Executed:
    """Takes the place of Spark: remembers the job and the rows, and returns a fixed result."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.job, self.tables = error, None, {}

    def __call__(self, job: Any, tables: Any, *, on_step: Any) -> Any:
        from sparkapp.rehearsal import Rehearsed

        self.job, self.tables = job, tables
        on_step("segment 1 of 1")
        if self.error is not None:
            raise self.error
        return Rehearsed({"origin": "string", "flights": "long"}, 6, 8, 2, {"f": ("origin", "tailnum"), "p": ("tailnum",)})


@pytest.fixture
def governance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Governance:
    found = Governance()
    found.publish("contosso-flights", "u-contosso", "read", {"origin": "string", "tailnum": "string"}, privacy=FLOORS)
    found.publish("litware-planes", "u-litware", "read", {"tailnum": "string", "seats": "long"})
    found.publish("litware-delays", "u-litware", "write", {"origin": "string", "flights": "long"})
    use_profiles(tmp_path, monkeypatch, "litware")
    monkeypatch.setattr(Session, "governance", lambda session: found)
    return found


def rehearsed(executed: Executed, days: JobParameters | None = None, **changes: Any) -> dict[str, Any]:
    session, steps = Session.load("litware", None), list[str]()
    spec = QuerySpec.model_validate(QUERY | changes)
    record = asyncio.run(rehearsal.rehearse_query(session, spec, rows=400, seed=1, on_step=steps.append, parameters=days, execute=executed))
    assert steps == ["read the datasets", "look up stored bytes", "make synthetic rows", "segment 1 of 1"]
    return record


def ledger_entry(name: str, run: str, step: str, **more: Any) -> dict[str, Any]:
    digests = {"query_digest": "0" * 64, "job_digest": "0" * 64}
    return RunEvent(id=EVENT_IDS[name], name=name, message="m", run_id=run, step=step, **digests, **more).wire()


def test_shape_suppressed_share_and_bytes_are_shown(governance: Governance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executed = Executed()
    record = rehearsed(executed)
    assert (record["columns"], record["rows"], record["suppressed_groups"]) == ({"origin": "string", "flights": "long"}, 6, 2)
    assert (record["suppressed_share"], record["bytes_to_read"]) == (0.25, None)
    assert executed.job.segments[0].sql != QUERY["sql"], "the gate's rewriting under the floor"
    assert {view: table.num_rows for view, table in executed.tables.items()} == {"f": 400, "p": 100}, "each plane once"
    # A run of the same query has read the flights.
    governance.events[(RUNS_SCOPE, runs_event_id("delays"))] = {"runId": "r-1"}
    id = event_id("r-1", "DATASET_LOAD_COMPLETED", "contosso-flights")
    loaded = ledger_entry("DATASET_LOAD_COMPLETED", "r-1", "contosso-flights", statistics={"rows": 5.0, "storedBytes": 1234.0})
    governance.events[(event_scope("r-1"), id)] = loaded
    # Litware has uploaded the planes.
    monkeypatch.setattr("cleanroom.clients.owned.open_store", lambda *arguments, **options: FolderStore(tmp_path / "store"))
    (tmp_path / "rows.csv").write_text("tailnum,seats\nN1,5\n")
    store = {"kind": "aws-s3", "bucket": "litware", "connectionSecret": "secret:s3"}
    schema = {"tailnum": "string", "seats": "long"}
    spec = DatasetSpec.model_validate({"name": "litware-planes", "format": "csv", "schema": schema, "store": store})
    uploaded = upload_rows(Session.load("litware", None), spec, [tmp_path / "rows.csv"])
    record = rehearsed(Executed())
    assert [(item["stored_bytes"], item["stored_bytes_from"]) for item in record["inputs"]] == [
        (1234, "run r-1"), (uploaded.stored_bytes, "your manifest"),
    ]  # fmt: skip
    assert record["bytes_to_read"] == 1234 + uploaded.stored_bytes


BOUNDS = {"dateRange": True, "earliest": "2024-01-01", "latest": "2024-12-31"}


def days(first: str, last: str) -> JobParameters:
    return JobParameters(start_date=first, end_date=last)


def test_days_are_those_of_the_run_and_select_the_bytes_of_own_partitions(
    governance: Governance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    schema, privacy = {"tailnum": "string", "seats": "long"}, {"partitionedBy": "day"}
    governance.publish("litware-planes", "u-litware", "read", schema, partitionedBy="day")
    monkeypatch.setattr("cleanroom.clients.owned.open_store", lambda *arguments, **options: FolderStore(tmp_path / "store"))
    for day, rows in (("2024-01-15", 1), ("2024-01-16", 900)):
        (tmp_path / "rows" / day).mkdir(parents=True)
        (tmp_path / "rows" / day / "rows.csv").write_text("tailnum,seats\n" + "N1,5\n" * rows)
    store = {"kind": "aws-s3", "bucket": "litware", "connectionSecret": "secret:s3"}
    spec = DatasetSpec.model_validate({"name": "litware-planes", "format": "csv", "schema": schema, "store": store, **privacy})
    whole = upload_rows(Session.load("litware", None), spec, [tmp_path / "rows"]).stored_bytes
    executed = Executed()
    record = rehearsed(executed, days("2024-01-15", "2024-01-15"), parameters=BOUNDS)
    assert executed.job.parameters == days("2024-01-15", "2024-01-15")
    assert (record["start_date"], record["end_date"]) == ("2024-01-15", "2024-01-15")
    sizes = {item["dataset"]: item["stored_bytes"] for item in record["inputs"]}
    assert 0 < sizes["litware-planes"] < whole / 2
    with pytest.raises(CleanRoomError, match="NoDataInDateRange"):
        rehearsed(Executed(), days("2024-02-01", "2024-02-02"), parameters=BOUNDS)


@pytest.mark.parametrize(
    "chosen", [None, days("2023-12-31", "2024-01-01"), days("2024-12-01", "2025-01-01")], ids=["none", "before", "after"]
)
def test_days_that_a_run_would_be_refused_for_are_refused(chosen: JobParameters | None, governance: Governance) -> None:
    executed = Executed()
    with pytest.raises(CleanRoomError, match="ParametersNotApproved"):
        rehearsed(executed, chosen, parameters=BOUNDS)
    assert executed.job is None


def test_preconditions_get_enough_rows(governance: Governance) -> None:
    executed = Executed()
    rehearsed(executed, preConditions=[{"viewName": "f", "minRowCount": 700}, {"viewName": "p", "minRowCount": 10}])
    assert executed.tables["f"].num_rows == 700


def test_an_error_of_spark_is_one_of_this_project(governance: Governance) -> None:
    """The rows are synthetic, so its text may be shown as the cause."""
    with pytest.raises(CleanRoomError) as failed:
        rehearsed(Executed(RuntimeError("[CAST_INVALID_INPUT] the value 'origin-1' is not an INT\nmore")))
    assert failed.value.hint
    assert failed.value.cause == "[CAST_INVALID_INPUT] the value 'origin-1' is not an INT"


@pytest.mark.parametrize(("package", "java", "words"), [(False, True, "pyspark"), (True, False, "Java")])
def test_without_spark_the_remedy_is_named_before_governance_is_read(
    package: bool, java: bool, words: str, governance: Governance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal.importlib.util, "find_spec", lambda name: object() if package else None)
    monkeypatch.setattr(rehearsal.shutil, "which", lambda name: "/usr/bin/java" if java else None)
    monkeypatch.setattr(Session, "load", lambda *arguments, **options: pytest.fail("the session was opened"))
    Path("query.yaml").write_text(json.dumps(QUERY))
    done = runner.invoke(app, ["query", "rehearse", "query.yaml", "--output", "json"])
    error = json.loads(done.stdout)
    assert (error["code"], done.exit_code) == ("SparkNotInstalled", 6)
    assert words in error["message"]
    assert "pip install" in error["hint"]


@pytest.mark.parametrize(
    ("text", "code", "exit_code"),
    [
        ("- a\n", "YamlMalformed", 2),
        (json.dumps(QUERY | {"sqll": "x"}), "QuerySpecInvalid", 2),
        (json.dumps(QUERY | {"sql": "SELECT tailnum AS origin, 1 AS flights FROM f"}), "QueryRefusedByGate", 4),
        (json.dumps(QUERY | {"output": "nothing"}), "DatasetNotAccepted", 6),
    ],
)
def test_what_check_refuses_is_not_executed(
    text: str, code: str, exit_code: int, governance: Governance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "_local_spark", lambda: lambda *arguments, **options: pytest.fail("executed"))
    monkeypatch.setattr(rehearsal, "require_spark", lambda: None)
    Path("query.yaml").write_text(text)
    for verb in ("rehearse", "check"):
        done = runner.invoke(app, ["query", verb, "query.yaml", "--output", "json"])
        assert (json.loads(done.stdout)["code"], done.exit_code) == (code, exit_code)


def test_the_command_prints_shape_progress_and_unknown_bytes(governance: Governance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_local_spark", Executed)
    monkeypatch.setattr(rehearsal, "require_spark", lambda: None)
    Path("query.yaml").write_text(json.dumps(QUERY))
    done = runner.invoke(app, ["query", "rehearse", "query.yaml", "--rows", "100"])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for part in ("2 of 8 groups (25%)", "100 synthetic rows", "no run has read it", "segment 1 of 1"):
        assert part in text
    assert runner.invoke(app, ["query", "rehearse", "query.yaml", "--rows", "0"]).exit_code == 2
