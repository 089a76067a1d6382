"""Conditions of a release: texts of values and of tests of rows, and what a condition requires."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import Condition, Floors, Test, covers, number_of, product_text, row_test
from sparkapp.plan.tree import tree
from tests.unit.sparkapp.test_plan_operators import attribute
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, node

Items = list[dict[str, Any]]
PERSON, ROWS, FIRST, SECOND, SIZE = 1, 2, 3, 4, 5
"""Attributes of the rows per person: the identity, a count of rows, and two tests. SIZE is a sum of absolute values."""
X, Y = attribute(11, "x"), attribute(12, "y")


def of(kind: str, *children: Items, **fields: Any) -> Items:
    return node(f"{EXPRESSIONS}.{kind}", *children, **fields)


def literal(value: int | str | None) -> Items:
    return of("Literal", value=None if value is None else str(value))


def aggregate(kind: str, *children: Items) -> Items:
    return of("AggregateExpression", of(kind, *children[:1]), *children[1:], isDistinct=False)


def coalesced(value: Items) -> Items:
    return of("Coalesce", value, literal(0))


def unequal(one: Items, two: Items) -> Items:
    return of("Not", of("EqualTo", one, two))


IS_X, IS_Y = of("IsNotNull", X), of("IsNotNull", Y)
TRUE = of("EqualNullSafe", X, literal("true"))


def text_of(items: Items) -> str:
    return product_text(tree(items), Canonical())


ABSOLUTE = of("Abs", of("Cast", X, dataType="double"))


def require(
    condition: Items, count: Items, first: Items = IS_X, summed: Items = ABSOLUTE, size: Items | None = None, person: str = ""
) -> Floors:
    """What ``condition`` on the group's attribute 20, which is ``count``, requires."""
    values = {20: tree(count), 21: tree(aggregate("Max", attribute(SIZE))), 22: tree(aggregate("Sum", attribute(SIZE)))}
    values[23] = tree(aggregate("Sum", attribute(ROWS)))
    values[24], values[25] = (tree(aggregate(name, coalesced(attribute(SIZE)))) for name in ("Max", "Sum"))
    inputs = {
        PERSON: tree(X),
        ROWS: tree(aggregate("Count", literal(1))),
        FIRST: tree(aggregate("BoolOr", first)),
        SECOND: tree(aggregate("BoolOr", IS_Y)),
        SIZE: tree(size or of("Coalesce", aggregate("Sum", summed), literal(0))),
    }
    floors = Floors()
    Condition(tree(condition), values, inputs, {PERSON}, Canonical(), person).read(floors)
    return floors


def counted(test: Items) -> Items:
    return aggregate("Count", attribute(PERSON), test)


AT_LEAST_5 = of("GreaterThanOrEqual", attribute(20), literal(5))


def few(most: int) -> Items:
    """``NOT BETWEEN 1 AND most``, as Spark analyses it."""
    reference = of("CommonExpressionRef")
    bounds = of("And", of("GreaterThanOrEqual", reference, literal(1)), of("LessThanOrEqual", reference, literal(most)))
    return of("Not", of("Between", of("With", bounds, of("CommonExpressionDef", attribute(20)))))


def test_factors_of_a_product_have_no_order_and_no_casts_to_other_numbers() -> None:
    as_double = of("Cast", Y, dataType="double")
    assert text_of(of("Multiply", X, Y)).count(" * ") == 1
    assert text_of(of("Multiply", as_double, X, evalMode="ANSI")).replace("#0", "#").replace("#1", "#") == (
        text_of(of("Multiply", X, Y)).replace("#0", "#").replace("#1", "#")
    )
    assert text_of(of("Cast", X, dataType="decimal(20,2)")) == text_of(X)
    assert text_of(of("Cast", X, dataType="integer")) != text_of(X)
    assert text_of(of("Multiply", X, of("Multiply", X, X))).count(" * ") == 2


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (IS_X, "{} IS NOT NULL"),
        (of("Not", IS_X), "{} IS NULL"),
        (TRUE, "{} IS TRUE"),
        (of("EqualNullSafe", unequal(of("Cast", X, dataType="double"), literal(0)), literal("true")), "{} <> 0 IS TRUE"),
        (of("Not", of("EqualNullSafe", IS_X, literal("true"))), "#0 IS NOT NULL IS NOT TRUE"),
        (of("Not", TRUE), "{} IS NOT TRUE"),
        (unequal(X, literal(0)), "{} <> 0"),
        (unequal(of("Cast", X, dataType="double"), literal(0)), "{} <> 0"),
        (unequal(X, of("Cast", literal("0.5"), dataType="double")), "{} <> 0.5"),
    ],
)
def test_tests_of_one_value_have_a_form(test: Items, text: str) -> None:
    assert row_test(tree(test), Canonical()) == {text.format(text_of(X))}


