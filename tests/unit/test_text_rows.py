"""Text is read as it is written or refused, with the same answer at upload, in the pod and at the receiver."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cleanroom.datasets import row_blocks
from cleanroom.datasets.check import check_file
from cleanroom.datasets.csv_text import TextLayout, csv_header, read_csv
from cleanroom.datasets.encryption import FIRST_PLAIN_BYTES
from cleanroom.datasets.json_lines import read_json_lines
from cleanroom.documents.dataset import CsvDialect, DatasetSchema, FieldType, SchemaField
from cleanroom.errors import InvalidInput
from tests.unit.sparkapp_dataset import DatasetWorld

TWO: dict[str, FieldType] = {"id": "long", "text": "string"}
ONE: dict[str, FieldType] = {"text": "string"}
SPARK = CsvDialect(escape_character="\\")


def world(tmp_path: Path, *, types: dict[str, FieldType] = TWO, **dataset: Any) -> DatasetWorld:
    return DatasetWorld(tmp_path / "world", schema_fields=types, allowed_fields=tuple(types), **dataset)


def uploaded(
    tmp_path: Path, data: bytes, *, types: dict[str, FieldType] = TWO, name: str = "a.csv", **dataset: Any
) -> dict[str, list[Any]]:
    """Upload a file, and return what the pod reads."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / name).write_bytes(data)
    place = world(tmp_path, types=types, format="csv" if name.endswith(".csv") else "json", **dataset)
    place.upload(folder)
    return dict(place.read(tuple(types)).to_pydict())


def stored_by_another_tool(tmp_path: Path, data: bytes, *, name: str = "a.csv", types: dict[str, FieldType] = TWO) -> pa.Table:
    place = world(tmp_path / "other", types=types, format="csv" if name.endswith(".csv") else "json")
    place.put_sealed(name, data)
    return place.read(tuple(types))


def both_refuse(tmp_path: Path, data: bytes, words: str, *, name: str = "a.csv", types: dict[str, FieldType] = TWO) -> InvalidInput:
    """Check that upload and pod refuse a file with the same words."""
    with pytest.raises(InvalidInput, match=words) as caught:
        uploaded(tmp_path, data, name=name, types=types)
    assert caught.value.code == "SchemaMismatch"
    with pytest.raises(InvalidInput, match=words):
        stored_by_another_tool(tmp_path, data, name=name, types=types)
    return caught.value


# --- CSV is RFC 4180


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'1,"abc\n2,def\n3,ghi\n', "column 'text', row 1: .* found a quote that is never closed"),
        (b'0,x\n1,"abc\n2,def\n3,"ghi"\n', "column 'text', row 2: .* found a quote within a value, or text after a closing quote"),
        (b'1,x\n2,"say \\"hi\\" now"\n', "column 'text', row 2: .* found a quote within a value"),
        (b'1,"abc"def\n', "column 'text', row 1: .* text after a closing quote"),
        (b'1,abc"def"\n', "column 'text', row 1: .* found a quote within a value"),
        (b'1, "abc"\n', "column 'text', row 1"),
        (b'1,"abc" \n', "column 'text', row 1"),
        (b'1,""abc""\n', "column 'text', row 1"),
        (b'\n"1"x,a\n', "column 'id', row 1"),
        (b"1,a\r2,b\r\n", "column 'text', row 1: .* found a carriage return without a line feed"),
        (b"1,a\n2,b\r", "column 'text', row 2: .* found a carriage return"),
        (b'1,"a\nb"\n2,"c"d\n', "column 'text', row 2"),
    ],
)
def test_csv_that_is_not_rfc_4180_is_refused_with_row_and_column(tmp_path: Path, text: bytes, words: str) -> None:
    error = both_refuse(tmp_path, text, words)
    assert "RFC 4180" in error.message
    assert error.hint


def test_unclosed_quote_in_the_last_block_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 64)
    text = b"".join(b"%d,abc\n" % number for number in range(100)) + b'100,"abc\n'
    both_refuse(tmp_path, text, "column 'text', row 101: .* never closed")


def test_unclosed_quote_before_a_long_rest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(row_blocks, "MAX_ROW_BYTES", 256)
    both_refuse(tmp_path, b'1,"abc\n' + b"2,def\n" * 500, "rows of at most 256 bytes, found a longer row, or a quote that is never closed")


