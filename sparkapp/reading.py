"""Reads a large dataset in Spark's tasks, while the query runs, and knows which tasks have read how many rows.

The query may end before it has read everything (LIMIT, an empty side of a join). :meth:`TaskReading.complete` then
reads the rest, so that a result leaves the pod only after every row of every input was opened, checked and counted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cleanroom.documents.dataset import FieldType
from cleanroom.spark.job import JobDataset
from sparkapp.failures import redact_task_errors
from sparkapp.listing import DatasetListing
from sparkapp.pod import Pod
from sparkapp.splits import InputSplit, plan_splits, read_task

if TYPE_CHECKING:
    from pyspark import Accumulator
    from pyspark.sql import DataFrame, SparkSession

SPARK_TYPES: dict[FieldType, str] = {
    "string": "string",
    "integer": "int",
    "long": "bigint",
    "number": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}


class TaskReading:
    """The tasks that read one dataset, and the number of rows that each has read.

    They use ``mapInArrow`` over a range of task numbers instead of a Python data source. Both run the same reader in
    the same workers, but Spark starts additional Python processes to plan the scans of a data source, which takes 4
    s more for the first scan.

    Args:
        spark: The session.
        pod: The pod's identity.
        listing: The dataset's objects.
        columns: The columns to read.
    """

    def __init__(self, spark: SparkSession, pod: Pod, listing: DatasetListing, columns: Sequence[str]) -> None:
        self._spark, self._pod, self._listing, self._columns = spark, pod, listing, tuple(columns)
        self._tasks = plan_splits(pod, listing, parallelism=spark.sparkContext.defaultParallelism)
        param: Any = RowsPerTask()
        self._rows: Accumulator[dict[int, int]] = spark.sparkContext.accumulator({}, param)

    def frame(self) -> DataFrame:
        """Return the dataset as a lazy DataFrame. Each task decrypts and parses its own splits in Arrow."""
        return self._read(range(len(self._tasks)))

    def complete(self) -> int:
        """Read what the query has not read, and return the number of rows of the whole dataset.

        Raises:
            Refused: ``DatasetTampered`` if the owner's manifest has another number of rows.
        """
        unread = [number for number in range(len(self._tasks)) if number not in self._rows.value]
        if unread:
            self._read(unread).count()
        rows = sum(self._rows.value.values())
        self._listing.require_rows(rows)
        return rows

    def _read(self, numbers: Sequence[int]) -> DataFrame:
        dataset, count = self._listing.dataset, len(numbers)
        tasks = {number: self._tasks[number] for number in numbers}
        read = functools.partial(read_tasks, self._pod, dataset, self._columns, tasks, list(numbers), self._rows)
        return self._spark.range(0, count, 1, max(1, count)).mapInArrow(read, ddl(dataset, self._columns))


def read_tasks(
    pod: Pod,
    dataset: JobDataset,
    columns: Sequence[str],
    tasks: dict[int, tuple[InputSplit, ...]],
    numbers: Sequence[int],
    rows: Accumulator[dict[int, int]],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Read the rows of tasks in a Python worker of Spark. ``rows`` accumulates the rows of every task that was read to its end.

    Raises:
        TaskFailed: Names the dataset, and contains no value of it.
    """
    for batch in batches:
        for place in batch.column(0).to_pylist():
            number, count = numbers[place], 0
            for found in redact_task_errors(read_task(pod, dataset, columns, tasks[number]), dataset=dataset.name):
                count += found.num_rows
                yield found
            rows.add({number: count})


def ddl(dataset: JobDataset, columns: Sequence[str]) -> str:
    """Return the schema of ``columns`` in Spark's notation."""
    return ", ".join(f"`{name.replace('`', '``')}` {SPARK_TYPES[dataset.schema_fields[name]]}" for name in columns)


def rows_of_persons(frame: DataFrame, identities: Iterable[str]) -> DataFrame:
    """Leave out the rows without an identity. A floor counts persons by their identities, so it could not protect such a row."""
    return frame.filter(" AND ".join(f"`{name.replace('`', '``')}` IS NOT NULL" for name in identities))


class RowsPerTask:
    """Merges rows by task number (an ``AccumulatorParam``). A task that runs again has the same number, so it does not count twice."""

    def zero(self, value: dict[int, int]) -> dict[int, int]:
        """Return the initial value in a task."""
        return {}

    def addInPlace(self, value1: dict[int, int], value2: dict[int, int]) -> dict[int, int]:
        """Return both values."""
        return {**value1, **value2}