def test_other_tests_keep_their_text() -> None:
    for test in (
        unequal(X, of("Literal", value="1", dataType="string")),
        unequal(X, Y),
        of("EqualNullSafe", X, literal("false")),
        of("EqualNullSafe", X, Y),
    ):
        assert row_test(tree(test), Canonical()) == {Canonical().text(tree(test))}
    assert row_test(tree(of("Cast", X, dataType="integer")), Canonical()) == {Canonical().text(tree(of("Cast", X, dataType="integer")))}
    assert len(row_test(tree(of("And", IS_X, of("And", TRUE, IS_Y))), Canonical())) == 3


@pytest.mark.parametrize(
    ("tests", "covered"),
    [
        ([{"a IS TRUE"}], True),
        ([{"a IS TRUE", "#7) IS NOT NULL"}], True),  # the identity
        ([{"a IS TRUE", "x IS NOT NULL"}], False),
        ([{"a IS TRUE", "x IS NOT NULL"}, {"a IS TRUE", "y IS NULL"}], False),
        ([{"a IS TRUE", "x IS NOT NULL"}, {"a IS TRUE", "x IS NULL"}], True),
        ([{"a IS TRUE", "b IS TRUE"}, {"a IS TRUE", "b IS NOT TRUE"}], True),
        ([{"a IS TRUE", "b IS TRUE"}, {"a IS TRUE", "b IS NOT TRUE", "x IS NOT NULL"}], False),
        ([{"a IS TRUE", "x <> 0"}], False),
        ([{"b IS TRUE"}], False),
        ([], False),
    ],
)
def test_part_is_counted_by_its_test_or_by_those_of_all_its_parts(tests: list[set[str]], covered: bool) -> None:
    assert covers([frozenset(test) for test in tests], frozenset(["a IS TRUE"]), ("#7) IS NOT NULL",)) == covered


def test_number_is_a_constant_without_casts() -> None:
    assert number_of(tree(of("Cast", of("Cast", literal(7), dataType="long"), dataType="double"))) == 7
    assert [number_of(tree(items)) for items in (literal("-1"), literal("1.5"), literal(None), X)] == [None] * 4


def test_persons_are_counted_without_a_test() -> None:
    assert require(AT_LEAST_5, aggregate("Count", attribute(PERSON))) == Floors(persons=5)


def test_persons_with_a_test_are_enough_or_none() -> None:
    test = frozenset([f"{text_of(X)} IS NOT NULL"])
    for condition, least in ((AT_LEAST_5, 5), (few(4), 5), (few(2), 3)):
        found = require(condition, counted(attribute(FIRST)))
        assert (found.tests, found.least, found.tested) == ([test], least, {11})
        assert found.counted == {frozenset([(test, True)])}
        assert found.strict == ({test} if condition is AT_LEAST_5 else set())


def test_contributors_are_those_with_a_sum_of_absolute_values() -> None:
    found = require(AT_LEAST_5, counted(of("GreaterThan", attribute(SIZE), literal(0))))
    assert (found.tests, found.least, found.tested) == ([frozenset([f"{text_of(X)} <> 0"])], 5, set())
    assert require(few(4), counted(of("GreaterThan", attribute(ROWS), literal(1)))).repeated


