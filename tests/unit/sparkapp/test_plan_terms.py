"""What the aggregates of a release require: each condition is needed, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import Floors
from sparkapp.plan.release import Groups
from sparkapp.plan.rows import Rows
from sparkapp.plan.terms import Terms
from sparkapp.plan.tree import tree
from sparkapp.plan.walk import PlanWalk
from tests.unit.sparkapp.test_plan_operators import CATALOG, ORDERS
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, node

Items = list[dict[str, Any]]
WALK = PlanWalk(CATALOG)
ROWS = WALK.settled(tree(ORDERS), {})


def of(kind: str, *children: Items, **fields: Any) -> Items:
    return node(f"{EXPRESSIONS}.{kind}", *children, **fields)


def attribute(id: int, type: str = "double") -> Items:
    return of("AttributeReference", name="x", dataType=type, exprId={"id": id})


PERSON, REGION, AMOUNT = attribute(1, "string"), attribute(2, "string"), attribute(3)
ONE = of("Literal", value="1", dataType="integer")
NORTH = of("EqualTo", REGION, of("Literal", value="north", dataType="string"))
P, R, A, C = (Canonical.shared(tree(items)) for items in (PERSON, REGION, AMOUNT, NORTH))
"""Texts of the columns and of the condition."""


class SameNumbers(Canonical):
    """Texts with the IDs of the attributes."""

    def number(self, id: int) -> int:
        return id


def call(kind: str, *args: Items, where: Items | None = None, distinct: bool = False) -> Items:
    return of("AggregateExpression", of(kind, *args), *([where] if where else []), isDistinct=distinct)


def terms(*calls: Items, rows: Rows = ROWS, merged: bool = False) -> Terms:
    found = Terms(WALK, rows, rows.columns, SameNumbers())
    found.read([tree(items) for items in calls], merged=merged)
    return found


def requires(found: Terms, floors: Floors) -> bool:
    """Whether ``floors`` lack something."""
    try:
        found.require(floors)
    except Refused:
        return True
    return False


def pair(*texts: str) -> frozenset[str]:
    return frozenset(texts)


def test(*texts: str) -> frozenset[str]:
    return frozenset(texts)


test.__test__ = False  # type: ignore[attr-defined]
SQUARE = f"{A} * {A}"
COUNT = call("Count", ONE)
CASES = {
    "sum": ([call("Sum", AMOUNT)], Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80})),
    "sum and rows": ([call("Sum", AMOUNT), COUNT], Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80}, differences={pair(A, "1")})),
    "deviation": (
        [call("StddevSamp", AMOUNT)],
        Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80, SQUARE: 80}, differences={pair(A, SQUARE)}),
    ),
    "filtered sum": ([call("Sum", AMOUNT, where=NORTH)], Floors(5, 5, [test(f"{A} WHERE {C} <> 0")], shares={f"{A} WHERE {C}": 80})),
    "filtered deviation": (
        [call("VariancePop", AMOUNT, where=NORTH)],
        Floors(
            5,
            5,
            [test(f"{A} <> 0", f"{C} IS TRUE")],
            shares={f"{A} WHERE {C}": 80, f"{SQUARE} WHERE {C}": 80},
            differences={
                pair(A, f"{A} WHERE {C}"),
                pair(A, f"{SQUARE} WHERE {C}"),
                pair(f"{A} WHERE {C}", f"{SQUARE} WHERE {C}"),
            },
        ),
    ),
    "values and rows": ([call("Count", AMOUNT), COUNT], Floors(5, differences={pair("1", f"1 IF {A} IS NOT NULL")})),
    "values and a condition": (
        [call("Count", AMOUNT), call("CountIf", NORTH)],
        Floors(5, differences={pair("1", f"1 IF {A} IS NOT NULL"), pair(f"1 IF {C} IS TRUE", f"1 IF {A} IS NOT NULL")}),
    ),
    "two counts of values": (
        [call("Count", AMOUNT), call("Count", AMOUNT, where=NORTH)],
        Floors(
            5,
            differences={
                pair("1", f"1 IF {A} IS NOT NULL"),
                pair("1", f"1 IF {A} IS NOT NULL AND {C} IS TRUE"),
                pair(f"1 IF {A} IS NOT NULL", f"1 IF {A} IS NOT NULL AND {C} IS TRUE"),
            },
        ),
    ),
    "sum of a case": (
        [call("Sum", of("CaseWhen", NORTH, AMOUNT)), COUNT],
        Floors(
            5,
            5,
            [test(f"{A} WHERE {C} <> 0")],
            shares={f"{A} WHERE {C}": 80},
            differences={pair("1", f"{A} WHERE {C}"), pair("1", A)},
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_aggregates_require_each_of_these_conditions(name: str) -> None:
    calls, full = CASES[name]
    found = terms(*calls)
    full = replace(full, differences={*full.differences, pair(A, f"{A} WHERE {C}")}) if name == "sum of a case" else full
    assert not requires(found, full)
    assert not full.tests or requires(found, replace(full, tests=[]))
    assert not full.tests or requires(found, replace(full, tests=[full.tests[0] | {"x"}])) is False
    for text in full.shares:
        assert requires(found, replace(full, shares={**full.shares, text: 81}))
        assert requires(found, replace(full, shares={one: share for one, share in full.shares.items() if one != text}))
    for one in CASES[name][1].differences:
        assert requires(found, replace(full, differences=full.differences - {one}))


def test_floor_of_one_person_needs_no_differences() -> None:
    assert not requires(terms(call("Count", AMOUNT), COUNT), Floors(1))


@pytest.mark.parametrize("kind", ["CollectList", "Percentile", "Mode", "BoolOr"])
def test_other_aggregates_show_single_persons(kind: str) -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call(kind, AMOUNT))


def test_sum_of_different_values_shows_single_persons() -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call("Sum", AMOUNT, distinct=True))


@pytest.mark.parametrize("kind", ["Add", "Subtract", "Multiply"])
def test_arithmetic_with_whole_numbers_may_overflow(kind: str) -> None:
    whole = attribute(3, "integer")
    with pytest.raises(Refused, match="arithmetic with whole numbers"):
        terms(call("Sum", of(kind, whole, ONE)))
    terms(call("Sum", of(kind, of("Cast", whole, dataType="double"), ONE)))
    terms(call("Sum", of("Divide", whole, ONE)))


def test_mean_per_person_does_not_count_values() -> None:
    mean = [call("Sum", of("Cast", AMOUNT, dataType="double")), call("Count", AMOUNT)]
    floors = Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80})
    assert not requires(terms(*mean, merged=True), floors)
    assert requires(terms(*mean), floors)


# -- differences of counts of persons ---------------------------------------------------------------------------------


def groups(*counted: frozenset[tuple[frozenset[str], bool]], persons: int = 5, repeated: bool = False) -> Groups:
    return cast("Groups", type("Only", (), {"floors": Floors(persons, counted=set(counted), repeated=repeated)}))


def lacks(found: Terms, *releases: tuple[Groups, frozenset[int]]) -> bool:
    try:
        found.require_counted(releases)
    except Refused:
        return True
    return False


IS_NORTH = of("CaseWhen", NORTH, PERSON)
FOUND = frozenset([f"{P} WHERE {C} IS NOT NULL"])
WHERE = frozenset([f"{P} IS NOT NULL", f"{C} IS TRUE"])
ID = frozenset([1])


def none_of(one: frozenset[str]) -> frozenset[tuple[frozenset[str], bool]]:
    return frozenset([(one, False)])


def both_of(one: frozenset[str], first: bool, two: frozenset[str], second: bool) -> frozenset[tuple[frozenset[str], bool]]:
    return frozenset([(one, first), (two, second)])


@pytest.mark.parametrize(
    ("items", "required"),
    [
        (call("Count", IS_NORTH, distinct=True), FOUND),
        (call("HyperLogLogPlusPlus", IS_NORTH), FOUND),
        (call("Count", PERSON, where=NORTH, distinct=True), WHERE),
        (call("Count", PERSON, REGION, where=NORTH, distinct=True), WHERE | {f"{R} IS NOT NULL"}),
    ],
)
def test_persons_without_a_row_are_counted(items: Items, required: frozenset[str]) -> None:
    found = terms(items)
    assert not lacks(found, (groups(none_of(required)), ID))
    assert not lacks(found, (groups(), frozenset([9])), (groups(none_of(required)), ID))
    assert lacks(found, (groups(), ID))
    assert lacks(found, (groups(none_of(required)), frozenset([9])))
    assert lacks(found, (groups(frozenset([(required, True)])), ID))
    assert not lacks(found, (groups(persons=1), ID))


def test_persons_of_two_counts_are_compared() -> None:
    found = terms(call("Count", IS_NORTH, distinct=True), call("Count", PERSON, where=NORTH, distinct=True))
    full = [none_of(FOUND), none_of(WHERE)]
    full += [both_of(FOUND, first, WHERE, second) for first, second in ((True, True), (True, False), (False, True))]
    assert not lacks(found, (groups(*full), ID))
    for one in full:
        assert lacks(found, (groups(*(other for other in full if other != one)), ID))


def test_all_persons_and_other_values_need_no_condition() -> None:
    for items in (call("Count", PERSON, distinct=True), call("Count", AMOUNT, distinct=True), call("Count", PERSON), COUNT):
        assert not lacks(terms(items), (groups(), ID))


MADE = replace(ROWS, overlapping=True)
TRUE, FALSE = frozenset([f"{C} IS TRUE"]), frozenset([f"{C} IS NOT TRUE"])
PARTS = [
    none_of(TRUE),
    none_of(FALSE),
    *(both_of(TRUE, one, FALSE, two) for one, two in ((True, True), (True, False), (False, True))),
]


@pytest.mark.parametrize(
    "items", [call("CountIf", NORTH), call("Count", ONE, where=NORTH), call("Count", of("If", NORTH, ONE, AMOUNT)), call("Sum", IS_NORTH)]
)
def test_every_condition_may_count_persons_whose_rows_the_text_makes(items: Items) -> None:
    pairs = replace(ROWS, unique=[frozenset([1, 2])])
    single = replace(ROWS, unique=[frozenset([1])])
    for rows in (MADE, replace(ROWS, multiplied=True), pairs):
        found = terms(items, rows=rows)
        assert not lacks(found, (groups(*PARTS), ID))
        for one in PARTS:
            assert lacks(found, (groups(*(other for other in PARTS if other != one)), ID))
    for rows in (ROWS, single):
        assert not lacks(terms(items, rows=rows), (groups(), ID))


def test_persons_with_several_rows_are_counted_where_the_text_makes_rows() -> None:
    for other in (COUNT, call("CountIf", NORTH), call("Average", AMOUNT)):
        found = terms(call("Count", PERSON, distinct=True), other, rows=MADE)
        conditions = PARTS if other[1]["class"].endswith("CountIf") else []
        assert not lacks(found, (groups(*conditions, repeated=True), ID))
        assert lacks(found, (groups(*conditions), ID))
    assert not lacks(terms(call("Count", PERSON, distinct=True), call("Sum", AMOUNT), rows=MADE), (groups(), ID))
    assert not lacks(terms(call("Count", PERSON, distinct=True), COUNT), (groups(), ID))


def test_identity_that_an_outer_join_supplies_may_be_absent() -> None:
    (person,) = ROWS.persons
    optional = replace(ROWS, persons=[person._replace(found=frozenset([8]))])
    assert lacks(terms(call("Count", PERSON, distinct=True), rows=optional), (groups(), ID))
    assert not lacks(terms(call("Count", PERSON, distinct=True), rows=optional), (groups(none_of(frozenset([f"{P} IS NOT NULL"]))), ID))
