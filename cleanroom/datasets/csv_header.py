"""The header line of a CSV object."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Protocol

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.datasets.row_blocks import BOM, RowFormat
from cleanroom.documents.dataset import CsvDialect, FieldType

HEADER_BYTES = 64 << 10
"""The longest header line of a CSV object."""


class VerifiedRows(RowFormat, Protocol):
    """Knows where the rows of CSV text end, and verifies them."""

    def verify(self, block: bytes, names: Sequence[str], where: str, first_row: int | None) -> None:
        """Raise ``SchemaMismatch`` for a quote, an escape or a line end that the dialect does not allow."""
        ...


def read_header(head: bytes, rows: VerifiedRows, where: str, dialect: CsvDialect | None = None) -> tuple[tuple[str, ...], int]:
    """Return the column names in the header line of a CSV object, and the offset after that line.

    Args:
        head: The first :data:`HEADER_BYTES` of the object, or all of it.
        rows: Finds the end of the line, and verifies it.
        where: The object's path, for error messages.
        dialect: How the text deviates from RFC 4180; None if it does not.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    text = head.removeprefix(BOM)
    dialect = dialect or CsvDialect()
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


def require_columns(names: Sequence[str], types: Mapping[str, FieldType], where: str) -> None:
    """Require that ``names`` are the columns of the schema, in any order.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    for name in types:
        if (count := names.count(name)) != 1:
            raise schema_mismatch(
                where, name, types[name], f"{count} columns with that name in the header" if count else "no such column in the header"
            )
    if extra := [name for name in names if name not in types]:
        raise schema_mismatch(where, extra[0], "only columns of the schema", "a column that is not in the schema")
