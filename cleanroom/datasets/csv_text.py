"""Reads CSV text as Arrow record batches of a dataset's schema, for the owner's upload, the pods and the receiver of a result.

Strict: a missing column, or one of another type, is an error that names file, column, types and row. It never becomes null.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pacsv

from cleanroom.datasets.csv_header import read_header, require_columns
from cleanroom.datasets.csv_numbers import require_plain_numbers
from cleanroom.datasets.csv_pattern import CsvPattern
from cleanroom.datasets.csv_rows import CsvRows
from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.datasets.row_blocks import BOM, LineRows, Readable, is_utf8, row_blocks
from cleanroom.datasets.schema import converted, text_type
from cleanroom.documents.dataset import CsvDialect, FieldType
from cleanroom.errors import InvalidInput

_CHECKED_BLOCKS = 4
"""Blocks that the check reads at a time, because RE2 compiles the pattern for each of them."""

_CSV_COLUMN = re.compile(r"In CSV column #(\d+)")
_ROW = re.compile(r"Row #(\d+)")
_COLUMNS = re.compile(r"Expected (\d+) columns, got (\d+)")


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

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    parser = _CsvParser(types, columns, where, layout)
    for block in row_blocks(stream, LineRows() if parser.by_line else parser.rows, where, at_start=at_start):
        for batch in parser.parse(block, first_row):
            yield batch
            if first_row is not None:
                first_row += batch.num_rows


class CountedRows(NamedTuple):
    """The rows of a text that matches its schema."""

    rows: int
    quoted_breaks: bool
    """Whether a quoted value contains a line break."""


def check_csv(
    stream: Readable, types: Mapping[str, FieldType], *, where: str, header: tuple[str, ...] | None, dialect: CsvDialect | None
) -> CountedRows:
    """Read CSV text to its end and compare every row with the schema, as :func:`read_csv` for all columns does, in less time.

    Args:
        stream: The text, from its first row.
        types: Field name to type, in file order unless ``header`` differs.
        where: The object's path, for error messages.
        header: See :class:`TextLayout`.
        dialect: See :class:`TextLayout`.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    # Only these need conversion. Of the other columns it is enough that their values are UTF-8.
    typed = [name for name, kind in types.items() if kind != "string"] or list(types)[:1]
    layout = TextLayout(header, newlines_in_values=True, dialect=dialect)
    parser, strict = (_CsvParser(types, columns, where, layout) for columns in (typed, list(types)))
    pattern = CsvPattern([types[name] for name in header or types], dialect)
    rows, quoted_breaks = 0, False
    for block in row_blocks(stream, parser.rows, where, at_start=header is None, blocks=_CHECKED_BLOCKS):
        counted = pattern.count_rows(block)
        if counted is None:
            batches = (parser if is_utf8(block) else strict).parse(block, rows + 1)
            counted = sum(batch.num_rows for batch in batches)
            quoted_breaks = quoted_breaks or parser.rows.has_quoted_breaks(block)
        rows += counted
    return CountedRows(rows, quoted_breaks)


class _CsvParser:
    """Parses blocks of whole rows."""

    def __init__(self, types: Mapping[str, FieldType], columns: Sequence[str], where: str, layout: TextLayout) -> None:
        self._types, self._columns, self._where, self._verified = types, columns, where, layout.verified
        self._names = list(layout.header or types)
        require_columns(self._names, types, where)
        self.rows = CsvRows(layout.dialect)
        self.by_line = layout.verified and not layout.newlines_in_values
        self._dialect = layout.dialect or CsvDialect()
        # To look for line breaks in values costs Arrow a pass over the text.
        self._plain, self._quoted = (_parse_options(self._dialect, len(self._names), breaks) for breaks in (False, True))
        self._conversion = _conversion(self._dialect, types, columns)

    def parse(self, block: bytes, first_row: int | None) -> list[pa.RecordBatch]:
        """Return the rows of a block whose first row has the number ``first_row`` in the file, if that is known.

        Raises:
            InvalidInput: ``SchemaMismatch``.
        """
        if not self._verified:
            self.rows.verify(block, self._names, self._where, first_row)
        # Arrow drops one byte order mark at the start of what it reads.
        text = BOM + block if block.startswith(BOM) else block
        options = self._plain if self.by_line or b'"' not in block else self._quoted
        try:
            table = _arrow_csv(text, self._names, options, self._conversion)
        except pa.ArrowInvalid as error:
            raise _csv_mismatch(error, self._names, self._types, self._where, first_row) from None
        strings: Mapping[str, FieldType] = dict.fromkeys(self._types, "string")

        def as_text(suspects: Sequence[str]) -> pa.Table:
            return _arrow_csv(text, self._names, options, _conversion(self._dialect, strings, suspects))

        require_plain_numbers(block, table, as_text, self._types, self._where, first_row)
        batches = []
        for batch in table.to_batches():
            batches.append(converted(batch, self._types, self._columns, self._where, first_row))
            if first_row is not None:
                first_row += batch.num_rows
        return batches


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
    text = {name: text_type(types[name]) for name in columns}
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
    """Return the column names in the header line of a CSV object, and the offset after it; see :func:`read_header`."""
    return read_header(head, CsvRows(dialect), where, dialect)
