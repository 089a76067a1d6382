"""Writes the result: converts it to the output dataset's schema, seals it, and stores it as parts."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from cleanroom.datasets.download import result_rows
from cleanroom.datasets.encryption import seal_bytes
from cleanroom.datasets.result import receipt_path, result_folder, write_receipt
from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import Format
from cleanroom.documents.result_types import result_type_fits
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import object_context
from cleanroom.spark.job import JobConfig, JobDataset, ResultObject, ResultReceipt
from sparkapp.failures import redact_task_errors
from sparkapp.listing import dataset_key
from sparkapp.pod import Pod
from sparkapp.reading import SPARK_TYPES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DRIVER_ROWS = 100_000
"""The driver writes results of at most this many rows as one part, in order. Tasks write larger results."""
PART_BYTES = 64 << 20
"""Plaintext bytes after which a task starts another part. A task holds one part in memory."""

_SUFFIX: dict[Format, str] = {"csv": "csv", "json": "jsonl", "parquet": "parquet"}


def conform(frame: DataFrame, sink: JobDataset) -> DataFrame:
    """Return the result with the columns, order and types of the output dataset.

    Strict: the result must have every allowed column of the output dataset and no other column.

    Raises:
        InvalidInput: ``OutputSchemaMismatch``, naming the column and both types.
    """
    from pyspark.sql import functions

    fields = {field.name: field.dataType.simpleString() for field in frame.schema.fields}
    if len(fields) != len(frame.schema.fields):
        raise _mismatch(sink, "the result has two columns with the same name", hint="Rename one of them with AS.")
    wanted = [name for name in sink.schema_fields if name in sink.allowed_fields]
    if extra := [name for name in fields if name not in wanted]:
        raise _mismatch(
            sink, f"the result has column {extra[0]!r}, which the sink lacks", hint=f"The sink has: {', '.join(wanted)} (case-sensitive)."
        )
    columns = []
    for name in wanted:
        if name not in fields:
            raise _mismatch(sink, f"the result lacks column {name!r}", hint="Select it, or publish a sink without it.")
        expected, actual = sink.schema_fields[name], fields[name]
        if not result_type_fits(expected, actual):
            raise _mismatch(
                sink,
                f"column {name!r} is {actual}, the sink has {expected}",
                hint=f"CAST({name} AS {SPARK_TYPES[expected].upper()}) in the SQL, or publish a sink with the result's type.",
            )
        columns.append(functions.col(f"`{name.replace('`', '``')}`").cast(SPARK_TYPES[expected]).alias(name))
    return frame.select(*columns)


def _mismatch(sink: JobDataset, why: str, *, hint: str) -> InvalidInput:
    return InvalidInput("OutputSchemaMismatch", f"sink {sink.name!r}: {why}.", hint=hint)


@dataclass(frozen=True)
class ComputedResult:
    """A computed result, which ``frame`` holds in Spark's memory. ``table`` contains the rows if they are few."""

    rows: int
    frame: DataFrame
    table: pa.Table | None


def compute(frame: DataFrame) -> ComputedResult:
    """Run the query once: a second execution would read the inputs again.

    Spark keeps the rows in its memory until they are written.

    Args:
        frame: From :func:`conform`.
    """
    held = frame.persist()
    rows = held.count()
    return ComputedResult(rows, held, held.toArrow() if rows <= DRIVER_ROWS else None)


def write_result(result: ComputedResult, pod: Pod, job: JobConfig) -> tuple[ResultObject, ...]:
    """Seal and store the rows below ``<contract>/<run>/`` of the output dataset. Return the parts in the result's order."""
    if result.table is not None:
        return tuple(_write_parts(pod, job.datasink, _folder(job), 0, result.table.to_batches()))
    write = functools.partial(_write_task, pod, job.datasink, _folder(job))
    written = result.frame.mapInArrow(write, "name string, size bigint, sha256 string").collect()
    objects = [ResultObject(name=row["name"], size=row["size"], sha256=row["sha256"]) for row in written]
    return tuple(sorted(objects, key=lambda item: item.name))


def seal_receipt(pod: Pod, job: JobConfig, receipt: ResultReceipt) -> None:
    """Seal the receipt with the key of the output dataset, and store it next to the objects."""
    write_receipt(pod.store(job.datasink), receipt, dataset_key(pod, job.datasink), collaboration=job.contract_id)


