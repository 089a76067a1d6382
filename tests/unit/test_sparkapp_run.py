"""The whole payload on real Spark: encrypted CSV (day partitions), Parquet and JSON lines in, DuckDB's answer out, sealed and receipted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from cleanroom.datasets.download import download_result
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, Format, PrivacyFloors, SchemaField
from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment
from cleanroom.errors import Refused
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobParameters, JobSegment, ResultReceipt, S3Access
from cleanroom.spark.run_events import RunEvent, parse_event
from cleanroom.sql import Catalog, Column, View, analyse
from sparkapp import output, views
from sparkapp.entry import main
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore

pytestmark = pytest.mark.spark

DIGEST = "ab" * 32
CANARY = "CANARY-7f3a"

FLIGHTS: dict[str, FieldType] = {
    "day": "date",
    "carrier": "string",
    "tailnum": "string",
    "origin": "string",
    "dep_delay": "number",
    "distance": "long",
    "cancelled": "boolean",
    "scheduled": "timestamp",
    "passenger": "string",
}
PLANES: dict[str, FieldType] = {"tailnum": "string", "manufacturer": "string", "seats": "integer"}
WEATHER: dict[str, FieldType] = {"origin": "string", "day": "date", "temp": "number", "note": "string"}
RESULT: dict[str, FieldType] = {"manufacturer": "string", "flights": "long", "mean_delay": "number", "warmest": "number"}

VIEW_SQL = "CREATE OR REPLACE TEMPORARY VIEW seen AS SELECT day, tailnum, origin, dep_delay FROM flights WHERE NOT cancelled"
RESULT_SQL = (
    "SELECT p.manufacturer, COUNT(*) AS flights, AVG(s.dep_delay) AS mean_delay, MAX(w.temp) AS warmest"
    " FROM seen AS s JOIN planes AS p ON s.tailnum = p.tailnum JOIN weather AS w ON s.origin = w.origin AND s.day = w.day"
    " GROUP BY p.manufacturer"
)


def segments(sql: str = RESULT_SQL, *, raw: bool = False, **last: Any) -> tuple[JobSegment, ...]:
    """The query as the gate renders it; ``raw`` is what somebody would write into a job past the gate."""
    written = (
        QuerySegment(execution_sequence=1, data=VIEW_SQL, pre_conditions=last.pop("first_pre_conditions", ())),
        QuerySegment(execution_sequence=2, data=sql, **last),
    )
    if raw:
        return tuple(JobSegment(execution_sequence=item.execution_sequence, sql=item.data, source_digest=DIGEST) for item in written)
    views = [
        View(name=name, columns=tuple(Column(name=key, type=value) for key, value in types.items()))
        for name, types in (("flights", FLIGHTS), ("planes", PLANES), ("weather", WEATHER))
    ]
    verdict = analyse(written, Catalog(views=tuple(views)))
    assert verdict.allowed, verdict.reasons
    return tuple(
        JobSegment(
            execution_sequence=item.execution_sequence,
            sql=item.sql,
            source_digest=DIGEST,
            pre_conditions=item.pre_conditions,
            post_filters=item.post_filters,
        )
        for item in verdict.rewritten
    )


@dataclass
class World:
    """Three sealed datasets and a sink in folders, with the plaintext beside them for DuckDB."""

    root: Path
    keys: dict[str, Secret] = field(default_factory=dict)
    datasets: dict[str, JobDataset] = field(default_factory=dict)
    plain: dict[str, pa.Table] = field(default_factory=dict)

    def dataset(
        self,
        name: str,
        view: str,
        fmt: Format,
        types: dict[str, FieldType],
        allowed: tuple[str, ...] | None = None,
        *,
        by_day: bool = False,
    ) -> JobDataset:
        self.keys[name] = generate_dataset_key()
        secret = self.root / "secrets" / f"cleanroom_{name}.key"
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_bytes(encode_dataset_key(self.keys[name]).reveal())
        self.datasets[name] = JobDataset(
            name=name,
            view_name=view,
            owner_id=f"owner-of-{name}",
            document_version="2.1",
            document_digest=DIGEST,
            format=fmt,
            schema_fields=types,
            partitioned_by="day" if by_day else None,
            allowed_fields=allowed or tuple(types),
            access=S3Access(region="eu-west-1", bucket=name, connection_secret_id="unused"),
            key_secret_id=f"cleanroom_{name}.key",
        )
        return self.datasets[name]

    def upload(self, name: str, folder: Path) -> None:
        dataset = self.datasets[name]
        schema = DatasetSchema(
            format=dataset.format,
            fields=tuple(SchemaField(field_name=key, field_type=value) for key, value in dataset.schema_fields.items()),
            partitioned_by=dataset.partitioned_by,
        )
        upload_dataset(self.store(name), self.keys[name], dataset=name, schema=schema, sources=[folder])

    def store(self, name: str) -> FolderStore:
        return FolderStore(self.root / "stores" / name)

    def job(self, **changes: Any) -> JobConfig:
        values: dict[str, Any] = {
            "contract_id": "flights",
            "run_id": "r-1",
            "query_id": "q-delays",
            "query_version": "2.9",
            "query_digest": DIGEST,
            "segments": segments(),
            "datasets": tuple(self.datasets[name] for name in ("contosso-flights", "litware-planes", "litware-weather")),
            "datasink": self.datasets["litware-out"],
            "consent_secret_id": "cleanroom_r-1.consent",
            "event_scope": "run-r-1",
            "governance": JobGovernance(url="https://cgs.invalid"),
        }
        return JobConfig(**{**values, **changes})

    def consent(self, *states: dict[str, Any]) -> None:
        receipts = [
            {"runId": "r-1", "queryDigest": DIGEST, "consent": "enabled", "expires": "2999-01-01T00:00:00Z"} | state for state in states
        ]
        path = self.root / "secrets" / "cleanroom_r-1.consent"
        path.write_text(json.dumps(receipts[0]))
        if len(receipts) > 1:
            path.with_suffix(".next").write_text("\n".join(json.dumps(receipt) for receipt in receipts))


@dataclass
class Outcome:
    exit_code: int
    termination: dict[str, Any]
    output: str
    pod: FolderPod

    def receipt(self) -> ResultReceipt:
        assert self.exit_code == 0, self.termination
        return ResultReceipt.model_validate(self.termination)

    def events(self) -> list[RunEvent]:
        return [parse_event(event) for _, event in self.pod.events()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    random_ = random.Random(5)
    days = [date(2013, 1, 1) + timedelta(days=offset) for offset in range(4)]
    tails = [f"N{number}" for number in range(40)]
    flights = [
        {
            "day": days[number % 4],
            "carrier": random_.choice(["AA", "UA", 'a,"b"']),
            "tailnum": random_.choice([*tails, None]),
            "origin": random_.choice(["JFK", "LGA"]),
            "dep_delay": random_.choice([None, random_.uniform(-20, 200)]),
            "distance": random_.randrange(1 << 40),
            "cancelled": random_.random() < 0.1,
            "scheduled": f"{days[number % 4]}T{number % 24:02}:15:00Z",
            "passenger": f"{CANARY}-{number}",
        }
        for number in range(4000)
    ]
    planes = [{"tailnum": tail, "manufacturer": random_.choice(["BOEING", "AIRBUS", "EMBRAER"]), "seats": 100} for tail in tails]
    weather = [
        {"origin": origin, "day": day.isoformat(), "temp": random_.uniform(-5, 20), "note": CANARY}
        for origin in ("JFK", "LGA")
        for day in days
    ]
    source = tmp_path / "plain"
    for day in days:
        folder = source / "flights" / day.isoformat()
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist([row for row in flights if row["day"] == day])
        pacsv.write_csv(table, folder / "part.csv", pacsv.WriteOptions(include_header=False))
    (source / "planes").mkdir()
    planes_table = pa.Table.from_pylist(
        planes, schema=pa.schema([("tailnum", pa.string()), ("manufacturer", pa.string()), ("seats", pa.int16())])
    )
    pq.write_table(planes_table, source / "planes" / "planes.parquet", row_group_size=10)
    (source / "weather").mkdir()
    (source / "weather" / "weather.jsonl").write_text("".join(json.dumps(row) + "\n" for row in weather))

    visible = tuple(name for name in FLIGHTS if name != "passenger")
    made.dataset("contosso-flights", "flights", "csv", FLIGHTS, visible, by_day=True)
    made.dataset("litware-planes", "planes", "parquet", PLANES)
    made.dataset("litware-weather", "weather", "json", WEATHER, ("origin", "day", "temp"))
    made.dataset("litware-out", "out", "parquet", RESULT)
    for name, folder in (("contosso-flights", "flights"), ("litware-planes", "planes"), ("litware-weather", "weather")):
        made.upload(name, source / folder)
    made.plain = {
        "flights": pa.Table.from_pylist(flights),
        "planes": planes_table,
        "weather": pa.Table.from_pylist([row | {"day": date.fromisoformat(row["day"])} for row in weather]),
    }
    made.consent({})
    return made


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def start(job: JobConfig | None = None) -> Outcome:
        termination = world.root / "termination"
        monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(termination))
        monkeypatch.setenv("CLEANROOM_LOCAL_CORES", "2")
        pod = FolderPod(world.root, (job or world.job()).encode())
        exit_code = main(pod)
        captured = capfd.readouterr()
        output = captured.out + captured.err
        (world.root / "output").write_text(output)
        assert CANARY not in output + termination.read_text() + json.dumps(pod.events())
        return Outcome(exit_code, json.loads(termination.read_text()), output, pod)

    return start


def expected(world: World, where: str = "") -> list[dict[str, Any]]:
    connection = duckdb.connect()
    for name, table in world.plain.items():
        connection.register(name, table)
    connection.execute(f"CREATE VIEW seen AS SELECT day, tailnum, origin, dep_delay FROM flights WHERE NOT cancelled{where}")
    return connection.sql(RESULT_SQL + " ORDER BY manufacturer").to_arrow_table().to_pylist()


def result(world: World, receipt: ResultReceipt) -> list[dict[str, Any]]:
    sink = world.datasets["litware-out"]
    table = download_result(world.store(sink.name), receipt, world.keys[sink.name], result_format=sink.format, types=sink.schema_fields)
    return table.sort_by("manufacturer").to_pylist()


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [list(row) for row in ours] == [list(row) for row in theirs]
    for left, right in zip(ours, theirs, strict=True):
        for name, value in right.items():
            assert left[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_a_run_gives_what_duckdb_gives_and_a_receipt_that_the_ledger_has(world: World, run: Callable[..., Outcome]) -> None:
    outcome = run()
    receipt = outcome.receipt()

    assert_same(result(world, receipt), expected(world))
    assert receipt.rows == 3
    assert receipt.rows_read == {"flights": 4000, "planes": 40, "weather": 8}
    assert receipt.job_digest == outcome.pod.job().digest()
    assert [item.key for item in world.store("litware-out").list()] == [item.name for item in receipt.objects]
    assert all(item.name.startswith("flights/r-1/") for item in receipt.objects)

    events = outcome.events()
    assert sorted(event.name for event in events[:3]) == ["DATASET_LOAD_COMPLETED"] * 3
    assert [event.name for event in events[3:]] == ["DATASET_WRITE_COMPLETED", "QUERY_STATISTICS", "QUERY_COMPLETED"]
    assert events[-1].receipt == receipt
    assert {event.job_digest for event in events} == {receipt.job_digest}
    assert outcome.pod.events()[-1][0] == "r-1.query-completed"


def test_spark_tasks_read_and_write_what_is_too_large_for_the_driver(
    world: World, run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "DRIVER_BYTES", dict.fromkeys(views.DRIVER_BYTES, 0))
    monkeypatch.setattr(output, "DRIVER_ROWS", 0)
    receipt = run().receipt()
    assert_same(result(world, receipt), expected(world))
    assert receipt.rows_read == {"flights": 4000, "planes": 40, "weather": 8}

    # A failure in a task comes back typed, and without the values that Spark would log.
    world.store("litware-out").delete(receipt.objects[0].name)
    replant(world, "contosso-flights", "2013-01-01/x.csv", f"2013-01-01,AA,N1,JFK,{CANARY},5,false,,x\n".encode())
    failed = run()
    assert failed.termination["code"] == "SCHEMA_MISMATCH"
    assert "contosso-flights/2013-01-01/x.csv, column 'dep_delay', row 1: expected number" in failed.termination["message"]


def test_a_replaced_result_object_is_refused(world: World, run: Callable[..., Outcome]) -> None:
    receipt = run().receipt()
    store = world.store("litware-out")
    name = receipt.objects[0].name
    store.put(name, store.read(name)[:-1] + b"\0")
    with pytest.raises(Refused, match="ResultDigestMismatch"):
        result(world, receipt)
    with pytest.raises(Refused, match="ReceiptDigestMismatch"):
        result(world, receipt.model_copy(update={"digest": DIGEST}))


def test_a_date_range_reads_its_days_and_says_which_are_missing(world: World, run: Callable[..., Outcome]) -> None:
    outcome = run(world.job(parameters=JobParameters(start_date="2013-01-03", end_date="2013-01-06")))
    assert_same(result(world, outcome.receipt()), expected(world, " AND day >= DATE '2013-01-03'"))
    assert outcome.receipt().rows_read["flights"] == 2000
    (loaded,) = [event for event in outcome.events() if event.step == "contosso-flights"]
    assert loaded.facts["missingDays"] == ["2013-01-05", "2013-01-06"]


def test_post_filters_drop_small_groups_and_preconditions_hold(world: World, run: Callable[..., Outcome]) -> None:
    every = {row["manufacturer"]: row["flights"] for row in expected(world)}
    floor = sorted(every.values())[1]
    checked = segments(
        first_pre_conditions=(PreCondition(view_name="flights", min_row_count=4000),),
        pre_conditions=(PreCondition(view_name="SEEN", min_row_count=1000),),
        post_filters=(PostFilter(column_name="flights", value=floor),),
    )
    receipt = run(world.job(segments=checked)).receipt()
    assert [row["manufacturer"] for row in result(world, receipt)] == sorted(name for name, count in every.items() if count >= floor)


def test_under_a_floor_it_is_not_told_which_view_had_too_few_rows(world: World, run: Callable[..., Outcome]) -> None:
    """Twenty such views, each with a row only if somebody flew farther than so much, would tell how far by where the run stops."""
    floor = PrivacyFloors(min_group_size=2, identity_column="tailnum")
    flights = world.datasets["contosso-flights"].model_copy(update={"floors": floor})
    columns = tuple(Column(name=key, type=value) for key, value in FLIGHTS.items())
    view = View(name="flights", owner=flights.owner_id, columns=columns, allowed_columns=flights.allowed_fields, floors=(floor,))
    about_one = "CREATE OR REPLACE TEMPORARY VIEW {} AS SELECT carrier FROM flights WHERE origin = 'JFK' AND distance > {}"
    source = (
        QuerySegment(execution_sequence=1, data=about_one.format("near", 0)),
        QuerySegment(execution_sequence=2, data=about_one.format("far", 1 << 41)),
        QuerySegment(
            execution_sequence=3,
            data=about_one.format("farther", 1 << 42),
            pre_conditions=(PreCondition(view_name="near", min_row_count=1), PreCondition(view_name="far", min_row_count=1)),
        ),
        QuerySegment(
            execution_sequence=4,
            data="SELECT carrier, COUNT(*) AS flights FROM flights GROUP BY carrier",
            pre_conditions=(PreCondition(view_name="farther", min_row_count=1),),
        ),
    )
    verdict = analyse(source, Catalog(views=(view,)))
    assert verdict.allowed, verdict.reasons
    checked = tuple(
        JobSegment(execution_sequence=item.execution_sequence, sql=item.sql, source_digest=DIGEST, pre_conditions=item.pre_conditions or ())
        for item in verdict.rewritten
    )
    outcome = run(world.job(segments=checked, source=source, datasets=(flights,)))
    assert outcome.termination["code"] == "PRECONDITION_FAILED"
    assert "withheld" in outcome.termination["message"]
    told = json.dumps([outcome.termination, outcome.pod.events()])
    assert all(name not in told for name in ("near", "far", "segment 3"))
    assert "segment 4 of 4" in outcome.output


def corrupt(world: World, name: str) -> str:
    store = world.store(name)
    key = next(item.key for item in store.list() if not item.key.startswith("_"))
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))
    return key


def replant(world: World, name: str, key: str, content: bytes) -> None:
    """What an owner's faulty tool would do: seal other rows under the right key, without a manifest."""
    from cleanroom.datasets.encryption import seal_bytes

    store = world.store(name)
    for item in list(store.list()):
        store.delete(item.key)
    store.put(key, seal_bytes(content, world.keys[name], key))


