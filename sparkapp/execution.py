"""Runs the approved segments in order: preconditions before, and post filters after each segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cleanroom.documents.query import PreCondition
from cleanroom.errors import InvalidInput, PreconditionFailed
from cleanroom.spark.job import JobConfig, JobSegment
from sparkapp.plan_check import PlanCheck
from sparkapp.references import created_view
from sparkapp.views import View

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def run_segments(
    spark: SparkSession, job: JobConfig, views: list[View], check: PlanCheck, *, on_segment: Callable[[int, int], None]
) -> DataFrame:
    """Run all segments. Return the lazy result of the last one, with its post filters applied.

    Args:
        spark: A locked session in which the views are registered.
        job: The job; its SQL is the query gate's rendering.
        views: The datasets' views with their numbers of rows.
        check: The check of Spark's plans.
        on_segment: Called with the segment's number and the number of segments before each segment.

    Raises:
        PreconditionFailed: ``PreconditionFailed`` if a view has fewer rows than a segment requires. The message
            does not contain the number of rows. Under a privacy floor it does not name a view that a segment
            created.
        InvalidInput: ``PostFilterInvalid``, ``PreconditionViewUnknown``. Errors of Spark propagate unchanged.
        Refused: The plan of a segment is not safe; see :class:`~sparkapp.plan_check.PlanCheck`.
    """
    rows = {view.dataset.view_name.lower(): view.rows for view in views}
    # The sort is stable, so segments with equal sequence numbers keep their order.
    segments = sorted(job.segments, key=lambda segment: segment.execution_sequence)
    result: DataFrame | None = None
    conditions = _SegmentViewConditions(spark, withheld=job.has_floors())
    for number, segment in enumerate(segments, start=1):
        on_segment(number, len(segments))
        for condition in segment.pre_conditions:
            if condition.view_name.lower() in rows:
                _require(condition, segment, rows[condition.view_name.lower()])
            else:
                conditions.require(condition, segment)
        result = spark.sql(segment.sql)
        created = created_view(segment.sql)
        if created is not None:
            check.require_known(spark.table(created))
            rows.pop(created.lower(), None)
            conditions.invalidate(created)
        else:
            check.require_safe(result)
        if segment.post_filters:
            if created is not None:
                _filtered(spark.table(created), segment).createOrReplaceTempView(created)
            else:
                result = _filtered(result, segment)
    if result is None:  # JobConfig has at least one segment
        raise InvalidInput("QueryEmpty", "job: no segment.")
    conditions.raise_withheld()
    return result


def _require(condition: PreCondition, segment: JobSegment, rows: int) -> None:
    if rows < condition.min_row_count:
        raise PreconditionFailed(
            "PreconditionFailed",
            f"segment {segment.execution_sequence}: view {condition.view_name!r} has fewer than {condition.min_row_count} rows.",
            hint="Run the query on more data, or agree on another precondition.",
        )


class _SegmentViewConditions:
    """Preconditions on views that segments create.

    The query's author chooses such a view. With twenty views, each of which has rows only if one person earns more
    than a certain amount, the failed precondition would disclose the amount. Therefore, under a privacy floor
    (``withheld``), all preconditions are evaluated before the run stops, and the error does not say which one
    failed.
    """

    def __init__(self, spark: SparkSession, *, withheld: bool) -> None:
        self._spark = spark
        self._withheld = withheld
        self._rows: dict[str, int] = {}
        self._failed: Exception | None = None

    def invalidate(self, view: str) -> None:
        """Forget the number of rows of ``view``, because a segment has created or replaced it."""
        self._rows.pop(view.lower(), None)

    def require(self, condition: PreCondition, segment: JobSegment) -> None:
        """Evaluate a precondition; raise the failure, or keep it under a privacy floor."""
        name = condition.view_name.lower()
        if name not in self._rows and not self._spark.catalog.tableExists(condition.view_name):
            raise InvalidInput(
                "PreconditionViewUnknown",
                f"segment {segment.execution_sequence}: precondition on view {condition.view_name!r}, which does not exist yet.",
                hint="Create the view in an earlier segment.",
            )
        try:
            if name not in self._rows:
                self._rows[name] = self._spark.table(condition.view_name).count()
            _require(condition, segment, self._rows[name])
        except Exception as error:
            if not self._withheld:
                raise
            self._failed = self._failed or error

    def raise_withheld(self) -> None:
        """Raise the first failure that :meth:`require` kept, without naming the precondition."""
        if isinstance(self._failed, PreconditionFailed):
            raise PreconditionFailed(
                "PreconditionFailed",
                "A view that a segment creates has fewer rows than a precondition requires. "
                "Its name is withheld, because an owner has set a privacy floor.",
                hint="Run the query on more data, or agree on another precondition.",
            )
        if self._failed is not None:
            raise self._failed


def _filtered(frame: DataFrame, segment: JobSegment) -> DataFrame:
    from pyspark.sql import functions
    from pyspark.sql.types import NumericType

    for item in segment.post_filters:
        field = next((field for field in frame.schema.fields if field.name.lower() == item.column_name.lower()), None)
        if field is None or not isinstance(field.dataType, NumericType):
            why = "lacks it" if field is None else "has a type that is not numeric"
            raise InvalidInput(
                "PostFilterInvalid",
                f"segment {segment.execution_sequence}: post filter on column {item.column_name!r}: the result {why}.",
                hint="Name a numeric column of the segment's result.",
            )
        frame = frame.filter(functions.col(f"`{field.name.replace('`', '``')}`") >= item.value)
    return frame
