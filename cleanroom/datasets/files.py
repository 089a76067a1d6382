"""Reads CSV, JSON lines and Parquet as Arrow record batches of a dataset's schema, for the owner's upload and for the pods.

Strict: a missing column, or one of another type, is an error that names file, column, types and row. It never becomes null.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from cleanroom.datasets.csv_numbers import require_plain_numbers
from cleanroom.datasets.row_blocks import BOM, CsvRows, LineRows, Readable, row_blocks
from cleanroom.datasets.schema import ARROW_TYPES, accepts, arrow_schema, convert, schema_mismatch
from cleanroom.documents.dataset import CsvDialect, FieldType, Format
from cleanroom.errors import InvalidInput

SUFFIXES: dict[Format, tuple[str, ...]] = {"csv": (".csv",), "json": (".json", ".jsonl", ".ndjson"), "parquet": (".parquet",)}
"""File name suffixes of each format. Files with other suffixes are not data of the dataset."""

HEADER_BYTES = 64 << 10
"""The longest header line of a CSV object."""

_CSV_COLUMN = re.compile(r"In CSV column #(\d+)")
_ROW = re.compile(r"Row #(\d+)")
_COLUMNS = re.compile(r"Expected (\d+) columns, got (\d+)")
_JSON_KIND = re.compile(r"Column\(/(.+?)\) changed from \w+ to (\w+)")
_STRING = rb'"(?:[^"\\]|\\.)*"'
_ESCAPED_NAME = re.compile(rb'("[^"\\]*\\(?:[^"\\]|\\.)*")\s*:')
_NOT_FINITE = re.compile(rb"(" + _STRING + rb')(\s*:\s*"(NaN|-?Infinity)")?')

# Earlier values differ between the calendars; for times also between time zones (Spark's RebaseDateTime).
_CALENDAR_CHANGE: dict[FieldType, pa.Scalar] = {
    "date": pa.scalar(date(1582, 10, 15)),
    "timestamp": pa.scalar(datetime(1900, 1, 1, tzinfo=UTC), ARROW_TYPES["timestamp"]),
}

# Parsed here from text, because Arrow's parsers reject either times with a zone or times without one.
_FROM_TEXT: tuple[FieldType, ...] = ("date", "timestamp")


@dataclass(frozen=True)
class TextLayout:
    """The layout of the text of a CSV object."""

    header: tuple[str, ...] | None = None
    """Column names in file order, or None if the file has no header line and the schema determines them."""
    newlines_in_values: bool = False
    """Whether quoted values may contain line breaks. Such an object can only be read from its beginning.
    It matters only for verified text; other text is searched for quotes."""
    dialect: CsvDialect | None = None
    """How the text deviates from RFC 4180; None if it does not."""
    verified: bool = False
    """Whether the upload verified the quotes and line ends, so that they need not be verified again."""


def read_csv(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    layout: TextLayout = TextLayout(),
    first_row: int | None = 1,
    at_start: bool = True,
    on_quoted_break: Callable[[], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Read rows of CSV text (RFC 4180, UTF-8, or as ``layout.dialect`` declares).

    An unquoted empty value is null; ``""`` is an empty text. An empty line is no row, except if there is one column:
    then it is a null.

    Args:
        stream: The text, from the start of a row after the header.
        types: Field name to type, in file order unless ``layout.header`` differs.
        columns: The columns to return, a subset of ``types``.
        where: The object's path, for error messages.
        layout: See :class:`TextLayout`.
        first_row: Number of the first row in the file, or None if unknown.
        at_start: Whether this is the start of the object. If so, a byte order mark is dropped; elsewhere it is data.
        on_quoted_break: Called for every block in which a quoted value contains a line break.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    names = list(layout.header or types)
    _require_columns(names, types, where)
    rows = CsvRows(layout.dialect)
    dialect = layout.dialect or CsvDialect()
    # To look for line breaks in values costs Arrow a pass over the text.
    plain, quoted = (_parse_options(dialect, len(names), breaks) for breaks in (False, True))
    conversion = _conversion(dialect, types, columns)
    strings: Mapping[str, FieldType] = dict.fromkeys(types, "string")
    by_line = layout.verified and not layout.newlines_in_values
    for block in row_blocks(stream, LineRows() if by_line else rows, where, at_start=at_start):
        if not layout.verified:
            rows.verify(block, names, where, first_row)
        if on_quoted_break and rows.has_quoted_breaks(block):
            on_quoted_break()
        # Arrow drops one byte order mark at the start of what it reads.
        text = BOM + block if block.startswith(BOM) else block
        parse = plain if by_line or b'"' not in block else quoted
        try:
            table = _arrow_csv(text, names, parse, conversion)
        except pa.ArrowInvalid as error:
            raise _csv_mismatch(error, names, types, where, first_row) from None

        def as_text(suspects: Sequence[str], text: bytes = text, parse: pacsv.ParseOptions = parse) -> pa.Table:
            return _arrow_csv(text, names, parse, _conversion(dialect, strings, suspects))

        require_plain_numbers(block, table, as_text, types, where, first_row)
        for batch in table.to_batches():
            yield _converted(batch, types, columns, where, first_row)
            if first_row is not None:
                first_row += batch.num_rows


def _arrow_csv(text: bytes, names: Sequence[str], parse: pacsv.ParseOptions, conversion: pacsv.ConvertOptions) -> pa.Table:
    read = pacsv.ReadOptions(column_names=list(names), block_size=len(text) + 1, use_threads=False)
    return pacsv.read_csv(pa.BufferReader(text), read_options=read, parse_options=parse, convert_options=conversion)


def _parse_options(dialect: CsvDialect, columns: int, newlines_in_values: bool) -> pacsv.ParseOptions:
    return pacsv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char='"' if dialect.quoting == "rfc4180" else False,
        double_quote=dialect.escape_character is None,
        escape_char=dialect.escape_character or False,
        newlines_in_values=newlines_in_values,
        ignore_empty_lines=columns > 1,
    )


def _conversion(dialect: CsvDialect, types: Mapping[str, FieldType], columns: Sequence[str]) -> pacsv.ConvertOptions:
    text = {name: pa.string() if types[name] in _FROM_TEXT else ARROW_TYPES[types[name]] for name in columns}
    return pacsv.ConvertOptions(
        column_types=text,
        include_columns=list(columns),
        null_values=[dialect.null_text],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def _csv_mismatch(
    error: pa.ArrowInvalid, names: Sequence[str], types: Mapping[str, FieldType], where: str, first_row: int | None
) -> InvalidInput:
    # Arrow's message quotes the value, so take only the positions from it.
    text = str(error)
    row_match = _ROW.search(text)
    row = int(row_match[1]) + first_row - 1 if row_match and first_row is not None else None
    if counts := _COLUMNS.search(text):
        return schema_mismatch(where, None, f"{counts[1]} columns", f"{counts[2]} columns", row=row)
    if column := _CSV_COLUMN.search(text):
        name = names[int(column[1])]
        actual = "bytes that are not UTF-8" if "UTF8" in text else f"a value that is not of type {types[name]}"
        return schema_mismatch(where, name, types[name], actual, row=row)
    return schema_mismatch(where, None, "CSV rows (RFC 4180)", "text that is not CSV", row=row)


def csv_header(head: bytes, where: str, dialect: CsvDialect | None = None) -> tuple[tuple[str, ...], int]:
    """Return the column names in the header line of a CSV object, and the offset after that line.

    Args:
        head: The first :data:`HEADER_BYTES` of the object, or all of it.
        where: The object's path, for error messages.
        dialect: How the text deviates from RFC 4180; None if it does not.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    text = head.removeprefix(BOM)
    rows, dialect = CsvRows(dialect), dialect or CsvDialect()
    end = rows.first_end(text)
    if not end and len(head) >= HEADER_BYTES:
        raise schema_mismatch(where, None, f"a CSV header line of at most {HEADER_BYTES} bytes", "a longer line")
    line = text[:end] if end else text
    rows.verify(line, (), where, None)
    try:
        reader = csv.reader(
            io.StringIO(line.decode("utf-8"), newline=""),
            delimiter=dialect.delimiter,
            quoting=csv.QUOTE_MINIMAL if dialect.quoting == "rfc4180" else csv.QUOTE_NONE,
            escapechar=dialect.escape_character,
            doublequote=dialect.escape_character is None,
            strict=True,
        )
        names = tuple(next(reader, []))
    except (UnicodeDecodeError, csv.Error):
        raise schema_mismatch(where, None, "a CSV header line in UTF-8", "other bytes") from None
    if not names:
        raise schema_mismatch(where, None, "a CSV header line", "an empty line" if head else "an empty file")
    return names, len(head) - len(text) + len(line)