def test_several_tests_are_counted_together() -> None:
    condition = of("And", attribute(FIRST), of("Not", attribute(SECOND)))
    found = require(few(4), counted(condition))
    (pair,) = found.counted
    assert sorted(meets for _, meets in pair) == [False, True]
    assert (found.tests, found.tested, found.least) == ([], set(), 5)
    ((_, meets),) = next(iter(require(few(4), counted(of("Not", attribute(FIRST)))).counted))
    assert not meets


AS_DOUBLE = of("Cast", X, dataType="double")
TOTALS = {
    "sum": (aggregate("Sum", AS_DOUBLE), "{}", []),
    "exact sum": (aggregate("Sum", of("Cast", X, dataType="decimal(20,0)")), "{}", []),
    "product": (aggregate("Sum", of("Multiply", X, X)), "{0} * {0}", []),
    "filtered sum": (aggregate("Sum", X, IS_X), "{}", ["{} IS NOT NULL"]),
    "rows": (aggregate("Count", literal(1)), "1", []),
    "values": (aggregate("Count", X), "1", ["{} IS NOT NULL"]),
    "filtered values": (aggregate("Count", X, TRUE), "1", ["{} IS NOT NULL", "{} IS TRUE"]),
    "rows that meet a test": (aggregate("CountIf", IS_X), "1", ["{} IS NOT NULL"]),
}


@pytest.mark.parametrize("name", TOTALS)
def test_sums_and_counts_that_are_compared_are_recorded(name: str) -> None:
    total, text, tests = TOTALS[name]
    condition = unequal(coalesced(attribute(SIZE)), of("Cast", coalesced(attribute(ROWS)), dataType="double"))
    (found,) = require(few(4), counted(condition), size=total).differences
    assert found == {("1", Test()), (text.format(text_of(X)), Test(test.format(text_of(X)) for test in tests))}


@pytest.mark.parametrize(
    "condition",
    [
        of("EqualTo", coalesced(attribute(SIZE)), coalesced(attribute(ROWS))),
        unequal(attribute(SIZE), coalesced(attribute(ROWS))),
        unequal(of("Coalesce", attribute(SIZE), literal(1)), coalesced(attribute(ROWS))),
        unequal(of("Cast", coalesced(attribute(SIZE)), dataType="integer"), coalesced(attribute(ROWS))),
        unequal(coalesced(attribute(PERSON)), coalesced(attribute(ROWS))),
        unequal(coalesced(attribute(FIRST)), coalesced(attribute(ROWS))),
        unequal(coalesced(attribute(99)), coalesced(attribute(ROWS))),
    ],
)
def test_other_comparisons_are_no_differences(condition: Items) -> None:
    require(few(4), counted(unequal(coalesced(attribute(SIZE)), coalesced(attribute(ROWS)))), size=aggregate("Sum", X))
    with pytest.raises(Refused, match="contain another one"):
        require(few(4), counted(condition), size=aggregate("Sum", X))


@pytest.mark.parametrize(
    "count",
    [
        aggregate("Count", attribute(ROWS)),
        aggregate("Sum", attribute(PERSON)),
        of("AggregateExpression", of("Count", attribute(PERSON)), attribute(FIRST), isDistinct=True),
        counted(of("GreaterThan", attribute(SIZE), literal(1))),
        counted(of("GreaterThan", attribute(ROWS), literal(2))),
        counted(of("Or", attribute(FIRST), attribute(SECOND))),
        counted(attribute(PERSON)),
        aggregate("Count", attribute(ROWS), attribute(FIRST)),
        aggregate("Sum", attribute(PERSON), attribute(FIRST)),
    ],
)
def test_other_conditions_are_refused(count: Items) -> None:
    with pytest.raises(Refused, match="contain another one"):
        require(AT_LEAST_5, count)
    with pytest.raises(Refused, match="contain another one"):
        require(few(4), count)


def share(part: str, largest: int = 21, total: int = 22, most: int = 0) -> Items:
    """``MAX(s) - part * SUM(s) <= 0``."""
    product = of("Multiply", of("Cast", literal(part), dataType="double"), attribute(total))
    return of("LessThanOrEqual", of("Subtract", attribute(largest), product), of("Cast", literal(most), dataType="double"))


