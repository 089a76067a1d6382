"""The result: its columns and types, its parts, what no format can hold, and what remains of a result that is discarded."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql.types import BinaryType, DataType, DoubleType, LongType, StringType

from cleanroom.clients.objects import Stored
from cleanroom.datasets.encryption import open_bytes
from cleanroom.datasets.result import receipt_path, result_digest
from cleanroom.datasets.schema import arrow_schema
from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.spark.job import ResultObject, ResultReceipt
from sparkapp import output
from sparkapp.failures import TaskFailed, redact_error
from sparkapp.output import ComputedResult, compute, conform, discard, same_values, seal_receipt, write_result
from tests.unit.sparkapp.fake_spark import Frame, Session, spark
from tests.unit.sparkapp_dataset import DIGEST, DatasetWorld

__all__ = ["spark"]


@pytest.fixture
def world(tmp_path: Path) -> DatasetWorld:
    return DatasetWorld(tmp_path / "w")


def table_of(world: DatasetWorld, **columns: list[Any]) -> pa.Table:
    types = {name: kind for name, kind in world.dataset.schema_fields.items() if name in columns}
    return pa.table(columns, schema=arrow_schema(types))


def written(world: DatasetWorld, table: pa.Table) -> tuple[ResultObject, ...]:
    pod = world.pod()
    frame: Any = None
    return write_result(ComputedResult(table.num_rows, frame, table), pod, pod.job())


def stored(world: DatasetWorld, item: ResultObject) -> bytes:
    data = world.store.read(item.name)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (item.size, item.sha256)
    return open_bytes(data, world.key, f"c/things/{item.name}")


# --- columns and types


def conformed(spark: Session, world: DatasetWorld, *types: tuple[str, DataType]) -> Any:
    frame: Any = Frame("result", spark, types=types)
    return conform(frame, world.dataset)


def test_result_gets_the_sinks_columns_in_its_order_and_types(spark: Session, world: DatasetWorld) -> None:
    columns = conformed(spark, world, ("text", StringType()), ("id", LongType()))
    assert columns == ["CAST(`id` AS bigint) AS id", "CAST(`text` AS string) AS text"]


def test_column_names_are_quoted(spark: Session, tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "x", schema_fields={"a`b": "long"}, allowed_fields=("a`b",))
    assert conformed(spark, world, ("a`b", LongType())) == ["CAST(`a``b` AS bigint) AS a`b"]


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ((("id", LongType()),), "lacks column 'text'"),
        ((("id", LongType()), ("text", StringType()), ("hidden", StringType())), "column 'hidden', which the sink lacks"),
        ((("id", LongType()), ("text", StringType()), ("Text", StringType())), "column 'Text', which the sink lacks"),
        ((("id", LongType()), ("text", StringType()), ("text", StringType())), "two columns with the same name"),
        ((("Text", StringType()), ("id", LongType()), ("text", StringType())), "column 'Text', which the sink lacks"),
        ((("id", DoubleType()), ("text", StringType())), "column 'id' is double, the sink has long"),
        ((("id", LongType()), ("text", BinaryType())), "column 'text' is binary, the sink has string"),
    ],
)
def test_result_with_other_columns_or_types_is_rejected(
    spark: Session, world: DatasetWorld, types: tuple[tuple[str, DataType], ...], words: str
) -> None:
    with pytest.raises(CleanRoomError) as caught:
        conformed(spark, world, *types)
    assert caught.value.code == "OutputSchemaMismatch"
    assert words in caught.value.message


# --- computing


@pytest.mark.parametrize(("rows", "by_driver"), [(3, True), (4, False)])
def test_driver_takes_results_up_to_its_limit(spark: Session, monkeypatch: pytest.MonkeyPatch, rows: int, by_driver: bool) -> None:
    monkeypatch.setattr(output, "DRIVER_ROWS", 3)
    frame: Any = Frame("result", spark, rows=rows, table=pa.table({"id": list(range(rows))}))
    result = compute(frame)
    assert (result.rows, result.table is not None) == (rows, by_driver)
    assert spark.steps == ["persist result", "count result"]


# --- parts


def test_small_result_is_one_part_in_order(world: DatasetWorld) -> None:
    assert (output.DRIVER_ROWS, output.PART_BYTES) == (100_000, 64 << 20)
    (item,) = written(world, table_of(world, id=[2, 1], text=["b", "a"]))
    assert item.name == "c/r-1/part-00000-000.csv"
    assert stored(world, item) == b'2,"b"\n1,"a"\n'


def test_empty_result_has_no_part(world: DatasetWorld) -> None:
    assert written(world, table_of(world, id=[], text=[])) == ()
    assert list(world.store.list()) == []


@pytest.mark.parametrize(("more", "parts"), [(0, [2, 2, 2]), (1, [3, 3])])
def test_part_ends_after_its_bytes(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch, more: int, parts: list[int]) -> None:
    batch = table_of(world, id=[1], text=["a"])
    monkeypatch.setattr(output, "PART_BYTES", 2 * batch.nbytes + more)
    empty = table_of(world, id=[], text=[])
    pieces = [batch, empty, *(table_of(world, id=[number], text=["b"]) for number in range(2, 7))]
    items = written(world, pa.concat_tables(pieces))
    assert [item.name[-11:] for item in items] == [f"000-00{number}.csv" for number in range(len(parts))]
    lines = [stored(world, item).splitlines() for item in items]
    assert ([len(part) for part in lines], sum(lines[1:], lines[0])) == (parts, [b'1,"a"', *(b'%d,"b"' % number for number in range(2, 7))])


def test_tasks_write_a_large_result_and_the_parts_are_sorted(world: DatasetWorld, spark: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter((7, 2))
    context = type("Context", (), {"get": staticmethod(lambda: context), "partitionId": staticmethod(lambda: next(numbers))})
    monkeypatch.setattr("pyspark.TaskContext", context)
    pieces = [table_of(world, id=[number], text=["x"]) for number in (1, 2)]
    frame: Any = Frame("result", spark, table=pa.concat_tables(pieces))
    pod = world.pod()
    items = write_result(ComputedResult(2, frame, None), pod, pod.job())
    assert [item.name for item in items] == ["c/r-1/part-00002-000.csv", "c/r-1/part-00007-000.csv"]
    assert [stored(world, item) for item in items] == [b'2,"x"\n', b'1,"x"\n']


def test_task_without_rows_writes_no_part(world: DatasetWorld) -> None:
    class Batches:
        """A frame with one task, which gets an empty batch and then ``batches``."""

        def __init__(self, *batches: pa.RecordBatch) -> None:
            self.batches = batches

        def mapInArrow(self, function: Any, ddl: str) -> Batches:
            self.function = function
            return self

        def collect(self) -> list[dict[str, Any]]:
            empty = table_of(world, id=[1], text=["x"]).to_batches()[0].slice(0, 0)
            return [row for found in self.function(iter([empty, *self.batches])) for row in found.to_pylist()]

    pod = world.pod()
    none: Any = Batches()
    assert write_result(ComputedResult(0, none, None), pod, pod.job()) == ()
    some: Any = Batches(*table_of(world, id=[1], text=["x"]).to_batches())
    (item,) = write_result(ComputedResult(1, some, None), pod, pod.job())
    assert (item.name, stored(world, item)) == ("c/r-1/part-00000-000.csv", b'1,"x"\n')


def test_task_that_cannot_write_fails_without_values(world: DatasetWorld, spark: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Stored:
        raise Unavailable("StoreUnavailable", "x")

    monkeypatch.setattr("tests.folder_store.FolderStore.put", broken)
    frame: Any = Frame("result", spark, table=table_of(world, id=[1], text=["CANARY"]))
    pod = world.pod()
    with pytest.raises(TaskFailed) as caught:
        write_result(ComputedResult(1, frame, None), pod, pod.job())
    assert redact_error(caught.value).code == "StoreUnavailable"
    assert "CANARY" not in str(caught.value)


# --- values that a format cannot hold


@pytest.mark.parametrize(
    ("fmt", "kind", "value", "words"),
    [
        ("csv", "timestamp", 1 << 62, "csv cannot hold in column 'v'"),
        ("json", "timestamp", 1 << 62, "years 1 to 9999"),
        ("csv", "string", "a\0b", None),
        ("csv", "number", float("nan"), None),
        ("json", "number", float("nan"), None),
        ("json", "number", float("inf"), None),
        ("json", "number", float("-inf"), None),
        ("parquet", "number", float("nan"), None),
    ],
)
def test_value_is_written_exactly_or_the_run_fails(tmp_path: Path, fmt: str, kind: str, value: Any, words: str | None) -> None:
    world = DatasetWorld(tmp_path / "v", format=fmt, schema_fields={"v": kind}, allowed_fields=("v",))
    schema = arrow_schema(world.dataset.schema_fields)
    array = pa.array([value, None], pa.int64() if isinstance(value, int) else schema.field("v").type).cast(schema.field("v").type)
    table = pa.table([array], schema=schema)
    if words is None:
        (item,) = written(world, table)
        types = dict(world.dataset.schema_fields)
        read = pa.Table.from_batches(output.result_rows(stored(world, item), world.dataset.format, types, False, "x"))
        assert same_values(read.column("v"), table.column("v"))
        return
    with pytest.raises(CleanRoomError) as caught:
        written(world, table)
    assert caught.value.code == "ResultNotRepresentable"
    assert words in caught.value.message
    assert list(world.store.list()) == []


@pytest.mark.parametrize(("text", "column"), [(b'1,"b"\n', "text"), (b'2,"a"\n', "id"), (b'x,"a"\n', "id"), (b"", "id")])
def test_part_that_the_receiver_would_read_differently_is_not_written(
    world: DatasetWorld, monkeypatch: pytest.MonkeyPatch, text: bytes, column: str
) -> None:
    monkeypatch.setattr("pyarrow.csv.write_csv", lambda table, buffer, options: buffer.write(text))
    with pytest.raises(CleanRoomError) as caught:
        written(world, table_of(world, id=[1], text=["a"]))
    assert caught.value.code == "ResultNotRepresentable"
    assert f"in column {column!r}" in caught.value.message
    assert list(world.store.list()) == []


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ([1.0, None], [1.0, None], True),
        ([float("nan")], [float("nan")], True),
        ([float("nan"), 1.0], [1.0, float("nan")], False),
        ([float("nan")], [0.0], False),
        ([float("nan")], [None], False),
        ([1.0, float("nan")], [2.0, float("nan")], False),
        ([1.0], [1.0, 1.0], False),
        (["a"], ["a"], True),
        (["a"], ["b"], False),
    ],
)
def test_columns_are_compared_value_by_value(left: list[Any], right: list[Any], same: bool) -> None:
    kind = pa.string() if isinstance(left[0], str) else pa.float64()
    assert same_values(pa.chunked_array([pa.array(left, kind)]), pa.chunked_array([pa.array(right, kind)])) is same


def test_parquet_is_compressed(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "p", format="parquet")
    (item,) = written(world, table_of(world, id=[1], text=["a"]))
    assert pq.ParquetFile(pa.BufferReader(stored(world, item))).metadata.row_group(0).column(0).compression == "ZSTD"


def test_json_values_are_those_of_spark(tmp_path: Path) -> None:
    types = {"n": "number", "t": "timestamp", "s": "string"}
    world = DatasetWorld(tmp_path / "j", format="json", schema_fields=types, allowed_fields=tuple(types))
    stamp = datetime.fromisoformat("2024-01-02T03:04:05+00:00")
    rows = [{"n": value, "t": stamp, "s": "é"} for value in (float("nan"), float("inf"), float("-inf"), 1.5)]
    (item,) = written(world, pa.Table.from_pylist(rows, schema=arrow_schema(world.dataset.schema_fields)))
    assert item.name.endswith(".jsonl")
    lines = stored(world, item).decode().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"n": "NaN"', '{"n": "Infinity"', '{"n": "-Infinity"', '{"n": 1.5']
    assert lines[0].endswith('"t": "2024-01-02T03:04:05+00:00", "s": "é"}')


# --- receipt and clean-up


def receipt_of(world: DatasetWorld, objects: tuple[ResultObject, ...]) -> ResultReceipt:
    job = world.pod().job()
    return ResultReceipt(
        run_id=job.run_id,
        query_digest=DIGEST,
        job_digest=job.digest(),
        dataset="things",
        objects=objects,
        rows=1,
        digest=result_digest(objects),
        columns=("id", "text"),
    )


def test_receipt_is_sealed_next_to_the_objects(world: DatasetWorld) -> None:
    pod, path = world.pod(), receipt_path("c", "r-1")
    receipt = receipt_of(world, written(world, table_of(world, id=[1], text=["a"])))
    seal_receipt(pod, pod.job(), receipt)
    assert ResultReceipt.model_validate_json(open_bytes(world.store.read(path), world.key, f"c/things/{path}")) == receipt


def test_discard_deletes_the_receipt_and_every_object_of_this_run_only(world: DatasetWorld) -> None:
    pod = world.pod()
    objects = written(world, table_of(world, id=[1], text=["a"]))
    seal_receipt(pod, pod.job(), receipt_of(world, objects))
    world.store.put("c/r-2/part-00000-000.csv", b"x")
    discard(pod, pod.job(), objects)
    assert [item.key for item in world.store.list()] == ["c/r-2/part-00000-000.csv"]
