"""Executes the job of a query on given rows: the steps of the pod's program, without a pod, a store and a ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from cleanroom.query_gate import job_catalog, verify_rendering
from cleanroom.spark.job import JobConfig
from sparkapp.execution import run_segments
from sparkapp.listing import DatasetListing
from sparkapp.output import compute, conform
from sparkapp.plan_check import PlanCheck
from sparkapp.pod import Pod
from sparkapp.references import needed_columns
from sparkapp.session import open_session, require_locked
from sparkapp.suppression import hold_persons
from sparkapp.views import OpenedDataset, register_views

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Rehearsed:
    """What a query returned.

    Attributes:
        columns: Types of the output dataset by column, in its order.
        rows: Rows of the result.
        groups: Groups that the query computed under privacy floors; None without floors.
        suppressed: Groups that the floors left out; None without floors.
        columns_read: Columns that the query reads, by view.
    """

    columns: dict[str, str]
    rows: int
    groups: int | None
    suppressed: int | None
    columns_read: dict[str, tuple[str, ...]]


def rehearse(
    job: JobConfig, tables: Mapping[str, pa.Table], *, spark: SparkSession | None = None, on_step: Callable[[str], None] = lambda text: None
) -> Rehearsed:
    """Execute a job on rows in memory, as the pod does: rendering, plan check, segments, floors, output schema.

    Args:
        job: The job.
        tables: Rows by view, with all columns of the dataset.
        spark: A session; None to start one.
        on_step: Called with the name of each step.

    Raises:
        CleanRoomError: What the pod would raise.
    """
    on_step("check the query")
    verify_rendering(job)
    on_step("start Spark")
    session = spark or open_session("rehearsal")
    try:
        return _rehearse(session, job, tables, on_step)
    finally:
        if spark is None:
            session.stop()


def _rehearse(spark: SparkSession, job: JobConfig, tables: Mapping[str, pa.Table], on_step: Callable[[str], None]) -> Rehearsed:
    on_step("load synthetic rows")
    opened = []
    for dataset in job.datasets:
        columns = tuple(needed_columns(job, dataset))
        opened.append(OpenedDataset(DatasetListing(dataset, {}, frozenset(), False), columns, tables[dataset.view_name].select(columns)))
    # Rows in memory need no pod.
    views = register_views(spark, cast("Pod", None), job, opened, on_loaded=lambda view: None)
    require_locked(spark)
    check = PlanCheck(spark, job_catalog(job))
    frame = run_segments(spark, job, views, check, on_segment=lambda number, of: on_step(f"segment {number} of {of}"))
    on_step("compute the result")
    held, suppression = hold_persons(spark, frame)
    result = compute(conform(held, job.datasink))
    groups = suppression.groups.count() if suppression else None
    shown = suppression.shown.count() if suppression else None
    if suppression:
        suppression.unpersist()
    sink = job.datasink
    return Rehearsed(
        columns={name: kind for name, kind in sink.schema_fields.items() if name in sink.allowed_fields},
        rows=result.rows,
        groups=groups,
        suppressed=None if groups is None or shown is None else groups - shown,
        columns_read={item.listing.dataset.view_name: item.columns for item in opened},
    )
