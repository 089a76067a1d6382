"""The pattern that recognises rows of CSV accepts nothing that the parser refuses, and counts the rows that Python's csv module counts."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.datasets import row_blocks
from cleanroom.datasets.csv_pattern import MOST_COLUMNS, CsvPattern
from cleanroom.datasets.csv_text import TextLayout, check_csv, read_csv
from cleanroom.documents.dataset import CsvDialect, FieldType
from cleanroom.errors import CleanRoomError, InvalidInput
from tests.csv_texts import COMMON, KINDS, ODD, texts


def parsed(text: bytes, kinds: list[FieldType], dialect: CsvDialect) -> int:
    """Return the number of rows that the parser of all columns finds."""
    types = {f"c{number}": kind for number, kind in enumerate(kinds)}
    layout = TextLayout(newlines_in_values=True, dialect=dialect)
    return sum(batch.num_rows for batch in read_csv(io.BytesIO(text), types, list(types), where="x", layout=layout, at_start=False))


@given(texts())
def test_what_the_pattern_accepts_the_parser_accepts_with_the_same_rows(case: tuple[bytes, list[FieldType], CsvDialect]) -> None:
    text, kinds, dialect = case
    counted = CsvPattern(kinds, dialect).count_rows(text)
    if counted is not None:
        assert parsed(text, kinds, dialect) == counted
        rows = list(csv.reader(io.StringIO(text.decode(), newline=""), delimiter=dialect.delimiter, strict=True))
        assert sum(len(row) == len(kinds) or (len(kinds) == 1 and not row) for row in rows) == len(rows) == counted


@pytest.mark.parametrize("kind", KINDS)
def test_no_odd_spelling_is_recognised_that_the_parser_refuses(kind: FieldType) -> None:
    numbers = [sign + digit * length for length in range(1, 22) for digit in "19" for sign in ("", "-")]
    points = [f"{'9' * 15}.{'9' * length}" for length in range(20)] + [
        f"1e{sign}{'9' * length}" for length in range(5) for sign in ("", "-")
    ]
    times = [f"2013-01-01T10:00:00.{'9' * length}Z" for length in range(10)]
    for value in [*ODD, *numbers, *points, *times]:
        text = f"{value},7\n".encode()
        if CsvPattern([kind, "long"], None).count_rows(text) is not None:
            assert parsed(text, [kind, "long"], CsvDialect()) == 1, value


@pytest.mark.parametrize("kind", KINDS)
def test_common_spellings_are_recognised(kind: FieldType) -> None:
    text = "".join(f"{value},7\n" for value in [*COMMON[kind], ""]).encode()
    assert CsvPattern([kind, "long"], None).count_rows(text) == len(COMMON[kind]) + 1 == parsed(text, [kind, "long"], CsvDialect())


def test_exactly_the_days_of_the_calendar_are_dates_except_leap_days() -> None:
    for year in (1600, 1999, 2000, 2023, 2024, 2099):
        for month in range(14):
            for day in range(33):
                try:
                    valid = date(year, month, day) and (month, day) != (2, 29)
                except ValueError:
                    valid = False
                assert (CsvPattern(["date"], None).count_rows(f"{year}-{month:02}-{day:02}\n".encode()) == 1) is bool(valid)


@pytest.mark.parametrize(
    ("text", "kinds", "dialect"),
    [
        (b"1--2\n", ["long", "long"], CsvDialect(delimiter="-")),
        (b"1\\,2,3\n", ["string", "long"], CsvDialect(quoting="none", escape_character="\\")),
        (b"1,2", ["long", "long"], None),
        (b"\xef\xbb\xbf1,2\n", ["string", "long"], None),
        (b"\xff,2\n", ["string", "long"], None),
        (b",".join([b"1"] * (MOST_COLUMNS + 1)) + b"\n", ["long"] * (MOST_COLUMNS + 1), None),
    ],
    ids=["delimiter of numbers", "escapes", "no end of the row", "byte order mark", "not UTF-8", "many columns"],
)
def test_other_text_is_left_to_the_parser(text: bytes, kinds: list[FieldType], dialect: CsvDialect | None) -> None:
    assert CsvPattern(kinds, dialect).count_rows(text) is None


def test_text_of_other_spellings_is_not_tried_for_ever() -> None:
    pattern = CsvPattern(["number"], None)
    assert [pattern.count_rows(text) for text in (b"NaN\n", b"1\n", *[b"NaN\n"] * 4, b"1\n")] == [None, 1, *[None] * 5]


@given(texts(), st.integers(1, 40))
def test_check_agrees_with_the_parser_wherever_blocks_end(case: tuple[bytes, list[FieldType], CsvDialect], size: int) -> None:
    """Quotes, line ends and characters lie across the borders of blocks."""
    text, kinds, dialect = case
    types = {f"c{number}": kind for number, kind in enumerate(kinds)}
    try:
        expected = parsed(text, kinds, dialect)
    except CleanRoomError:
        expected = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_BYTES", size)
        if expected < 0:
            with pytest.raises(InvalidInput, match="SchemaMismatch"):
                check_csv(io.BytesIO(text), types, where="x", header=("c0", *list(types)[1:]), dialect=dialect)
        else:
            found = check_csv(io.BytesIO(text), types, where="x", header=tuple(types), dialect=dialect)
            rows = list(csv.reader(io.StringIO(text.decode(), newline=""), delimiter=dialect.delimiter, strict=True))
            breaks = any("\n" in value or "\r" in value for row in rows for value in row)
            assert found == (expected, breaks)


def test_error_of_a_recognised_file_names_row_and_column(tmp_path: Path) -> None:
    """The bad row is in a later block than the rows that the pattern has counted."""
    text = b"1,a\n" * 600_000 + b"2,\xff\n" + b"3,c\n"
    with pytest.raises(InvalidInput, match="column 'b', row 600001: expected string, found bytes that are not UTF-8"):
        check_csv(io.BytesIO(text), {"a": "long", "b": "string"}, where="x", header=None, dialect=None)