@pytest.mark.parametrize("by_header", [False, True])
def test_quoted_crlf_on_the_end_of_a_segment_is_kept(tmp_path: Path, by_header: bool) -> None:
    head = (b"id,text\n" if by_header else b"") + b'1,"'
    value = b"z" * (FIRST_PLAIN_BYTES - len(head) - 1) + b"\r\nB"
    found = uploaded(tmp_path, head + value + b'"\n2,b\n', csv_header=by_header)
    assert found == {"id": [1, 2], "text": [value.decode(), "b"]}


@pytest.mark.parametrize("length", [(5 << 20) // 4, 5 << 20])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_row_longer_than_a_segment_is_read_everywhere(tmp_path: Path, length: int, name: str) -> None:
    rows = [{"id": number, "text": "p" * 90} for number in range(9700)] + [{"id": -1, "text": "q" * length}, {"id": -2, "text": "z"}]
    lines = (f"{row['id']},{row['text']}\n" if name == "a.csv" else json.dumps(row) + "\n" for row in rows)
    found = uploaded(tmp_path, "".join(lines).encode(), name=name)
    assert found == {"id": [row["id"] for row in rows], "text": [row["text"] for row in rows]}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_row_above_the_bound_is_refused_everywhere_with_the_bound(tmp_path: Path, name: str) -> None:
    text = "q" * row_blocks.MAX_ROW_BYTES
    row = f"1,{text}\n" if name == "a.csv" else json.dumps({"id": 1, "text": text}) + "\n"
    both_refuse(tmp_path, row.encode() + b"2,z\n" * (name == "a.csv"), f"expected rows of at most {16 << 20} bytes", name=name)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("excess", [0, 1])
def test_bound_of_a_row_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int, excess: int) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(row_blocks, "MAX_ROW_BYTES", 64)
    text = b"0,a\n" * 5 + b"1," + b"q" * (61 + excess) + b"\n2,b\n"

    def rows() -> int:
        return sum(batch.num_rows for batch in read_csv(io.BytesIO(text), TWO, ["id"], where="x"))

    if not excess:
        assert rows() == 7
        return
    with pytest.raises(InvalidInput, match="rows of at most 64 bytes"):
        rows()


@pytest.mark.parametrize("text", [b"a\n\nb\n", b"a\r\n\r\nb\r\n", b"a\n\nb"])
@pytest.mark.parametrize("header", [b"", b"text\n"])
def test_empty_line_of_a_one_column_csv_is_null(tmp_path: Path, text: bytes, header: bytes) -> None:
    assert uploaded(tmp_path, header + text, types=ONE, csv_header=bool(header)) == {"text": ["a", None, "b"]}


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_is_data_only_after_the_header(tmp_path: Path, start: bytes) -> None:
    found = uploaded(tmp_path, start + b"text,id\n" + b"\xef\xbb\xbfa,1\n", csv_header=True)
    assert found == {"id": [1], "text": ["\ufeffa"]}


def test_byte_order_mark_at_the_start_of_a_block_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 5)
    batches = read_csv(io.BytesIO("\ufeffa\n\ufeffb\n\ufeffc\n".encode()), ONE, ["text"], where="x")
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == ["a", "\ufeffb", "\ufeffc"]


def test_byte_order_mark_before_a_number_after_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="column 'id', row 1"):
        uploaded(tmp_path, b"id,text\n\xef\xbb\xbf1,a\n", csv_header=True)


def test_header_line_has_one_bound_everywhere(tmp_path: Path) -> None:
    head = b'"' + b"x" * (70 << 10) + b'",text\n'
    with pytest.raises(InvalidInput, match="header line of at most 65536 bytes"):
        uploaded(tmp_path, head + b"1,a\n", csv_header=True)


@pytest.mark.parametrize("line", [b'id,"text\n', b'id,te"xt\n', b"id\rtext\n"])
def test_header_line_that_is_not_rfc_4180_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"RFC 4180"):
        csv_header(line, "x")


def test_header_may_contain_a_quoted_line_break() -> None:
    assert csv_header(b'\xef\xbb\xbf"a\nb",c\r\n1,2\n', "x") == (("a\nb", "c"), 12)


values = st.text(alphabet='ab"\\\r\n,; \ufeff', max_size=8)


