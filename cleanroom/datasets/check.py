"""Checks a source file before it is sealed: every row must match the schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cleanroom.datasets import readers
from cleanroom.datasets.csv_header import HEADER_BYTES
from cleanroom.datasets.row_blocks import Readable
from cleanroom.documents.dataset import DatasetSchema
from cleanroom.errors import InvalidInput


@dataclass(frozen=True)
class CheckedFile:
    """The result of reading a source file to its end."""

    rows: int
    splittable: bool
    """Whether a reader may start after any line feed, because no quoted CSV value contains one."""


def check_file(
    path: Path, schema: DatasetSchema, *, where: str | None = None, on_data: Callable[[bytes], object] | None = None
) -> CheckedFile:
    """Read a source file to its end and compare every row with the dataset's schema.

    Args:
        path: The file.
        schema: The dataset's schema.
        where: The name of the file in errors; by default its path.
        on_data: Called with each piece of a text file when it is read, from the first byte to the last. Whatever it receives was checked
            when this function returns. It is not called for Parquet, which is not read in order.

    Raises:
        InvalidInput: ``SchemaMismatch``, naming file, column, types and row; ``SourceUnreadable``.
    """
    place = where or str(path)
    types = schema.types()
    columns = list(types)
    try:
        with path.open("rb") as raw:
            if schema.format == "parquet":
                return CheckedFile(sum(batch.num_rows for batch in readers.read_parquet(raw, types, columns, where=place)), True)
            stream = _Observed(raw, on_data)
            if schema.format == "json":
                batches = readers.read_json_lines(stream, types, columns, where=place, require_members=True)
                return CheckedFile(sum(batch.num_rows for batch in batches), True)
            header = None
            if schema.csv_header:
                header, start = readers.csv_header(raw.read(HEADER_BYTES), place, schema.csv_dialect)
                raw.seek(0)
                stream.read(start)
            rows, quoted_breaks = readers.check_csv(stream, types, where=place, header=header, dialect=schema.csv_dialect)
            return CheckedFile(rows, not quoted_breaks)
    except OSError as error:
        raise InvalidInput("SourceUnreadable", f"{place}: cannot be read.", cause=error.strerror) from error


class _Observed:
    """A stream that shows what was read from it."""

    def __init__(self, stream: Readable, on_data: Callable[[bytes], object] | None) -> None:
        self._stream, self._on_data = stream, on_data

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if data and self._on_data:
            self._on_data(data)
        return data