def discard(pod: Pod, job: JobConfig, objects: Iterable[ResultObject]) -> None:
    """Delete the written objects. A result that is not in the ledger must not stay in the store."""
    store = pod.store(job.datasink)
    for name in (receipt_path(job.contract_id, job.run_id), *(item.name for item in objects)):
        store.delete(name)


def _folder(job: JobConfig) -> str:
    return result_folder(job.contract_id, job.run_id)


def _write_task(pod: Pod, sink: JobDataset, folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    from pyspark import TaskContext

    context = TaskContext.get()
    number = context.partitionId() if context else 0
    for item in redact_task_errors(_write_parts(pod, sink, folder, number, batches)):
        yield pa.RecordBatch.from_pydict({"name": [item.name], "size": [item.size], "sha256": [item.sha256]})


def _write_parts(pod: Pod, sink: JobDataset, folder: str, number: int, batches: Iterable[pa.RecordBatch]) -> Iterator[ResultObject]:
    schema = arrow_schema(sink.schema_fields, [name for name in sink.schema_fields if name in sink.allowed_fields])
    held: list[pa.RecordBatch] = []
    size = part = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        held.append(
            pa.RecordBatch.from_arrays(
                [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)], schema=schema
            )
        )
        size += batch.nbytes
        if size >= PART_BYTES:
            yield _write_part(pod, sink, f"{folder}/part-{number:05d}-{part:03d}", held)
            held, size, part = [], 0, part + 1
    if held:
        yield _write_part(pod, sink, f"{folder}/part-{number:05d}-{part:03d}", held)


def _write_part(pod: Pod, sink: JobDataset, stem: str, batches: Sequence[pa.RecordBatch]) -> ResultObject:
    name = f"{stem}.{_SUFFIX[sink.format]}"
    table = pa.Table.from_batches(batches)
    try:
        data = _serialised(table, sink)
    except (ValueError, OverflowError):
        raise _not_representable(sink, "a date or time beyond the years 1 to 9999") from None
    _require_readable(data, table, sink, name)
    key = dataset_key(pod, sink)
    stored = data if key is None else seal_bytes(data, key, object_context(pod.job().contract_id, sink.name, name))
    pod.store(sink).put(name, stored)
    return ResultObject(name=name, size=len(stored), sha256=hashlib.sha256(stored).hexdigest())


def _require_readable(data: bytes, table: pa.Table, sink: JobDataset, name: str) -> None:
    """Read a part as its receiver will, and require the computed values. A run must not complete with a result that does not open."""
    types = {field.name: sink.schema_fields[field.name] for field in table.schema}
    try:
        found = pa.Table.from_batches(result_rows(data, sink.format, types, sink.csv_header, name), schema=table.schema)
    except InvalidInput as error:
        column = error.details.get("column")
        raise _not_representable(sink, f"a value that {sink.format} cannot hold" + (f" in column {column!r}" if column else "")) from None
    for column in table.schema.names:
        if not same_values(found.column(column), table.column(column)):
            raise _not_representable(sink, f"a value that {sink.format} cannot hold in column {column!r}")


def _not_representable(sink: JobDataset, what: str) -> InvalidInput:
    return InvalidInput(
        "ResultNotRepresentable",
        f"sink {sink.name!r}: the result contains {what}.",
        hint="Change the values in the SQL, or publish a sink of format parquet.",
    )


def same_values(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Return whether two columns have the same values. NaN equals NaN."""
    if pa.types.is_floating(left.type):
        nan_left, nan_right = pc.is_nan(left), pc.is_nan(right)
        return bool(nan_left.equals(nan_right) and pc.if_else(nan_left, 0.0, left).equals(pc.if_else(nan_right, 0.0, right)))
    return bool(left.equals(right))


def _serialised(table: pa.Table, sink: JobDataset) -> bytes:
    buffer = io.BytesIO()
    if sink.format == "parquet":
        pq.write_table(table, buffer, compression="zstd")
    elif sink.format == "csv":
        pacsv.write_csv(table, buffer, pacsv.WriteOptions(include_header=sink.csv_header))
    else:
        for row in table.to_pylist():
            buffer.write(json.dumps({name: _json_value(value) for name, value in row.items()}, ensure_ascii=False).encode() + b"\n")
    return buffer.getvalue()


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        # As Spark writes them. JSON has no such numbers.
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value.isoformat() if hasattr(value, "isoformat") else value
