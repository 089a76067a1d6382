"""Infers the columns of a dataset from a Parquet file; see :mod:`cleanroom.datasets.inference`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom.datasets.inferred import InferredColumn, InferredFile, require_names
from cleanroom.datasets.schema import ARROW_TYPES, accepts
from cleanroom.documents.dataset import FieldType
from cleanroom.errors import InvalidInput

SAMPLE_ROWS: Final = 50_000
"""Rows of a file that are read."""


def infer_parquet(path: Path) -> InferredFile:
    """Infer the columns of a Parquet file from its schema and its first rows.

    Raises:
        InvalidInput: ``FileUnreadable``, ``SourceEmpty``, ``ColumnNamesInvalid``, ``ColumnTypeUnsupported``.
    """
    try:
        file = pq.ParquetFile(path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(
            "FileUnreadable", f"{path}: is not a complete Parquet file.", hint="Check the path, or write it again."
        ) from error
    require_names(path, list(schema.names), "Rename these columns in the program that writes the file.")
    types = {field.name: next((kind for kind in ARROW_TYPES if accepts(kind, field.type)), None) for field in schema}
    if wrong := [f"{field.name} ({field.type})" for field in schema if types[field.name] is None]:
        raise InvalidInput(
            "ColumnTypeUnsupported",
            f"{path}: datasets have no type for {', '.join(wrong)}.",
            hint="Write these columns as text, numbers, dates or times, or leave them out of the file.",
        )
    if not rows:
        raise InvalidInput("SourceEmpty", f"{path}: has no row.", hint="Name a file with rows.")
    columns = _parquet_columns(path, file, {name: kind for name, kind in types.items() if kind is not None})
    return InferredFile("parquet", tuple(columns), min(rows, SAMPLE_ROWS), rows <= SAMPLE_ROWS)


def _parquet_columns(path: Path, file: pq.ParquetFile, types: dict[str, FieldType]) -> list[InferredColumn]:
    try:
        batches = list(itertools.islice(file.iter_batches(batch_size=SAMPLE_ROWS // 10, use_threads=False), 10))
        sample = pa.Table.from_batches(batches).slice(0, SAMPLE_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput("FileUnreadable", f"{path}: its rows cannot be read.", hint="Write the file again.") from error
    return [InferredColumn(name, kind, sample.column(name).null_count, _distinct(sample.column(name))) for name, kind in types.items()]


def _distinct(column: pa.ChunkedArray) -> int:
    return len(column.unique().drop_null())
