"""Reads CSV, JSON lines and Parquet as Arrow record batches of a dataset's schema, for the owner's upload and for the pods.

Strict: a missing column, or one of another type, is an error that names file, column, types and row. It never becomes null.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from cleanroom.datasets.schema import ARROW_TYPES, accepts, arrow_schema, convert, schema_mismatch
from cleanroom.datasets.streams import ReadOnlyStream
from cleanroom.documents.dataset import FieldType, Format
from cleanroom.errors import InvalidInput

SUFFIXES: dict[Format, tuple[str, ...]] = {"csv": (".csv",), "json": (".json", ".jsonl", ".ndjson"), "parquet": (".parquet",)}
"""File name suffixes of each format. Files with other suffixes are not data of the dataset."""

BLOCK_BYTES = 4 << 20
"""Text is parsed in blocks of this size. A row must be shorter."""

_CSV_COLUMN = re.compile(r"In CSV column #(\d+)")
_ROW = re.compile(r"Row #(\d+)")
_COLUMNS = re.compile(r"Expected (\d+) columns, got (\d+)")
_JSON_KIND = re.compile(r"Column\(/(.+?)\) changed from \w+ to (\w+)")

# Parsed here from text, because Arrow's parsers reject either times with a zone or times without one.
_FROM_TEXT: tuple[FieldType, ...] = ("date", "timestamp")


class Readable(Protocol):
    """A stream for the text readers. ``read`` returns at most ``size`` bytes, and none only at the end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


@dataclass(frozen=True)
class TextLayout:
    """The layout of the text of a CSV object."""

    header: tuple[str, ...] | None = None
    """Column names in file order, or None if the file has no header line and the schema determines them."""
    newlines_in_values: bool = False
    """Whether quoted values may contain line breaks. Such an object can only be read from its beginning."""


