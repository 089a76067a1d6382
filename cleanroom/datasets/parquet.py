"""Reads Parquet as Arrow record batches of a dataset's schema, as strictly as :mod:`cleanroom.datasets.csv_text`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.datasets.schema import ARROW_TYPES, accepts, converted
from cleanroom.documents.dataset import FieldType

# Earlier values differ between the calendars; for times also between time zones (Spark's RebaseDateTime).
_CALENDAR_CHANGE: dict[FieldType, pa.Scalar] = {
    "date": pa.scalar(date(1582, 10, 15)),
    "timestamp": pa.scalar(datetime(1900, 1, 1, tzinfo=UTC), ARROW_TYPES["timestamp"]),
}


def open_parquet(file: BinaryIO, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str) -> pq.ParquetFile:
    """Open a Parquet file and compare its schema with ``types`` for ``columns``.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    with _whole_parquet(where):
        # INT96 timestamps beyond the years 1677 to 2262 do not fit Arrow's default, nanoseconds.
        parquet = _OpenedParquet(file, coerce_int96_timestamp_unit="us")
        if parquet.int96_columns():
            parquet.coarse = pq.ParquetFile(file, coerce_int96_timestamp_unit="ms")
    stored = parquet.schema_arrow
    for name in columns:
        places = stored.get_all_field_indices(name)
        if len(places) != 1:
            raise schema_mismatch(where, name, types[name], "no such column" if not places else f"{len(places)} columns with that name")
        if not accepts(types[name], stored.field(places[0]).type):
            raise schema_mismatch(where, name, types[name], f"type {stored.field(places[0]).type}")
    return parquet


class _OpenedParquet(pq.ParquetFile):  # type: ignore[misc]  # pyarrow is not annotated
    """A Parquet file, and the same file with INT96 timestamps in milliseconds, which detects values that do not fit microseconds."""

    coarse: pq.ParquetFile | None = None

    def int96_columns(self) -> set[str]:
        columns = (self.schema.column(number) for number in range(len(self.schema.names)))
        return {column.path for column in columns if column.physical_type == "INT96"}


def read_parquet(
    parquet: pq.ParquetFile, types: Mapping[str, FieldType], columns: Sequence[str], *, where: str, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read rows of a file from :func:`open_parquet`: those of ``row_groups``, or all if None.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    groups = list(range(parquet.num_row_groups) if row_groups is None else row_groups)
    options: dict[str, Any] = {"batch_size": 1 << 16, "row_groups": groups, "use_threads": False}
    batches = parquet.iter_batches(columns=list(columns), **options)
    int96 = parquet.int96_columns() & set(columns) if isinstance(parquet, _OpenedParquet) else set()
    coarse = parquet.coarse.iter_batches(columns=sorted(int96), **options) if int96 else iter(())
    old = {name for name in columns if in_old_calendar(parquet.metadata.metadata or {}, int96=name in int96)}
    while True:
        with _whole_parquet(where):
            batch, check = next(batches, None), next(coarse, None)
        if batch is None:
            return
        if check is not None:
            for name in int96:
                _require_range(batch.column(name), check.column(name), where, name)
        result = converted(batch, types, columns, where, None)
        for name in columns:
            _require_parquet_values(result.column(name), types[name], where, name, old_calendar=name in old)
        yield result


def _require_range(micros: pa.Array, millis: pa.Array, where: str, name: str) -> None:
    # The division truncates, and the conversion to milliseconds rounds down.
    difference = pc.subtract(pc.divide(pc.cast(micros, pa.int64()), 1000), pc.cast(millis, pa.int64()))
    if pc.any(pc.greater(pc.abs(difference), 1)).as_py():
        raise schema_mismatch(where, name, "timestamp", "an INT96 value that does not fit microseconds")


def _require_parquet_values(column: pa.Array, field_type: FieldType, where: str, name: str, *, old_calendar: bool) -> None:
    if field_type == "string":
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise schema_mismatch(where, name, field_type, "bytes that are not UTF-8") from None
    if old_calendar and field_type in _CALENDAR_CHANGE:
        first = pc.min(column)
        if first.is_valid and pc.less(first, _CALENDAR_CHANGE[field_type]).as_py():
            raise schema_mismatch(
                where,
                name,
                f"{field_type} values in the proleptic Gregorian calendar",
                "values of Spark's old calendar before the calendars agree",
                hint="Write the file again with spark.sql.parquet.datetimeRebaseModeInWrite and int96RebaseModeInWrite set to CORRECTED.",
            )


def in_old_calendar(metadata: Mapping[bytes, bytes], *, int96: bool) -> bool:
    """Tell whether Spark wrote the file's dates and times in the hybrid Julian calendar.

    The rule is Spark's (``DataSourceUtils.datetimeRebaseSpec`` and ``int96RebaseSpec``). Spark 2 did not always write its version.
    """
    version = re.match(rb"(\d+)\.(\d+)", metadata.get(b"org.apache.spark.version", b""))
    if version is None:
        return b"org.apache.spark.sql.parquet.row.metadata" in metadata
    key, minimum = (b"org.apache.spark.legacyINT96", (3, 1)) if int96 else (b"org.apache.spark.legacyDateTime", (3, 0))
    return key in metadata or (int(version[1]), int(version[2])) < minimum


@contextmanager
def _whole_parquet(where: str) -> Iterator[None]:
    """Convert Arrow's errors about the content of a Parquet file; errors of the underlying stream propagate unchanged."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the operating system; Arrow's OSError for damaged pages has no errno
        raise schema_mismatch(where, None, "a Parquet file", "other bytes") from None
