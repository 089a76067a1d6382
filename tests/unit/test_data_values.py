"""Random tables of every type and format: what is written, by an owner or by a pod, is what is read."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cleanroom.datasets import row_blocks
from cleanroom.datasets.check import check_file
from cleanroom.datasets.download import result_rows
from cleanroom.datasets.encryption import open_bytes
from cleanroom.datasets.parquet import open_parquet, read_parquet
from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import DatasetSchema, FieldType, SchemaField
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import object_context
from sparkapp.output import ComputedResult, same_values, write_result
from tests.unit.sparkapp_dataset import DatasetWorld

TIMES: dict[str, FieldType] = {"id": "long", "valid_to": "timestamp"}
VALUES: dict[FieldType, st.SearchStrategy[Any]] = {
    "string": st.text(st.characters(codec="utf-8"), max_size=9) | st.text('",\n\r\\ \ufeffN', max_size=5),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(),
    "boolean": st.booleans(),
    "date": st.dates(),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, FieldType], pa.Table]:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    types: dict[str, FieldType] = {f"c{number}": kind for number, kind in enumerate(kinds)}
    rows = st.fixed_dictionaries({name: st.none() | VALUES[kind] for name, kind in types.items()})
    return types, pa.Table.from_pylist(draw(st.lists(rows, min_size=1, max_size=12)), schema=arrow_schema(types))


def plaintext(table: pa.Table, fmt: str, header: bool) -> bytes:
    """Write a table as an owner's tool does: with Python's own writers, and not with those of the pod."""
    rows = table.to_pylist()
    if fmt == "parquet":
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    def text(value: Any) -> str:
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return "" if value is None else value.isoformat() if isinstance(value, date) else str(value).lower()

    if fmt == "csv":
        lines = [",".join(text(value) for value in row.values()) for row in rows]
        return "".join(line + "\r\n" for line in ([",".join(table.column_names)] if header else []) + lines).encode()

    def member(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value.isoformat() if isinstance(value, date) else value

    return "".join(json.dumps({name: member(value) for name, value in row.items()}) + "\n" for row in rows).encode()


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert found.schema == expected.schema
    for name in expected.column_names:
        assert same_values(found.column(name), expected.column(name)), (found.column(name), expected.column(name))


@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json", "parquet"])
@given(content=tables(), block=st.sampled_from([1, 5, 64, 1 << 20]))
@settings(max_examples=40, deadline=None)
def test_every_reader_returns_what_was_written(fmt: str, content: tuple[dict[str, FieldType], pa.Table], block: int) -> None:
    types, table = content
    header = fmt == "csv with header"
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        root = Path(temporary)
        world = DatasetWorld(
            root / "w", format=fmt.split()[0], csv_header=header, schema_fields=types, allowed_fields=tuple(types), manifest="optional"
        )
        folder = root / "plain"
        folder.mkdir()
        (folder / f"x.{fmt.split()[0]}").write_bytes(plaintext(table, fmt.split()[0], header))
        world.upload(folder)
        patch.setattr(row_blocks, "BLOCK_BYTES", block)
        assert_same(world.read(tuple(types)), table)

        pod = world.pod()
        objects = write_result(ComputedResult(table.num_rows, None, table), pod, pod.job())  # type: ignore[arg-type]
        batches: list[pa.RecordBatch] = []
        for item in objects:
            plain = open_bytes(world.store.read(item.name), world.key, object_context("c", "things", item.name))
            batches += result_rows(plain, world.dataset.format, types, header, item.name)
        assert_same(pa.Table.from_batches(batches, schema=table.schema), table)


DUCK_TYPES: dict[FieldType, str] = {
    "string": "VARCHAR",
    "integer": "INTEGER",
    "long": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}


@cache
def duck() -> duckdb.DuckDBPyConnection:
    """A database for all readings, which create nothing in it."""
    return duckdb.connect().execute("SET TimeZone = 'UTC'")


def duck_read(file: Path, types: dict[str, FieldType], fmt: str) -> pa.Table:
    """Read a plaintext file with DuckDB and the declared types."""
    columns = ", ".join(f"'{name}': '{DUCK_TYPES[kind]}'" for name, kind in types.items())
    source = {
        "csv": f"read_csv('{file}', header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', "
        f"new_line = '\\r\\n', allow_quoted_nulls = false, columns = {{{columns}}})",
        "json": f"read_json('{file}', format = 'newline_delimited', columns = {{{columns}}})",
        "parquet": f"read_parquet('{file}')",
    }[fmt]
    return duck().sql(f"SELECT * FROM {source}").to_arrow_table().cast(arrow_schema(types))


@pytest.mark.parametrize("fmt", ["csv", "json", "parquet"])
@given(content=tables())
@settings(max_examples=25, deadline=None)
def test_pod_reads_what_duckdb_reads_in_the_plaintext(fmt: str, content: tuple[dict[str, FieldType], pa.Table]) -> None:
    types, table = content
    # DuckDB's CSV reader takes an empty line of a file with one column for no row, and rejects NUL.
    types = types | {"id": "long"}
    table = table.append_column("id", pa.array(range(table.num_rows), pa.int64()))
    texts = [name for name in types if types[name] == "string"]
    assume(not any("\0" in value or "\r" in value for name in texts for value in table.column(name).drop_null().to_pylist()))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        world = DatasetWorld(root / "w", format=fmt, csv_header=fmt == "csv", schema_fields=types, allowed_fields=tuple(types))
        folder = root / "plain"
        folder.mkdir()
        file = folder / f"x.{fmt}"
        file.write_bytes(plaintext(table, fmt, header=True))
        world.upload(folder)
        assert_same(world.read(tuple(types)), duck_read(file, types, fmt))


@pytest.mark.parametrize("fmt", ["csv", "json"])
@pytest.mark.parametrize(("kind", "micros"), [("timestamp", 2**60), ("timestamp", -(2**60)), ("date", 3_000_000)])
def test_value_that_the_format_cannot_hold_fails_the_run(tmp_path: Path, fmt: str, kind: FieldType, micros: int) -> None:
    world = DatasetWorld(tmp_path / "w", format=fmt, schema_fields={"at": kind}, allowed_fields=("at",))
    field = arrow_schema({"at": kind}).field(0)
    column = pa.array([micros], pa.int64() if kind == "timestamp" else pa.int32()).cast(field.type)
    table = pa.table([column], schema=pa.schema([field]))
    pod = world.pod()
    with pytest.raises(InvalidInput) as caught:
        write_result(ComputedResult(1, None, table), pod, pod.job())  # type: ignore[arg-type]
    assert caught.value.code == "ResultNotRepresentable"
    assert not list(world.store.list())


def test_text_that_is_not_utf8_fails_the_run_or_the_check(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    table = pa.table({"text": bad})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match="column 'text': expected string, found bytes that are not UTF-8"):
        check_file(tmp_path / "a.parquet", DatasetSchema(format="parquet", fields=(SchemaField(field_name="text", field_type="string"),)))
    for fmt in ("csv", "json", "parquet"):
        world = DatasetWorld(tmp_path / fmt, format=fmt, schema_fields={"text": "string"}, allowed_fields=("text",))
        pod = world.pod()
        with pytest.raises(InvalidInput) as caught:
            write_result(ComputedResult(1, None, table), pod, pod.job())  # type: ignore[arg-type]
        assert caught.value.code == "ResultNotRepresentable"


def parquet_times(values: list[datetime | None], *, int96: bool, metadata: dict[str, str] | None = None) -> bytes:
    table = pa.table({"id": pa.array(range(len(values)), pa.int64()), "valid_to": pa.array(values, pa.timestamp("us", "UTC"))})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, use_deprecated_int96_timestamps=int96)
    return buffer.getvalue()


def times(data: bytes) -> list[datetime | None]:
    batches = list(read_parquet(open_parquet(io.BytesIO(data), TIMES, ["valid_to"], where="x"), TIMES, ["valid_to"], where="x"))
    return [value for batch in batches for value in batch.column(0).to_pylist()]


# Arrow writes an INT96 value from nanoseconds, so these bytes stand in for a writer that does not (Spark, Impala, Hive).
def int96_days(data: bytes, days: int) -> bytes:
    epoch = (2_440_588).to_bytes(4, "little")
    assert data.count(b"\0" * 8 + epoch) >= 1
    return data.replace(b"\0" * 8 + epoch, b"\0" * 8 + (2_440_588 + days).to_bytes(4, "little"))


def int96_file(days: int) -> bytes:
    table = pa.table({"valid_to": pa.array([datetime(1970, 1, 1)], pa.timestamp("ns"))})
    buffer = io.BytesIO()
    options: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(table, buffer, use_deprecated_int96_timestamps=True, **options)
    return int96_days(buffer.getvalue(), days)


@pytest.mark.parametrize("day", [date(9999, 12, 31), date(1000, 1, 1), date(1, 1, 1), date(2262, 5, 1), date(1677, 1, 1), date(2020, 2, 2)])
def test_int96_timestamps_beyond_nanoseconds_are_kept(day: date) -> None:
    expected = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert times(int96_file((day - date(1970, 1, 1)).days)) == [expected]


def test_int96_timestamp_beyond_microseconds_is_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'valid_to': expected timestamp, found an INT96 value that does not fit"):
        times(int96_file(1_500_000_000))


OLD, NEW = datetime(1500, 3, 1, tzinfo=UTC), datetime(1999, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("metadata", "int96", "old"),
    [
        ({"org.apache.spark.version": "2.4.8"}, False, True),
        ({"org.apache.spark.sql.parquet.row.metadata": "{}"}, False, True),
        ({"org.apache.spark.version": "3.5.0", "org.apache.spark.legacyDateTime": ""}, False, True),
        ({"org.apache.spark.version": "3.5.0", "org.apache.spark.legacyINT96": ""}, False, False),
        ({"org.apache.spark.version": "3.0.1"}, False, False),
        ({"org.apache.spark.version": "10.0.0"}, False, False),
        ({}, False, False),
        ({"org.apache.spark.version": "3.0.1"}, True, True),
        ({"org.apache.spark.version": "3.5.0", "org.apache.spark.legacyINT96": ""}, True, True),
        ({"org.apache.spark.version": "3.5.0", "org.apache.spark.legacyDateTime": ""}, True, False),
    ],
)
def test_values_of_the_old_calendar_are_refused(metadata: dict[str, str], int96: bool, old: bool) -> None:
    early = datetime(1890, 1, 1, tzinfo=UTC) if int96 else OLD
    assert times(parquet_times([NEW, None], int96=int96, metadata=metadata)) == [NEW, None]
    data = parquet_times([NEW, early], int96=int96, metadata=metadata)
    if not old:
        assert times(data) == [NEW, early]
        return
    with pytest.raises(InvalidInput, match=r"column 'valid_to': .* old calendar") as caught:
        times(data)
    assert "CORRECTED" in str(caught.value.hint)


def test_python_csv_reader_agrees_with_the_plaintext_of_the_property_test() -> None:
    table = pa.table({"a": ['x"\r\n', ""], "b": [1, 2]})
    assert list(csv.reader(io.StringIO(plaintext(table, "csv", True).decode(), newline=""))) == [["a", "b"], ['x"\r\n', "1"], ["", "2"]]