def read_csv(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    layout: TextLayout = TextLayout(),
    first_row: int | None = 1,
) -> Iterator[pa.RecordBatch]:
    """Read rows of CSV text (RFC 4180, UTF-8).

    An unquoted empty value is null; ``""`` is an empty text.

    Args:
        stream: The text, from the start of a row after the header.
        types: Field name to type, in file order unless ``layout.header`` differs.
        columns: The columns to return, a subset of ``types``.
        where: The object's path, for error messages.
        layout: See :class:`TextLayout`.
        first_row: Number of the first row in the file, or None if unknown.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    names = list(layout.header or types)
    _require_columns(names, types, where)
    read = pacsv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, use_threads=False)
    parse = pacsv.ParseOptions(newlines_in_values=layout.newlines_in_values)
    text = {name: pa.string() if types[name] in _FROM_TEXT else ARROW_TYPES[types[name]] for name in columns}
    convert_options = pacsv.ConvertOptions(
        column_types=text, include_columns=list(columns), null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    head = stream.read(1)
    if not head:
        return
    done = 0
    try:
        with pacsv.open_csv(_Prepended(head, stream), read_options=read, parse_options=parse, convert_options=convert_options) as reader:
            for batch in reader:
                yield _converted(batch, types, columns, where, None if first_row is None else first_row + done)
                done += batch.num_rows
    except pa.ArrowInvalid as error:
        raise _csv_mismatch(error, names, types, where, first_row) from None


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
    if "straddling" in text or "block" in text:
        return schema_mismatch(where, None, f"rows shorter than {BLOCK_BYTES} bytes", "a longer row", row=row)
    return schema_mismatch(where, None, "CSV rows (RFC 4180)", "text that is not CSV", row=row)


def read_json_lines(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    first_row: int | None = 1,
    at_start: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Read rows of JSON lines. ``null`` and an absent member are null.

    Args:
        stream: The text, from the start of a row.
        types: Field name to type.
        columns: The columns to return, a subset of ``types``.
        where: The object's path, for error messages.
        first_row: Number of the first row in the file, or None if unknown.
        at_start: Whether this is the start of the object. If so, a column that does not occur in the first block is
            an error.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    text = pa.schema([(name, pa.string() if types[name] in _FROM_TEXT else ARROW_TYPES[types[name]]) for name in columns])
    for block in _line_blocks(stream, where):
        if not block.strip():
            continue
        if at_start:
            for name in columns:
                if not _mentions(block, name):
                    raise schema_mismatch(where, name, types[name], "no such member in the first rows")
            at_start = False
        try:
            table = _parse_json(block, text)
        except pa.ArrowInvalid as error:
            raise _json_mismatch(error, block, text, types, where, first_row) from None
        for batch in table.to_batches():
            yield _converted(batch, types, columns, where, first_row)
            if first_row is not None:
                first_row += batch.num_rows


def _parse_json(block: bytes, schema: pa.Schema) -> pa.Table:
    return pajson.read_json(
        io.BytesIO(block),
        read_options=pajson.ReadOptions(use_threads=False, block_size=max(BLOCK_BYTES, len(block) + 1)),
        parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _json_mismatch(
    error: pa.ArrowInvalid, block: bytes, schema: pa.Schema, types: Mapping[str, FieldType], where: str, first_row: int | None
) -> InvalidInput:
    for field in schema:
        try:
            _parse_json(block, pa.schema([field]))
        except pa.ArrowInvalid as single:
            if kind := _JSON_KIND.search(str(single)):
                actual = kind[2]
            elif "couldn't parse" in str(single):
                actual = f"a number that is not of type {types[field.name]}"
            else:
                break  # the text itself is not JSON
            row = next(_bad_rows(block, pa.schema([field])), None)
            return schema_mismatch(
                where, field.name, types[field.name], actual, row=None if row is None or first_row is None else first_row + row
            )
    del error
    return schema_mismatch(where, None, "one JSON object per line", "other text")


def _bad_rows(block: bytes, schema: pa.Schema) -> Iterator[int]:
    for number, line in enumerate(line for line in block.splitlines() if line.strip()):
        try:
            _parse_json(line, schema)
        except pa.ArrowInvalid:
            yield number


def _mentions(block: bytes, name: str) -> bool:
    return any(json.dumps(name, ensure_ascii=ascii_only).encode() in block for ascii_only in (False, True))


def _line_blocks(stream: Readable, where: str) -> Iterator[bytes]:
    rest = b""
    while piece := stream.read(BLOCK_BYTES):
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield rest + piece[:cut]
            rest = piece[cut:]
        else:
            rest += piece
            if len(rest) > 4 * BLOCK_BYTES:
                raise schema_mismatch(where, None, f"rows shorter than {BLOCK_BYTES} bytes", "a longer row")
    if rest:
        yield rest


def open_parquet(file: BinaryIO, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str) -> pq.ParquetFile:
    """Open a Parquet file and compare its schema with ``types`` for ``columns``.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    with _whole_parquet(where):
        parquet = pq.ParquetFile(file)
    stored = parquet.schema_arrow
    for name in columns:
        places = stored.get_all_field_indices(name)
        if len(places) != 1:
            raise schema_mismatch(where, name, types[name], "no such column" if not places else f"{len(places)} columns with that name")
        if not accepts(types[name], stored.field(places[0]).type):
            raise schema_mismatch(where, name, types[name], f"type {stored.field(places[0]).type}")
    return parquet


def read_parquet(
    parquet: pq.ParquetFile, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read rows of a file from :func:`open_parquet`: those of ``row_groups``, or all if None.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    groups = list(range(parquet.num_row_groups) if row_groups is None else row_groups)
    batches = parquet.iter_batches(batch_size=1 << 16, row_groups=groups, columns=list(columns), use_threads=False)
    while True:
        with _whole_parquet(where):
            batch = next(batches, None)
        if batch is None:
            return
        yield _converted(batch, types, columns, where, None)


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


class _Prepended(ReadOnlyStream):
    """A stream with bytes put back in front of it. Arrow rejects an empty stream, so the reader first tries to read one byte."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        super().__init__()
        self._head = head
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        if self._head:
            head, self._head = self._head, b""
            return head + self._stream.read(max(0, size - len(head)) if size > 0 else -1)
        return self._stream.read(size)


def csv_header_line(line: bytes, where: str) -> tuple[str, ...]:
    """Return the column names in a CSV header line.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    try:
        return tuple(next(csv.reader([line.decode("utf-8-sig").rstrip("\r\n")]), []))
    except (UnicodeDecodeError, csv.Error):
        raise schema_mismatch(where, None, "a CSV header line in UTF-8", "other bytes") from None