@given(
    rows=st.lists(st.tuples(st.integers(-9, 9), values), max_size=30),
    block=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
    pieces=st.integers(1, 9),
)
@settings(max_examples=300, deadline=None)
def test_csv_values_are_kept_for_every_block_and_piece_size(rows: list[tuple[int, str]], block: int, end: str, pieces: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator=end).writerows(rows)

    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(pieces if size is None or size < 0 else min(size, pieces))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_BYTES", block)
        layout = TextLayout(newlines_in_values=True)
        batches = list(read_csv(Pieces(text.getvalue().encode()), TWO, ["id", "text"], where="x", layout=layout))
    found = [(row["id"], row["text"]) for batch in batches for row in batch.to_pylist()]
    assert found == rows


@given(text=st.text(alphabet='1a",\r\n', max_size=14), block=st.integers(1, 8))
@settings(max_examples=400, deadline=None)
def test_any_csv_text_has_the_same_answer_for_every_block_size(text: str, block: int) -> None:
    def answer() -> object:
        try:
            layout = TextLayout(newlines_in_values=True)
            batches = list(read_csv(io.BytesIO(text.encode()), {"a": "string", "b": "string"}, ["a", "b"], where="x", layout=layout))
        except InvalidInput as error:
            return error.code
        return [row for batch in batches for row in batch.to_pylist()]

    expected = answer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_BYTES", block)
        assert answer() == expected
    if expected != "SchemaMismatch":
        strict = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        assert [[row["a"] or "", row["b"] or ""] for row in expected] == strict  # type: ignore[attr-defined]


# --- declared dialects


@pytest.mark.parametrize(
    ("dialect", "text", "expected"),
    [
        (SPARK, '1,"say \\"hi\\" now"\n2,x\n', ['say "hi" now', "x"]),
        (SPARK, '1,"a\\\\"\n2,""\n3,\n', ["a\\", "", None]),
        (SPARK, '1,"a\\"\n\\"b"\n', ['a"\n"b']),
        (CsvDialect(delimiter=";"), '1;"a;b"\n2;c,d\n', ["a;b", "c,d"]),
        (CsvDialect(delimiter="\t", quoting="none"), '1\t"a" b\n2\t\n', ['"a" b', None]),
        (CsvDialect(quoting="none", escape_character="\\"), "1,a\\,b\n2,c\\\\\n", ["a,b", "c\\"]),
        (CsvDialect(null_text="NULL"), '1,NULL\n2,"NULL"\n3,\n', [None, "NULL", ""]),
    ],
)
def test_declared_dialect_is_read(tmp_path: Path, dialect: CsvDialect, text: str, expected: list[str | None]) -> None:
    assert uploaded(tmp_path, text.encode(), csv_dialect=dialect)["text"] == expected


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (SPARK, '1,"a""b"\n'),
        (SPARK, "1,C:\\temp\n"),
        (SPARK, '1,a\\"b\n'),
        (SPARK, '1,"C:\\temp"\n'),
        (SPARK, '1,"a\\"\n'),
        (CsvDialect(quoting="none", escape_character="\\"), "1,a\\nb\n"),
        (CsvDialect(quoting="none", escape_character="\\"), "1,a\\\nb\n"),
    ],
)
def test_text_that_a_dialect_leaves_ambiguous_is_refused(tmp_path: Path, dialect: CsvDialect, text: str) -> None:
    with pytest.raises(InvalidInput, match="column 'text', row 1"):
        uploaded(tmp_path, text.encode(), csv_dialect=dialect)


