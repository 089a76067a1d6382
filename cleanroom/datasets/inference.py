"""Infers the columns of a dataset from a bounded sample of a file of CSV, JSON lines or Parquet.

The result never contains a value of the file. Types are those with which the product's own reader reads the sample.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cleanroom.datasets import readers
from cleanroom.datasets.inferred import InferredColumn, InferredFile, require_names
from cleanroom.datasets.pure.csv_rows import PureCsv, PureCsvRows, csv_header
from cleanroom.datasets.pure.json_rows import json_objects, kind_of
from cleanroom.datasets.pure.values import INTEGER_LIMITS
from cleanroom.datasets.row_blocks import BOM
from cleanroom.documents.dataset import SUFFIXES, CsvDialect, FieldType
from cleanroom.errors import InvalidInput, NotFound

SAMPLE_BYTES: Final = 4 << 20
"""Bytes of a text file that are read."""
MAX_CUT_LINES: Final = 1000
"""A row that the sample cuts must have fewer line breaks than this: more come from a quotation mark that is never closed."""
_DELIMITERS: Final = (",", ";", "\t", "|")
_MIXED: Final = 0.9
"""If so many values of a text column have another type, the rest is probably a mistake."""
_TYPES: Final[tuple[tuple[FieldType, re.Pattern[str]], ...]] = (
    ("boolean", re.compile(r"true|false|True|False|TRUE|FALSE")),
    ("long", re.compile(r"-?(0|[1-9][0-9]{0,18})")),
    ("number", re.compile(r"-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?")),
    ("date", re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")),
    ("timestamp", re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?")),
)
_ENCODINGS: Final = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "ZIP or Excel"))
_VALUE: Final = re.compile(r"^\s*(-?\d[\d.,:/ T-]*|true|false|)\s*$", re.IGNORECASE)


def infer_file(path: Path, *, header: bool = True) -> InferredFile:
    """Infer the columns of a file from its beginning.

    Args:
        path: A file of CSV, JSON lines or Parquet.
        header: Whether the first line of a CSV file names the columns.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``SourceFormatMismatch``, ``FileUnreadable``, ``SourceEmpty``, ``HeaderMissing``, ``ColumnNamesInvalid``,
            ``ColumnTypeUnsupported``, ``SchemaMismatch``.
    """
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise InvalidInput(
                "FileUnreadable", f"{path}: is a folder.", hint="Name one file in it. A dataset may have many files of one kind."
            )
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"File {path} does not exist.", hint="Check the path.") from error
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput("FileUnreadable", f"{path}: cannot be read.", cause=cause, hint="Check the path and its permissions.") from error
    if not head:
        raise InvalidInput("SourceEmpty", f"{path}: the file is empty.", hint="Name a file with rows.")
    if head == b"PAR1" or suffix == ".parquet":
        from cleanroom.datasets.parquet_inference import infer_parquet

        found = infer_parquet(path)
        if suffix != ".parquet":
            raise InvalidInput("SourceFormatMismatch", f"{path}: is Parquet, but is not named so.", hint="Rename it to end in .parquet.")
    elif suffix == ".csv":
        found = _infer_csv(path, header)
    elif suffix in SUFFIXES["json"]:
        found = _infer_json(path)
    else:
        yaml = suffix in (".yaml", ".yml")
        raise InvalidInput(
            "SourceFormatMismatch",
            f"{path}: the name does not end in {', '.join(ending for endings in SUFFIXES.values() for ending in endings)}.",
            hint="`cleanroom dataset init ROWS` reads rows and writes the YAML file; `cleanroom dataset check FILE` checks a YAML file."
            if yaml
            else "Rename a file of one of these formats, or convert the file.",
        )
    return replace(found, day=re.fullmatch(r"\d{4}-\d{2}-\d{2}", path.absolute().parent.name) is not None)


# ------------------------------------------------------------------ CSV


def _infer_csv(path: Path, header: bool) -> InferredFile:
    text, whole = _sample(path)
    dialect = _dialect(text)
    if not whole:
        text = _whole_rows(path, text, dialect)
    names, start = csv_header(text, str(path), dialect)
    if header:
        _require_header(path, names)
        require_names(path, list(names), "Rename these columns in the header of the file.")
        rows = text[start:]
    else:
        names, rows = tuple(f"c{number}" for number in range(1, len(names) + 1)), text.removeprefix(BOM)
    if not rows.strip() and not whole:
        raise InvalidInput("SchemaMismatch", f"{path}: its first row has more than {SAMPLE_BYTES} bytes.", hint="Check that it is CSV.")
    if not rows.strip():
        raise InvalidInput("SourceEmpty", f"{path}: the header is followed by nothing.", hint="Name a file with rows.")
    texts: dict[str, FieldType] = dict.fromkeys(names, "string")
    table = list(PureCsv(texts, str(path), names, dialect).read(rows, 1))
    columns = [_text_column(name, Counter(values)) for name, values in zip(names, zip(*table, strict=True), strict=True)]
    columns = _as_the_reader_reads(rows, columns, names, dialect)
    return InferredFile("csv", tuple(columns), len(table), whole, header, dialect)


def _sample(path: Path) -> tuple[bytes, bool]:
    """Return the beginning of a text file, and whether that is all of it."""
    with path.open("rb") as file:
        text = file.read(SAMPLE_BYTES + 1)
    _require_text(path, text)
    return text[:SAMPLE_BYTES], len(text) <= SAMPLE_BYTES


def _require_text(path: Path, text: bytes) -> None:
    kind = next((name for start, name in _ENCODINGS if text.startswith(start)), None)
    if kind is None and b"\0" in text:
        kind = "binary data"
    if kind is not None:
        hint = "Convert it: iconv -f UTF-16 -t UTF-8." if kind == "UTF-16" else "Name an unpacked CSV or Parquet file."
        raise InvalidInput("FileUnreadable", f"{path}: is {kind}, not UTF-8 text.", hint=hint)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if error.start >= len(text) - 4:
            return  # The sample ends within a character.
        line = text.count(b"\n", 0, error.start) + 1
        hint = "Convert it, for example from Latin-1: iconv -f ISO-8859-1 -t UTF-8."
        raise InvalidInput("FileUnreadable", f"{path}, line {line}: is not UTF-8 text.", hint=hint) from error


def _whole_rows(path: Path, text: bytes, dialect: CsvDialect | None) -> bytes:
    """Return the sample up to its last end of a row."""
    end = PureCsvRows(dialect).last_end(text)
    if end == 0 or text.count(b"\n", end) >= MAX_CUT_LINES:
        raise InvalidInput(
            "SchemaMismatch", f"{path}: has no end of a row in its first {SAMPLE_BYTES} bytes.", hint="Check that it is CSV."
        )
    return text[:end]


def _dialect(text: bytes) -> CsvDialect | None:
    """Return the dialect with the delimiter that the first line contains most often, or None for commas."""
    first = text.split(b"\n", 1)[0].decode("utf-8", "replace")
    counts = {delimiter: first.count(delimiter) for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda delimiter: counts[delimiter])
    return CsvDialect(delimiter=best) if counts[best] > counts[","] else None


def _require_header(path: Path, names: tuple[str, ...]) -> None:
    """Refuse a first line that looks like a row. The error does not repeat it, because it may be a person's."""
    values = [number for number, name in enumerate(names, 1) if _VALUE.match(name)]
    if not values:
        return
    raise InvalidInput(
        "HeaderMissing",
        f"{path}: the first line does not name the columns; column {values[0]} is empty, a number or a date.",
        hint="Add a header with names, or pass --no-header: columns are then named c1, c2 and so on, for you to rename.",
    )


