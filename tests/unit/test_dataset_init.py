"""`cleanroom dataset init`: what it infers and suggests, and that its file passes `dataset check` as it is."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cleanroom.datasets import inference
from cleanroom.datasets.check import check_file
from cleanroom.documents.specs import load_dataset_spec
from starters.cli import app
from starters.operations.dataset_init import write_dataset_file

runner = CliRunner()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*words: str) -> tuple[int, dict[str, Any]]:
    done = runner.invoke(app, ["dataset", "init", *words, "--output", "json"])
    return done.exit_code, json.loads(done.stdout)


def shop(rows: int) -> str:
    lines = ["customer_id,first_name,city,visits,spent,since,seen,member,note,store no"]
    for number in range(rows):
        lines.append(
            f"c{number % (rows - 1)},name{number},{['Oslo', 'Rome', ''][number % 3]},{number + 1000},{number}.5,"
            f"2024-01-{number % 28 + 1:02},"
            f"2024-01-01T10:00:00Z,{'true' if number % 2 else 'false'},text {number},00{number % 9}"
        )
    return "\n".join(lines) + "\n"


def test_schema_identity_floor_and_uses_are_suggested_with_reasons() -> None:
    Path("Shop Visits.csv").write_text(shop(500))
    exit_code, record = init("Shop Visits.csv", "--store", "aws-s3")
    assert (exit_code, record["file"], record["dataset"]) == (0, "shop-visits.yaml", "shop-visits")
    assert record["columns"] == {
        "customer_id": "string", "first_name": "string", "city": "string", "visits": "integer", "spent": "number", "since": "date",
        "seen": "timestamp", "member": "boolean", "note": "string", "store no": "string",
    }  # fmt: skip
    assert (record["identity"], record["min_group_size"]) == ("customer_id", 20)
    assert "499 different values" in record["reason"]
    assert (record["dimensions"], record["measures"]) == (["city", "since", "seen", "member", "store no"], ["visits", "spent"])
    assert set(record["left_out"]) == {"first_name", "note"}
    spec = load_dataset_spec(Path("shop-visits.yaml"))
    assert spec.allowed_columns == ("customer_id", "city", "visits", "spent", "since", "seen", "member", "store no")
    text = Path("shop-visits.yaml").read_text()
    assert "166 of 500 sampled rows are empty" in text
    assert "name1" not in text.replace("first_name", "")
    assert runner.invoke(app, ["dataset", "check", "shop-visits.yaml"]).exit_code == 0
    check_file(Path("Shop Visits.csv"), spec.dataset_schema())


def test_a_column_that_is_unique_in_the_whole_file_is_declared_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "id,city\n" + "".join(f"{number},Oslo\n" for number in range(100))
    Path("people.csv").write_text(rows)
    assert init("people.csv")[0] == 0
    assert load_dataset_spec(Path("people.yaml")).unique_columns == ("id",)
    assert load_dataset_spec(Path("people.yaml")).privacy.min_group_size == 10
    monkeypatch.setattr(inference, "SAMPLE_BYTES", 200)
    exit_code, record = init("people.csv", "--force")
    assert (exit_code, record["whole_file"], record["sampled_rows"] < 100) == (0, False, True)
    assert load_dataset_spec(Path("people.yaml")).unique_columns is None
    table = runner.invoke(app, ["dataset", "init", "people.csv", "--force"])
    assert "rows were read" in table.output


def test_parquet_types_are_those_of_the_file() -> None:
    table = pa.table(
        {
            "user_key": pa.array([1, 2, 3], pa.int64()),
            "small": pa.array([1, 2, None], pa.int16()),
            "ratio": pa.array([0.5, 1.5, 2.5], pa.float32()),
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "day": pa.array([dt.date(2024, 1, 1)] * 3),
            "at": pa.array([dt.datetime(2024, 1, 1)] * 3, pa.timestamp("ns")),
            "ok": [True, False, None],
        }
    )
    pq.write_table(table, "orders.parquet")
    exit_code, record = init("orders.parquet")
    assert (exit_code, list(record["columns"].values())) == (
        0, ["long", "integer", "number", "string", "date", "timestamp", "boolean"],
    )  # fmt: skip
    assert (record["identity"], record["whole_file"]) == ("user_key", True)
    check_file(Path("orders.parquet"), load_dataset_spec(Path("orders.yaml")).dataset_schema())


@pytest.mark.parametrize(
    ("values", "kind", "note"),
    [
        (["1", "2", "3"] * 10 + ["x"], "string", "mixed: 1 of 31 values are not of type long"),
        (["1", "x", "y"], "string", ""),
        (["1", "2.5", ""], "number", ""),
        (["007", "008", "009"], "string", ""),
        (["3000000000", "1"], "long", ""),
        (["9999999999999999999", "1"], "string", "larger than 64 bits"),
        (["", ""], "string", "the type is a guess"),
        (["2024-02-30", "2024-01-01"], "string", "not every sampled value is a valid date"),
        (["2024-01-01 10:00", "2024-01-01T10:00:00.5+01:00"], "timestamp", ""),
        (["1e5", "-.5", "2"], "number", ""),
        (["true", "False"], "boolean", ""),
    ],
    ids=str,
)
def test_types_fit_every_sampled_value(values: list[str], kind: str, note: str) -> None:
    Path("v.csv").write_text("a,b\n" + "".join(f"{value},x\n" for value in values))
    exit_code, record = init("v.csv", "--name", "v")
    assert (exit_code, record["columns"]["a"]) == (0, kind), record
    assert note in record["notes"].get("a", "")
    check_file(Path("v.csv"), load_dataset_spec(Path("v.yaml")).dataset_schema())


@pytest.mark.parametrize(
    ("delimiter", "expected"), [(";", ";"), ("\t", "\t"), ("|", "|"), (",", None)], ids=["semicolon", "tab", "bar", "comma"]
)
def test_the_delimiter_is_found(delimiter: str, expected: str | None) -> None:
    Path("v.csv").write_text("a,b\n1,2\n".replace(",", delimiter))
    assert init("v.csv")[0] == 0
    dialect = load_dataset_spec(Path("v.yaml")).csv_dialect
    assert (dialect.delimiter if dialect else None) == expected
    check_file(Path("v.csv"), load_dataset_spec(Path("v.yaml")).dataset_schema())


def test_a_file_without_a_header_gets_names_that_its_owner_replaces() -> None:
    Path("v.csv").write_text("1,Oslo\n2,Rome\n")
    exit_code, error = init("v.csv")
    assert (exit_code, error["code"]) == (2, "HeaderMissing")
    assert "--no-header" in error["hint"]
    assert init("v.csv", "--no-header")[1]["columns"] == {"c1": "integer", "c2": "string"}
    assert load_dataset_spec(Path("v.yaml")).csv_header is False


def test_a_folder_of_a_day_is_a_partition() -> None:
    Path("2024-01-31").mkdir()
    Path("2024-01-31/part.csv").write_text("a\nx\n")
    assert init("2024-01-31/part.csv")[0] == 0
    assert load_dataset_spec(Path("part.yaml")).partitioned_by == "day"


def test_types_of_json_lines_are_those_of_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "user_id": "u1",
        "visits": 3,
        "big": 2**40,
        "huge": 2**70,
        "ratio": 1,
        "since": "2024-01-31",
        "seen": "2024-01-31T10:00Z",
        "on": True,
    }
    other = {"user_id": "u2", "ratio": 2.5, "visits": None, "city": "Oslo", "day": "2024-02-30"}
    text = (json.dumps(row) + "\n\n" + json.dumps(other) + "\n") * 50
    Path("v.jsonl").write_text(text)
    exit_code, record = init("v.jsonl")
    assert (exit_code, record["sampled_rows"], record["whole_file"]) == (0, 100, True), record
    assert record["columns"] == {
        "user_id": "string", "visits": "integer", "big": "long", "huge": "number", "ratio": "number", "since": "date", "seen": "timestamp",
        "on": "boolean", "city": "string", "day": "string",
    }  # fmt: skip
    assert "not every sampled value is a valid date" in record["notes"]["day"]
    spec = load_dataset_spec(Path("v.yaml"))
    assert spec.format == "json"
    assert check_file(Path("v.jsonl"), spec.dataset_schema()).rows == 100
    monkeypatch.setattr(inference, "SAMPLE_BYTES", 600)
    record = init("v.jsonl", "--force")[1]
    assert (record["whole_file"], 0 < record["sampled_rows"] < 10) == (False, True)


def _parquet(table: pa.Table) -> Callable[[Path], None]:
    return lambda path: pq.write_table(table, path)


WRONG: list[tuple[str, str, bytes | Callable[[Path], None], str, str]] = [
    ("empty", "v.csv", b"", "SourceEmpty", "is empty"),
    ("no rows", "v.csv", b"a,b\n", "SourceEmpty", "followed by nothing"),
    ("number as header", "v.csv", b"a,5\n1,2\n", "HeaderMissing", "column 2"),
    ("empty name", "v.csv", b"a,,c\n1,2,3\n", "HeaderMissing", "column 2"),
    ("twice", "v.csv", b"a,b,a\n1,2,3\n", "ColumnNamesInvalid", "rename one of: a"),
    ("case", "v.csv", b"Id,id\n1,2\n", "ColumnNamesInvalid", "Id, id"),
    ("not ascii", "v.csv", "größe\n1\n".encode(), "ColumnNamesInvalid", "printable ASCII"),
    ("backtick", "v.csv", b"a`b\n1\n", "ColumnNamesInvalid", "backticks"),
    ("reserved", "v.csv", b"__cr_a\n1\n", "ColumnNamesInvalid", "reserved"),
    ("wide", "v.csv", b",".join(b"c%dx" % n for n in range(501)) + b"\n1\n", "ColumnNamesInvalid", "501 columns"),
    ("ragged", "v.csv", b"a,b\n1,2\n1,2,3\n", "SchemaMismatch", "expected 2 columns, found 3"),
    ("open quote", "v.csv", b'a,b\n1,"2\n', "SchemaMismatch", "quote"),
    ("latin", "v.csv", b"a,b\n1,caf\xe9\n2,x\n3,yyyy\n", "FileUnreadable", "line 2: is not UTF-8"),
    ("utf-16", "v.csv", "a,b\n1,2\n".encode("utf-16"), "FileUnreadable", "is UTF-16"),
    ("binary", "v.csv", b"a,b\n\x00\x01,2\n", "FileUnreadable", "binary"),
    ("gzip", "v.csv", b"\x1f\x8b\x08\x00abc", "FileUnreadable", "gzip"),
    ("excel", "v.csv", b"PK\x03\x04abc", "FileUnreadable", "Excel"),
    ("suffix", "v.txt", b"a,b\n1,2\n", "SourceFormatMismatch", ".parquet"),
    ("parquet as csv", "v.csv", _parquet(pa.table({"a": [1]})), "SourceFormatMismatch", "is Parquet"),
    ("csv as parquet", "v.parquet", b"a,b\n1,2\n", "FileUnreadable", "not a complete Parquet file"),
    ("torn parquet", "v.parquet", b"PAR1abcPAR1", "FileUnreadable", "not a complete Parquet file"),
    ("empty parquet", "v.parquet", _parquet(pa.table({"a": pa.array([], pa.int32())})), "SourceEmpty", "no row"),
    (
        "decimal and list", "v.parquet", _parquet(pa.table({"d": [decimal.Decimal("1.5")], "l": [[1]], "a": [1]})),
        "ColumnTypeUnsupported", "d (decimal128(2, 1)), l (list",
    ),
    ("json array", "v.json", b"[1]\n", "SchemaMismatch", "one JSON object per line"),
    ("json text", "v.json", b"{\n \"a\": 1}\n", "SchemaMismatch", "row 1"),
    ("nested json", "v.json", b'{"a": {"b": 1}}\n', "ColumnTypeUnsupported", "member 'a' has values of the types object"),
    ("mixed json", "v.ndjson", b'{"a": 1}\n{"a": "x"}\n', "ColumnTypeUnsupported", "number, string"),
    ("json without members", "v.json", b"{}\n", "SourceEmpty", "no members"),
    ("blank json", "v.json", b"\n\n", "SourceEmpty", "no row"),
    ("json name", "v.json", b'{"a`b": 1}\n', "ColumnNamesInvalid", "backticks"),
    ("folder", "v.csv", lambda path: path.mkdir(), "FileUnreadable", "is a folder"),
    ("missing", "v.csv", lambda path: None, "FileNotFound", "does not exist"),
    ("loop", "v.csv", lambda path: path.symlink_to(path), "FileUnreadable", "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "code", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_file_is_an_error_with_a_remedy_and_writes_nothing(
    name: str, content: bytes | Callable[[Path], None], code: str, words: str
) -> None:
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    else:
        content(Path(name))
    exit_code, error = init(name)
    assert (error["code"], exit_code) == (code, 3 if code == "FileNotFound" else 2), error
    assert words in error["message"] + error["hint"]
    assert error["hint"]
    assert "caf" not in str(error)
    assert not Path("v.yaml").exists()


def test_an_existing_file_is_replaced_only_with_force() -> None:
    Path("v.csv").write_text("a,b\nx,y\n")
    Path("v.yaml").write_text("mine\n")
    assert init("v.csv")[1]["code"] == "FileExists"
    assert Path("v.yaml").read_text() == "mine\n"
    assert init("v.csv", "--to", "other.yaml")[0] == 0
    assert init("v.csv", "--force")[0] == 0
    assert load_dataset_spec(Path("v.yaml")).name == "v"


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("--to", "."), "FileExists", 5),
        (("--to", ".", "--force"), "FileExists", 5),
        (("--to", "none/x.yaml"), "FileNotWritable", 2),
        (("--name", "Bad Name"), "InvalidName", 2),
    ],
)
def test_a_wrong_target_or_name_is_refused(words: tuple[str, ...], code: str, exit_code: int) -> None:
    Path("v.csv").write_text("a,b\nx,y\n")
    found, error = init("v.csv", *words)
    assert (error["code"], found) == (code, exit_code)


def test_a_file_that_never_ends_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "SAMPLE_BYTES", 1000)
    Path("v.csv").write_text("a,b\n" + '1,"x\ny"\n' * 10_000)
    exit_code, record = init("v.csv")
    assert (exit_code, record["whole_file"], record["columns"]) == (0, False, {"a": "integer", "b": "string"})
    Path("v.csv").write_bytes(b"a,b\n" + b"x" * 5000)
    assert init("v.csv", "--force")[1]["code"] == "SchemaMismatch"


def test_a_quote_that_is_never_closed_does_not_hide_the_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "SAMPLE_BYTES", 10_000)
    Path("v.csv").write_text("a,b\n1,x\n" + '2,"y\n' + "3,z\n" * 10_000)
    assert "has no end of a row in its first 10000 bytes" in init("v.csv")[1]["message"]


_values = st.one_of(
    st.integers(-(2**70), 2**70).map(str), st.floats().map(str), st.dates().map(str), st.datetimes().map(str), st.booleans().map(str),
    st.sampled_from(["", "0x1F", "1_000", "nan", "NULL", "00", "-", "+1", "1,5", 'say "x"', "a\nb", " 1", "2024-13-01", "1e400", "٣"]),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8),
)  # fmt: skip
_headers = st.lists(
    st.sampled_from(["id", "on", "no", "null", "a b", "x: y", "#n", "'q'", "e-mail", "user_id", "true1", "[l]"]),
    min_size=1,
    max_size=4,
    unique=True,
)


@settings(max_examples=20)
@given(names=_headers, rows=st.lists(st.lists(_values, min_size=4, max_size=4), min_size=1, max_size=5))
def test_whatever_is_inferred_passes_the_checks_of_file_and_rows(names: list[str], rows: list[list[str]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if set(value) & set('",\n\r') else value

    lines = [names, *(row[: len(names)] for row in rows)]
    if all(not "".join(line).strip() for line in lines[1:]):
        return
    Path("v.csv").write_text("".join(",".join(map(quoted, line)) + "\n" for line in lines), encoding="utf-8", newline="")
    write_dataset_file(Path("v.csv"), None, force=True)
    check_file(Path("v.csv"), load_dataset_spec(Path("v.yaml")).dataset_schema())


@pytest.mark.parametrize(("persons", "dimensions"), [(2000, ["town"]), (900, [])])
def test_a_column_of_many_values_is_a_dimension_only_if_each_value_has_enough_persons(persons: int, dimensions: list[str]) -> None:
    Path("v.csv").write_text("user_id,town\n" + "".join(f"u{number},town {number % 80}\n" for number in range(persons)))
    _, record = init("v.csv")
    assert (record["dimensions"], list(record["left_out"])) == (dimensions, [] if dimensions else ["town"])
