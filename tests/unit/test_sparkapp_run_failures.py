"""Runs of the whole payload on Spark that must fail: each reports a code, leaves no result and discloses no value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.documents.dataset import FieldType, PrivacyFloors
from cleanroom.documents.query import PreCondition, QuerySegment
from cleanroom.spark.job import JobConfig, JobParameters, JobSegment
from cleanroom.sql import Catalog, Column, View, analyse
from tests.unit.sparkapp_run import (
    DIGEST,
    FLIGHTS,
    PLANES,
    RESULT_SQL,
    Payload,
    RunWorld,
    make_run_world,
    replace_objects,
    segments,
)

pytestmark = pytest.mark.spark


@pytest.fixture
def world(tmp_path: Path) -> RunWorld:
    return make_run_world(tmp_path)


@pytest.fixture
def payload(world: RunWorld, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Payload:
    return Payload(world, monkeypatch, capfd)


def typed(columns: dict[str, FieldType]) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=kind) for name, kind in columns.items())


def test_failed_precondition_under_a_floor_does_not_name_the_view(world: RunWorld, payload: Payload) -> None:
    """The gate refuses such conditions on rows of persons. The pod withholds the view of every condition in a run with floors."""
    floor = PrivacyFloors(min_group_size=2, identity_column="tailnum")
    flights = world.datasets["contosso-flights"].model_copy(update={"floors": floor})
    planes = world.datasets["litware-planes"]
    catalog = Catalog(
        views=(
            View(name="flights", owner=flights.owner_id, columns=typed(FLIGHTS), allowed_columns=flights.allowed_fields, floors=(floor,)),
            View(name="planes", owner=planes.owner_id, columns=typed(PLANES), allowed_columns=planes.allowed_fields),
        )
    )
    about_one = "CREATE OR REPLACE TEMPORARY VIEW {} AS SELECT manufacturer FROM planes WHERE seats > {}"
    source = (
        QuerySegment(execution_sequence=1, data=about_one.format("near", 0)),
        QuerySegment(execution_sequence=2, data=about_one.format("far", 1 << 29)),
        QuerySegment(
            execution_sequence=3,
            data=about_one.format("farther", 1 << 30),
            pre_conditions=(PreCondition(view_name="near", min_row_count=1), PreCondition(view_name="far", min_row_count=1)),
        ),
        QuerySegment(
            execution_sequence=4,
            data="SELECT carrier, COUNT(*) AS flights FROM flights GROUP BY carrier",
            pre_conditions=(PreCondition(view_name="farther", min_row_count=1),),
        ),
    )
    verdict = analyse(source, catalog)
    assert verdict.allowed, verdict.reasons
    checked = tuple(
        JobSegment(execution_sequence=item.execution_sequence, sql=item.sql, source_digest=DIGEST, pre_conditions=item.pre_conditions or ())
        for item in verdict.rewritten
    )
    outcome = payload.run(world.job(segments=checked, source=source, datasets=(flights, planes)))
    assert outcome.termination["code"] == "PRECONDITION_FAILED"
    assert "withheld" in outcome.termination["message"]
    reported = json.dumps([outcome.termination, outcome.pod.events()])
    assert all(name not in reported for name in ("near", "far", "segment 3"))
    assert "segment 4 of 4" in outcome.output


WITHDRAWN = {"consent": "withdrawn"}


@dataclass(frozen=True)
class FailedRun:
    """A change of the world or the job, and the failure that it causes."""

    name: str
    change: Callable[[RunWorld], JobConfig | None]
    """Changes the world, or returns another job."""
    code: str
    words: str
    """Part of the message."""


def flip_a_bit(world: RunWorld, name: str) -> None:
    """Alter the first object of a dataset."""
    store = world.store(name)
    key = next(item.key for item in store.list() if not item.key.startswith("_"))
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


FAILED_RUNS = [
    FailedRun(
        "consent withdrawn before the start", lambda world: world.consent(WITHDRAWN), "CONSENT_WITHDRAWN", "before a dataset was opened"
    ),
    FailedRun(
        "consent withdrawn while datasets were opened",
        lambda world: world.consent({}, WITHDRAWN),
        "CONSENT_WITHDRAWN",
        "before the query ran",
    ),
    FailedRun(
        "consent withdrawn while the query ran",
        lambda world: world.consent({}, {}, WITHDRAWN),
        "CONSENT_WITHDRAWN",
        "before the result was written",
    ),
    FailedRun("consent expired", lambda world: world.consent({"expires": "2013-01-01T00:00:00Z"}), "CONSENT_WITHDRAWN", "expired"),
    FailedRun("consent receipt of another run", lambda world: world.consent({"runId": "r-2"}), "CONSENT_RECEIPT_INVALID", "another run"),
    FailedRun(
        "consent receipt for another query",
        lambda world: world.consent({"queryDigest": "cd" * 32}),
        "CONSENT_RECEIPT_INVALID",
        "another query",
    ),
    FailedRun(
        "consent receipt of a user",
        lambda world: world.job(consent_secret_id="u-1_consent"),
        "CONSENT_RECEIPT_INVALID",
        "not a secret of the clean room",
    ),
    FailedRun("no consent receipt", lambda world: world.job(consent_secret_id="cleanroom_none"), "SECRET_NOT_FOUND", "cleanroom_none"),
    FailedRun("dataset altered", lambda world: flip_a_bit(world, "litware-planes") and None, "CIPHERTEXT_INVALID", "planes.parquet"),
    FailedRun("object missing", lambda world: world.store("litware-weather").delete("weather.jsonl"), "DATASET_TAMPERED", "weather.jsonl"),
    FailedRun(
        "object added", lambda world: world.store("litware-weather").put("more.jsonl", b"x") and None, "DATASET_TAMPERED", "more.jsonl"
    ),
    FailedRun(
        "wrong type in CSV",
        lambda world: replace_objects(
            world, "contosso-flights", "2013-01-01/x.csv", b"2013-01-01,AA,N1,JFK,late,5,false,2013-01-01T00:00:00Z,x\n"
        ),
        "SCHEMA_MISMATCH",
        "contosso-flights/2013-01-01/x.csv, column 'dep_delay', row 1: expected number",
    ),
    FailedRun(
        "column missing in JSON lines",
        lambda world: replace_objects(world, "litware-weather", "w.jsonl", b'{"origin":"JFK","day":"2013-01-01"}\n'),
        "SCHEMA_MISMATCH",
        "litware-weather/w.jsonl, column 'temp': expected number, found no such member",
    ),
    FailedRun(
        "wrong type in Parquet",
        lambda world: replace_objects(world, "litware-planes", "p.parquet", parquet({"tailnum": [1], "manufacturer": ["x"], "seats": [1]})),
        "SCHEMA_MISMATCH",
        "litware-planes/p.parquet, column 'tailnum': expected string, found type int64",
    ),
    FailedRun(
        "no day in the range",
        lambda world: world.job(parameters=JobParameters(start_date="2014-01-01", end_date="2014-01-02")),
        "NO_DATA_IN_DATE_RANGE",
        "2014-01-01",
    ),
    FailedRun(
        "precondition",
        lambda world: world.job(segments=segments(pre_conditions=(PreCondition(view_name="planes", min_row_count=41),))),
        "PRECONDITION_FAILED",
        "fewer than 41 rows",
    ),
    FailedRun(
        "column that is not allowed",
        lambda world: world.job(segments=segments("SELECT passenger AS manufacturer FROM flights")),
        "QUERY_NOT_RENDERED",
        "segment 2",
    ),
    FailedRun("SQL that is not the gate's", lambda world: world.job(segments=segments(raw=True)), "QUERY_NOT_RENDERED", "segment 1"),
    FailedRun(
        "SQL that reads a file",
        lambda world: world.job(segments=segments("SELECT * FROM csv.`/etc/passwd`", raw=True)),
        "QUERY_NOT_RENDERED",
        "segment",
    ),
    FailedRun(
        "result lacks a column",
        lambda world: world.job(segments=segments("SELECT carrier AS manufacturer FROM flights")),
        "OUTPUT_SCHEMA_MISMATCH",
        "lacks column 'flights'",
    ),
    FailedRun(
        "result type is not the sink's",
        lambda world: world.job(segments=segments(RESULT_SQL.replace("AVG(s.dep_delay)", "COUNT(s.dep_delay)"))),
        "OUTPUT_SCHEMA_MISMATCH",
        "column 'mean_delay' is bigint, the sink has number",
    ),
    FailedRun(
        "result has a further column",
        lambda world: world.job(segments=segments(RESULT_SQL.replace("COUNT(*) AS flights", "COUNT(*) AS flights, 1 AS more"))),
        "OUTPUT_SCHEMA_MISMATCH",
        "'more'",
    ),
    FailedRun(
        "error while it runs",
        lambda world: world.job(segments=segments(RESULT_SQL.replace("AVG(s.dep_delay)", "AVG(CAST(s.origin AS DOUBLE))"))),
        "QUERY_FAILED",
        "CAST_INVALID_INPUT",
    ),
    FailedRun(
        "lost audit", lambda world: (world.root / "ledger-is-away").write_text("QUERY_COMPLETED") and None, "AUDIT_LOST", "QUERY_COMPLETED"
    ),
]

EXIT_CODES = {"refused": 12, "invalid-input": 10, "not-found": 11, "precondition": 14, "unavailable": 15}


@pytest.mark.parametrize("row", FAILED_RUNS, ids=lambda row: row.name)
def test_failed_run_reports_its_code_and_leaves_no_result(row: FailedRun, world: RunWorld, payload: Payload) -> None:
    run = payload.run(row.change(world))

    assert run.termination["code"] == row.code, run.termination
    assert row.words in run.termination["message"]
    assert run.exit_code == EXIT_CODES[run.termination["category"]]
    assert run.termination["details"]["runId"] == "r-1"
    assert list(world.store("litware-out").list()) == []
    assert run.events()[-1].name == "QUERY_FAILED"
    assert run.events()[-1].code == row.code
    assert "JFK" not in run.output + json.dumps(run.termination)
