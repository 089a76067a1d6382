"""Files of the kinds that practitioners report as misread: the upload and the pod read the value as written, or refuse the file."""

from __future__ import annotations

import decimal
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.documents.dataset import FieldType, Format
from cleanroom.errors import InvalidInput
from starters.terminal.output import print_json
from starters.terminal.result_view import chart_png, print_chart, result_rows, series
from tests.unit.sparkapp_dataset import DatasetWorld

REFUSED = "SchemaMismatch"
TWO: dict[str, FieldType] = {"id": "long", "text": "string"}


def read(folder: Path, data: bytes, types: dict[str, FieldType], fmt: Format, *, header: bool = False) -> Any:
    """Upload a file and return the first column that the pod reads, or the code of the refusal."""
    world = DatasetWorld(folder / "w", format=fmt, schema_fields=types, allowed_fields=tuple(types), csv_header=header)
    plain = folder / "plain"
    plain.mkdir()
    (plain / f"x.{fmt}").write_bytes(data)
    try:
        world.upload(plain)
    except InvalidInput as error:
        return error.code if f"x.{fmt}" in error.message and not list(world.store.list()) else str(error)
    return world.read(tuple(types)).column(0).to_pylist()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        *[("long", text, [7]) for text in ("7", "007", " 7", "7 ", '"7"')],
        *[("long", text, REFUSED) for text in ("+7", "7.0", "7e0", "1_000", '"1,000"', "9223372036854775808", "٣", '""')],
        *[("integer", text, REFUSED) for text in ("0x10", "0X10", " 0x1F", "0xFFFFFFFF", "2147483648")],
        ("long", "0xFFFFFFFFFFFFFFFF", REFUSED),
        ("long", "-9223372036854775808", [-(2**63)]),
        *[("number", text, [1000.0]) for text in ("1e3", "1E+3", "1000.", " 1000 ")],
        *[("number", text, REFUSED) for text in ("1e400", "-1E400", "9" * 400, '"1,5"', "0x1p3", "1d", "1_0", "--1", "0.1e")],
        *[("number", text, [float("inf")]) for text in ("inf", "Infinity", "+inf", "INF")],
        ("number", "123456789012345678901234567890", [123456789012345678901234567890.0]),
        *[("boolean", text, [True]) for text in ("true", "True", "TRUE", "1")],
        *[("boolean", text, REFUSED) for text in ("t", "yes", "on", " true", "tRuE")],
        ("date", "9999-12-31", [date(9999, 12, 31)]),
        ("date", "1582-10-10", [date(1582, 10, 10)]),
        *[("date", text, REFUSED) for text in ("2020-1-1", "20200101", "2020/01/01", "2020-02-30", "10000-01-01", "2020-01-01T00:00:00")],
        *[("timestamp", text, [datetime(2019, 12, 31, 18, 30, tzinfo=UTC)]) for text in ("2020-01-01T00:00:00+05:30",)],
        *[("timestamp", text, [datetime(2019, 12, 31, 18, 30, tzinfo=UTC)]) for text in ("2020-01-01 00:00:00+0530",)],
        ("timestamp", "9999-12-31T23:59:59.999999Z", [datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]),
        *[("timestamp", text, REFUSED) for text in ("2020-01-01T24:00:00", "2020-01-01T23:59:60Z",)],
        *[("timestamp", text, REFUSED) for text in ("1577836800", "2020-01-01T00:00:00+99:99",)],
        *[("string", text, [text]) for text in ("NULL", "null", "NA", "N/A", "\\N", "None", "#N/A",)],
        *[("string", text, [text]) for text in ("nan", "007", "1e3", "a\u2028b", "a\x00b", "😀",)],
    ],
)  # fmt: skip
def test_csv_value(tmp_path: Path, kind: FieldType, text: str, expected: Any) -> None:
    assert read(tmp_path, f"{text}\r\n".encode(), {"v": kind}, "csv") == expected


@pytest.mark.parametrize("kind", ["long", "number"])
def test_number_that_is_refused_is_named_by_its_row(tmp_path: Path, kind: FieldType) -> None:
    world = DatasetWorld(tmp_path / "w", schema_fields={"text": "string", "v": kind}, allowed_fields=("v",))
    bad = "0x10" if kind == "long" else "1e999"
    world.put_sealed("x.csv", f'"0x1, inf",1\n,\na,{bad}\n'.encode())
    with pytest.raises(InvalidInput, match=f"column 'v', row 3: expected {kind}, found a value that is not of type {kind}"):
        world.read(("v",))


