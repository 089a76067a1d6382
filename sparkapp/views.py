"""Opens datasets as temporary views. Only allowed columns are visible, and only those that the query names are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import Format
from cleanroom.errors import CleanRoomError, PreconditionFailed
from cleanroom.spark.job import JobConfig, JobDataset
from sparkapp.failures import redact_error, unread_dataset
from sparkapp.listing import DatasetListing, list_objects
from sparkapp.native_parquet import NativeParquet, native_parquet
from sparkapp.pod import Pod
from sparkapp.reading import TaskReading, ddl, rows_of_persons
from sparkapp.references import is_read_once, needed_columns
from sparkapp.splits import plan_splits, read_task

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Item = TypeVar("Item")
Result = TypeVar("Result")

DRIVER_BYTES: dict[Format, int] = {"csv": 64 << 20, "json": 64 << 20, "parquet": 16 << 20}
"""Up to this stored size the driver reads a dataset itself while Spark starts. That takes less time than to start
Python workers, which attest themselves. The limit for Parquet is lower because it is compressed."""
SHUFFLE_PART_BYTES = 4 << 20
"""Stored bytes of the inputs for each part of a shuffle. They are compressed and of a few columns: a part has some ten MiB of rows."""
MOST_SHUFFLE_PARTS = 200
"""Spark's own default of ``spark.sql.shuffle.partitions``, which inputs of 800 MiB reach."""


@dataclass(frozen=True)
class View:
    """A registered dataset and its number of rows. With a ``reading``, the number is the manifest's until :func:`complete_views`."""

    listing: DatasetListing
    rows: int
    reading: TaskReading | None = None

    @property
    def dataset(self) -> JobDataset:
        """The job's description of the dataset behind the view."""
        return self.listing.dataset


@dataclass(frozen=True)
class OpenedDataset:
    """A dataset whose objects are listed: with its rows if it is small, or with the way in which Spark itself reads it."""

    listing: DatasetListing
    columns: tuple[str, ...]
    table: pa.Table | None
    native: NativeParquet | None = None


class LoadFailed(Exception):
    """A dataset could not be opened; ``error`` is the redacted reason."""

    def __init__(self, dataset: JobDataset, error: CleanRoomError) -> None:
        super().__init__(dataset.name)
        self.dataset = dataset
        self.error = error


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
    if listing.stored_bytes() > DRIVER_BYTES[dataset.format]:
        return OpenedDataset(listing, tuple(columns), None, native_parquet(pod, listing, columns))
    table = read_table(pod, listing, columns)
    listing.require_rows(table.num_rows)
    return OpenedDataset(listing, tuple(columns), table)


