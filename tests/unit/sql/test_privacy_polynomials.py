"""Privacy rules for expressions: their degree and scale."""

from __future__ import annotations

import math

import pytest

from cleanroom.sql.model import Value
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.vocabulary import FUNCTIONS
from tests.unit.sql.privacy_values import column


def number(value: float) -> Value:
    return Value(str(value), "number", scale=polynomials.scale_of(value), constant=value)


@pytest.mark.parametrize(
    ("symbol", "left", "right", "degree"),
    [
        ("+", column("a"), column("b"), 1),
        ("*", column("a"), column("b"), 2),
        ("*", column("a"), number(1000), 1),
        ("/", column("a"), number(7), 1),
        ("/", column("a"), number(0), None),
        ("/", number(1), column("a"), None),
        ("%", column("a"), number(2), None),
        ("+", column("a"), Value("f(b)", "number", degree=None), None),
        ("*", Value("a * b * c", "number", degree=3), column("d"), None),
        ("*", Value("a", "number", degree=1, scale=1e4), number(1000), None),
        ("+", number(2), number(3), 0),
        ("*", number(1e5), number(1e5), None),
        ("*", number(1e308), number(1e308), None),
    ],
)
def test_degree_of_arithmetic(symbol: str, left: Value, right: Value, degree: int | None) -> None:
    assert polynomials.arithmetic(symbol, left, right)[0] == degree


def test_scale_is_the_largest_factor_or_its_inverse() -> None:
    assert [polynomials.scale_of(value) for value in (0, 1, -4, 0.01)] == [1.0, 1.0, 4.0, 100.0]
    assert polynomials.arithmetic("*", Value("x", "number", degree=1, scale=10.0), number(0.5))[1] == 20.0


def test_degree_of_calls() -> None:
    date = column("day", type="date")
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), number(0)]) == (1, 1.0)
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), number(3)]) == (None, math.inf)
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), column("b")]) == (None, math.inf)
    assert polynomials.call(FUNCTIONS["DATEDIFF"], [date, date]) == (1, 1.0)
    assert polynomials.call(FUNCTIONS["DATEDIFF"], [date, column("a")]) == (None, math.inf)
    assert polynomials.call(FUNCTIONS["ROUND"], [column("a")]) == (1, 1.0)
    assert polynomials.call(FUNCTIONS["LEAST"], [number(500), column("a")]) == (1, 1.0)
    assert polynomials.call(FUNCTIONS["LEAST"], [column("a"), column("b")]) == (None, math.inf)
    assert polynomials.call(FUNCTIONS["FLOOR"], [column("a")]) == (None, math.inf)


@pytest.mark.parametrize(
    ("word", "source", "target", "sizes", "exact"),
    [
        ("CAST", "integer", "long", [], True),
        ("CAST", "integer", "number", [], True),
        ("CAST", "integer", "decimal", ["12", "0"], True),
        ("CAST", "integer", "decimal", ["9", "0"], False),
        ("CAST", "long", "decimal", ["18", "0"], False),
        ("CAST", "number", "long", [], False),
        ("CAST", "number", "decimal", ["30", "2"], False),
        ("TRY_CAST", "integer", "long", [], False),
        ("CAST", "string", "number", [], False),
        ("CAST", "integer", "string", [], False),
    ],
)
def test_only_casts_that_never_fail_nor_round_keep_the_value(word: str, source: str, target: str, sizes: list[str], exact: bool) -> None:
    assert polynomials.keeps_value(word, source, target, sizes) is exact
