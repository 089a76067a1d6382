"""Segments without Spark: their order, preconditions, post filters, and what an error under a privacy floor discloses."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.spark.job import JobConfig, JobSegment
from sparkapp.execution import run_segments
from sparkapp.listing import DatasetListing
from sparkapp.references import created_view
from sparkapp.views import View
from tests.unit.spark_support import DIGEST, make_job
from tests.unit.sparkapp.fake_spark import Session, spark

__all__ = ["spark"]

FLOOR = {"minGroupSize": 2, "identityColumn": "region"}


def segment(number: int, sql: str, *conditions: tuple[str, int], filters: tuple[tuple[str, float], ...] = ()) -> dict[str, Any]:
    return {
        "executionSequence": number,
        "sql": sql,
        "sourceDigest": DIGEST,
        "preConditions": [{"viewName": name, "minRowCount": rows} for name, rows in conditions],
        "postFilters": [{"columnName": name, "value": value} for name, value in filters],
    }


def job_of(*segments: dict[str, Any], floors: dict[str, Any] | None = None) -> JobConfig:
    dataset = make_job().model_dump(mode="json", by_alias=True)["datasets"][0]
    return make_job(segments=list(segments), datasets=[dataset | {"floors": floors or {}}])


class Checked:
    """The plan check; notes which plans it has seen."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def require_known(self, frame: Any) -> None:
        self.sources.append(f"known {frame.source}")

    def require_safe(self, frame: Any) -> None:
        self.sources.append(f"safe {frame.source}")


def ordered(job: JobConfig) -> list[JobSegment]:
    return sorted(job.segments, key=lambda item: item.execution_sequence)


def run(session: Session, job: JobConfig, rows: int = 10) -> Any:
    numbers: list[tuple[int, int]] = []
    view = View(DatasetListing(job.datasets[0], {}, frozenset(), False), rows)
    fake: Any = session
    check: Any = Checked()
    result = run_segments(fake, job, [view], check, on_segment=lambda number, of: numbers.append((number, of)))
    assert check.sources == [f"known {created}" if (created := created_view(item.sql)) else f"safe {item.sql}" for item in ordered(job)]
    assert numbers == [(index + 1, len(job.segments)) for index in range(len(job.segments))]
    return result


def code_of(session: Session, job: JobConfig, rows: int = 10) -> tuple[str, str]:
    with pytest.raises(CleanRoomError) as caught:
        run(session, job, rows)
    return caught.value.code, caught.value.message


VIEW = "CREATE OR REPLACE TEMPORARY VIEW seen AS SELECT 1 AS n"


def test_segments_run_in_the_order_of_their_numbers(spark: Session) -> None:
    result = run(spark, job_of(segment(2, "SELECT 2 AS n"), segment(1, VIEW), segment(2, "SELECT 3 AS n")))
    assert spark.steps == [VIEW, "SELECT 2 AS n", "SELECT 3 AS n"]
    assert result.source == "SELECT 3 AS n"


@pytest.mark.parametrize(("rows", "code"), [(10, None), (9, "PreconditionFailed")])
def test_precondition_on_a_dataset_is_checked_before_its_segment(spark: Session, rows: int, code: str | None) -> None:
    job = job_of(segment(1, VIEW), segment(2, "SELECT 1 AS n", ("ORDERS", 10)))
    if code is None:
        run(spark, job, rows)
        return
    found, message = code_of(spark, job, rows)
    assert (found, spark.steps) == (code, [VIEW])
    assert "segment 2" in message
    assert str(rows) not in message.split()


def test_every_precondition_of_a_segment_counts(spark: Session) -> None:
    spark.rows = {"seen": 5}
    for conditions in ((("orders", 11), ("seen", 1)), (("orders", 1), ("seen", 6)), (("seen", 1), ("orders", 11))):
        assert code_of(spark, job_of(segment(1, VIEW), segment(2, "SELECT 1 AS n", *conditions)))[0] == "PreconditionFailed"


def test_precondition_on_a_view_that_does_not_exist_yet_is_an_error(spark: Session) -> None:
    code, message = code_of(spark, job_of(segment(1, "SELECT 1 AS n", ("later", 1))))
    assert code == "PreconditionViewUnknown"
    assert "'later'" in message