@pytest.mark.parametrize(
    ("data", "header", "expected"),
    [
        ("\ufeffid,text\r\n1,a\r\n".encode(), True, [1]),
        (b"text,id\n1,2\n", True, [2]),
        (b"id,text\n", True, []),
        (b"", False, []),
        (b"1,a\n\n\n2,b", False, [1, 2]),
        (b"1,a\r\n2,b\n", False, [1, 2]),
        *[(text.encode(), True, REFUSED) for text in ("id,id\n1,2\n", "id, text\n1,a\n", "ID,text\n1,a\n", "sep=,\nid,text\n1,a\n", "")],
        *[(text.encode(), False, REFUSED) for text in ("1,a\n2\n", "1,a,\n", "1,a\n   \n", "1\ta\n", "1;a\n", "#c\n1,a\n", "1,a\n\x1a")],
        *[(text, False, REFUSED) for text in (b"\0" * 20, b"1,\xe9\n", b"1,\xc0\xaf\n", b"1,\xed\xa0\xbd\n", "1,a\n".encode("utf-16"))],
    ],
)
def test_csv_file(tmp_path: Path, data: bytes, header: bool, expected: Any) -> None:
    assert read(tmp_path, data, TWO, "csv", header=header) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        *[("long", text, REFUSED) for text in ("9223372036854775808", '"9"', "1.0", "1e2", "01", "+1", "true", "[1]")],
        ("long", "-0", [0]),
        *[("number", text, REFUSED) for text in ("1e400", '"nan"', '"1.5"', "true")],
        ("number", "1E5", [100000.0]),
        *[("string", text, REFUSED) for text in ("5", "true", '{"a":1}', '"\\ud83d"', '"\\ude00"',)],
        *[("string", text, REFUSED) for text in ('"\\ude00\\ud83d"', '"\\x41"', '"a\tb"', "'a'",)],
        ("string", '"\\ud83d\\ude00"', ["😀"]),
        ("string", '"a\\u0000b"', ["a\x00b"]),
        ("string", '"}\\n{"', ["}\n{"]),
        *[("boolean", text, REFUSED) for text in ("1", '"true"')],
        *[("timestamp", text, REFUSED) for text in ("1577836800", '"2020-01-01T00:00:00.123456789Z"')],
    ],
)  # fmt: skip
def test_json_value(tmp_path: Path, kind: FieldType, text: str, expected: Any) -> None:
    assert read(tmp_path, f'{{"v":{text}}}\r\n'.encode(), {"v": kind}, "json") == expected


ROW = b'{"id":1,"text":"a"}'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbf" + ROW + b"\r\n\r\n" + ROW, [1, 1]),
        (b'{"id":1,"text":"a","n":[{"x":[1,{"y":"}\\n{"}]}],"n":2}\n', [1]),
        (b'{"id":1,"text":"a"}\n{}\n', [1, None]),
        *[(data, REFUSED) for data in (b'{"id":1,"id":2,"text":"a"}\n', b'{"id":1,"\\u0069d":2,"text":"a"}\n', b'{"ID":1,"text":"a"}\n')],
        *[(data, REFUSED) for data in (ROW + b" x\n", ROW + b",\n" + ROW, b"[" + ROW + b"]",)],
        *[(data, REFUSED) for data in (ROW + b"\r" + ROW, b'{\n "id":1,\n "text":"a"\n}',)],
        *[(data, REFUSED) for data in (b'{"id":1,"text":"a",}\n', b'{"id":1,/*c*/"text":"a"}\n',)],
        *[(data, REFUSED) for data in (b"\x1e" + ROW, ROW.decode().encode("utf-16"),)],
        *[(data, REFUSED) for data in (b'{"id":1,"text":"a\0b"}\n', b'{"id":1,"text":"\xe9"}\n', b'{"id":1,"text":"\xc0\xaf"}\n')],
    ],
)  # fmt: skip
def test_json_file(tmp_path: Path, data: bytes, expected: Any) -> None:
    assert read(tmp_path, data, TWO, "json") == expected


def parquet(column: pa.Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"v": column}), buffer, **options)
    return buffer.getvalue()


NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "column", "expected"),
    [
        ("string", pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        ("long", pa.array([1, None]).dictionary_encode(), [1, None]),
        ("string", pa.array(["a"], pa.large_string()), ["a"]),
        *[("timestamp", pa.array([NOON], pa.timestamp(unit, "Europe/Paris")), [NOON]) for unit in ("s", "ms", "us", "ns")],
        ("timestamp", pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")), [NOON]),
        ("date", pa.array([date(2020, 1, 1)], pa.date64()), [date(2020, 1, 1)]),
        ("integer", pa.array([255], pa.uint8()), [255]),
        ("number", pa.array([float("inf"), -0.0, None]), [float("inf"), -0.0, None]),
        ("long", pa.array([], pa.int64()), []),
        *[("number", pa.array([decimal.Decimal("1.10")], pa.decimal128(10, 2)), REFUSED)],
        *[("long", column, REFUSED) for column in (pa.array([2**63], pa.uint64()), pa.array([[1]]), pa.array([1.0]), pa.array(["1"]))],
        *[("integer", column, REFUSED) for column in (pa.array([2**31], pa.uint32()), pa.array([1], pa.int64()))],
        *[("number", column, REFUSED) for column in (pa.array([2**53 + 1]), pa.array([1.5], pa.float16()))],
        *[("string", column, REFUSED) for column in (pa.array([b"a"]), pa.array([b"0" * 16], pa.binary(16)),)],
        *[("string", column, REFUSED) for column in (pa.array([{"a": 1}]), pa.nulls(1),)],
        *[("timestamp", column, REFUSED) for column in (pa.array([1], pa.time32("ms")), pa.array([1 << 60], pa.timestamp("ms")))],
    ],
)  # fmt: skip
def test_parquet_column(tmp_path: Path, kind: FieldType, column: pa.Array, expected: Any) -> None:
    assert read(tmp_path, parquet(column), {"v": kind}, "parquet") == expected


@pytest.mark.parametrize(
    "options",
    [
        *[{"compression": name} for name in ("none", "snappy", "gzip", "brotli", "zstd", "lz4")],
        {"data_page_version": "2.0", "write_page_checksum": True},
        {"use_dictionary": False, "column_encoding": {"v": "DELTA_BINARY_PACKED"}},
        {"row_group_size": 1, "version": "1.0"},
    ],
)
def test_parquet_encoding(tmp_path: Path, options: dict[str, Any]) -> None:
    assert read(tmp_path, parquet(pa.array([3, 1, 2]), **options), {"v": "long"}, "parquet") == [3, 1, 2]


def test_parquet_row_group_without_rows(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, pa.schema([("v", pa.int64())])) as writer:
        for values in ([1], [], [2]):
            writer.write_table(pa.table({"v": pa.array(values, pa.int64())}))
    assert read(tmp_path, buffer.getvalue(), {"v": "long"}, "parquet") == [1, 2]


def test_parquet_column_whose_name_is_a_path(tmp_path: Path) -> None:
    for number, (content, expected) in enumerate(
        [({"a": pa.array([{"b": 9}]), "a.b": [1]}, [1]), ({"a": pa.array([{"b": 9}])}, REFUSED), ({"A.B": [1]}, REFUSED)]
    ):
        buffer = io.BytesIO()
        pq.write_table(pa.table(content), buffer)
        (tmp_path / str(number)).mkdir()
        assert read(tmp_path / str(number), buffer.getvalue(), {"a.b": "long"}, "parquet") == expected


@pytest.mark.parametrize("cut", [slice(0, -5), slice(0, 0), slice(4, None)])
def test_parquet_file_that_is_not_whole_is_refused(tmp_path: Path, cut: slice) -> None:
    assert read(tmp_path, parquet(pa.array([1]))[cut], {"v": "long"}, "parquet") == REFUSED


def test_result_with_dates_beyond_pythons_years_is_shown() -> None:
    table = pa.table({"day": pa.array([5_000_000, 0], pa.date32()), "at": pa.array([0, 2**61], pa.timestamp("us", "UTC"))})
    assert result_rows(table) == [
        {"day": "5000000 days since 1970-01-01", "at": "1970-01-01T00:00:00+00:00"},
        {"day": "1970-01-01", "at": f"{2**61} us since 1970-01-01"},
    ]


def test_result_with_numbers_that_are_not_finite_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    rows = result_rows(pa.table({"k": ["a", "b", "c", "d"], "v": [nan, inf, 1.5, -inf]}))
    print_json({"rows": rows})
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["rows"]
    assert [row["v"] for row in printed] == ["NaN", "Infinity", 1.5, "-Infinity"]
    assert series(rows) == (["c"], [1.5], "v")
    print_chart(rows)
    assert "c" in capsys.readouterr().out
    chart_png(rows, tmp_path / "chart.png")
    assert series(result_rows(pa.table({"k": ["a"], "v": [nan]}))) is None
