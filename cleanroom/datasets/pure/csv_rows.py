"""CSV text in Python: where its rows end, what their values are, and whether they match a schema.

The counterpart of :mod:`cleanroom.datasets.csv_rows` and :mod:`cleanroom.datasets.csv_text`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cleanroom.datasets.csv_header import read_header, require_columns
from cleanroom.datasets.csv_problems import BARE_RETURN, MISPLACED_QUOTE, OPEN_QUOTE, CsvProblem, dialect_mismatch, wrong_escape
from cleanroom.datasets.csv_spellings import row_pattern
from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.datasets.pure.table import Table
from cleanroom.datasets.pure.values import READERS
from cleanroom.datasets.row_blocks import BOM, Readable, is_utf8, row_blocks
from cleanroom.documents.dataset import CsvDialect, FieldType

SPELLING_HINT = (
    "Correct the file, or publish the dataset with a schema that matches it. "
    "`pip install 'cleanroom[rows]'` adds a reader that accepts more spellings."
)


@dataclass
class _Wrong(Exception):
    """What the dialect does not allow, and the number of the column, from 0."""

    problem: CsvProblem
    column: int


class PureCsvRows:
    """Rows of CSV text; see :class:`cleanroom.datasets.csv_rows.CsvRows`.

    Args:
        dialect: How the text deviates from RFC 4180; None if it does not.
    """

    def __init__(self, dialect: CsvDialect | None = None) -> None:
        self._dialect = dialect or CsvDialect()
        self._quoted = self._dialect.quoting == "rfc4180"
        delimiter, escape = re.escape(self._dialect.delimiter), re.escape(self._dialect.escape_character or "")
        if self._quoted:
            inner = rf'[^"{escape}]|{escape}["{escape}]' if escape else '[^"]|""'
            plain = rf'[^"{escape}{delimiter}\r\n]'
            self._value = re.compile(rf'"((?:{inner})*+)"|({plain}*+)')
        else:
            inner = rf"[^{escape}{delimiter}\r\n]|{escape}[{escape}{delimiter}]" if escape else rf"[^{delimiter}\r\n]"
            self._value = re.compile(rf"(?!)()|((?:{inner})*+)")
        masked = escape + (f'["{escape}]' if self._quoted else f"[{delimiter}{escape}]")
        self._escaped = re.compile(masked) if escape else None
        self._escaped_bytes = re.compile(masked.encode()) if escape else None

    def last_end(self, text: bytes) -> int:
        """See :class:`cleanroom.datasets.row_blocks.RowFormat`."""
        masked = self._masked(text)
        end = masked.rfind(b"\n") + 1
        quotes = self._count(masked, 0, end)
        while end and quotes % 2:
            earlier = masked.rfind(b"\n", 0, masked.rfind(b'"', 0, end)) + 1
            quotes -= self._count(masked, earlier, end)
            end = earlier
        return end

    def first_end(self, text: bytes) -> int:
        """See :class:`cleanroom.datasets.row_blocks.RowFormat`."""
        masked = self._masked(text)
        end = masked.find(b"\n") + 1
        quotes = self._count(masked, 0, end)
        while end and quotes % 2:
            quote = masked.find(b'"', end)
            later = masked.find(b"\n", quote) + 1 if quote >= 0 else 0
            quotes += self._count(masked, end, later)
            end = later
        return end

    def verify(self, block: bytes, names: Sequence[str], where: str, first_row: int | None) -> None:
        """Verify the quotes, escapes and line ends of a block of whole rows; see :class:`cleanroom.datasets.csv_rows.CsvRows`."""
        for _ in self.split(block, names, where, first_row):
            pass

    def split(self, block: bytes, names: Sequence[str], where: str, first_row: int | None) -> Iterator[list[tuple[str, bool]]]:
        """Yield the values of each row of a block of whole rows, and whether each was quoted.

        Bytes that are not UTF-8 become lone surrogates.

        Raises:
            InvalidInput: ``SchemaMismatch`` with row and column.
        """
        text, place, number = block.decode("utf-8", "surrogateescape"), 0, 0
        while place < len(text):
            if len(names) != 1 and (end := _empty_line(text, place)):
                place = end
                continue
            try:
                row, place = self._row(text, place)
            except _Wrong as error:
                row_number = None if first_row is None else first_row + number
                raise dialect_mismatch(error.problem, names, error.column, where, row_number) from None
            number += 1
            yield row

    def _row(self, text: str, place: int) -> tuple[list[tuple[str, bool]], int]:
        values: list[tuple[str, bool]] = []
        while True:
            found = self._value.match(text, place)
            assert found is not None
            quoted = found.lastindex == 1
            values.append((self._unescaped(found[1] if quoted else found[2], quoted), quoted))
            place = found.end()
            if place == len(text):
                return values, place
            if text[place] == self._dialect.delimiter:
                place += 1
            elif text[place] == "\n":
                return values, place + 1
            elif text.startswith("\r\n", place):
                return values, place + 2
            else:
                opened = self._quoted and text[found.start()] == '"' and not quoted
                raise _Wrong(OPEN_QUOTE if opened else self._problem(text[place]), len(values) - 1)

    def _unescaped(self, value: str, quoted: bool) -> str:
        if self._escaped is not None:
            return self._escaped.sub(lambda match: match[0][1], value)
        return value.replace('""', '"') if quoted else value

    def _problem(self, character: str) -> CsvProblem:
        """Return what is wrong with a character that follows a value and does not end it."""
        if character == "\r":
            return BARE_RETURN
        return wrong_escape(quoted=self._quoted) if character == self._dialect.escape_character else MISPLACED_QUOTE

    def _count(self, masked: bytes, start: int, end: int) -> int:
        return masked.count(b'"', start, end) if self._quoted else 0

    def _masked(self, text: bytes) -> bytes:
        return self._escaped_bytes.sub(b"xx", text) if self._escaped_bytes and self._quoted else text


def _empty_line(text: str, place: int) -> int:
    """Return the offset after an empty line at ``place``, or 0."""
    if text[place] == "\n":
        return place + 1
    return place + 2 if text.startswith("\r\n", place) else 0


class PureCsv:
    """Reads CSV text as values of a schema.

    Args:
        types: Field name to type, in file order unless ``header`` differs.
        where: The object's path, for error messages.
        header: Column names in file order, or None if the file has no header line.
        dialect: How the text deviates from RFC 4180; None if it does not.

    Raises:
        InvalidInput: ``SchemaMismatch`` if the header is not that of the schema.
    """

    def __init__(self, types: Mapping[str, FieldType], where: str, header: Sequence[str] | None, dialect: CsvDialect | None) -> None:
        self.names = list(header or types)
        require_columns(self.names, types, where)
        self.rows = PureCsvRows(dialect)
        self._where, self._null = where, (dialect or CsvDialect()).null_text
        self._kinds = [types[name] for name in self.names]
        self._readers: list[Callable[[str], Any]] = [READERS[kind] for kind in self._kinds]
        row = row_pattern(self._kinds, dialect or CsvDialect())
        self._common = re.compile(f"(?>{row})*+".encode()) if row is not None else None

    def count(self, block: bytes, first_row: int) -> tuple[int, bool]:
        """Return the number of rows of a block of whole rows, and whether a quoted value contains a line break.

        Raises:
            InvalidInput: ``SchemaMismatch``.
        """
        usual = block.endswith(b"\n") and not block.startswith(BOM) and is_utf8(block)
        if usual and self._common is not None and self._common.fullmatch(block):
            return block.count(b"\n"), False
        count, breaks = 0, False
        for _, quoted_break in self._parsed(block, first_row):
            count += 1
            breaks = breaks or quoted_break
        return count, breaks

    def read(self, block: bytes, first_row: int) -> Iterator[list[Any]]:
        """Yield the values of each row of a block of whole rows, in file order.

        Raises:
            InvalidInput: ``SchemaMismatch``.
        """
        return (row for row, _ in self._parsed(block, first_row))

    def _parsed(self, block: bytes, first_row: int) -> Iterator[tuple[list[Any], bool]]:
        valid = is_utf8(block)
        for number, row in enumerate(self.rows.split(block, self.names, self._where, first_row), first_row):
            if len(row) != len(self.names):
                raise schema_mismatch(self._where, None, f"{len(self.names)} columns", f"{len(row)} columns", row=number)
            if not valid:
                self._require_utf8(row, number)
            yield (
                [self._value(place, text, quoted, number) for place, (text, quoted) in enumerate(row)],
                any(quoted and ("\n" in text or "\r" in text) for text, quoted in row),
            )

    def _value(self, place: int, text: str, quoted: bool, row: int) -> Any:
        if text == self._null and not quoted:
            return None
        try:
            return self._readers[place](text)
        except ValueError:
            name, kind = self.names[place], self._kinds[place]
            actual = f"a value that is not of type {kind}"
            raise schema_mismatch(self._where, name, kind, actual, row=row, hint=SPELLING_HINT) from None

    def _require_utf8(self, row: Sequence[tuple[str, bool]], number: int) -> None:
        for name, kind, (text, _) in zip(self.names, self._kinds, row, strict=True):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise schema_mismatch(self._where, name, kind, "bytes that are not UTF-8", row=number)


def check_csv(
    stream: Readable, types: Mapping[str, FieldType], *, where: str, header: tuple[str, ...] | None, dialect: CsvDialect | None
) -> tuple[int, bool]:
    """Return the number of rows, and whether a quoted value contains a line break; see :func:`cleanroom.datasets.csv_text.check_csv`."""
    text, rows, breaks = PureCsv(types, where, header, dialect), 0, False
    for block in row_blocks(stream, text.rows, where, at_start=header is None):
        count, quoted_breaks = text.count(block, rows + 1)
        rows, breaks = rows + count, breaks or quoted_breaks
    return rows, breaks


def read_csv(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    header: tuple[str, ...] | None,
    dialect: CsvDialect | None,
) -> Iterator[Table]:
    """Read rows of CSV text, from its first row; see :func:`cleanroom.datasets.csv_text.read_csv`."""
    text, first_row = PureCsv(types, where, header, dialect), 1
    for block in row_blocks(stream, text.rows, where, at_start=header is None):
        rows = list(text.read(block, first_row))
        first_row += len(rows)
        found = Table.of_rows(text.names, rows)
        yield Table({name: found.column(name).to_pylist() for name in columns})


def csv_header(head: bytes, where: str, dialect: CsvDialect | None = None) -> tuple[tuple[str, ...], int]:
    """Return the column names in the header line, and the offset after it; see :func:`cleanroom.datasets.csv_header.read_header`."""
    return read_header(head, PureCsvRows(dialect), where, dialect)
