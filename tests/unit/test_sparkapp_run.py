"""Runs of the whole payload on Spark: CSV, Parquet and JSON lines in, the result of DuckDB out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.datasets.encryption import SEGMENT_BYTES
from cleanroom.documents.query import PostFilter, PreCondition
from cleanroom.errors import Refused
from cleanroom.spark.job import JobParameters
from sparkapp import output, views
from tests.unit.sparkapp_run import (
    CANARY,
    DIGEST,
    Payload,
    RunWorld,
    assert_equal_rows,
    downloaded_result,
    duckdb_result,
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


def test_result_equals_duckdbs_and_its_receipt_is_in_the_ledger(world: RunWorld, payload: Payload) -> None:
    outcome = payload.run()
    receipt = outcome.receipt()

    assert_equal_rows(downloaded_result(world, receipt), duckdb_result(world))
    assert receipt.rows == 3
    assert receipt.rows_read == {"flights": 4000, "planes": 40, "weather": 8}
    assert receipt.job_digest == outcome.pod.job().digest()
    assert [item.key for item in world.store("litware-out").list()] == ["flights/r-1/_receipt", *(item.name for item in receipt.objects)]
    assert all(item.name.startswith("flights/r-1/") for item in receipt.objects)

    events = outcome.events()
    assert sorted(event.name for event in events[:3]) == ["DATASET_LOAD_COMPLETED"] * 3
    assert [event.name for event in events[3:]] == ["DATASET_WRITE_COMPLETED", "QUERY_STATISTICS", "QUERY_COMPLETED"]
    assert events[-1].receipt == receipt
    assert {event.job_digest for event in events} == {receipt.job_digest}
    assert outcome.pod.events()[-1][0] == "r-1.query-completed"


def replace_planes(world: RunWorld, count: int) -> None:
    """Upload other planes, uncompressed: a row has about 50 bytes."""
    folder = world.root.parent / "other-planes"
    folder.mkdir(exist_ok=True)
    rows = {"tailnum": [f"N{n:040}" for n in range(count)], "manufacturer": ["BOEING"] * count, "seats": pa.array([1] * count, pa.int32())}
    pq.write_table(pa.table(rows), folder / "planes.parquet", compression="none", use_dictionary=False)
    world.upload("litware-planes", folder)


def test_large_datasets_and_results_are_handled_by_spark_tasks(world: RunWorld, payload: Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "DRIVER_BYTES", dict.fromkeys(views.DRIVER_BYTES, 0))
    monkeypatch.setattr(output, "DRIVER_ROWS", 0)
    logs = {name: world.root / "stores" / f"{name}.reads" for name in ("contosso-flights", "litware-planes", "litware-weather")}
    for log in logs.values():
        log.touch()
    receipt = payload.run().receipt()
    assert_equal_rows(downloaded_result(world, receipt), duckdb_result(world))
    assert receipt.rows_read == {"flights": 4000, "planes": 40, "weather": 8}
    # All processes together have read each object once: also a dataset that is read while the query runs, with a result that tasks write.
    # The driver looks at the footers of the Parquet objects that Spark then reads.
    for name, log in logs.items():
        objects = {item.key: item.size for item in world.store(name).list() if not item.key.startswith("_")}
        times = 2 if name == "litware-planes" else 1
        assert sorted(log.read_text().splitlines()) == sorted([f"{key} 0 {size}" for key, size in objects.items()] * times), name
        log.unlink()

    # A failure in a task comes back typed, and without the values that Spark would log.
    for item in list(world.store("litware-out").list()):
        world.store("litware-out").delete(item.key)
    sealed = world.store("litware-weather").read("weather.jsonl")
    world.store("litware-weather").put("weather.jsonl", sealed[:-1] + bytes([sealed[-1] ^ 1]))
    failed = payload.run()
    assert failed.termination["code"] == "CIPHERTEXT_INVALID"
    assert "flights/litware-weather/weather.jsonl" in failed.termination["message"]
    (load,) = [event for event in failed.events() if event.name == "DATASET_LOAD_FAILED"]
    assert (load.step, load.code) == ("litware-weather", "CIPHERTEXT_INVALID")
    assert list(world.store("litware-out").list()) == []
    world.store("litware-weather").put("weather.jsonl", sealed)

    # So does a failure in Spark's own reader, which reads these objects through the server of the pod.
    replace_planes(world, 60_000)
    store, name = world.store("litware-planes"), "planes.parquet"
    altered = bytearray(store.read(name))
    altered[SEGMENT_BYTES + 1000] ^= 1
    store.put(name, bytes(altered))
    failed = payload.run()
    assert failed.termination["code"] == "CIPHERTEXT_INVALID", failed.termination
    assert "segment 1 of" in failed.termination["message"]
    assert [event.step for event in failed.events() if event.name == "DATASET_LOAD_FAILED"][-1] == "litware-planes"
    assert list(world.store("litware-out").list()) == []
    replace_planes(world, 40)
    replace_objects(world, "contosso-flights", "2013-01-01/x.csv", f"2013-01-01,AA,N1,JFK,{CANARY},5,false,,x\n".encode())
    failed = payload.run()
    assert failed.termination["code"] == "SCHEMA_MISMATCH"
    assert "contosso-flights/2013-01-01/x.csv, column 'dep_delay', row 1: expected number" in failed.termination["message"]


def test_replaced_result_object_is_rejected(world: RunWorld, payload: Payload) -> None:
    receipt = payload.run().receipt()
    store = world.store("litware-out")
    name = receipt.objects[0].name
    store.put(name, store.read(name)[:-1] + b"\0")
    with pytest.raises(Refused, match="ResultDigestMismatch"):
        downloaded_result(world, receipt)
    with pytest.raises(Refused, match="ReceiptDigestMismatch"):
        downloaded_result(world, receipt.model_copy(update={"digest": DIGEST}))


def test_date_range_reads_its_days_and_reports_missing_ones(world: RunWorld, payload: Payload) -> None:
    outcome = payload.run(world.job(parameters=JobParameters(start_date="2013-01-03", end_date="2013-01-06")))
    assert_equal_rows(downloaded_result(world, outcome.receipt()), duckdb_result(world, " AND day >= DATE '2013-01-03'"))
    assert outcome.receipt().rows_read["flights"] == 2000
    (loaded,) = [event for event in outcome.events() if event.step == "contosso-flights"]
    assert loaded.facts["missingDays"] == ["2013-01-05", "2013-01-06"]


def test_post_filter_drops_small_groups_after_fulfilled_preconditions(world: RunWorld, payload: Payload) -> None:
    every = {row["manufacturer"]: row["flights"] for row in duckdb_result(world)}
    floor = sorted(every.values())[1]
    checked = segments(
        first_pre_conditions=(PreCondition(view_name="flights", min_row_count=4000),),
        pre_conditions=(PreCondition(view_name="SEEN", min_row_count=1000),),
        post_filters=(PostFilter(column_name="flights", value=floor),),
    )
    receipt = payload.run(world.job(segments=checked)).receipt()
    assert [row["manufacturer"] for row in downloaded_result(world, receipt)] == sorted(
        name for name, count in every.items() if count >= floor
    )