WITHDRAWN = {"consent": "withdrawn"}
REFUSALS: dict[str, tuple[Callable[[World], JobConfig | None], str, str]] = {
    "consent withdrawn before the start": (lambda w: w.consent(WITHDRAWN), "CONSENT_WITHDRAWN", "before a dataset was opened"),
    "consent withdrawn while datasets were opened": (lambda w: w.consent({}, WITHDRAWN), "CONSENT_WITHDRAWN", "before the query ran"),
    "consent withdrawn while the query ran": (lambda w: w.consent({}, {}, WITHDRAWN), "CONSENT_WITHDRAWN", "before the result was written"),
    "consent expired": (lambda w: w.consent({"expires": "2013-01-01T00:00:00Z"}), "CONSENT_WITHDRAWN", "expired"),
    "consent receipt of another run": (lambda w: w.consent({"runId": "r-2"}), "CONSENT_RECEIPT_INVALID", "another run"),
    "consent receipt for another query": (lambda w: w.consent({"queryDigest": "cd" * 32}), "CONSENT_RECEIPT_INVALID", "another query"),
    "consent receipt of a user": (
        lambda w: w.job(consent_secret_id="u-1_consent"),
        "CONSENT_RECEIPT_INVALID",
        "not a secret of the clean room",
    ),
    "no consent receipt": (lambda w: w.job(consent_secret_id="cleanroom_none"), "SECRET_NOT_FOUND", "cleanroom_none"),
    "dataset altered": (lambda w: corrupt(w, "litware-planes") and None, "CIPHERTEXT_INVALID", "planes.parquet"),
    "object missing": (lambda w: w.store("litware-weather").delete("weather.jsonl"), "DATASET_TAMPERED", "weather.jsonl"),
    "object added": (lambda w: w.store("litware-weather").put("more.jsonl", b"x") and None, "DATASET_TAMPERED", "more.jsonl"),
    "wrong type in CSV": (
        lambda w: replant(w, "contosso-flights", "2013-01-01/x.csv", b"2013-01-01,AA,N1,JFK,late,5,false,2013-01-01T00:00:00Z,x\n"),
        "SCHEMA_MISMATCH",
        "contosso-flights/2013-01-01/x.csv, column 'dep_delay', row 1: expected number",
    ),
    "column missing in JSON lines": (
        lambda w: replant(w, "litware-weather", "w.jsonl", b'{"origin":"JFK","day":"2013-01-01"}\n'),
        "SCHEMA_MISMATCH",
        "litware-weather/w.jsonl, column 'temp': expected number, found no such member",
    ),
    "wrong type in Parquet": (
        lambda w: replant(w, "litware-planes", "p.parquet", parquet({"tailnum": [1], "manufacturer": ["x"], "seats": [1]})),
        "SCHEMA_MISMATCH",
        "litware-planes/p.parquet, column 'tailnum': expected string, found type int64",
    ),
    "no day in the range": (
        lambda w: w.job(parameters=JobParameters(start_date="2014-01-01", end_date="2014-01-02")),
        "NO_DATA_IN_DATE_RANGE",
        "2014-01-01",
    ),
    "precondition": (
        lambda w: w.job(segments=segments(pre_conditions=(PreCondition(view_name="planes", min_row_count=41),))),
        "PRECONDITION_FAILED",
        "fewer than 41 rows",
    ),
    "column that is not allowed": (
        lambda w: w.job(segments=segments("SELECT passenger AS manufacturer FROM flights")),
        "QUERY_NOT_RENDERED",
        "segment 2",
    ),
    "SQL that is not the gate's": (lambda w: w.job(segments=segments(raw=True)), "QUERY_NOT_RENDERED", "segment 1"),
    "SQL that reads a file": (
        lambda w: w.job(segments=segments("SELECT * FROM csv.`/etc/passwd`", raw=True)),
        "QUERY_NOT_RENDERED",
        "segment",
    ),
    "result lacks a column": (
        lambda w: w.job(segments=segments("SELECT carrier AS manufacturer FROM flights")),
        "OUTPUT_SCHEMA_MISMATCH",
        "lacks column 'flights'",
    ),
    "result type is not the sink's": (
        lambda w: w.job(segments=segments(RESULT_SQL.replace("AVG(s.dep_delay)", "COUNT(s.dep_delay)"))),
        "OUTPUT_SCHEMA_MISMATCH",
        "column 'mean_delay' is bigint, the sink has number",
    ),
    "result has a further column": (
        lambda w: w.job(segments=segments(RESULT_SQL.replace("COUNT(*) AS flights", "COUNT(*) AS flights, 1 AS more"))),
        "OUTPUT_SCHEMA_MISMATCH",
        "'more'",
    ),
    "error while it runs": (
        lambda w: w.job(segments=segments(RESULT_SQL.replace("AVG(s.dep_delay)", "AVG(CAST(s.origin AS DOUBLE))"))),
        "QUERY_FAILED",
        "CAST_INVALID_INPUT",
    ),
    "lost audit": (lambda w: (w.root / "ledger-is-away").write_text("QUERY_COMPLETED") and None, "AUDIT_LOST", "QUERY_COMPLETED"),
}


def parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("case", REFUSALS)
def test_a_run_that_must_fail_says_why_and_leaves_no_result(case: str, world: World, run: Callable[..., Outcome]) -> None:
    change, code, words = REFUSALS[case]
    outcome = run(change(world))

    assert outcome.termination["code"] == code, outcome.termination
    assert words in outcome.termination["message"]
    assert (
        outcome.exit_code
        == {"refused": 12, "invalid-input": 10, "not-found": 11, "precondition": 14, "unavailable": 15}[outcome.termination["category"]]
    )
    assert outcome.termination["details"]["runId"] == "r-1"
    assert list(world.store("litware-out").list()) == []
    assert outcome.events()[-1].name == "QUERY_FAILED"
    assert outcome.events()[-1].code == code
    assert "JFK" not in outcome.output + json.dumps(outcome.termination)