def read_json_lines(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    first_row: int | None = 1,
    at_start: bool = True,
    require_members: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Read rows of JSON lines in UTF-8. ``null`` and an absent member are null.

    A ``number`` may be one of the strings ``NaN``, ``Infinity`` and ``-Infinity``, as Spark writes them.

    Args:
        stream: The text, from the start of a row.
        types: Field name to type.
        columns: The columns to return, a subset of ``types``.
        where: The object's path, for error messages.
        first_row: Number of the first row in the file, or None if unknown.
        at_start: Whether this is the start of the object. If so, a byte order mark is dropped.
        require_members: Whether a column that no row of the stream contains is an error.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    schema = pa.schema([(name, pa.string() if types[name] in _FROM_TEXT else ARROW_TYPES[types[name]]) for name in columns])
    absent = list(columns) if require_members else []
    done = 0
    for block in row_blocks(stream, LineRows(), where, at_start=at_start):
        if not block.strip():
            continue
        row = None if first_row is None else first_row + done
        _require_utf8(block, where, row)
        lines = _json_lines(block, where, row)
        absent = [name for name in absent if not _mentions(block, name)]
        try:
            table = _parse_json(block, schema)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _json_mismatch(error, block, schema, types, where, row) from None
        if table.num_rows != lines:
            raise schema_mismatch(where, None, "one JSON object per line", "several objects in a line")
        for batch in table.to_batches():
            yield _converted(batch, types, columns, where, None if first_row is None else first_row + done)
            done += batch.num_rows
    if absent and done:
        raise schema_mismatch(where, absent[0], types[absent[0]], "no such member in any row")


def _require_utf8(block: bytes, where: str, first_row: int | None) -> None:
    if block.isascii():
        return
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        row = None if first_row is None else first_row + sum(1 for line in block[: error.start].split(b"\n")[:-1] if line.strip())
        raise schema_mismatch(where, None, "UTF-8", "bytes that are not UTF-8", row=row) from None


def _json_lines(block: bytes, where: str, first_row: int | None) -> int:
    """Return the number of lines that are not blank. Each must begin and end an object, so that no object covers two lines."""
    text = block.strip()
    breaks = text.count(b"\n")
    if text.startswith(b"{") and text.endswith(b"}") and breaks == text.count(b"}\n{") + text.count(b"}\r\n{"):
        return breaks + 1
    number = 0
    for line in filter(None, (line.strip() for line in block.split(b"\n"))):
        if not (line.startswith(b"{") and line.endswith(b"}")):
            row = None if first_row is None else first_row + number
            raise schema_mismatch(where, None, "one JSON object per line", "a line that is not one object", row=row)
        number += 1
    return number


def _parse_json(block: bytes, schema: pa.Schema) -> pa.Table:
    try:
        return _arrow_json(block, schema)
    except pa.ArrowInvalid:
        numbers = {field.name for field in schema if pa.types.is_floating(field.type)}
        if not numbers or not (b'"NaN"' in block or b'Infinity"' in block):
            raise
        return _arrow_json(_bare_numbers(block, numbers), schema)


def _arrow_json(block: bytes, schema: pa.Schema) -> pa.Table:
    return pajson.read_json(
        pa.BufferReader(block),
        read_options=pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _bare_numbers(block: bytes, numbers: set[str]) -> bytes:
    """Remove the quotes around numbers that are not finite, which Arrow reads only without quotes."""

    def bare(match: re.Match[bytes]) -> bytes:
        if match[3] is None or json.loads(match[1]) not in numbers:
            return match[0]
        return match[1] + b":" + match[3]

    return _NOT_FINITE.sub(bare, block)


def _json_mismatch(
    error: Exception, block: bytes, schema: pa.Schema, types: Mapping[str, FieldType], where: str, first_row: int | None
) -> InvalidInput:
    for field in schema:
        try:
            _parse_json(block, pa.schema([field]))
        except pa.ArrowInvalid as single:
            text = str(single)
            if kind := _JSON_KIND.search(text):
                actual = kind[2]
            elif "specified twice" in text:
                actual = "the member twice in one row"
            elif "couldn't parse" in text or "Number too big" in text:
                actual = f"a number that is not of type {types[field.name]}"
            else:
                break  # the text itself is not JSON
            row = next(_bad_rows(block, pa.schema([field])), None)
            return schema_mismatch(
                where, field.name, types[field.name], actual, row=None if row is None or first_row is None else first_row + row
            )
    del error
    row = next(_bad_rows(block, pa.schema([])), None)
    return schema_mismatch(
        where, None, "one JSON object per line", "other text", row=None if row is None or first_row is None else first_row + row
    )


def _bad_rows(block: bytes, schema: pa.Schema) -> Iterator[int]:
    for number, line in enumerate(line for line in block.split(b"\n") if line.strip()):
        try:
            _parse_json(line, schema)
        except pa.ArrowInvalid:
            yield number


def _mentions(block: bytes, name: str) -> bool:
    if any(json.dumps(name, ensure_ascii=ascii_only).encode() in block for ascii_only in (False, True)):
        return True
    return b"\\" in block and any(_json_text(match[1]) == name for match in _ESCAPED_NAME.finditer(block))


def _json_text(literal: bytes) -> str | None:
    try:
        return str(json.loads(literal))
    except ValueError:
        return None


def open_parquet(file: BinaryIO, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str) -> pq.ParquetFile:
    """Open a Parquet file and compare its schema with ``types`` for ``columns``.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    with _whole_parquet(where):
        # INT96 timestamps beyond the years 1677 to 2262 do not fit Arrow's default, nanoseconds.
        parquet = _OpenedParquet(file, coerce_int96_timestamp_unit="us")
        if parquet.int96_columns():
            parquet.coarse = pq.ParquetFile(file, coerce_int96_timestamp_unit="ms")
    stored = parquet.schema_arrow
    for name in columns:
        places = stored.get_all_field_indices(name)
        if len(places) != 1:
            raise schema_mismatch(where, name, types[name], "no such column" if not places else f"{len(places)} columns with that name")
        if not accepts(types[name], stored.field(places[0]).type):
            raise schema_mismatch(where, name, types[name], f"type {stored.field(places[0]).type}")
    return parquet


class _OpenedParquet(pq.ParquetFile):  # type: ignore[misc]  # pyarrow is not annotated
    """A Parquet file, and the same file with INT96 timestamps in milliseconds, which detects values that do not fit microseconds."""

    coarse: pq.ParquetFile | None = None

    def int96_columns(self) -> set[str]:
        columns = (self.schema.column(number) for number in range(len(self.schema.names)))
        return {column.path for column in columns if column.physical_type == "INT96"}


def read_parquet(
    parquet: pq.ParquetFile, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read rows of a file from :func:`open_parquet`: those of ``row_groups``, or all if None.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    groups = list(range(parquet.num_row_groups) if row_groups is None else row_groups)
    options: dict[str, Any] = {"batch_size": 1 << 16, "row_groups": groups, "use_threads": False}
    batches = parquet.iter_batches(columns=list(columns), **options)
    int96 = parquet.int96_columns() & set(columns) if isinstance(parquet, _OpenedParquet) else set()
    coarse = parquet.coarse.iter_batches(columns=sorted(int96), **options) if int96 else iter(())
    old = {name for name in columns if in_old_calendar(parquet.metadata.metadata or {}, int96=name in int96)}
    while True:
        with _whole_parquet(where):
            batch, check = next(batches, None), next(coarse, None)
        if batch is None:
            return
        if check is not None:
            for name in int96:
                _require_range(batch.column(name), check.column(name), where, name)
        result = _converted(batch, types, columns, where, None)
        for name in columns:
            _require_parquet_values(result.column(name), types[name], where, name, old_calendar=name in old)
        yield result


def _require_range(micros: pa.Array, millis: pa.Array, where: str, name: str) -> None:
    # The division truncates, and the conversion to milliseconds rounds down.
    difference = pc.subtract(pc.divide(pc.cast(micros, pa.int64()), 1000), pc.cast(millis, pa.int64()))
    if pc.any(pc.greater(pc.abs(difference), 1)).as_py():
        raise schema_mismatch(where, name, "timestamp", "an INT96 value that does not fit microseconds")


def _require_parquet_values(column: pa.Array, field_type: FieldType, where: str, name: str, *, old_calendar: bool) -> None:
    if field_type == "string":
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise schema_mismatch(where, name, field_type, "bytes that are not UTF-8") from None
    if old_calendar and field_type in _CALENDAR_CHANGE:
        first = pc.min(column)
        if first.is_valid and pc.less(first, _CALENDAR_CHANGE[field_type]).as_py():
            raise schema_mismatch(
                where,
                name,
                f"{field_type} values in the proleptic Gregorian calendar",
                "values of Spark's old calendar before the calendars agree",
                hint="Write the file again with spark.sql.parquet.datetimeRebaseModeInWrite and int96RebaseModeInWrite set to CORRECTED.",
            )


def in_old_calendar(metadata: Mapping[bytes, bytes], *, int96: bool) -> bool:
    """Tell whether Spark wrote the file's dates and times in the hybrid Julian calendar.

    The rule is Spark's (``DataSourceUtils.datetimeRebaseSpec`` and ``int96RebaseSpec``). Spark 2 did not always write its version.
    """
    version = re.match(rb"(\d+)\.(\d+)", metadata.get(b"org.apache.spark.version", b""))
    if version is None:
        return b"org.apache.spark.sql.parquet.row.metadata" in metadata
    key, minimum = (b"org.apache.spark.legacyINT96", (3, 1)) if int96 else (b"org.apache.spark.legacyDateTime", (3, 0))
    return key in metadata or (int(version[1]), int(version[2])) < minimum


@contextmanager
def _whole_parquet(where: str) -> Iterator[None]:
    """Convert Arrow's errors about the content of a Parquet file; errors of the underlying stream propagate unchanged."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the operating system; Arrow's OSError for damaged pages has no errno
        raise schema_mismatch(where, None, "a Parquet file", "other bytes") from None


def _require_columns(names: Sequence[str], types: Mapping[str, FieldType], where: str) -> None:
    for name in types:
        if (count := names.count(name)) != 1:
            raise schema_mismatch(
                where, name, types[name], f"{count} columns with that name in the header" if count else "no such column in the header"
            )
    if extra := [name for name in names if name not in types]:
        raise schema_mismatch(where, extra[0], "only columns of the schema", "a column that is not in the schema")


def _converted(
    batch: pa.RecordBatch, types: Mapping[str, FieldType], columns: Sequence[str], where: str, first_row: int | None
) -> pa.RecordBatch:
    arrays = []
    for name in columns:
        column = batch.column(name)
        try:
            arrays.append(convert(column, types[name]))
        except pa.ArrowInvalid:
            row = None if first_row is None else _first_bad(column, types[name], first_row)
            raise schema_mismatch(where, name, types[name], f"a value that is not of type {types[name]}", row=row) from None
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(types, columns))


def _first_bad(column: pa.Array, field_type: FieldType, first_row: int) -> int:
    low, high = 0, len(column)  # the first `low` values are valid, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(column.slice(low, middle - low), field_type)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return first_row + low
