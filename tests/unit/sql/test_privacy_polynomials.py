"""Privacy rules for expressions: their degree."""

from __future__ import annotations

import pytest

from cleanroom.sql import check_sql
from cleanroom.sql.model import Value
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.vocabulary import FUNCTIONS
from tests.unit.sql.privacy_values import column
from tests.unit.sql.world import GUARDED


def number(value: float) -> Value:
    return Value(str(value), "number", constant=value)


@pytest.mark.parametrize(
    ("left", "right", "degree"),
    [
        (column("a"), column("b"), 2),
        (Value("a * b", "number", degree=2), column("c"), 3),
        (column("a"), number(1000), None),
        (column("a"), Value("f(b)", "number", degree=None), None),
        (column("a"), Value("ROUND(b)", "number", degree=1, transformed=True), None),
        (column("a"), Value("f", "integer", degree=1, flag=True), None),
    ],
)
def test_degree_of_a_product(left: Value, right: Value, degree: int | None) -> None:
    assert polynomials.product(left, right) == degree == polynomials.product(right, left)


def test_degree_of_calls() -> None:
    date = column("day", type="date")
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), number(0)]) == 1
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), number(3)]) is None
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), column("b")]) is None
    assert polynomials.call(FUNCTIONS["DATEDIFF"], [date, date]) == 1
    assert polynomials.call(FUNCTIONS["DATEDIFF"], [date, column("a")]) is None
    assert polynomials.call(FUNCTIONS["ROUND"], [column("a")]) == 1
    assert polynomials.call(FUNCTIONS["ROUND"], [column("a"), number(-1)]) is None
    assert polynomials.call(FUNCTIONS["LEAST"], [number(500), column("a")]) == 1
    assert polynomials.call(FUNCTIONS["LEAST"], [column("a"), column("b")]) is None
    assert polynomials.call(FUNCTIONS["FLOOR"], [column("a")]) is None


@pytest.mark.parametrize(
    ("word", "source", "target", "exact"),
    [
        ("CAST", "integer", "number", True),
        ("CAST", "decimal", "number", True),
        ("CAST", "integer", "long", False),
        ("CAST", "integer", "decimal", False),
        ("CAST", "number", "long", False),
        ("TRY_CAST", "integer", "number", False),
        ("CAST", "string", "number", False),
        ("CAST", "integer", "string", False),
    ],
)
def test_only_casts_that_never_fail_nor_round_keep_the_value(word: str, source: str, target: str, exact: bool) -> None:
    assert polynomials.keeps_value(word, source, target) is exact


COUNTED = "(SELECT user_key, COUNT(*) AS n FROM orders GROUP BY user_key) t"
NUMBERED = "(SELECT user_key, ROW_NUMBER() OVER (PARTITION BY user_key ORDER BY 'x') AS n FROM orders) t"


_JOINED = "orders o JOIN weights w ON o.user_key = w.user_key"
TOTALS = f"(SELECT o.user_key, SUM(w.w) AS x FROM {_JOINED} GROUP BY o.user_key) t"
RUNNING = f"(SELECT o.user_key, SUM(w.w) OVER (PARTITION BY o.user_key ORDER BY o.day) AS x FROM {_JOINED}) t"


@pytest.mark.parametrize(
    ("use", "rows"),
    [
        *((f"SUM({value})", "orders") for value in ("amount - 1", "-amount", "2 * amount", "amount / 7", "amount * (1 - discount)")),
        ("SUM(y)", "(SELECT amount * 2 AS y FROM orders) t"),
        *((use, rows) for use in ("SUM(POWER(10, n))", "SUM(n * n * n)", "SUM(n + 1)") for rows in (COUNTED, NUMBERED)),
        *((use, f"weights w JOIN {COUNTED} ON w.user_key = t.user_key") for use in ("SUM(w.w + n)", "SUM(w.w * n * n)")),
        *((use, f"weights w JOIN {NUMBERED} ON w.user_key = t.user_key") for use in ("SUM(w.w + n)", "SUM(w.w * n * n)")),
        *((use, rows) for use in ("SUM(POWER(10, x))", "SUM(x + 1)", "SUM(x * x * x)") for rows in (TOTALS, RUNNING)),
    ],
)  # fmt: skip
def test_sum_of_several_terms_or_with_constants_is_refused_over_floors(use: str, rows: str) -> None:
    (reason,) = check_sql(f"SELECT {use} AS s FROM {rows}", GUARDED).reasons
    assert reason.code in ("ConditionalAggregate", "TooManyMoments")


def test_remedies_of_refused_sums_pass() -> None:
    assert check_sql("SELECT 1.2 * SUM(amount) - SUM(amount * discount) + 5 * COUNT(amount) AS s FROM orders", GUARDED).allowed


def test_data_of_the_author_may_be_any_expression() -> None:
    sql = "SELECT SUM(ABS(w.w) * 2 + 1) AS s FROM orders o JOIN weights w ON o.user_key = w.user_key"
    assert check_sql(sql, GUARDED).allowed