@pytest.mark.parametrize(("part", "percent"), [("0.8", 80), ("0.80", 80), ("0.05", 5), ("1", 100)])
def test_share_of_one_person_is_limited(part: str, percent: int) -> None:
    assert require(share(part), literal(0)).shares == {(text_of(X), Test()): percent}


@pytest.mark.parametrize(
    "condition",
    [
        share("0.805"),
        share("x"),
        share("0.8", most=1),
        share("0.8", total=21),
        share("0.8", total=20),
        share("0.8", largest=22),
        share("0.8", total=23),
        of("LessThanOrEqual", of("Add", attribute(21), of("Multiply", literal("0.8"), attribute(22))), literal(0)),
        of("LessThanOrEqual", of("Subtract", attribute(21), of("Divide", literal("0.8"), attribute(22))), literal(0)),
        of("LessThanOrEqual", of("Subtract", attribute(21), of("Multiply", attribute(22), attribute(22))), literal(0)),
        of("LessThan", of("Subtract", attribute(21), of("Multiply", literal("0.8"), attribute(22))), literal(0)),
    ],
)
def test_other_limits_of_a_share_are_refused(condition: Items) -> None:
    with pytest.raises(Refused, match="contain another one"):
        require(condition, aggregate("Sum", attribute(ROWS)))


def test_share_of_some_rows_is_one_of_those_that_meet_the_condition() -> None:
    size = coalesced(aggregate("Sum", ABSOLUTE, of("And", TRUE, of("IsNotNull", Y))))
    found = require(share("0.8"), literal(0), size=size)
    assert {(text, len(where)) for text, where in found.shares} == {(text_of(X), 2)}
    assert found.unguarded
    person = require(share("0.8"), literal(0), size=coalesced(aggregate("Sum", ABSOLUTE, of("And", TRUE, IS_X))), person=text_of(X))
    assert (person.shares, person.unguarded) == ({(text_of(X), Test([f"{text_of(X)} IS TRUE"])): 80}, False)


def test_contributors_to_a_product_have_both_factors() -> None:
    product = of("Abs", of("Cast", of("Multiply", X, Y), dataType="double"))
    both, each = require(AT_LEAST_5, counted(of("GreaterThan", attribute(SIZE), literal(0))), summed=product).tests
    assert len(each) == 2
    assert " * ".join(sorted(text.removesuffix(" <> 0") for text in each)) + " <> 0" in both


SQUARE = aggregate("Sum", of("Multiply", X, X), TRUE)


def test_square_is_its_own_absolute_value() -> None:
    text = f"{text_of(X)} * {text_of(X)}"
    found = require(share("0.8", largest=24, total=25), literal(0), size=SQUARE)
    assert found.shares == {(text, row_test(tree(TRUE), Canonical())): 80}
    assert found.unguarded
    tests = require(AT_LEAST_5, counted(of("GreaterThan", coalesced(attribute(SIZE)), literal(0))), size=SQUARE).strict
    assert {f"{text} <> 0" in test for test in tests} == {True, False}
    assert {f"{text_of(X)} <> 0" in test for test in tests} == {True, False}


@pytest.mark.parametrize(
    "size",
    [
        aggregate("Sum", of("Multiply", X, Y)),
        aggregate("Sum", of("Add", X, X)),
        aggregate("Sum", X),
        aggregate("Max", of("Multiply", X, X)),
        coalesced(aggregate("Sum", of("Multiply", X, X))),
        of("AggregateExpression", of("Sum", of("Multiply", X, X)), isDistinct=True),
    ],
)
def test_values_that_may_be_negative_are_no_squares(size: Items) -> None:
    with pytest.raises(Refused, match="contain another one"):
        require(share("0.8", largest=24, total=25), literal(0), size=size)


@pytest.mark.parametrize("summed", [of("Abs", X), of("Abs", of("Cast", X, dataType="long")), AS_DOUBLE])
def test_sum_of_absolute_values_must_not_overflow(summed: Items) -> None:
    with pytest.raises(Refused, match="contain another one"):
        require(share("0.8"), literal(0), summed=summed)
