"""The gate refuses every attack."""

from __future__ import annotations

import contextlib

import pytest

from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment
from cleanroom.sql import GateVerdict, Refusal, analyse, check_sql, split_statements
from tests.unit.sql.attacks import ON_OPEN_DATA, OVER_FLOORS
from tests.unit.sql.world import GUARDED, OPEN


def _verdicts(sql: str, catalog: object) -> list[GateVerdict]:
    """Verdicts on the query as one segment, and as a file that ``lint`` splits."""
    verdicts = [check_sql([sql], catalog)]  # type: ignore[arg-type]
    with contextlib.suppress(Refusal):
        verdicts.append(check_sql(split_statements(sql), catalog))  # type: ignore[arg-type]
    return verdicts


@pytest.mark.parametrize("sql", ON_OPEN_DATA, ids=lambda sql: sql[:50].encode("ascii", "replace").decode())
def test_attack_on_the_engine_is_refused(sql: str) -> None:
    for verdict in _verdicts(sql, OPEN):
        assert not verdict.allowed
        assert verdict.reasons
        assert not verdict.rewritten
        assert all("\x1b" not in reason.message and "\u202e" not in reason.message for reason in verdict.reasons)


@pytest.mark.parametrize("sql", OVER_FLOORS, ids=lambda sql: sql[:60])
def test_attack_on_a_floor_is_refused(sql: str) -> None:
    for verdict in _verdicts(sql, GUARDED):
        assert not verdict.allowed, verdict.sql


def test_attack_corpus_has_at_least_80_queries() -> None:
    assert len(set(ON_OPEN_DATA) | set(OVER_FLOORS)) >= 80


def _segment(number: int, sql: str, **more: object) -> QuerySegment:
    return QuerySegment(execution_sequence=number, data=sql, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segments", "code"),
    [
        ([], "EmptyQuery"),
        ([_segment(1, "SELECT kind FROM events"), _segment(1, "SELECT kind FROM events")], "LastSegmentNotSingle"),
        ([_segment(1, "SELECT kind FROM events"), _segment(2, "SELECT kind FROM events")], "SelectNotLast"),
        ([_segment(2, "CREATE OR REPLACE TEMP VIEW v AS SELECT 1 AS a"), _segment(1, "SELECT kind FROM events")], "SelectNotLast"),
        ([_segment(1, "CREATE OR REPLACE TEMP VIEW v AS SELECT 1 AS a")], "LastSegmentNotSelect"),
        ([_segment(1, "SELECT kind FROM events; SELECT 1")], "MultipleStatements"),
        ([_segment(1, "SELECT kind FROM events", post_filters=(PostFilter(column_name="n", value=3),))], "UnknownColumn"),
        ([_segment(1, "SELECT kind FROM events", post_filters=(PostFilter(column_name="kind", value=3),))], "TypeNotAllowed"),
        ([_segment(1, "SELECT kind FROM events", pre_conditions=(PreCondition(view_name="secrets", min_row_count=3),))], "UnknownRelation"),
        (
            [
                _segment(
                    1, "CREATE OR REPLACE TEMP VIEW v AS SELECT spend FROM events", post_filters=(PostFilter(column_name="spend", value=3),)
                ),
                _segment(2, "SELECT spend FROM v"),
            ],
            "PostFilterNotAllowed",
        ),
        ([_segment(number, "CREATE OR REPLACE TEMP VIEW v AS SELECT 1 AS a") for number in range(1, 60)], "QueryTooLarge"),
    ],
)
def test_segments_that_do_not_form_a_query_are_refused(segments: list[QuerySegment], code: str) -> None:
    verdict = analyse(segments, OPEN)
    assert not verdict.allowed
    assert verdict.reasons[0].code == code


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ("SELECT * FROM orders WHERE region = 'west'", "RowLevelOutput"),
        ("SELECT status FROM orders GROUP BY status HAVING SUM(amount) > 500", "RowLevelOutput"),
        ("SELECT seg FROM weights WHERE w < (SELECT SUM(spend) FROM clicks)", "RowLevelOutput"),
        ("SELECT seg FROM weights", ""),
    ],
)
def test_precondition_on_a_view_with_rows_or_groups_of_persons_is_refused(rows: str, code: str) -> None:
    first = _segment(1, f"CREATE OR REPLACE TEMP VIEW v AS {rows}")
    last = _segment(
        2, "SELECT region, COUNT(*) AS n FROM orders GROUP BY region", pre_conditions=(PreCondition(view_name="v", min_row_count=1),)
    )
    assert [reason.code for reason in analyse([first, last], GUARDED).reasons] == [code] * bool(code)


def test_segments_run_in_ascending_sequence() -> None:
    verdict = analyse(
        [_segment(20, "SELECT a FROM v"), _segment(3, "CREATE OR REPLACE TEMP VIEW v AS SELECT spend AS a FROM events")], OPEN
    )
    assert verdict.allowed
    assert [segment.execution_sequence for segment in verdict.rewritten] == [3, 20]


def test_reason_names_the_position_and_a_similar_column() -> None:
    verdict = check_sql("SELECT kind,\n  spnd\nFROM events", OPEN)
    (reason,) = verdict.reasons
    assert (reason.code, reason.segment) == ("UnknownColumn", 0)
    assert reason.position is not None
    assert (reason.position.line, reason.position.column) == (2, 3)
    assert "did you mean spend?" in reason.message


def test_each_invalid_output_column_gets_a_reason() -> None:
    verdict = check_sql("SELECT ip, nothing, reflect('a') FROM events", OPEN)
    assert [reason.code for reason in verdict.reasons] == ["ColumnNotAllowed", "UnknownColumn", "FunctionNotAllowed"]