@pytest.mark.parametrize(
    "members",
    [
        {"delimiter": '"'},
        {"delimiter": "\n"},
        {"delimiter": "a"},
        {"delimiter": ";;"},
        {"delimiter": ";", "escapeCharacter": ";"},
        {"escapeCharacter": '"'},
        {"nullText": "a,b"},
        {"nullText": '"'},
        {"nullText": "\\N", "escapeCharacter": "\\"},
        {"quote": "'"},
    ],
)
def test_dialect_with_ambiguous_members_is_refused(members: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        CsvDialect.model_validate(members)


# --- JSON lines


def test_member_that_first_appears_late_is_null_before(tmp_path: Path) -> None:
    types: dict[str, FieldType] = {"id": "long", "note": "string"}
    text = "".join(json.dumps({"id": number, "pad": "x" * 200}) + "\n" for number in range(30_000)) + '{"id": -1, "note": "first note"}\n'
    found = uploaded(tmp_path, text.encode(), types=types, name="a.jsonl")
    assert found["note"] == [None] * 30_000 + ["first note"]


def test_member_that_never_appears_is_refused_at_upload(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="column 'text': expected string, found no such member"):
        uploaded(tmp_path, b'{"id":1,"texT":"a"}\n', name="a.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"id":1,"text":"a"}\n{"id":2,"text":"caf\xe9"}\n', "row 2: expected UTF-8, found bytes that are not UTF-8"),
        (b'{"id":1,"text":"a","other":"caf\xe9"}\n', "row 1: expected UTF-8"),
        (b'{"id":1,"text":"a"}\n{"id":2,\n"text":"b"}\n', "row 2: expected one JSON object per line"),
        (b'{"id":1,"text":\n"a"} {"id":2,"text":"b"}\n', "row 1: expected one JSON object per line"),
        (b'{"id":1,"text":"a"} {"id":2,"text":"b"}\n', "several objects in a line"),
        (b'{"id":1,"text":"a","x":{}\n,"y":{}}\n', "expected one JSON object per line"),
        (b'[{"id":1,"text":"a"}]\n', "expected one JSON object per line"),
        (b'{"id":1,"text":"a","t\\u0065xt":"b"}\n', "column 'text', row 1: expected string, found the member twice"),
        (b'{"id":1,"text":"a"}\n\xef\xbb\xbf{"id":2,"text":"b"}\n', "row 2: expected one JSON object per line"),
        (b'{"id":1,"text":"\\ud800"}\n', "SchemaMismatch|expected"),
    ],
)
def test_text_that_is_not_json_lines_is_refused_everywhere(tmp_path: Path, text: bytes, words: str) -> None:
    both_refuse(tmp_path, text, words, name="a.jsonl")


@pytest.mark.parametrize("break_", [b"\n", b"\r\n", b" \n ", b"\n\n"])
def test_escaped_member_names_are_the_same_members(tmp_path: Path, break_: bytes) -> None:
    text = break_.join([b'\xef\xbb\xbf{"\\u0069d":1,"t\\u0065xt":"a"}', b'{"id":2}', b""])
    assert uploaded(tmp_path, text, name="a.jsonl") == {"id": [1, 2], "text": ["a", None]}


def test_json_numbers_that_are_not_finite(tmp_path: Path) -> None:
    types: dict[str, FieldType] = {"n": "number", "text": "string"}
    lines = [
        '{"n":"NaN","text":"NaN"}',
        '{"text":"\\"n\\":\\"NaN\\"","n" : "-Infinity"}',
        '{"\\u006e":"Infinity","text":"x"}',
        '{"n":1.5,"text":null}',
    ]
    found = uploaded(tmp_path, "\n".join(lines).encode(), types=types, name="a.jsonl")
    assert str(found["n"]) == "[nan, -inf, inf, 1.5]"
    assert found["text"] == ["NaN", '"n":"NaN"', "x", None]
    with pytest.raises(InvalidInput, match="column 'n', row 1: expected number, found string"):
        list(read_json_lines(io.BytesIO(b'{"n":"Inf"}\n{"n":"NaN"}\n'), types, ["n"], where="x"))


def test_progress_counts_every_byte_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1,a\n" * 1000)
    seen: list[int] = []
    fields = tuple(SchemaField(field_name=name, field_type=kind) for name, kind in TWO.items())
    check_file(tmp_path / "a.csv", DatasetSchema(format="csv", fields=fields), on_data=lambda data: seen.append(len(data)))
    assert sum(seen) == 4000


def test_text_that_was_verified_in_another_dialect_is_verified_again(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b'1,"say \\"hi\\" now"\n')
    place = world(tmp_path, csv_dialect=SPARK)
    place.upload(folder)
    place.dataset = place.dataset.model_copy(update={"csv_dialect": None})
    with pytest.raises(InvalidInput, match="column 'text', row 1"):
        place.read()
    (folder / "a.csv").write_bytes(b"1,a\n")
    place.upload(folder)
    assert place.read().to_pydict() == {"id": [1], "text": ["a"]}