def _text_column(name: str, values: Counter[str | None]) -> InferredColumn:
    """Infer the type of a column from its different values and how often each occurs; None is no value."""
    nulls = values.pop(None, 0)
    given, distinct = values.total(), len(values)
    if not given:
        return InferredColumn(name, "string", nulls, distinct, "no sampled row has a value, so the type is a guess")
    best, share = "", 0.0
    for kind, pattern in _TYPES:
        matching = sum(count for value, count in values.items() if value is not None and pattern.fullmatch(value))
        if matching == given:
            return _narrowed(InferredColumn(name, kind, nulls, distinct), values)
        if matching / given > share:
            best, share = kind, matching / given
    note = ""
    if share >= _MIXED:
        others = given - round(share * given)
        note = f"mixed: {others} of {given} values are not of type {best}; correct them to use that type"
    return InferredColumn(name, "string", nulls, distinct, note)


def _narrowed(column: InferredColumn, values: Counter[str | None]) -> InferredColumn:
    if column.type == "number" and "" in values:
        return replace(column, type="string")
    if column.type != "long":
        return column
    kind = _integer_type([int(value) for value in values if value is not None])
    if kind is not None:
        return replace(column, type=kind)
    return replace(column, type="string", note="numbers are larger than 64 bits, so they are kept as text")


