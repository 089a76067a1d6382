"""Chooses the readers of rows: those with Arrow where pyarrow is installed, else those in Python alone.

The extra ``rows`` installs pyarrow. Without it, CSV and JSON lines are read by :mod:`cleanroom.datasets.pure`, and Parquet is not read:
the error of the import names the extra.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from cleanroom.datasets.row_blocks import Readable
from cleanroom.documents.dataset import CsvDialect, FieldType

Rows = Any
"""A pyarrow record batch or table, or a :class:`cleanroom.datasets.pure.table.Table`."""


@functools.cache
def has_arrow() -> bool:
    """Return whether the packages of the extra ``rows`` are installed."""
    try:
        import numpy  # noqa: F401
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def csv_header(head: bytes, where: str, dialect: CsvDialect | None = None) -> tuple[tuple[str, ...], int]:
    """See :func:`cleanroom.datasets.csv_header.read_header`."""
    if has_arrow():
        from cleanroom.datasets import csv_text

        return csv_text.csv_header(head, where, dialect)
    from cleanroom.datasets.pure import csv_rows

    return csv_rows.csv_header(head, where, dialect)


def check_csv(
    stream: Readable, types: Mapping[str, FieldType], *, where: str, header: tuple[str, ...] | None, dialect: CsvDialect | None
) -> tuple[int, bool]:
    """Return the number of rows, and whether a quoted value contains a line break; see :func:`cleanroom.datasets.csv_text.check_csv`."""
    if has_arrow():
        from cleanroom.datasets import csv_text

        return csv_text.check_csv(stream, types, where=where, header=header, dialect=dialect)
    from cleanroom.datasets.pure import csv_rows

    return csv_rows.check_csv(stream, types, where=where, header=header, dialect=dialect)


def read_csv(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    header: tuple[str, ...] | None,
    dialect: CsvDialect | None = None,
) -> Iterable[Rows]:
    """See :func:`cleanroom.datasets.csv_text.read_csv`. The text begins at its first row; quoted values may contain line breaks."""
    if has_arrow():
        from cleanroom.datasets import csv_text

        layout = csv_text.TextLayout(header, newlines_in_values=True, dialect=dialect)
        return csv_text.read_csv(stream, types, columns, where=where, layout=layout, at_start=header is None)
    from cleanroom.datasets.pure import csv_rows

    return csv_rows.read_csv(stream, types, columns, where=where, header=header, dialect=dialect)


def read_json_lines(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    at_start: bool = True,
    require_members: bool = False,
) -> Iterable[Rows]:
    """See :func:`cleanroom.datasets.json_lines.read_json_lines`."""
    if has_arrow():
        from cleanroom.datasets import json_lines

        return json_lines.read_json_lines(stream, types, columns, where=where, at_start=at_start, require_members=require_members)
    from cleanroom.datasets.pure import json_rows

    return json_rows.read_json_lines(stream, types, columns, where=where, at_start=at_start, require_members=require_members)


def read_parquet(
    file: BinaryIO, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str, by_group: bool = False
) -> Iterable[Rows]:
    """Read a Parquet file; see :func:`cleanroom.datasets.parquet.read_parquet`.

    ``by_group`` is for callers that stop early: then no row group is read before its rows are taken. It is slower for many small groups.
    """
    from cleanroom.datasets import parquet

    opened = parquet.open_parquet(file, types, columns, where=where)
    for groups in [[group] for group in range(opened.num_row_groups)] if by_group else [None]:
        yield from parquet.read_parquet(opened, types, columns, where=where, row_groups=groups)


def joined(batches: Sequence[Rows], types: Mapping[str, FieldType]) -> Rows:
    """Return one table with the rows of ``batches``."""
    if has_arrow():
        import pyarrow as pa

        from cleanroom.datasets.schema import arrow_schema

        return pa.Table.from_batches(batches, schema=arrow_schema(types))
    from cleanroom.datasets.pure.table import Table

    return Table.concat(types, batches)