def read_table(pod: Pod, listing: DatasetListing, columns: Sequence[str]) -> pa.Table:
    """Read a whole dataset in this process, on all cores."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=cores) as pool:
        splits = plan_splits(pod, listing, parallelism=cores)
        parts = list(pool.map(lambda split: list(read_task(pod, listing.dataset, columns, split)), splits))
    return pa.Table.from_batches([batch for part in parts for batch in part], schema=arrow_schema(listing.dataset.schema_fields, columns))


def register_views(
    spark: SparkSession, pod: Pod, job: JobConfig, datasets: Sequence[OpenedDataset], *, on_loaded: Callable[[View], None]
) -> list[View]:
    """Register every dataset under its view name. Spark's tasks read those that the driver has not read.

    A dataset with a manifest that the job reads once is read while the query runs, without a copy in Spark's memory.
    :func:`complete_views` verifies it afterwards. Spark reads any other dataset into its memory now, once, and spills
    encrypted data to disk.

    Args:
        spark: The session.
        pod: The pod's identity.
        job: The job.
        datasets: From :func:`open_datasets`.
        on_loaded: Called for each dataset whose rows have all been read.

    Raises:
        LoadFailed: The first dataset that could not be opened.
    """
    spark.conf.set("spark.sql.shuffle.partitions", str(_shuffle_parts(spark, datasets)))

    def register(opened: OpenedDataset) -> View:
        view = _register(spark, pod, job, opened)
        if view.reading is None:
            on_loaded(view)
        return view

    return _for_each(datasets, lambda opened: opened.listing.dataset, register)


def _shuffle_parts(spark: SparkSession, datasets: Sequence[OpenedDataset]) -> int:
    """Return into how many parts Spark divides the rows of a shuffle; adaptive execution joins small ones when it reads them.

    Each task writes every part as an encrypted stream of its own, so Spark's default of 200 costs small inputs more than their query.
    """
    stored = sum(opened.listing.stored_bytes() for opened in datasets)
    return max(spark.sparkContext.defaultParallelism, 2, min(MOST_SHUFFLE_PARTS, stored // SHUFFLE_PART_BYTES))


def complete_views(views: Sequence[View], *, on_loaded: Callable[[View], None]) -> None:
    """Read the rows that the query did not need, and verify the number of rows of every view. Call it before a result leaves the pod.

    Args:
        views: From :func:`register_views`.
        on_loaded: Called for each dataset that was read while the query ran.

    Raises:
        LoadFailed: The first dataset whose rows cannot be read, or are not as many as the manifest lists.
    """

    def complete(view: View) -> None:
        if view.reading is not None:
            view.reading.complete()
            on_loaded(view)

    _for_each(views, lambda view: view.dataset, complete)


@contextmanager
def query_over(views: Sequence[View], *, read_all: bool) -> Iterator[None]:
    """Report an error of a dataset's rows, which a query meets while it runs, as the failure of that dataset.

    Args:
        views: The views of the query.
        read_all: Whether to read all rows if the query fails, so that the report of a failing dataset does not depend
            on the rows that the query had read before.

    Raises:
        LoadFailed: A task could not read a dataset.
    """
    try:
        yield
    except Exception as error:
        failed = next((view.dataset for view in views if view.dataset.name == unread_dataset(error)), None)
        if failed is not None:
            raise LoadFailed(failed, redact_error(error)) from None
        if read_all:
            complete_views(views, on_loaded=lambda view: None)
        raise


def _register(spark: SparkSession, pod: Pod, job: JobConfig, opened: OpenedDataset) -> View:
    from pyspark import StorageLevel

    listing, dataset = opened.listing, opened.listing.dataset
    reading: TaskReading | None = None
    if opened.table is not None:
        frame, rows = spark.createDataFrame(opened.table, schema=ddl(dataset, opened.columns)), opened.table.num_rows
    elif opened.native is not None:
        frame, rows = opened.native.frame(spark), opened.native.rows
    else:
        reading = TaskReading(spark, pod, listing, opened.columns)
        frame = reading.frame()
        if listing.rows is None or not is_read_once(job, dataset) or _unique_columns(frame, dataset):
            frame = frame.persist(StorageLevel.MEMORY_AND_DISK)
            frame.count()
            rows, reading = reading.complete(), None
        else:
            rows = listing.rows
    require_unique(frame, dataset)
    if identity := _counted_identity(dataset, opened.columns):
        frame = rows_of_persons(frame, [identity])
    frame.createOrReplaceTempView(dataset.view_name)
    return View(listing, rows, reading)


def require_unique(frame: DataFrame, dataset: JobDataset) -> None:
    """Verify the columns that the owner declares unique.

    A query depends on the declaration only if it names all of these columns. Rows with a NULL in one of them do not count, because no
    equality selects them.

    Raises:
        PreconditionFailed: ``DatasetNotUnique``.
    """
    from pyspark.sql import functions

    names = _unique_columns(frame, dataset)
    if not names:
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


def _counted_identity(dataset: JobDataset, columns: Sequence[str]) -> str | None:
    """Return the column by which the dataset's floor counts persons. The rewritten query names it if it reads rows of the dataset."""
    identity = dataset.floors.identity_column if dataset.floors.min_group_size else None
    return next((name for name in columns if identity is not None and name.lower() == identity.lower()), None)


def _unique_columns(frame: DataFrame, dataset: JobDataset) -> tuple[str, ...]:
    """Return the columns that the owner declares unique, if the query names all of them."""
    names = dataset.unique_columns
    return names if names is not None and set(names) <= set(frame.columns) else ()


def _for_each(items: Sequence[Item], dataset_of: Callable[[Item], JobDataset], work: Callable[[Item], Result]) -> list[Result]:
    def guarded(item: Item) -> Result:
        try:
            return work(item)
        except Exception as error:
            raise LoadFailed(dataset_of(item), redact_error(error)) from None

    with ThreadPoolExecutor(max_workers=min(4, len(items))) as pool:
        return [future.result() for future in [pool.submit(guarded, item) for item in items]]
