"""Source files in CSV, JSON lines and Parquet: values are kept, and schema mismatches are errors that name their place."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanroom.datasets.check import check_file
from cleanroom.datasets.csv_text import TextLayout, read_csv
from cleanroom.datasets.json_lines import read_json_lines
from cleanroom.datasets.parquet import open_parquet, read_parquet
from cleanroom.documents.dataset import DatasetSchema, FieldType, Format, SchemaField
from cleanroom.errors import InvalidInput

TYPES: dict[str, FieldType] = {
    "id": "integer",
    "name": "string",
    "score": "number",
    "day": "date",
    "at": "timestamp",
    "ok": "boolean",
    "n": "long",
}
GOOD_CSV = "1,ann,1.5,2013-01-01,2013-01-01T10:00:00Z,true,5000000000\n,,,,,,\n"
GOOD_JSON = '{"id":1,"name":"ann","score":2,"day":"2013-01-01","at":"2013-01-01T10:00:00+01:00","ok":true,"n":5000000000}\n{"id":null}\n'


def schema(fmt: Format, *, by_day: bool = False, header: bool = False, types: dict[str, FieldType] = TYPES) -> DatasetSchema:
    fields = tuple(SchemaField(field_name=name, field_type=kind) for name, kind in types.items())
    return DatasetSchema(format=fmt, fields=fields, partitioned_by="day" if by_day else None, csv_header=header)


def table(**changes: pa.Array) -> pa.Table:
    columns = {
        "id": pa.array([1, None], pa.int16()),
        "name": pa.array(["ann", None]).dictionary_encode(),
        "score": pa.array([1.5, None], pa.float32()),
        "day": pa.array([date(2013, 1, 1), None]),
        "at": pa.array([datetime(2013, 1, 1, 10), None], pa.timestamp("ns")),
        "ok": pa.array([True, None]),
        "n": pa.array([5, None], pa.int32()),
    }
    return pa.table({name: value for name, value in (columns | changes).items() if value is not None})


def damaged(content: pa.Table | None = None) -> bytes:
    """Return a Parquet file with an overwritten page, or for an empty table with an overwritten footer."""
    buffer = io.BytesIO()
    pq.write_table(content or table(), buffer)
    data = bytearray(buffer.getvalue())
    place = len(data) - 40 if content is not None else 4
    data[place : place + 20] = b"\xff" * 20
    return bytes(data)


EXACT = {
    "id": [-(2**31), None],
    "name": ['a "quoted", \n line\r\n é \N{GRINNING FACE} \x00', None],
    "score": [0.1, None],
    "day": [date(1, 1, 1), None],
    "at": [datetime(2013, 6, 1, 10, 0, 0, 123456, tzinfo=UTC), None],
    "ok": [False, None],
    "n": [2**63 - 1, None],
}


def csv_of(values: dict[str, list[object]], names: Sequence[str]) -> bytes:
    def text(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return value.isoformat() if isinstance(value, datetime | date) else str(value).lower()

    return "".join(",".join(text(values[name][row]) for name in names) + "\n" for row in range(2)).encode()


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("columns", [tuple(TYPES), ("name", "at"), ("n",)])
@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json", "parquet"])
def test_every_type_keeps_its_values_and_nulls(fmt: str, columns: tuple[str, ...], bom: bytes) -> None:
    if fmt == "json":
        rows = ({name: values[row] for name, values in EXACT.items()} for row in range(2))
        lines = "".join(json.dumps(row, default=lambda value: value.isoformat()) + "\n" for row in rows)
        batches = list(read_json_lines(io.BytesIO(bom + lines.encode()), TYPES, columns, where="x"))
    elif fmt == "parquet":
        buffer = io.BytesIO()
        pq.write_table(
            pa.table(
                {name: pa.array(EXACT[name]) for name in reversed(EXACT) if name != "id"} | {"id": pa.array([-(2**31), None], pa.int32())}
            ),
            buffer,
        )
        batches = list(read_parquet(open_parquet(buffer, TYPES, columns, where="x"), TYPES, columns, where="x"))
    else:
        header = tuple(reversed(TYPES)) if fmt == "csv with header" else None
        layout = TextLayout(header, newlines_in_values=True)
        batches = list(read_csv(io.BytesIO(bom + csv_of(EXACT, header or tuple(TYPES))), TYPES, columns, where="x", layout=layout))
    found = pa.Table.from_batches(batches)
    assert found.to_pydict() == {name: EXACT[name] for name in columns}


def test_each_format_is_read_with_the_types_of_the_schema(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD_CSV)
    (tmp_path / "a.jsonl").write_text(GOOD_JSON)
    pq.write_table(table(), tmp_path / "a.parquet")
    assert check_file(tmp_path / "a.csv", schema("csv")).rows == 2
    assert check_file(tmp_path / "a.jsonl", schema("json")).rows == 2
    assert check_file(tmp_path / "a.parquet", schema("parquet")).rows == 2


def test_time_without_zone_is_utc() -> None:
    text = b"2013-01-01T10:00:00Z\n2013-01-01 10:00:00\n2013-01-01T12:00:00+02:00\n2013-01-01\n"
    (batch,) = read_csv(io.BytesIO(text), {"at": "timestamp"}, ["at"], where="x.csv")
    ten = datetime(2013, 1, 1, 10, tzinfo=UTC)
    assert batch.column(0).to_pylist() == [ten, ten, ten, datetime(2013, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", GOOD_CSV + "x,,,,,,\n", "column 'id', row 3: expected integer"),
        ("a.csv", "3000000000,,,,,,\n", "column 'id', row 1: expected integer"),
        ("a.csv", GOOD_CSV + "1,,,,SECRET,,\n", "column 'at', row 3: expected timestamp"),
        ("a.csv", GOOD_CSV + "1,,,13/01/2013,,,\n", "column 'day', row 3: expected date"),
        ("a.csv", GOOD_CSV + "1,2\n", "row 3: expected 7 columns, found 2 columns"),
        ("a.csv", b"1,\xff\xfe,,,,,\n", "column 'name', row 1: expected string, found bytes that are not UTF-8"),
        ("a.jsonl", GOOD_JSON + '{"id":"1"}\n', "column 'id', row 3: expected integer, found string"),
        ("a.jsonl", GOOD_JSON + '{"id":1.5}\n', "column 'id', row 3: expected integer"),
        ("a.jsonl", GOOD_JSON + '{"day":"SECRET"}\n', "column 'day', row 3: expected date"),
        ("a.jsonl", GOOD_JSON + "SECRET\n", "expected one JSON object per line"),
        ("a.jsonl", '{"id":1}\n', "column 'name': expected string, found no such member"),
        ("a.parquet", table(id=pa.array(["1", "2"])), "column 'id': expected integer, found type string"),
        ("a.parquet", table(n=pa.array([1.0, 2.0])), "column 'n': expected long, found type double"),
        ("a.parquet", table(score=None), "column 'score': expected number, found no such column"),
        ("a.parquet", b"SECRET", "expected a Parquet file"),
        ("a.parquet", damaged(pa.table({"id": pa.array([], pa.int32())})), "expected a Parquet file"),
        ("a.parquet", damaged(), "expected a Parquet file"),
        ("a.parquet", table(at=pa.array([1, 1 << 60], pa.timestamp("ms"))), "column 'at': expected timestamp, found a value that is not"),
    ],
)
def test_schema_mismatch_names_file_column_types_and_row_but_no_value(tmp_path: Path, name: str, content: object, words: str) -> None:
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    fmt: Format = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}[path.suffix]  # type: ignore[assignment]
    with pytest.raises(InvalidInput) as caught:
        check_file(path, schema(fmt))
    assert caught.value.code == "SchemaMismatch"
    assert f"{path}" in caught.value.message
    assert words in caught.value.message
    assert "SECRET" not in str(caught.value.to_dict())
    assert caught.value.__cause__ is None


def test_csv_header_may_have_any_order_but_must_be_complete(tmp_path: Path) -> None:
    types: dict[str, FieldType] = {"a": "integer", "b": "string"}
    file = tmp_path / "a.csv"
    file.write_text('b,"a"\nx,1\n')
    assert check_file(file, schema("csv", header=True, types=types)).rows == 1
    for text, words in (
        ("b\nx\n", "column 'a': expected integer, found no such column in the header"),
        ("a,b,b\n1,x,y\n", "column 'b': expected string, found 2 columns with that name in the header"),
        ("a,b,c\n", "only columns of the schema"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=words):
            check_file(file, schema("csv", header=True, types=types))


@given(rows=st.lists(st.text(alphabet='ab"\n\r, ', max_size=6), max_size=20))
@settings(max_examples=60, deadline=None)
def test_csv_file_with_line_breaks_in_values_is_not_splittable(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    quoted = ['"' + row.replace('"', '""') + '"' for row in rows]
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes("".join(f"{number},{text}\n" for number, text in enumerate(quoted)).encode())
    checked = check_file(file, schema("csv", types={"n": "long", "text": "string"}))
    assert checked.rows == len(rows)
    assert checked.splittable == (not any("\n" in row or "\r" in row for row in rows))
