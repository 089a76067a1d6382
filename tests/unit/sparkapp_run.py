"""The worlds of the payload's tests on Spark: three sealed input datasets and an output dataset in folders, and runs over them."""

from __future__ import annotations

import json
import random
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
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key, seal_bytes
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, Format, SchemaField
from cleanroom.documents.query import QuerySegment
from cleanroom.identifiers import object_context
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobSegment, ResultReceipt, S3Access
from cleanroom.spark.run_events import RunEvent, parse_event
from cleanroom.sql import Catalog, Column, View, analyse
from sparkapp.entry import main
from tests.folder_pod import SOON, THIS_JOB, FolderPod
from tests.folder_store import FolderStore

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
    """Return the segments of a job. ``raw`` bypasses the query gate; ``last`` are members of the last segment."""
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
class RunWorld:
    """Three sealed datasets and an output dataset in folders, with their plaintext for DuckDB."""

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
        upload_dataset(self.store(name), self.keys[name], collaboration="flights", dataset=name, schema=schema, sources=[folder])

    def store(self, name: str) -> FolderStore:
        return FolderStore(self.root / "stores" / name)

    def job(self, **changes: Any) -> JobConfig:
        """Return the job of run ``r-1`` with replaced members."""
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
        """Set the consent receipt. With several states, each read of the receipt returns the next one."""
        good = {"runId": "r-1", "queryDigest": DIGEST, "jobDigest": THIS_JOB, "consent": "enabled", "expires": SOON}
        receipts = [good | state for state in states]
        path = self.root / "secrets" / "cleanroom_r-1.consent"
        path.write_text(json.dumps(receipts[0]))
        if len(receipts) > 1:
            path.with_suffix(".next").write_text("\n".join(json.dumps(receipt) for receipt in receipts))


@dataclass
class PodRun:
    """A finished run of the payload: exit code, termination message, output, and the pod with its events."""

    exit_code: int
    termination: dict[str, Any]
    output: str
    pod: FolderPod

    def receipt(self) -> ResultReceipt:
        assert self.exit_code == 0, self.termination
        return ResultReceipt.model_validate(self.termination)

    def events(self) -> list[RunEvent]:
        return [parse_event(event) for _, event in self.pod.events()]


def make_run_world(folder: Path) -> RunWorld:
    """Return a world with 4 days of flights in CSV, planes in Parquet, weather in JSON lines, and an empty output dataset."""
    world, random_ = RunWorld(folder / "world"), random.Random(5)
    days = [date(2013, 1, 1) + timedelta(days=offset) for offset in range(4)]
    tails = [f"N{number}" for number in range(40)]
    flights = _flights(random_, days, tails)
    planes = [{"tailnum": tail, "manufacturer": random_.choice(["BOEING", "AIRBUS", "EMBRAER"]), "seats": 100} for tail in tails]
    weather = [
        {"origin": origin, "day": day.isoformat(), "temp": random_.uniform(-5, 20), "note": CANARY}
        for origin in ("JFK", "LGA")
        for day in days
    ]
    plane_types = [("tailnum", pa.string()), ("manufacturer", pa.string()), ("seats", pa.int16())]
    world.plain = {
        "flights": pa.Table.from_pylist(flights),
        "planes": pa.Table.from_pylist(planes, schema=pa.schema(plane_types)),
        "weather": pa.Table.from_pylist([row | {"day": date.fromisoformat(row["day"])} for row in weather]),
    }
    source = folder / "plain"
    for day in days:
        _write_csv(source / "flights" / day.isoformat(), [row for row in flights if row["day"] == day])
    (source / "planes").mkdir()
    pq.write_table(world.plain["planes"], source / "planes" / "planes.parquet", row_group_size=10)
    (source / "weather").mkdir()
    (source / "weather" / "weather.jsonl").write_text("".join(json.dumps(row) + "\n" for row in weather))

    visible = tuple(name for name in FLIGHTS if name != "passenger")
    world.dataset("contosso-flights", "flights", "csv", FLIGHTS, visible, by_day=True)
    world.dataset("litware-planes", "planes", "parquet", PLANES)
    world.dataset("litware-weather", "weather", "json", WEATHER, ("origin", "day", "temp"))
    world.dataset("litware-out", "out", "parquet", RESULT)
    for name, view in (("contosso-flights", "flights"), ("litware-planes", "planes"), ("litware-weather", "weather")):
        world.upload(name, source / view)
    world.consent({})
    return world


def _flights(random_: random.Random, days: list[date], tails: list[str]) -> list[dict[str, Any]]:
    return [
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


def _write_csv(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    pacsv.write_csv(pa.Table.from_pylist(rows), folder / "part.csv", pacsv.WriteOptions(include_header=False))


@dataclass
class Payload:
    """Runs the payload of a world in this process and checks that its output contains no value of a dataset."""

    world: RunWorld
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    def run(self, job: JobConfig | None = None) -> PodRun:
        """Run ``job``, or the world's own job."""
        termination = self.world.root / "termination"
        self.monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(termination))
        self.monkeypatch.setenv("CLEANROOM_LOCAL_CORES", "2")
        pod = FolderPod(self.world.root, (job or self.world.job()).encode())
        exit_code = main(pod)
        captured = self.capfd.readouterr()
        output = captured.out + captured.err
        (self.world.root / "output").write_text(output)
        assert CANARY not in output + termination.read_text() + json.dumps(pod.events())
        return PodRun(exit_code, json.loads(termination.read_text()), output, pod)


def duckdb_result(world: RunWorld, where: str = "") -> list[dict[str, Any]]:
    connection = duckdb.connect()
    for name, table in world.plain.items():
        connection.register(name, table)
    connection.execute(f"CREATE VIEW seen AS SELECT day, tailnum, origin, dep_delay FROM flights WHERE NOT cancelled{where}")
    return connection.sql(RESULT_SQL + " ORDER BY manufacturer").to_arrow_table().to_pylist()


def downloaded_result(world: RunWorld, receipt: ResultReceipt) -> list[dict[str, Any]]:
    sink = world.datasets["litware-out"]
    table = download_result(
        world.store(sink.name), receipt, world.keys[sink.name], collaboration="flights", result_format=sink.format, types=sink.schema_fields
    )
    return table.sort_by("manufacturer").to_pylist()


def assert_equal_rows(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [list(row) for row in actual] == [list(row) for row in expected]
    for left, right in zip(actual, expected, strict=True):
        for name, value in right.items():
            assert left[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def replace_objects(world: RunWorld, name: str, key: str, content: bytes) -> None:
    """Replace all objects of a dataset by one that is sealed with its key, without a manifest, as a faulty tool does."""
    store = world.store(name)
    for item in list(store.list()):
        store.delete(item.key)
    store.put(key, seal_bytes(content, world.keys[name], object_context("flights", name, key)))
