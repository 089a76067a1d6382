"""Running the approved segments: in order, each behind its preconditions, each result behind its post filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp

from cleanroom.documents.query import PreCondition
from cleanroom.errors import InvalidInput, PreconditionFailed
from cleanroom.spark.job import JobConfig, JobSegment
from sparkapp.views import View

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def run_segments(spark: SparkSession, job: JobConfig, views: list[View], *, on_segment: Callable[[int, int], None]) -> DataFrame:
    """The result of the segment with the highest sequence, with its post filters, not yet computed.

    Args:
        spark: A locked session in which the views are registered.
        job: Its SQL is the gate's rendering.
        views: The datasets' views with their rows.
        on_segment: Told ``(number, of)`` before each segment.

    Raises:
        PreconditionFailed: ``PreconditionFailed`` when a view has fewer rows than a segment asks (the number that it has is not told, and
            under a privacy floor not which view, where a segment made it).
        InvalidInput: ``PostFilterInvalid``; errors of Spark pass as they are.
    """
    rows = {view.dataset.view_name.lower(): view.rows for view in views}
    # Python's sort is stable: segments of one sequence keep their order.
    segments = sorted(job.segments, key=lambda segment: segment.execution_sequence)
    result: DataFrame | None = None
    made = _SegmentViewConditions(spark, withheld=job.has_floors())
    for number, segment in enumerate(segments, start=1):
        on_segment(number, len(segments))
        for condition in segment.pre_conditions:
            if condition.view_name.lower() in rows:
                _require(condition, segment, rows[condition.view_name.lower()])
            else:
                made.require(condition, segment)
        result = spark.sql(segment.sql)
        created = created_view(segment.sql)
        if created is not None:
            rows.pop(created.lower(), None)
            made.changed(created)
        if segment.post_filters:
            if created is not None:
                _filtered(spark.table(created), segment).createOrReplaceTempView(created)
            else:
                result = _filtered(result, segment)
    if result is None:  # JobConfig has at least one segment
        raise InvalidInput("QueryEmpty", "job: it has no segment.")
    made.tell()
    return result


def created_view(sql: str) -> str | None:
    """Name of the temporary view that a segment makes, or None when it makes none."""
    tree = sqlglot.parse_one(sql, dialect="spark")
    return tree.this.name if isinstance(tree, exp.Create) and tree.args.get("kind") == "VIEW" else None


def _require(condition: PreCondition, segment: JobSegment, rows: int) -> None:
    if rows < condition.min_row_count:
        raise PreconditionFailed(
            "PreconditionFailed",
            f"segment {segment.execution_sequence}: view {condition.view_name!r} has fewer than {condition.min_row_count} rows.",
            hint="Run it on more data, or agree on another precondition.",
        )


class _SegmentViewConditions:
    """Preconditions on views that segments made.

    Their text is the author's: twenty of them, each on a view that has rows only if one person earns more than so much, would tell by
    where the run stops. So under a floor (``withheld``) nothing stops before all have been looked at, and which failed is not told.
    """

    def __init__(self, spark: SparkSession, *, withheld: bool) -> None:
        self._spark = spark
        self._withheld = withheld
        self._rows: dict[str, int] = {}
        self._failed: Exception | None = None

    def changed(self, view: str) -> None:
        """A segment made ``view``, perhaps anew."""
        self._rows.pop(view.lower(), None)

    def require(self, condition: PreCondition, segment: JobSegment) -> None:
        name = condition.view_name.lower()
        if name not in self._rows and not self._spark.catalog.tableExists(condition.view_name):
            raise InvalidInput(
                "PreconditionViewUnknown",
                f"segment {segment.execution_sequence}: precondition on view {condition.view_name!r}, which does not exist by then.",
            )
        try:
            if name not in self._rows:
                self._rows[name] = self._spark.table(condition.view_name).count()
            _require(condition, segment, self._rows[name])
        except Exception as error:
            if not self._withheld:
                raise
            self._failed = self._failed or error

    def tell(self) -> None:
        """Raise what was kept back."""
        if isinstance(self._failed, PreconditionFailed):
            raise PreconditionFailed(
                "PreconditionFailed",
                "A view that a segment makes has fewer rows than a precondition asks. Which is withheld: an owner has set a privacy floor.",
                hint="Run it on more data, or agree on another precondition.",
            )
        if self._failed is not None:
            raise self._failed


def _filtered(frame: DataFrame, segment: JobSegment) -> DataFrame:
    from pyspark.sql import functions
    from pyspark.sql.types import NumericType

    for item in segment.post_filters:
        field = next((field for field in frame.schema.fields if field.name.lower() == item.column_name.lower()), None)
        if field is None or not isinstance(field.dataType, NumericType):
            why = "has no such column" if field is None else "has it as a type that is no number"
            raise InvalidInput(
                "PostFilterInvalid",
                f"segment {segment.execution_sequence}: post filter on column {item.column_name!r}, but the result {why}.",
            )
        frame = frame.filter(functions.col(f"`{field.name.replace('`', '``')}`") >= item.value)
    return frame