def test_view_is_counted_once_and_again_after_it_is_replaced(spark: Session) -> None:
    spark.rows = {"seen": 5}
    counted, again, last = (
        segment(n, sql, *rows)
        for n, sql, rows in (
            (2, "SELECT 1 AS n", (("seen", 5), ("Seen", 4))),
            (3, VIEW, (("seen", 5),)),
            (4, "SELECT 2 AS n", (("seen", 1),)),
        )
    )
    run(spark, job_of(segment(1, VIEW), counted, again, last))
    assert [step for step in spark.steps if step.startswith("count")] == ["count seen", "count seen"]


def test_segment_that_replaces_a_dataset_replaces_its_number_of_rows(spark: Session) -> None:
    spark.rows = {"orders": 1}
    replaced = VIEW.replace("seen", "Orders")
    assert code_of(spark, job_of(segment(1, replaced), segment(2, "SELECT 1 AS n", ("orders", 2))))[0] == "PreconditionFailed"


def test_post_filters_apply_to_the_result_or_to_the_created_view(spark: Session) -> None:
    filters = (("N", 5.0), ("n", 6.0))
    result = run(spark, job_of(segment(1, VIEW, filters=filters), segment(2, "SELECT 1 AS n", filters=filters[:1])))
    assert spark.steps == [VIEW, "view seen = seen WHERE `n` >= 5 WHERE `n` >= 6", "SELECT 1 AS n"]
    assert result.filters == ("`n` >= 5",)


@pytest.mark.parametrize(("column", "why"), [("other", "lacks it"), ("s", "not numeric")])
def test_post_filter_needs_a_numeric_column(spark: Session, column: str, why: str) -> None:
    code, message = code_of(spark, job_of(segment(1, "SELECT 1 AS n", filters=((column, 1.0),))))
    assert (code, why in message) == ("PostFilterInvalid", True)


# --- privacy floors


def test_under_a_floor_all_segments_run_before_a_precondition_fails_without_its_name(spark: Session) -> None:
    spark.rows = {"near": 0, "far": 1}
    job = job_of(segment(1, VIEW), segment(2, "SELECT 1 AS n", ("near", 1), ("far", 1)), segment(3, "SELECT 2 AS n"), floors=FLOOR)
    code, message = code_of(spark, job)
    assert code == "PreconditionFailed"
    assert "withheld" in message
    assert "near" not in message
    assert "segment" not in message.replace("a segment creates", "")
    assert spark.steps == [VIEW, "count near", "count far", "SELECT 1 AS n", "SELECT 2 AS n"]


def test_without_a_floor_the_run_stops_at_the_first_failed_precondition(spark: Session) -> None:
    spark.rows = {"near": 0}
    code, message = code_of(spark, job_of(segment(1, VIEW), segment(2, "SELECT 1 AS n", ("near", 1)), segment(3, "SELECT 2 AS n")))
    assert (code, "'near'" in message) == ("PreconditionFailed", True)
    assert spark.steps == [VIEW, "count near"]


def test_under_a_floor_the_first_error_of_a_count_is_raised_after_all_segments(spark: Session) -> None:
    spark.rows = {"near": ValueError("first"), "far": ValueError("second")}
    job = job_of(segment(1, VIEW), segment(2, "SELECT 1 AS n", ("near", 1), ("far", 1)), segment(3, "SELECT 2 AS n"), floors=FLOOR)
    with pytest.raises(ValueError, match="first"):
        run(spark, job)
    assert spark.steps[-1] == "SELECT 2 AS n"
    spark.steps.clear()
    with pytest.raises(ValueError, match="first"):
        run(spark, job_of(*(item.model_dump(by_alias=True) for item in job.segments)))
    assert spark.steps == [VIEW, "count near"]


def test_only_a_created_view_has_a_name() -> None:
    assert created_view(VIEW) == "seen"
    assert created_view("SELECT 1") is None
    assert created_view("CREATE TABLE t (n INT)") is None
    assert created_view("DROP VIEW seen") is None
    assert created_view("CREATE TEMPORARY VIEW `a b` AS SELECT 1") == "a b"
