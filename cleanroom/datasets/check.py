"""Checks a source file before it is sealed: every row must match the schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cleanroom.datasets.files import Readable, TextLayout, csv_header_line, open_parquet, read_csv, read_json_lines, read_parquet
from cleanroom.datasets.schema import schema_mismatch
from cleanroom.datasets.streams import ReadOnlyStream
from cleanroom.documents.dataset import DatasetSchema
from cleanroom.errors import InvalidInput


@dataclass(frozen=True)
class CheckedFile:
    """The result of reading a source file to its end."""

    rows: int
    splittable: bool
    """Whether a reader may start after any line feed, because no quoted CSV value contains one."""


def check_file(
    path: Path, schema: DatasetSchema, *, where: str | None = None, on_bytes: Callable[[int], None] | None = None
) -> CheckedFile:
    """Read a source file to its end and compare every row with the dataset's schema.

    Args:
        path: The file.
        schema: The dataset's schema.
        where: The name of the file in errors; by default its path.
        on_bytes: Called with the number of bytes read since the last call.

    Raises:
        InvalidInput: ``SchemaMismatch``, naming file, column, types and row; ``SourceUnreadable``.
    """
    place = where or str(path)
    types = schema.types()
    columns = list(types)
    try:
        with path.open("rb") as raw:
            if schema.format == "parquet":
                parquet = open_parquet(raw, types, columns, where=place)
                return CheckedFile(sum(batch.num_rows for batch in read_parquet(parquet, types, columns, where=place)), True)
            stream = LineCounter(raw, on_bytes)
            if schema.format == "json":
                return CheckedFile(sum(batch.num_rows for batch in read_json_lines(stream, types, columns, where=place)), True)
            header = None
            if schema.csv_header:
                header = csv_header_line(raw.readline(), place)
                if header == ():
                    raise schema_mismatch(place, None, "a CSV header line", "an empty file")
            layout = TextLayout(header, newlines_in_values=True)
            rows = sum(batch.num_rows for batch in read_csv(stream, types, columns, where=place, layout=layout))
            return CheckedFile(rows, stream.bare_returns() == 0 and rows == stream.lines())
    except OSError as error:
        raise InvalidInput("SourceUnreadable", f"{place}: cannot be read.", cause=error.strerror) from error


class LineCounter(ReadOnlyStream):
    """Counts non-empty lines, as Arrow does, while a parser reads the stream.

    Args:
        stream: The text to count in.
        on_bytes: Called with the number of bytes after each read.
    """

    def __init__(self, stream: Readable, on_bytes: Callable[[int], None] | None) -> None:
        super().__init__()
        self._stream = stream
        self._on_bytes = on_bytes
        self._lines = 0
        self._tail = b"\n"
        self._returned = False
        self._bare_returns = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes."""
        data = self._stream.read(size)
        if data:
            self._bare_returns += data.count(b"\r") - data.count(b"\r\n") - (self._returned and data.startswith(b"\n"))
            self._returned = data.endswith(b"\r")
            text = (self._tail + data).replace(b"\r", b"")
            # A line feed ends a non-empty line unless it follows another line feed.
            self._lines += text.count(b"\n") - text.startswith(b"\n") - _empty_lines(text)
            self._tail = text[-1:]
            if self._on_bytes:
                self._on_bytes(len(data))
        return data

    def bare_returns(self) -> int:
        """Return the number of carriage returns without a line feed.

        Arrow treats them as ends of rows; this class does not treat them as ends of lines. If there are any, the
        number of lines does not tell whether every line is a row.
        """
        return self._bare_returns

    def lines(self) -> int:
        """Return the number of non-empty lines."""
        return self._lines + (self._tail != b"\n")


def _empty_lines(text: bytes) -> int:
    return sum(len(match.group()) - 1 for match in re.finditer(rb"\n{2,}", text))