def _integer_type(values: list[int]) -> FieldType | None:
    kinds: tuple[FieldType, ...] = ("integer", "long")
    return next((kind for kind in kinds if INTEGER_LIMITS[kind][0] <= min(values) and max(values) <= INTEGER_LIMITS[kind][1]), None)


def _as_the_reader_reads(
    rows: bytes, columns: list[InferredColumn], names: tuple[str, ...], dialect: CsvDialect | None
) -> list[InferredColumn]:
    """Turn each column that the product's reader does not accept with its type into text."""

    def check(types: Mapping[str, FieldType]) -> None:
        readers.check_csv(io.BytesIO(rows), types, where="sample", header=names, dialect=dialect)

    return _as_text_where_refused(columns, check)


def _as_text_where_refused(columns: list[InferredColumn], check: Callable[[Mapping[str, FieldType]], None]) -> list[InferredColumn]:
    for _ in range(len(columns) + 1):
        types: dict[str, FieldType] = {column.name: column.type for column in columns}
        try:
            check(types)
        except InvalidInput as error:
            wrong = error.details.get("column")
            if wrong is None or types[wrong] == "string":
                raise
            note = f"not every sampled value is a valid {types[wrong]}"
            columns = [replace(column, type="string", note=note) if column.name == wrong else column for column in columns]
        else:
            break
    return columns


# ------------------------------------------------------------------ JSON lines


def _infer_json(path: Path) -> InferredFile:
    text, whole = _sample(path)
    text = text.removeprefix(BOM)
    if not whole:
        end = text.rfind(b"\n") + 1
        if not end:
            raise InvalidInput("SchemaMismatch", f"{path}: its first line has more than {SAMPLE_BYTES} bytes.", hint="Use JSON lines.")
        text = text[:end]
    rows = list(json_objects(text, str(path), 1))
    if not rows:
        raise InvalidInput("SourceEmpty", f"{path}: has no row.", hint="Name a file with rows.")
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row:
            values.setdefault(name, []).append(value)
    if not values:
        raise InvalidInput("SourceEmpty", f"{path}: its objects have no members.", hint="Name a file with rows.")
    require_names(path, list(values), "Rename these members in the program that writes the file.")
    columns = [_json_column(path, name, found, len(rows)) for name, found in values.items()]

    def check(types: Mapping[str, FieldType]) -> None:
        for _ in readers.read_json_lines(io.BytesIO(text), types, list(types), where="sample", at_start=False):
            pass

    return InferredFile("json", tuple(_as_text_where_refused(columns, check)), len(rows), whole)


def _json_column(path: Path, name: str, found: list[Any], rows: int) -> InferredColumn:
    """Infer the type of a column from the values that its rows have."""
    values = [value for value in found if value is not None]
    nulls, kinds = rows - len(values), {kind_of(value) for value in values}
    if len(kinds) > 1 or kinds & {"array", "object"}:
        raise InvalidInput(
            "ColumnTypeUnsupported",
            f"{path}: member {name!r} has values of the types {', '.join(sorted(kinds))}; a column has one, of text, numbers or booleans.",
            hint="Write the member with one type in every row, or leave it out.",
        )
    distinct = len(set(values))
    if kinds == {"boolean"}:
        return InferredColumn(name, "boolean", nulls, distinct)
    if kinds == {"number"}:
        whole = all(re.fullmatch(r"-?[0-9]{1,19}", value) for value in values)
        return InferredColumn(name, (_integer_type([int(value) for value in values]) if whole else None) or "number", nulls, distinct)
    texts = _text_column(name, Counter(values))
    if texts.type in ("date", "timestamp"):
        return replace(texts, nulls=nulls)
    return InferredColumn(name, "string", nulls, distinct, texts.note if not values else "")
