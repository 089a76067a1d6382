"""What the aggregates of a release require: each condition is needed, and no other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import Floors, product_text, row_text
from sparkapp.plan.release import Groups
from sparkapp.plan.rows import Column, Rows
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


def with_tests(floors: Floors, tests: list[frozenset[str]]) -> Floors:
    """Floors with other tests, which enough persons of each group meet."""
    return replace(floors, tests=tests, strict={*tests})


def pair(*texts: str) -> frozenset[str]:
    return frozenset(texts)


def test(*texts: str) -> frozenset[str]:
    return frozenset(texts)


test.__test__ = False  # type: ignore[attr-defined]
SQUARE = f"{A} * {A}"
COUNT = call("Count", ONE)
HAS = test(f"{A} IS NOT NULL")
VALUES = f"1 IF {A} IS NOT NULL"
"""The number of values."""
DIVIDED = [test(f"{C} IS TRUE"), test(f"{C} IS NOT TRUE")]


def in_parts(floors: Floors, *pairs: frozenset[str], sums: Sequence[str] = ()) -> Floors:
    """``floors`` with the conditions on the rows that meet the condition, and on the others."""
    tests = [part | {text} for part in DIVIDED for text in (*(f"{text} <> 0" for text in sums), f"{A} IS NOT NULL")]
    return replace(
        floors,
        tests=[*floors.tests, *tests],
        part_shares={(text, part): 80 for text in sums for part in DIVIDED},
        part_differences={(one, part) for one in pairs for part in DIVIDED},
    )


CASES = {
    "sum": ([call("Sum", AMOUNT)], Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80})),
    "sum and rows": ([call("Sum", AMOUNT), COUNT], Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80}, differences={pair(A, VALUES)})),
    "deviation": (
        [call("StddevSamp", AMOUNT)],
        Floors(5, 5, [test(f"{A} <> 0")], shares={A: 80, SQUARE: 80}, differences={pair(A, SQUARE), pair(A, VALUES)}),
    ),
    "filtered sum": (
        [call("Sum", AMOUNT, where=NORTH)],
        Floors(5, 5, [test(f"{A} WHERE {C} <> 0"), *DIVIDED], shares={f"{A} WHERE {C}": 80}),
    ),
    "filtered deviation": (
        [call("VariancePop", AMOUNT, where=NORTH)],
        Floors(
            5,
            5,
            [test(f"{A} <> 0", f"{C} IS TRUE"), *DIVIDED],
            shares={f"{A} WHERE {C}": 80, f"{SQUARE} WHERE {C}": 80},
            differences={
                pair(VALUES, A),
                pair(f"1 IF {A} IS NOT NULL AND {C} IS TRUE", f"{A} WHERE {C}"),
                pair(A, f"{A} WHERE {C}"),
                pair(A, f"{SQUARE} WHERE {C}"),
                pair(f"{A} WHERE {C}", f"{SQUARE} WHERE {C}"),
            },
        ),
    ),
    "values and rows": ([call("Count", AMOUNT), COUNT], Floors(5, tests=[HAS], differences={pair("1", f"1 IF {A} IS NOT NULL")})),
    "values and a condition": (
        [call("Count", AMOUNT), call("CountIf", NORTH)],
        in_parts(
            Floors(
                5,
                tests=[*DIVIDED, HAS],
                differences={pair("1", f"1 IF {A} IS NOT NULL"), pair(f"1 IF {C} IS TRUE", f"1 IF {A} IS NOT NULL")},
            ),
            pair("1", f"1 IF {A} IS NOT NULL"),
        ),
    ),
    "two counts of values": (
        [call("Count", AMOUNT), call("Count", AMOUNT, where=NORTH)],
        in_parts(
            Floors(
                5,
                tests=[*DIVIDED, HAS],
                differences={
                    pair("1", f"1 IF {A} IS NOT NULL"),
                    pair("1", f"1 IF {A} IS NOT NULL AND {C} IS TRUE"),
                    pair(f"1 IF {A} IS NOT NULL", f"1 IF {A} IS NOT NULL AND {C} IS TRUE"),
                },
            ),
            pair("1", f"1 IF {A} IS NOT NULL"),
        ),
    ),
    "sum of a case": (
        [call("Sum", of("CaseWhen", NORTH, AMOUNT)), COUNT],
        in_parts(
            Floors(
                5,
                5,
                [test(f"{A} WHERE {C} <> 0"), *DIVIDED],
                shares={f"{A} WHERE {C}": 80},
                differences={pair(f"1 IF {A} WHERE {C} IS NOT NULL", f"{A} WHERE {C}"), pair(VALUES, A)},
            ),
            pair("1", f"1 IF {A} IS NOT NULL"),
            pair("1", A),
            sums=[A],
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_aggregates_require_each_of_these_conditions(name: str) -> None:
    calls, full = CASES[name]
    found = terms(*calls)
    full = replace(full, differences={*full.differences, pair(A, f"{A} WHERE {C}")}) if name == "sum of a case" else full
    full = with_tests(full, full.tests)
    assert not requires(found, full)
    summed = name in ("sum", "sum and rows", "deviation")
    assert requires(found, replace(full, strict=set())) == (summed or HAS in full.tests)
    for one in full.tests:
        others = [other for other in full.tests if other != one]
        implied = one == HAS and any(one < other for other in others)
        assert requires(found, with_tests(full, others)) != implied
        others.append(one | {"x"})
        assert requires(found, with_tests(full, others)) == (not summed and one != HAS and not implied)
    for text in full.shares:
        assert requires(found, replace(full, shares={**full.shares, text: 81}))
        assert requires(found, replace(full, shares={one: share for one, share in full.shares.items() if one != text}))
    for one in CASES[name][1].differences:
        assert requires(found, replace(full, differences=full.differences - {one}))
    for key in full.part_shares:
        assert requires(found, replace(full, part_shares={**full.part_shares, key: 81}))
    for difference in full.part_differences:
        assert requires(found, replace(full, part_differences=full.part_differences - {difference}))


ORDERED = Rows(
    {
        1: ROWS.columns[1],
        2: ROWS.columns[2],
        3: ROWS.columns[3],
        4: replace(ROWS.columns[3], value=4),
        5: Column(5, frozenset([("own", "value")])),
        6: Column(6, ROWS.columns[2].shows, flag=True),
        7: replace(ROWS.columns[3], value=7, optional=frozenset([frozenset([8])])),
        8: Column(8, optional=frozenset([frozenset([8])])),
        9: Column(9, frozenset([("own", "value")]), flag=True),
        10: replace(ROWS.columns[2], value=10, optional=frozenset([frozenset([8])])),
    },
    ROWS.persons,
)
"""Rows with another measure (4), a value of the author (5), flags (6, 9), and columns that an outer join by 8 supplies (7, 10)."""
DISCOUNT, OWN, FLAG, SPEND, PLACE = attribute(4), attribute(5), attribute(6, "integer"), attribute(7), attribute(10)
D, W, S = (Canonical.shared(tree(items)) for items in (DISCOUNT, OWN, SPEND))
NULL = " IS NOT NULL"
MOMENTS: tuple[str, ...] = (
    "Sum",
    "Average",
    "StddevSamp",
    "StddevPop",
    "VarianceSamp",
    "VariancePop",
    "Corr",
    "CovPopulation",
    "CovSample",
)
MOMENTS += ("RegrAvgX", "RegrAvgY", "RegrSXX", "RegrSYY", "RegrSXY", "RegrSlope", "RegrIntercept", "RegrR2")


def mixed(items: Items) -> Floors:
    """What a sum of two terms needs."""
    text = product_text(tree(items), SameNumbers())
    columns = [text for text in (A, D, W) if text in SameNumbers().text(tree(items))]
    stored = [one for one in columns if one != W]
    present = [f"1 IF {one}{NULL}" for one in (columns if len(columns) > 1 else [text])]
    differences = {pair("1", one) for one in present} | {pair(f"1 IF {one}{NULL}", one) for one in columns}
    differences |= {pair(*present)} if len(columns) > 1 else set()
    tests = [test(f"{one} <> 0") for one in (text, *stored)]
    return with_tests(Floors(5, 5, shares=dict.fromkeys((text, *stored), 80), differences=differences), tests)


TWICE = of("Add", of("Multiply", AMOUNT, of("Literal", value="2", dataType="integer")), DISCOUNT)
SUM, PRODUCT = of("Add", AMOUNT, DISCOUNT), of("Multiply", AMOUNT, of("Subtract", ONE, DISCOUNT))
MIXED = {
    "sum": (SUM, mixed(SUM)),
    "difference": (of("Subtract", AMOUNT, DISCOUNT), mixed(of("Subtract", AMOUNT, DISCOUNT))),
    "constant factor": (TWICE, mixed(TWICE)),
    "constant": (of("Add", AMOUNT, ONE), mixed(of("Add", AMOUNT, ONE))),
    "value of the author": (of("Add", AMOUNT, OWN), mixed(of("Add", AMOUNT, OWN))),
    "product": (PRODUCT, with_tests(mixed(PRODUCT), [*mixed(PRODUCT).tests, test(f"{A} <> 0", f"{D} <> 0")])),
}


@pytest.mark.parametrize("name", MIXED)
def test_each_term_of_a_sum_has_contributors_and_presence(name: str) -> None:
    items, full = MIXED[name]
    found = terms(call("Sum", items), rows=ORDERED)
    assert not requires(found, full)
    for text in full.shares:
        assert requires(found, replace(full, shares={one: share for one, share in full.shares.items() if one != text}))
    for one in full.differences:
        assert requires(found, replace(full, differences=full.differences - {one}))
    needed = [one for one in full.tests if not any(one < other for other in full.tests)]
    for one in needed:
        assert requires(found, with_tests(full, [other for other in full.tests if not other <= one]))


def test_terms_of_a_filtered_sum_are_those_of_its_rows() -> None:
    full = mixed(SUM)
    text = product_text(tree(SUM), SameNumbers())
    where = f"{text} WHERE {C}"
    parts = [test(f"{one} <> 0", f"{C} IS TRUE") for one in (A, D)]
    pairs = {pair(row_text(test(f"{text}{NULL}", f"{C} IS TRUE")), where), *(pair(where, one) for one in (A, D)), pair(A, D)}
    full = replace(full, tests=[test(f"{where} <> 0"), *parts, *DIVIDED], shares={**full.shares, where: 80})
    full = replace(full, differences=full.differences | pairs)
    found = terms(call("Sum", SUM, where=NORTH), rows=ORDERED)
    assert not requires(found, full)
    for one, term in zip(parts, (A, D), strict=True):
        assert requires(found, replace(full, tests=[test(f"{term} <> 0") if other == one else other for other in full.tests]))


@pytest.mark.parametrize("zero", ["0", "0.0", "0.00"])
def test_sum_with_zero_is_not_one_of_several_terms(zero: str) -> None:
    nothing = of("Cast", of("Literal", value=zero, dataType="decimal(2,1)"), dataType="double")
    items = of("Add", AMOUNT, nothing)
    text = product_text(tree(items), SameNumbers())
    assert not requires(terms(call("Sum", items), rows=ORDERED), with_tests(Floors(5, shares={text: 80}), [test(f"{text} <> 0")]))
    constants = of("Multiply", AMOUNT, of("Subtract", ONE, of("Literal", value="0.2", dataType="decimal(1,1)")))
    text = product_text(tree(constants), SameNumbers())
    assert not requires(terms(call("Sum", constants), rows=ORDERED), with_tests(Floors(5, shares={text: 80}), [test(f"{text} <> 0")]))


def test_comparison_of_two_columns_shows_how_many_rows_have_both() -> None:
    found = terms(call("RegrAvgX", AMOUNT, DISCOUNT), rows=ORDERED)
    present = [f"1 IF {one}{NULL}" for one in (A, D)]
    pairs = {pair("1", one) for one in present} | {pair(f"1 IF {one}{NULL}", one) for one in (A, D)} | {pair(*present), pair(A, D)}
    shared = [f"{A} WHERE IsNotNull({D}, child=0)", f"{D} WHERE IsNotNull({A}, child=0)"]
    pairs |= {pair(A, shared[0]), pair(D, shared[1]), pair(*shared), *(pair(one, f"1 IF {one}{NULL}") for one in shared)}
    full = with_tests(Floors(5, shares=dict.fromkeys([A, D, *shared], 80), differences=pairs), [test(f"{A} <> 0", f"{D} <> 0")])
    assert not requires(found, full)
    for one in pairs:
        assert requires(found, replace(full, differences=pairs - {one}))
    for text in shared:
        assert requires(found, replace(full, shares={**full.shares, text: 81}))


def test_contributors_to_a_product_are_those_to_all_of_its_factors() -> None:
    items = of("Multiply", AMOUNT, of("Literal", value="2", dataType="double"))
    text = product_text(tree(items), SameNumbers())
    factors = [f"{factor} <> 0" for factor in text.split(" * ")]
    found, full = terms(call("Sum", items), rows=ORDERED), Floors(5, shares={text: 80})
    assert len(factors) == 2
    assert not requires(found, with_tests(full, [frozenset(factors)]))
    assert requires(found, with_tests(full, [frozenset([factor]) for factor in factors]))


def test_squares_of_shared_rows_are_compared_and_limited() -> None:
    found = terms(call("Corr", AMOUNT, DISCOUNT), rows=ORDERED)
    (rows,) = found._shared
    one, two = (
        (f"{text} WHERE IsNotNull({other}, child=0)", f"{text} * {text} WHERE IsNotNull({other}, child=0)")
        for text, other in ((A, D), (D, A))
    )
    pairs = {pair(A, one[0]), pair(D, two[0]), pair(one[0], f"1 IF {one[0]}{NULL}"), pair(two[0], f"1 IF {two[0]}{NULL}")}
    pairs |= {pair(*both) for both in itertools.combinations([*one, *two, " * ".join(sorted([A, D]))], 2)}
    full = Floors(5, shares=dict.fromkeys([*one, *two], 80), differences=pairs)
    rows.require(full, 80, SameNumbers())
    lacking = [replace(full, differences=pairs - {left_out}) for left_out in pairs]
    lacking += [replace(full, shares={**full.shares, text: 81}) for text in full.shares]
    for floors in lacking:
        with pytest.raises(Refused):
            rows.require(floors, 80, SameNumbers())


# -- parts of groups --------------------------------------------------------------------------------------------------

EAST = of("EqualTo", REGION, of("Literal", value="east", dataType="string"))
E = Canonical.shared(tree(EAST))


@pytest.mark.parametrize(
    "items",
    [
        call("CountIf", NORTH),
        call("Count", ONE, where=NORTH),
        call("Max", of("CaseWhen", NORTH, ONE)),
        call("Max", of("If", NORTH, ONE, of("Literal", value=None, dataType="integer"))),
        call("Max", of("CaseWhen", NORTH, ONE, ONE)),
    ],
)
def test_persons_in_each_part_of_a_group_are_counted(items: Items) -> None:
    found = terms(items)
    assert not requires(found, Floors(5, tests=DIVIDED))
    assert not requires(found, Floors(5, tests=[one | {f"{P}{NULL}"} for one in DIVIDED]))
    assert not requires(found, Floors(1))
    for one in DIVIDED:
        assert requires(found, Floors(5, tests=[one]))
        assert requires(found, Floors(5, tests=[one, *(other | {"x"} for other in DIVIDED if other != one)]))


def test_branches_of_a_case_are_parts() -> None:
    found = terms(call("Max", of("CaseWhen", NORTH, ONE, EAST, ONE)))
    parts = [test(f"{C} IS TRUE"), test(f"{C} IS NOT TRUE", f"{E} IS TRUE"), test(f"{C} IS NOT TRUE", f"{E} IS NOT TRUE")]
    assert not requires(found, Floors(5, tests=parts))
    for one in parts:
        assert requires(found, Floors(5, tests=[other for other in parts if other != one]))


def test_two_conditions_make_four_parts() -> None:
    found = terms(call("CountIf", NORTH), call("CountIf", EAST))
    parts = [test(f"{C} IS {one}TRUE", f"{E} IS {two}TRUE") for one in ("", "NOT ") for two in ("", "NOT ")]
    assert not requires(found, Floors(5, tests=parts))
    for one in parts:
        assert requires(found, Floors(5, tests=[other for other in parts if other != one]))


def test_parts_may_be_counted_in_smaller_parts() -> None:
    found = terms(call("CountIf", NORTH))
    parts = [test(f"{C} IS {one}TRUE", f"{E} IS {two}TRUE") for one in ("", "NOT ") for two in ("", "NOT ")]
    assert not requires(found, Floors(5, tests=parts))
    for one in parts:
        assert requires(found, Floors(5, tests=[other for other in parts if other != one]))


def test_condition_on_values_of_the_author_must_hold_for_enough_persons_in_each_group() -> None:
    mine = of("GreaterThan", OWN, ONE)
    text = Canonical.shared(tree(mine))
    parts = [test(f"{text} IS TRUE"), test(f"{text} IS NOT TRUE")]
    found = terms(call("Count", ONE, where=mine), rows=ORDERED)
    assert requires(found, Floors(5, tests=parts))
    assert requires(found, Floors(5, tests=parts, strict={parts[0]}))
    assert not requires(found, Floors(5, tests=parts, strict={*parts}))


def test_flags_divide_groups() -> None:
    text = f"{Canonical.shared(tree(FLAG))} <> 0"
    parts = [test(f"{text} IS TRUE"), test(f"{text} IS NOT TRUE")]
    found = terms(call("Sum", of("Cast", FLAG, dataType="double")), rows=ORDERED)
    assert not requires(found, Floors(5, tests=parts))
    assert requires(found, Floors(5, tests=parts[:1]))
    assert requires(found, Floors(5, tests=parts[1:]))
    assert not requires(terms(call("Sum", attribute(9, "integer")), rows=ORDERED), Floors(5))


@pytest.mark.parametrize("items", [call("Count", SPEND), call("CountIf", of("IsNull", SPEND)), call("Count", attribute(8))])
def test_persons_with_and_without_a_row_of_an_outer_join_are_enough(items: Items) -> None:
    found = terms(items, rows=ORDERED)
    parts = [test("#8 IS NOT NULL IS TRUE"), test("#8 IS NOT NULL IS NOT TRUE")]
    asked = Canonical.shared(tree(of("IsNull", SPEND)))
    if items[1]["class"].endswith("CountIf"):
        parts = [one | {f"{asked} IS {word}TRUE"} for one in parts for word in ("", "NOT ")]
    columns = (S, Canonical.shared(tree(attribute(8))))
    has = {test(f"{one}{NULL}") for one in columns}
    full = Floors(5, tests=parts, strict={*parts, *has}, differences={pair("1", f"1 IF {one}{NULL}") for one in columns})
    assert not requires(found, full)
    assert requires(found, replace(full, strict=has))
    for one in parts:
        assert requires(found, replace(full, strict={*parts, *has} - {one}))


def test_persons_whom_an_outer_join_supplies_are_in_one_part() -> None:
    (person,) = ROWS.persons
    rows = replace(ORDERED, persons=[person._replace(ids=frozenset([8]))])
    found = terms(call("Max", PLACE), rows=rows)
    has = test(f"{Canonical.shared(tree(PLACE))}{NULL}")
    assert not requires(found, Floors(5, strict={has, test("#8 IS NOT NULL IS TRUE")}))
    assert requires(found, Floors(5, strict={has, test("#8 IS NOT NULL IS NOT TRUE")}))
    both = replace(rows, persons=[*rows.persons, *ROWS.persons])
    assert requires(terms(call("Max", PLACE), rows=both), Floors(5, strict={has, test("#8 IS NOT NULL IS TRUE")}))


def test_counts_of_different_values_are_noted() -> None:
    values, sketch = call("Count", AMOUNT, distinct=True), call("HyperLogLogPlusPlus", AMOUNT)
    assert terms(values, sketch, COUNT, call("Count", AMOUNT)).different == {SameNumbers().text(tree(one)) for one in (values, sketch)}
    assert not terms(call("Count", PERSON, distinct=True)).different
    chosen = of("CaseWhen", NORTH, AMOUNT, of("IsNotNull", PERSON), AMOUNT)
    assert terms(call("Count", chosen, distinct=True)).different == {SameNumbers().text(tree(call("Count", chosen, distinct=True)))}


def test_count_of_persons_who_meet_a_condition_divides_groups() -> None:
    asked = of("EqualNullSafe", NORTH, of("Literal", value="true", dataType="boolean"))
    for items in (asked, of("And", asked, of("IsNotNull", PERSON)), of("IsNotNull", IS_NORTH)):
        found = terms()
        found.read_persons(tree(items), ID)
        assert not requires(found, Floors(5, tests=DIVIDED))
        assert requires(found, Floors(5, tests=DIVIDED[:1]))
    found = terms()
    found.read_persons(None, ID)
    assert not requires(found, Floors(5))


def test_floor_of_one_person_needs_no_differences() -> None:
    assert not requires(terms(call("Count", AMOUNT), COUNT), Floors(1))


@pytest.mark.parametrize("kind", ["CollectList", "Percentile", "Mode", "BoolOr"])
def test_other_aggregates_show_single_persons(kind: str) -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call(kind, AMOUNT))


@pytest.mark.parametrize("kind", MOMENTS)
def test_sums_and_moments_are_read(kind: str) -> None:
    found = terms(call(kind, AMOUNT))
    assert requires(found, Floors(5))


@pytest.mark.parametrize("kind", ["Min", "Max"])
def test_extreme_of_a_listed_column_has_contributors(kind: str) -> None:
    found = terms(call(kind, REGION))
    assert requires(found, Floors(5))
    assert not requires(found, with_tests(Floors(5), [test(f"{R}{NULL}")]))
    with pytest.raises(Refused, match="an extreme shows the column amount"):
        terms(call(kind, AMOUNT))


def test_sum_of_different_values_shows_single_persons() -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call("Sum", AMOUNT, distinct=True))


@pytest.mark.parametrize("type", ["integer", "long", "short", "byte"])
@pytest.mark.parametrize("kind", ["Add", "Subtract", "Multiply"])
def test_arithmetic_with_whole_numbers_may_overflow(kind: str, type: str) -> None:
    whole = attribute(3, type)
    with pytest.raises(Refused, match="arithmetic with whole numbers"):
        terms(call("Sum", of(kind, whole, ONE)))
    terms(call("Sum", of(kind, of("Cast", whole, dataType="double"), ONE)))
    terms(call("Sum", of("Divide", whole, ONE)))


def test_mean_per_person_does_not_count_values() -> None:
    mean = [call("Sum", of("Cast", AMOUNT, dataType="double")), call("Count", AMOUNT)]
    floors = with_tests(Floors(5, shares={A: 80}, differences={pair(A, VALUES)}), [test(f"{A} <> 0")])
    assert requires(terms(*mean, merged=True), replace(floors, differences=set()))
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


def none_of(*tests: frozenset[str]) -> frozenset[tuple[frozenset[str], bool]]:
    return frozenset([(one, False) for one in tests])


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
    full = [none_of(FOUND), none_of(WHERE), none_of(FOUND, WHERE)]
    full += [both_of(FOUND, first, WHERE, second) for first, second in ((True, True), (True, False), (False, True))]
    assert not lacks(found, (groups(*full), ID))
    for one in full:
        assert lacks(found, (groups(*(other for other in full if other != one)), ID))


def test_all_persons_need_no_condition() -> None:
    for items in (call("Count", PERSON, distinct=True), call("Count", PERSON), COUNT):
        assert not lacks(terms(items), (groups(), ID))


def test_persons_without_a_value_are_counted_if_different_values_are() -> None:
    for items in (call("Count", AMOUNT, distinct=True), call("HyperLogLogPlusPlus", AMOUNT)):
        assert not lacks(terms(items), (groups(none_of(HAS)), ID))
        assert lacks(terms(items), (groups(), ID))


MADE = replace(ROWS, overlapping=True)
TRUE, FALSE = frozenset([f"{C} IS TRUE"]), frozenset([f"{C} IS NOT TRUE"])
PARTS = [
    none_of(TRUE, FALSE),
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
    for other in (COUNT, call("CountIf", NORTH), call("Average", AMOUNT), call("RegrCount", AMOUNT, AMOUNT)):
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


# -- powers and weights -----------------------------------------------------------------------------------------------

MINUS_TWO = of("UnaryMinus", of("Literal", value="2", dataType="integer"))
SQUARED = replace(ORDERED, columns={**ORDERED.columns, 11: replace(ROWS.columns[3], value=11, power=2, computed=True)})
BOTH = frozenset([*ROWS.columns[3].shows, ("own", "value")])
SQUARED.columns[12] = Column(12, BOTH, power=2, computed=True)
SQUARED.columns[13] = Column(13, BOTH, united=True)


@pytest.mark.parametrize(
    "items",
    [
        call("Sum", of("Multiply", AMOUNT, of("Multiply", AMOUNT, DISCOUNT))),
        call("StddevPop", of("Multiply", AMOUNT, DISCOUNT)),
        call("Sum", of("Multiply", attribute(11), AMOUNT)),
        call("VariancePop", attribute(11)),
        call("Sum", of("Multiply", AMOUNT, OWN)),
        call("Corr", AMOUNT, OWN),
        call("Sum", attribute(12)),
        call("Sum", of("Round", AMOUNT, MINUS_TWO)),
    ],
)
def test_sums_with_higher_powers_weights_or_coarse_rounding_are_refused(items: Items) -> None:
    with pytest.raises(Refused) as caught:
        terms(items, rows=SQUARED)
    assert caught.value.code == "PlanRowsOfPersons"


def test_sums_of_two_factors_are_read() -> None:
    two = of("Literal", value="2", dataType="integer")
    for items in (of("Multiply", AMOUNT, DISCOUNT), attribute(11), of("Multiply", attribute(11), two), of("Round", AMOUNT, two)):
        terms(call("Sum", items), rows=SQUARED)


def test_sum_of_whole_numbers_of_a_union_could_overflow() -> None:
    terms(call("Sum", attribute(13)), rows=SQUARED)
    with pytest.raises(Refused, match="arithmetic with whole numbers"):
        terms(call("Sum", attribute(13, "long")), rows=SQUARED)
