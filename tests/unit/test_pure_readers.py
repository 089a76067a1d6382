"""The readers in Python alone accept nothing that the readers with Arrow refuse, and read the same values; an owner needs no pyarrow."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.datasets import csv_text, json_lines, readers, row_blocks
from cleanroom.datasets.check import check_file
from cleanroom.datasets.csv_rows import CsvRows
from cleanroom.datasets.pure import csv_rows, json_rows
from cleanroom.documents.dataset import CsvDialect, DatasetSchema, FieldType, SchemaField
from cleanroom.errors import CleanRoomError, InvalidInput
from tests.csv_texts import COMMON, KINDS, ODD, texts
from tests.unit.test_local_extra import ABSENT

ESCAPING = [CsvDialect(escape_character="\\"), CsvDialect(quoting="none"), CsvDialect(quoting="none", escape_character="\\", delimiter=";")]


def values(tables: Any, types: dict[str, FieldType]) -> list[tuple[Any, ...]] | None:
    """The rows of a reader; None if it refuses the text. NaN is equal to itself."""
    try:
        found = [row for table in tables for row in zip(*(table.column(name).to_pylist() for name in types), strict=True)]
    except CleanRoomError:
        return None
    return [tuple("NaN" if isinstance(value, float) and math.isnan(value) else value for value in row) for row in found]


def both_csv(text: bytes, kinds: list[FieldType], dialect: CsvDialect) -> tuple[Any, Any]:
    types = {f"c{number}": kind for number, kind in enumerate(kinds)}
    layout = csv_text.TextLayout(newlines_in_values=True, dialect=dialect)
    arrow = csv_text.read_csv(io.BytesIO(text), types, list(types), where="x", layout=layout)
    pure = csv_rows.read_csv(io.BytesIO(text), types, list(types), where="x", header=None, dialect=dialect)
    return values(arrow, types), values(pure, types)


@given(texts(), st.integers(1, 40))
def test_csv_is_read_as_with_arrow_or_refused(case: tuple[bytes, list[FieldType], CsvDialect], size: int) -> None:
    text, kinds, dialect = case
    arrow, pure = both_csv(text, kinds, dialect)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_BYTES", size)
        assert both_csv(text, kinds, dialect)[1] == pure, "wherever blocks end"
        types = {f"c{number}": kind for number, kind in enumerate(kinds)}
        try:
            counted, breaks = csv_rows.check_csv(io.BytesIO(text), types, where="x", header=None, dialect=dialect)
        except InvalidInput:
            assert pure is None
        else:
            assert (pure, counted) == (arrow, len(arrow or ()))
            assert breaks == csv_text.check_csv(io.BytesIO(text), types, where="x", header=None, dialect=dialect).quoted_breaks


@given(st.lists(st.text('a"\\;,\r\nä', max_size=12), max_size=4).map("\n".join), st.sampled_from(ESCAPING), st.sampled_from([1, 2]))
def test_escapes_and_quotes_as_data_are_read_as_with_arrow_or_refused(text: str, dialect: CsvDialect, columns: int) -> None:
    arrow, pure = both_csv(text.encode(), ["string"] * columns, dialect)
    assert pure in (None, arrow)
    rows, other = csv_rows.PureCsvRows(dialect), CsvRows(dialect)
    assert (rows.first_end(text.encode()), rows.last_end(text.encode())) == (other.first_end(text.encode()), other.last_end(text.encode()))


@pytest.mark.parametrize("kind", KINDS)
def test_common_spellings_are_accepted_and_odd_ones_only_with_arrow(kind: FieldType) -> None:
    text = "".join(f"{value},7\n" for value in [*COMMON[kind], ""]).encode()
    arrow, pure = both_csv(text, [kind, "long"], CsvDialect())
    assert pure == arrow
    assert pure is not None
    for value in ODD:
        arrow, pure = both_csv(f"{value},7\n".encode(), [kind, "long"], CsvDialect())
        assert pure in (None, arrow), value


JSON_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4),
    st.sampled_from(["2013-01-31", "2013-01-31T10:00:00Z", "NaN", "-Infinity", "1"]), st.lists(st.integers(), max_size=2),
)  # fmt: skip
JSON_TEXTS = st.sampled_from(
    ['{"a":1}', '{"a":1e2}', '{"a":01}', '{"a":1,"a":2}', '{"b":1,"b":2}', "{}", "[1]", '{"a":"\\ud800"}', '{"a":NaN}', '{"a":-0}', "{",
     '{"a":1} {"a":2}', '{"a":1e999}', '{"a":2147483648}', '{"a":1.0}', "\t{ \"a\" : 1 }\r", "", '{"a":"\x01"}', '{"a":{"b":1}}']
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), JSON_VALUES).map(json.dumps) | JSON_TEXTS, max_size=4), st.sampled_from(KINDS))
def test_json_lines_are_read_as_with_arrow_or_refused(lines: list[str], kind: FieldType) -> None:
    text, types = "\n".join(lines).encode(), {"a": kind}
    for required in (False, True):
        arrow = json_lines.read_json_lines(io.BytesIO(text), types, ["a"], where="x", require_members=required)
        pure = json_rows.read_json_lines(io.BytesIO(text), types, ["a"], where="x", require_members=required)
        expected, found = values(arrow, types), values(pure, types)
        assert found is None or found == expected, (expected, found)


def test_usual_json_lines_are_accepted() -> None:
    rows = {
        "string": "ä",
        "integer": -7,
        "long": 2**40,
        "number": 1.5,
        "boolean": True,
        "date": "2013-01-31",
        "timestamp": "2013-01-01T10:00Z",
    }
    types: dict[str, FieldType] = {kind: kind for kind in KINDS}
    text = (json.dumps(rows) + "\n" + json.dumps({"number": "NaN", "other": [1]}) + "\n").encode()
    arrow = json_lines.read_json_lines(io.BytesIO(text), types, list(types), where="x")
    pure = json_rows.read_json_lines(io.BytesIO(text), types, list(types), where="x")
    assert values(pure, types) == values(arrow, types)
    assert values(json_rows.read_json_lines(io.BytesIO(text), types, list(types), where="x"), types)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,x\n\n2,y\nz,w\n", "column 'a', row 3: expected long, found a value that is not of type long"),
        ("a,b\n1,x\n2\n", "row 2: expected 2 columns, found 1 columns"),
        ('a,b\n1,x\n2,y"z\n', "column 'b', row 2: expected CSV (RFC 4180, or as csvDialect declares), found a quote within a value"),
        ('a,b\n1,"x\n', "column 'b', row 1: expected CSV (RFC 4180, or as csvDialect declares), found a quote that is never closed"),
        ("a,b\n1,x\ry\n", "column 'b', row 1: expected CSV (RFC 4180, or as csvDialect declares), found a carriage return"),
        ("b,c\n1,2\n", "column 'a': expected long, found no such column in the header"),
    ],
    ids=["value", "columns", "quote", "open quote", "return", "header"],
)
def test_errors_name_column_and_row_as_with_arrow(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text(text, newline="")
    schema = DatasetSchema(format="csv", csv_header=True, fields=tuple(SchemaField(field_name=n, field_type=k) for n, k in TWO))
    for arrow in (True, False):
        monkeypatch.setattr(readers, "has_arrow", lambda arrow=arrow: arrow)
        with pytest.raises(InvalidInput) as caught:
            check_file(tmp_path / "x.csv", schema)
        assert problem in caught.value.message, arrow


TWO: tuple[tuple[str, FieldType], ...] = (("a", "long"), ("b", "string"))


def test_an_owner_without_pyarrow_has_every_command_of_csv_and_json_and_the_extra_is_named_for_parquet(tmp_path: Path) -> None:
    code = f"{ABSENT}\nfrom tests.small_owner import play\nplay(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(["pyarrow", "numpy", "pandas", "pyspark"]), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for kind in ("csv", "jsonl"):
        steps = found[kind]
        assert steps["init"]["columns"] == {"person": "string", "city": "string", "spent": "number", "day": "date"}
        assert (steps["upload"]["rows"], [item["rows"] for item in steps["objects"]]) == (50, [50])
        assert steps["preview"]["rows"][1] == {"person": "p1", "city": "Oslo", "spent": 1.5, "day": "2024-01-02"}
        assert steps["stats"]["columns"]["person"] == {"type": "string", "empty": 0, "different": 50}
    assert found["wrong"]["code"] == "SchemaMismatch"
    assert found["result"] == {"csv": 'first,second\n"a0","b0"\n"a1","b1"\n'.replace("first,second", '"first","second"'), "xlsx": True}
    for words in ("parquet upload", "parquet init", "parquet result"):
        assert (found[words]["code"], found[words]["hint"]) == ("ExtraMissing", "Install it: pip install 'cleanroom[rows]'"), words
