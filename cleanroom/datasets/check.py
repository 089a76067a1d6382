"""A source file read to its end before it is sealed: every row fits the schema, and how many there are."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cleanroom.datasets.files import Readable, TextLayout, csv_header_line, open_parquet, read_csv, read_json_lines, read_parquet
from cleanroom.datasets.schema import schema_mismatch
from cleanroom.documents.dataset import DatasetSchema
from cleanroom.errors import InvalidInput


@dataclass(frozen=True)
class CheckedFile:
    """What reading a source file to its end established."""

    rows: int
    splittable: bool
    """Whether a reader may begin at any line feed (none inside of quoted CSV values)."""


def check_file(
    path: Path, schema: DatasetSchema, *, where: str | None = None, on_bytes: Callable[[int], None] | None = None
) -> CheckedFile:
    """Read a source file to its end and hold every row against the dataset's schema.

    Args:
        path: The file.
        schema: What the dataset's document says.
        where: Path for errors; the file's own when None.
        on_bytes: Told how many bytes were read since the last call.

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
            stream = _Counting(raw, on_bytes)
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


class _Counting(io.RawIOBase):
    """Counts lines that are not empty, as Arrow does, while a parser reads."""

    def __init__(self, stream: Readable, on_bytes: Callable[[int], None] | None) -> None:
        super().__init__()
        self._stream = stream
        self._on_bytes = on_bytes
        self._lines = 0
        self._tail = b"\n"
        self._returned = False
        self._bare_returns = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if data:
            self._bare_returns += data.count(b"\r") - data.count(b"\r\n") - (self._returned and data.startswith(b"\n"))
            self._returned = data.endswith(b"\r")
            text = (self._tail + data).replace(b"\r", b"")
            # A line that is not empty ends where a break follows something else than a break.
            self._lines += text.count(b"\n") - text.startswith(b"\n") - _empty_lines(text)
            self._tail = text[-1:]
            if self._on_bytes:
                self._on_bytes(len(data))
        return data

    def bare_returns(self) -> int:
        """Carriage returns that stand alone: they end rows for Arrow and no lines for us, so that lines then say nothing about rows."""
        return self._bare_returns

    def lines(self) -> int:
        return self._lines + (self._tail != b"\n")


def _empty_lines(text: bytes) -> int:
    return sum(len(match.group()) - 1 for match in re.finditer(rb"\n{2,}", text))
