"""Checks a source file before it is sealed: every row must match the schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cleanroom.datasets.csv_text import HEADER_BYTES, TextLayout, csv_header, read_csv
from cleanroom.datasets.json_lines import read_json_lines
from cleanroom.datasets.parquet import open_parquet, read_parquet
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
            stream = _Counted(raw, on_bytes)
            if schema.format == "json":
                batches = read_json_lines(stream, types, columns, where=place, require_members=True)
                return CheckedFile(sum(batch.num_rows for batch in batches), True)
            header = None
            if schema.csv_header:
                header, start = csv_header(raw.read(HEADER_BYTES), place, schema.csv_dialect)
                raw.seek(start)
            layout = TextLayout(header, newlines_in_values=True, dialect=schema.csv_dialect)
            breaks: list[None] = []
            batches = read_csv(
                stream, types, columns, where=place, layout=layout, at_start=header is None, on_quoted_break=lambda: breaks.append(None)
            )
            return CheckedFile(sum(batch.num_rows for batch in batches), not breaks)
    except OSError as error:
        raise InvalidInput("SourceUnreadable", f"{place}: cannot be read.", cause=error.strerror) from error


class _Counted:
    """A stream that reports how many bytes were read from it."""

    def __init__(self, stream: Readable, on_bytes: Callable[[int], None] | None) -> None:
        self._stream, self._on_bytes = stream, on_bytes

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if data and self._on_bytes:
            self._on_bytes(len(data))
        return data
