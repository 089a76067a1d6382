"""Infers the columns of a dataset from a bounded sample of a CSV or Parquet file.

The result never contains a value of the file. Types are those with which the product's own reader reads the sample.
"""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleanroom.datasets.csv_text import TextLayout, check_csv, csv_header, read_csv
from cleanroom.datasets.row_blocks import BOM, CsvRows
from cleanroom.datasets.schema import ARROW_TYPES, accepts, arrow_schema
from cleanroom.documents.dataset import MAX_COLUMNS, CsvDialect, FieldType, Format
from cleanroom.documents.dataset_rules import column_problems
from cleanroom.errors import InvalidInput, NotFound

SAMPLE_BYTES: Final = 4 << 20
"""Bytes of a CSV file that are read."""
MAX_CUT_LINES: Final = 1000
"""A row that the sample cuts must have fewer line breaks than this: more come from a quotation mark that is never closed."""
SAMPLE_ROWS: Final = 50_000
"""Rows of a Parquet file that are read."""
_DELIMITERS: Final = (",", ";", "\t", "|")
_MIXED: Final = 0.9
"""If so many values of a text column have another type, the rest is probably a mistake."""
_TYPES: Final[tuple[tuple[FieldType, str], ...]] = (
    ("boolean", r"^(true|false|True|False|TRUE|FALSE)$"),
    ("long", r"^-?(0|[1-9][0-9]{0,18})$"),
    ("number", r"^-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?$"),
    ("date", r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
    ("timestamp", r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?$"),
)
_ENCODINGS: Final = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "ZIP or Excel"))
_VALUE: Final = re.compile(r"^\s*(-?\d[\d.,:/ T-]*|true|false|)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class InferredColumn:
    """A column as the sample shows it.

    Attributes:
        name: Its name.
        type: The type with which every sampled value can be read.
        nulls: Sampled rows without a value.
        distinct: Different values in the sample.
        note: What its owner should look at; empty if nothing.
    """

    name: str
    type: FieldType
    nulls: int
    distinct: int
    note: str = ""


@dataclass(frozen=True)
class InferredFile:
    """What was inferred from a file.

    Attributes:
        format: CSV or Parquet.
        columns: The columns in file order.
        rows: Sampled rows.
        whole: Whether the sample is the whole file.
        header: Whether a CSV file begins with a header.
        dialect: How a CSV file deviates from RFC 4180, or None.
        day: Whether the file is in a folder ``yyyy-MM-dd``.
    """

    format: Format
    columns: tuple[InferredColumn, ...]
    rows: int
    whole: bool
    header: bool = True
    dialect: CsvDialect | None = None
    day: bool = False


def infer_file(path: Path, *, header: bool = True) -> InferredFile:
    """Infer the columns of a file from its beginning.

    Args:
        path: A CSV or Parquet file.
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
        found = _infer_parquet(path)
        if suffix != ".parquet":
            raise InvalidInput("SourceFormatMismatch", f"{path}: is Parquet, but is not named so.", hint="Rename it to end in .parquet.")
    elif suffix == ".csv":
        found = _infer_csv(path, header)
    else:
        raise InvalidInput(
            "SourceFormatMismatch",
            f"{path}: the name ends neither in .csv nor in .parquet.",
            hint="Rename a file of one of these formats, or convert the file.",
        )
    return replace(found, day=re.fullmatch(r"\d{4}-\d{2}-\d{2}", path.absolute().parent.name) is not None)


def _require_names(path: Path, names: list[str], hint: str) -> None:
    problems = column_problems(names)
    if len(names) > MAX_COLUMNS:
        problems.append(f"it has {len(names)} columns; the maximum is {MAX_COLUMNS}")
    if problems:
        raise InvalidInput("ColumnNamesInvalid", f"{path}: {'; '.join(problems)}.", hint=hint)


# ------------------------------------------------------------------ CSV


def _infer_csv(path: Path, header: bool) -> InferredFile:
    with path.open("rb") as file:
        text = file.read(SAMPLE_BYTES + 1)
    whole = len(text) <= SAMPLE_BYTES
    _require_text(path, text)
    dialect = _dialect(text)
    if not whole:
        text = _whole_rows(path, text[:SAMPLE_BYTES], dialect)
    where = str(path)
    if header:
        names, start = csv_header(text, where, dialect)
        _require_header(path, names)
        _require_names(path, list(names), "Rename these columns in the header of the file.")
        rows = text[start:]
    else:
        count = len(csv_header(text, where, dialect)[0])
        names, rows = tuple(f"c{number}" for number in range(1, count + 1)), text.removeprefix(BOM)
    if not rows.strip() and not whole:
        raise InvalidInput("SchemaMismatch", f"{path}: its first row has more than {SAMPLE_BYTES} bytes.", hint="Check that it is CSV.")
    if not rows.strip():
        raise InvalidInput("SourceEmpty", f"{path}: the header is followed by nothing.", hint="Name a file with rows.")
    texts: dict[str, FieldType] = dict.fromkeys(names, "string")
    layout = TextLayout(names, newlines_in_values=True, dialect=dialect)
    batches = list(read_csv(io.BytesIO(rows), texts, list(names), where=where, layout=layout))
    table = pa.Table.from_batches(batches, schema=arrow_schema(texts))
    columns = [_text_column(name, table.column(name)) for name in names]
    columns = _as_the_reader_reads(rows, columns, names, dialect)
    return InferredFile("csv", tuple(columns), table.num_rows, whole, header, dialect)


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
    end = CsvRows(dialect).last_end(text)
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


def _text_column(name: str, column: pa.ChunkedArray) -> InferredColumn:
    """Infer the type of a column from its text."""
    nulls, distinct = column.null_count, _distinct(column)
    given = len(column) - nulls
    if not given:
        return InferredColumn(name, "string", nulls, distinct, "no sampled row has a value, so the type is a guess")
    best, share = "", 0.0
    for kind, pattern in _TYPES:
        matching = pc.sum(pc.match_substring_regex(column, pattern)).as_py() or 0
        if matching == given:
            return _narrowed(InferredColumn(name, kind, nulls, distinct), column)
        if matching / given > share:
            best, share = kind, matching / given
    note = ""
    if share >= _MIXED:
        others = given - round(share * given)
        note = f"mixed: {others} of {given} values are not of type {best}; correct them to use that type"
    return InferredColumn(name, "string", nulls, distinct, note)


def _narrowed(column: InferredColumn, values: pa.ChunkedArray) -> InferredColumn:
    if column.type == "number" and pc.any(pc.match_substring_regex(values, r"^$")).as_py():
        return replace(column, type="string")
    if column.type != "long":
        return column
    integers: tuple[FieldType, ...] = ("integer", "long")
    for kind in integers:
        try:
            pc.cast(values, ARROW_TYPES[kind])
        except pa.ArrowInvalid:
            continue
        return replace(column, type=kind)
    return replace(column, type="string", note="numbers are larger than 64 bits, so they are kept as text")


def _as_the_reader_reads(
    rows: bytes, columns: list[InferredColumn], names: tuple[str, ...], dialect: CsvDialect | None
) -> list[InferredColumn]:
    """Turn each column that the product's reader does not accept with its type into text."""
    for _ in range(len(columns) + 1):
        types: dict[str, FieldType] = {column.name: column.type for column in columns}
        try:
            check_csv(io.BytesIO(rows), types, where="sample", header=names, dialect=dialect)
        except InvalidInput as error:
            wrong = error.details.get("column")
            if wrong is None or types[wrong] == "string":
                raise
            note = f"not every sampled value is a valid {types[wrong]}"
            columns = [replace(column, type="string", note=note) if column.name == wrong else column for column in columns]
        else:
            break
    return columns


# ------------------------------------------------------------------ Parquet


def _infer_parquet(path: Path) -> InferredFile:
    try:
        file = pq.ParquetFile(path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(
            "FileUnreadable", f"{path}: is not a complete Parquet file.", hint="Check the path, or write it again."
        ) from error
    _require_names(path, list(schema.names), "Rename these columns in the program that writes the file.")
    types = {field.name: next((kind for kind in ARROW_TYPES if accepts(kind, field.type)), None) for field in schema}
    if wrong := [f"{field.name} ({field.type})" for field in schema if types[field.name] is None]:
        raise InvalidInput(
            "ColumnTypeUnsupported",
            f"{path}: datasets have no type for {', '.join(wrong)}.",
            hint="Write these columns as text, numbers, dates or times, or leave them out of the file.",
        )
    if not rows:
        raise InvalidInput("SourceEmpty", f"{path}: has no row.", hint="Name a file with rows.")
    columns = _parquet_columns(path, file, {name: kind for name, kind in types.items() if kind is not None})
    return InferredFile("parquet", tuple(columns), min(rows, SAMPLE_ROWS), rows <= SAMPLE_ROWS)


def _parquet_columns(path: Path, file: pq.ParquetFile, types: dict[str, FieldType]) -> list[InferredColumn]:
    try:
        batches = list(itertools.islice(file.iter_batches(batch_size=SAMPLE_ROWS // 10, use_threads=False), 10))
        sample = pa.Table.from_batches(batches).slice(0, SAMPLE_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput("FileUnreadable", f"{path}: its rows cannot be read.", hint="Write the file again.") from error
    return [InferredColumn(name, kind, sample.column(name).null_count, _distinct(sample.column(name))) for name, kind in types.items()]


def _distinct(column: pa.ChunkedArray) -> int:
    return len(column.unique().drop_null())
