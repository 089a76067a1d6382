"""Datasets as temporary views: only the allowed columns, of which only those that the query names are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlglot
from sqlglot import exp

from cleanroom.documents.dataset import FieldType
from cleanroom.errors import CleanRoomError
from cleanroom.spark.job import JobConfig, JobDataset
from sparkapp.datasources import Plan, Share, plan, read_task
from sparkapp.failures import in_task, safely
from sparkapp.pod import Pod

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class View:
    """One dataset as the query sees it."""

    dataset: JobDataset
    plan: Plan
    rows: int


class LoadFailed(Exception):
    """One dataset could not be opened; ``error`` says why."""

    def __init__(self, dataset: JobDataset, error: CleanRoomError) -> None:
        super().__init__(dataset.name)
        self.dataset = dataset
        self.error = error


def needed_columns(job: JobConfig, dataset: JobDataset) -> list[str]:
    """The allowed columns that the SQL can refer to, in file order; never none.

    A superset is enough, so every identifier of the SQL counts, whatever it names; a star (other than in ``count(*)``) or SQL that cannot
    be parsed counts as all.
    """
    allowed = [name for name in dataset.schema_fields if name in dataset.allowed_fields]
    named: set[str] = set()
    for segment in job.segments:
        try:
            trees = sqlglot.parse(segment.sql, dialect="spark")
        except sqlglot.errors.SqlglotError:
            return allowed
        for tree in trees:
            if tree is None:
                continue
            if any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star)):
                return allowed
            named |= {identifier.name.lower() for identifier in tree.find_all(exp.Identifier)}
        named |= {item.column_name.lower() for item in segment.post_filters}
    return [name for name in allowed if name.lower() in named] or allowed[:1]


def register_views(
    spark: SparkSession, pod: Pod, job: JobConfig, *, on_start: Callable[[JobDataset], None], on_loaded: Callable[[View], None]
) -> list[View]:
    """Read every dataset and register it under its view name; several at a time.

    Each is read once, into Spark's own memory (spilling where it does not fit), so that errors in the data are found and named before the
    query runs, preconditions know the rows, and a dataset that is used twice is decrypted once.

    Raises:
        LoadFailed: The first dataset that could not be opened.
    """

    def load(dataset: JobDataset) -> View:
        on_start(dataset)
        try:
            view = _load(spark, pod, job, dataset)
        except Exception as error:
            raise LoadFailed(dataset, safely(error)) from None
        on_loaded(view)
        return view

    with ThreadPoolExecutor(max_workers=min(4, len(job.datasets))) as pool:
        futures = [pool.submit(load, dataset) for dataset in job.datasets]
        return [future.result() for future in futures]


def _load(spark: SparkSession, pod: Pod, job: JobConfig, dataset: JobDataset) -> View:
    from pyspark import StorageLevel

    planned = plan(pod, dataset, job.parameters, parallelism=spark.sparkContext.defaultParallelism)
    frame = read_frame(spark, pod, dataset, planned, needed_columns(job, dataset)).persist(StorageLevel.MEMORY_AND_DISK)
    rows = frame.count()
    frame.createOrReplaceTempView(dataset.view_name)
    return View(dataset, planned, rows)


def read_frame(spark: SparkSession, pod: Pod, dataset: JobDataset, planned: Plan, columns: Sequence[str]) -> DataFrame:
    """The dataset as a DataFrame: one Spark task for each task of the plan, decrypting and parsing in Arrow.

    The plan is applied to a range of task numbers with ``mapInArrow`` rather than registered as a Python data source: both run the same
    reader in the same workers, but a data source has Spark start further Python processes to plan each scan (4 s more for the first).
    """
    schema = ", ".join(f"`{name.replace('`', '``')}` {SPARK_TYPES[dataset.schema_fields[name]]}" for name in columns)
    count = len(planned.tasks)
    read = functools.partial(_read_tasks, pod, dataset, tuple(columns), planned.tasks)
    return spark.range(0, count, 1, max(1, count)).mapInArrow(read, schema)


def _read_tasks(
    pod: Pod, dataset: JobDataset, columns: Sequence[str], tasks: Sequence[Sequence[Share]], numbers: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            yield from in_task(read_task(pod, dataset, columns, tasks[number]))
