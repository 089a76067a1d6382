"""Opens datasets as temporary views. Only allowed columns are visible, and only those that the query names are read."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import sqlglot
from sqlglot import exp

from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import FieldType, Format
from cleanroom.errors import CleanRoomError, PreconditionFailed
from cleanroom.spark.job import JobConfig, JobDataset
from sparkapp.failures import redact_error, redact_task_errors
from sparkapp.listing import DatasetListing, list_objects
from sparkapp.pod import Pod
from sparkapp.splits import InputSplit, plan_splits, read_task

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Item = TypeVar("Item")
Result = TypeVar("Result")

SPARK_TYPES: dict[FieldType, str] = {
    "string": "string",
    "integer": "int",
    "long": "bigint",
    "number": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}


DRIVER_BYTES: dict[Format, int] = {"csv": 64 << 20, "json": 64 << 20, "parquet": 16 << 20}
"""Up to this stored size the driver reads a dataset itself while Spark starts. That takes less time than to start
Python workers, which attest themselves. The limit for Parquet is lower because it is compressed."""


@dataclass(frozen=True)
class View:
    """A registered dataset and its number of rows."""

    listing: DatasetListing
    rows: int

    @property
    def dataset(self) -> JobDataset:
        """The job's description of the dataset behind the view."""
        return self.listing.dataset


@dataclass(frozen=True)
class OpenedDataset:
    """A dataset whose objects are listed. ``table`` contains the rows of a small dataset."""

    listing: DatasetListing
    columns: tuple[str, ...]
    table: pa.Table | None


class LoadFailed(Exception):
    """A dataset could not be opened; ``error`` is the redacted reason."""

    def __init__(self, dataset: JobDataset, error: CleanRoomError) -> None:
        super().__init__(dataset.name)
        self.dataset = dataset
        self.error = error


def needed_columns(job: JobConfig, dataset: JobDataset) -> list[str]:
    """Return the columns that the SQL may and can refer to, in file order, and at least one.

    The SQL may refer to the allowed columns and, in the gate's counts, to the identity column of the owner's
    privacy floor. A superset of the columns is sufficient. Therefore every identifier in the SQL counts as a column
    name, and a star (other than in ``count(*)``) or SQL that cannot be parsed counts as all columns.
    """
    visible = {name.lower() for name in (*dataset.allowed_fields, dataset.floors.identity_column) if name}
    allowed = [name for name in dataset.schema_fields if name.lower() in visible]
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
    return [name for name in allowed if name.lower() in named] or allowed[:1]


def open_datasets(pod: Pod, job: JobConfig, *, on_start: Callable[[JobDataset], None]) -> list[OpenedDataset]:
    """List every dataset concurrently and read the small ones. Does not need Spark, so Spark can start in parallel.

    Args:
        pod: The pod's identity.
        job: The job.
        on_start: Called before each dataset.

    Raises:
        LoadFailed: The first dataset that could not be opened.
    """
    return _for_each(job.datasets, lambda dataset: dataset, lambda dataset: _open(pod, job, dataset, on_start))


def _open(pod: Pod, job: JobConfig, dataset: JobDataset, on_start: Callable[[JobDataset], None]) -> OpenedDataset:
    on_start(dataset)
    listing = list_objects(pod, dataset, job.parameters)
    columns = needed_columns(job, dataset)
    table = read_table(pod, listing, columns) if listing.stored_bytes() <= DRIVER_BYTES[dataset.format] else None
    return OpenedDataset(listing, tuple(columns), table)


def read_table(pod: Pod, listing: DatasetListing, columns: Sequence[str]) -> pa.Table:
    """Read a whole dataset in this process, on all cores."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=cores) as pool:
        splits = plan_splits(pod, listing, parallelism=cores)
        parts = list(pool.map(lambda split: list(read_task(pod, listing.dataset, columns, split)), splits))
    return pa.Table.from_batches([batch for part in parts for batch in part], schema=arrow_schema(listing.dataset.schema_fields, columns))


def register_views(spark: SparkSession, pod: Pod, datasets: Sequence[OpenedDataset], *, on_loaded: Callable[[View], None]) -> list[View]:
    """Register every dataset under its view name, and read those that the driver has not read.

    Spark reads each of those once into its memory and spills encrypted data to disk. Thus errors in the data are
    found before the query runs, the numbers of rows are known for preconditions, and a dataset that is used twice
    is decrypted once.

    Args:
        spark: The session.
        pod: The pod's identity.
        datasets: From :func:`open_datasets`.
        on_loaded: Called after each dataset.

    Raises:
        LoadFailed: The first dataset that could not be opened.
    """

    def register(opened: OpenedDataset) -> View:
        view = _register(spark, pod, opened)
        on_loaded(view)
        return view

    return _for_each(datasets, lambda opened: opened.listing.dataset, register)


def _register(spark: SparkSession, pod: Pod, opened: OpenedDataset) -> View:
    from pyspark import StorageLevel

    dataset = opened.listing.dataset
    if opened.table is not None:
        frame, rows = spark.createDataFrame(opened.table, schema=_ddl(dataset, opened.columns)), opened.table.num_rows
    else:
        frame = read_frame(spark, pod, opened.listing, opened.columns).persist(StorageLevel.MEMORY_AND_DISK)
        rows = frame.count()
    require_unique(frame, dataset)
    frame.createOrReplaceTempView(dataset.view_name)
    return View(opened.listing, rows)


def require_unique(frame: DataFrame, dataset: JobDataset) -> None:
    """Verify the columns that the owner declares unique.

    A query depends on the declaration only if it names all of these columns. Rows with a NULL in one of them do not count, because no
    equality selects them.

    Raises:
        PreconditionFailed: ``DatasetNotUnique``.
    """
    from pyspark.sql import functions

    names = dataset.unique_columns
    if names is None or not set(names) <= set(frame.columns):
        return
    columns = [functions.col(f"`{name.replace('`', '``')}`") for name in names]
    for column in columns:
        frame = frame.filter(column.isNotNull())
    if frame.groupBy(*columns).count().filter("count > 1").limit(1).count():
        raise PreconditionFailed(
            "DatasetNotUnique",
            f"dataset {dataset.name!r}: several rows have equal values in {', '.join(names)}, which its owner declares unique.",
            party=dataset.owner_id,
            hint="Publish the dataset without uniqueColumns, or upload unique rows.",
        )


def read_frame(spark: SparkSession, pod: Pod, listing: DatasetListing, columns: Sequence[str]) -> DataFrame:
    """Return the dataset as a DataFrame whose tasks decrypt and parse their own splits in Arrow.

    It uses ``mapInArrow`` over a range of task numbers instead of a Python data source. Both run the same reader in
    the same workers, but Spark starts additional Python processes to plan the scans of a data source, which takes 4
    s more for the first scan.
    """
    tasks = plan_splits(pod, listing, parallelism=spark.sparkContext.defaultParallelism)
    read = functools.partial(_read_tasks, pod, listing.dataset, tuple(columns), tasks)
    return spark.range(0, len(tasks), 1, max(1, len(tasks))).mapInArrow(read, _ddl(listing.dataset, columns))


def _ddl(dataset: JobDataset, columns: Sequence[str]) -> str:
    return ", ".join(f"`{name.replace('`', '``')}` {SPARK_TYPES[dataset.schema_fields[name]]}" for name in columns)


def _for_each(items: Sequence[Item], dataset_of: Callable[[Item], JobDataset], work: Callable[[Item], Result]) -> list[Result]:
    def guarded(item: Item) -> Result:
        try:
            return work(item)
        except Exception as error:
            raise LoadFailed(dataset_of(item), redact_error(error)) from None

    with ThreadPoolExecutor(max_workers=min(4, len(items))) as pool:
        return [future.result() for future in [pool.submit(guarded, item) for item in items]]


def _read_tasks(
    pod: Pod, dataset: JobDataset, columns: Sequence[str], tasks: Sequence[Sequence[InputSplit]], numbers: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            yield from redact_task_errors(read_task(pod, dataset, columns, tasks[number]))
