"""What the aggregates of a release require: each condition is needed, and no other."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import Floors, Sum
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


def terms(*calls: Items, rows: Rows = ROWS) -> Terms:
    found = Terms(WALK, rows, rows.columns, SameNumbers())
    found.read([tree(items) for items in calls])
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


def test(*texts: str) -> frozenset[str]:
    return frozenset(texts)


test.__test__ = False  # type: ignore[attr-defined]
SQUARE = f"{A} * {A}"
COUNT = call("Count", ONE)
NULL = " IS NOT NULL"
ALL, HAS, MEETS = test(), test(f"{A} IS NOT NULL"), test(f"{C} IS TRUE")
DIVIDED = [MEETS, test(f"{C} IS NOT TRUE")]


def pair(one: Sum | frozenset[str], two: Sum | frozenset[str]) -> frozenset[Sum]:
    """Two sums that are compared; a test alone counts the rows that meet it."""
    return frozenset([("1", side) if isinstance(side, frozenset) else side for side in (one, two)])


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


def floors(
    *sums: Sum, counts: tuple[frozenset[str], ...] = (), pairs: tuple[frozenset[Sum], ...] = (), divided: bool = False, parts: bool = False
) -> Floors:
    """The conditions on sums and counts, on the persons in each part, and on the sums and counts in each part."""
    strict = {test(f"{text} <> 0") for text, where in sums if not where and text != SQUARE} | {one for one in counts if not one & MEETS}
    tests = [*strict, *(where | {f"{text} <> 0"} for text, where in sums if where and text != SQUARE)]
    tests += [one for one in counts if one & MEETS] + (DIVIDED if divided else [])
    found = Floors(5, 5, list(dict.fromkeys(tests)), strict, shares=dict.fromkeys(sums, 80), differences={*pairs})
    values = {one - MEETS for one in counts}
    for part in DIVIDED if parts else ():
        found.tests += [part | one for one in values if part | one not in found.tests]
        found.tests += [test(*part, f"{text} <> 0") for text, _ in sums if test(*part, f"{text} <> 0") not in found.tests]
        found.shares |= {(text, part): 80 for text, _ in sums}
        found.differences |= {pair((text, part), part | {f"{text}{NULL}"}) for text, _ in sums} | {pair(part, part | one) for one in values}
        found.differences |= {pair((text, part), part) for text, _ in sums}
    return with_shares(found)


def with_shares(floors: Floors) -> Floors:
    """Floors that limit the part of one person in each difference of two sums of one power."""
    similar = [one for one in floors.differences if all(text != "1" for text, _ in one) and len({" * " in text for text, _ in one}) == 1]
    return replace(floors, difference_shares=dict.fromkeys(similar, 80))


ALL_A, SOME_A = (A, ALL), (A, MEETS)
CASES = {
    "sum": ([call("Sum", AMOUNT)], floors(ALL_A)),
    "sum and rows": ([call("Sum", AMOUNT), COUNT], floors(ALL_A, pairs=(pair(ALL_A, HAS), pair(ALL_A, ALL)))),
    "mean": ([call("Average", AMOUNT)], floors(ALL_A, pairs=(pair(ALL_A, HAS),))),
    "two means": (
        [call("Average", AMOUNT), call("Average", DISCOUNT)],
        replace(
            floors(ALL_A, (D, ALL), pairs=(pair(ALL_A, HAS), pair((D, ALL), test(f"{D}{NULL}")), pair(ALL_A, (D, ALL)))),
            means={frozenset([pair(ALL_A, (D, ALL)), pair(HAS, test(f"{D}{NULL}"))])},
        ),
    ),
    "mean and another sum": (
        [call("Average", AMOUNT), call("Sum", DISCOUNT), COUNT],
        replace(
            floors(
                ALL_A,
                (D, ALL),
                pairs=(
                    pair(ALL_A, HAS),
                    pair(ALL_A, ALL),
                    pair((D, ALL), test(f"{D}{NULL}")),
                    pair((D, ALL), ALL),
                    pair(ALL_A, (D, ALL)),
                ),
            ),
            means={frozenset([pair(ALL_A, (D, ALL)), pair(HAS, ALL)])},
        ),
    ),
    "sum and mean": (
        [call("Sum", AMOUNT), call("Average", AMOUNT), COUNT],
        floors(ALL_A, pairs=(pair(ALL_A, HAS), pair(ALL_A, ALL), pair(ALL, HAS))),
    ),
    "deviation": (
        [call("StddevSamp", AMOUNT)],
        floors(ALL_A, (SQUARE, ALL), pairs=(pair(ALL_A, (SQUARE, ALL)), pair(ALL_A, HAS), pair((SQUARE, ALL), HAS))),
    ),
    "filtered sum": ([call("Sum", AMOUNT, where=NORTH)], floors(SOME_A, divided=True)),
    "filtered deviation": (
        [call("VariancePop", AMOUNT, where=NORTH)],
        floors(
            SOME_A,
            (SQUARE, MEETS),
            pairs=(pair(SOME_A, HAS | MEETS), pair((SQUARE, MEETS), HAS | MEETS), pair(SOME_A, (SQUARE, MEETS))),
            divided=True,
        ),
    ),
    "values and rows": ([call("Count", AMOUNT), COUNT], floors(counts=(HAS,), pairs=(pair(ALL, HAS),))),
    "values and a condition": (
        [call("Count", AMOUNT), call("CountIf", NORTH)],
        floors(counts=(HAS,), pairs=(pair(MEETS, HAS), pair(ALL, HAS)), divided=True, parts=True),
    ),
    "two counts of values": (
        [call("Count", AMOUNT), call("Count", AMOUNT, where=NORTH)],
        floors(counts=(HAS, HAS | MEETS), pairs=(pair(HAS, HAS | MEETS), pair(ALL, HAS)), divided=True, parts=True),
    ),
    "sum of a case": (
        [call("Sum", of("CaseWhen", NORTH, AMOUNT)), COUNT],
        floors(SOME_A, pairs=(pair(SOME_A, HAS | MEETS), pair(SOME_A, ALL)), divided=True, parts=True),
    ),
    "mean of an if": (
        [call("Average", of("If", NORTH, AMOUNT, of("Cast", of("Literal", value="0", dataType="integer"), dataType="double"))), COUNT],
        floors(SOME_A, pairs=(pair(SOME_A, HAS | MEETS), pair(SOME_A, ALL)), divided=True, parts=True),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_aggregates_require_each_of_these_conditions(name: str) -> None:
    calls, full = CASES[name]
    found = terms(*calls, rows=ORDERED)
    full = replace(full, differences={one for one in full.differences if len(one) > 1})
    assert not requires(found, full)
    for one in full.tests:
        others = [other for other in full.tests if other != one]
        assert requires(found, replace(full, tests=others, strict=full.strict - {one}))
        assert requires(found, replace(full, tests=[*others, one | {"x"}])) == (one not in full.strict)
    for one in full.strict:
        assert requires(found, replace(full, strict=full.strict - {one}))
    for sum in full.shares:
        assert requires(found, replace(full, shares={**full.shares, sum: 81}))
        assert requires(found, replace(full, shares={one: share for one, share in full.shares.items() if one != sum}))
    for difference in full.differences:
        assert requires(found, replace(full, differences=full.differences - {difference}))
    for both in full.means:
        assert requires(found, replace(full, means=full.means - {both}))
    for difference in full.difference_shares:
        assert requires(found, replace(full, difference_shares={**full.difference_shares, difference: 81}))


def test_mean_and_sum_of_a_value_show_how_many_values_there_are_also_in_other_rows() -> None:
    of_values = (pair(HAS, HAS | MEETS), pair(ALL, HAS))
    sums = [pair(SOME_A, ALL_A), *(pair(one, count) for one in (SOME_A, ALL_A) for count in (HAS, HAS | MEETS))]
    full = floors(SOME_A, ALL_A, counts=(HAS, HAS | MEETS), pairs=(*of_values, *sums), divided=True, parts=True)
    full = replace(full, means={frozenset([pair(SOME_A, ALL_A), pair(HAS, HAS | MEETS)])})
    found = terms(call("Average", AMOUNT, where=NORTH), call("Sum", AMOUNT), rows=ORDERED)
    assert not requires(found, full)
    for one in (*of_values, *(pair(part, part | HAS) for part in DIVIDED)):
        assert requires(found, replace(full, differences=full.differences - {one}))


def test_counts_of_each_and_of_both_columns_show_how_many_rows_have_none() -> None:
    has_a, has_d = test(f"{A}{NULL}"), test(f"{D}{NULL}")
    counts, product = (has_a, has_d, has_a | has_d), (" * ".join(sorted([A, D])), ALL)
    calls = [call("Count", AMOUNT), call("Count", DISCOUNT), call("Average", PRODUCT), call("Sum", PRODUCT)]
    pairs = [*(pair(product, count) for count in counts), *(pair(*some) for some in combinations([ALL, *counts], 2))]
    full, none = floors(product, counts=counts, pairs=tuple(pairs)), test(f"{A} IS NULL", f"{D} IS NULL")
    found = terms(*calls, rows=ORDERED)
    assert not requires(found, replace(full, tests=[*full.tests, none]))
    assert requires(found, full)


MOMENTS = ("Sum", "Average", "StddevSamp", "StddevPop", "VarianceSamp", "VariancePop")
PRODUCT = of("Multiply", AMOUNT, DISCOUNT)


@pytest.mark.parametrize(
    "items",
    [
        of("CaseWhen", NORTH, AMOUNT, DISCOUNT),
        of("CaseWhen", NORTH, AMOUNT, ONE),
        of("CaseWhen", NORTH, AMOUNT, of("IsNotNull", REGION), AMOUNT),
        of("If", NORTH, of("Literal", value="0", dataType="double"), AMOUNT),
        of("Multiply", of("CaseWhen", NORTH, AMOUNT), ONE),
    ],
)
@pytest.mark.parametrize("kind", ["Sum", "Average", "VariancePop"])
def test_sums_of_chosen_values_are_refused(items: Items, kind: str) -> None:
    with pytest.raises(Refused, match=r"CASE in an aggregate"):
        terms(call(kind, items), rows=ORDERED)


@pytest.mark.parametrize("kind", ["Corr", "CovPopulation", "CovSample", "RegrAvgX", "RegrCount", "RegrSXY", "RegrSlope"])
def test_comparisons_of_two_columns_are_refused(kind: str) -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call(kind, AMOUNT, DISCOUNT), rows=ORDERED)


TWICE = of("Multiply", AMOUNT, of("Literal", value="2", dataType="integer"))


@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.parametrize(
    "items",
    [
        of("Add", AMOUNT, DISCOUNT),
        of("Subtract", AMOUNT, ONE),
        of("Add", TWICE, DISCOUNT),
        of("UnaryMinus", AMOUNT),
        of("Add", AMOUNT, OWN),
        of("Multiply", AMOUNT, of("Subtract", ONE, DISCOUNT)),
        of("Cast", of("Add", AMOUNT, ONE), dataType="double"),
    ],
)
def test_sums_of_several_terms_are_refused(items: Items, kind: str) -> None:
    with pytest.raises(Refused, match=r"several terms|powers above two"):
        terms(call(kind, items), rows=ORDERED)


def test_sums_of_data_of_the_author_may_have_several_terms() -> None:
    assert not requires(terms(call("Sum", of("Add", OWN, ONE)), rows=ORDERED), Floors(5))


def test_contributors_to_a_product_are_those_to_all_of_its_factors() -> None:
    text = " * ".join(sorted([A, D]))
    found, full = terms(call("Sum", PRODUCT), rows=ORDERED), Floors(5, shares={(text, ALL): 80})
    assert not requires(found, with_tests(full, [test(f"{A} <> 0", f"{D} <> 0")]))
    assert not requires(found, with_tests(full, [test(f"{text} <> 0")]))
    assert requires(found, with_tests(full, [test(f"{A} <> 0"), test(f"{D} <> 0")]))


def test_persons_below_a_limit_and_without_a_value_are_counted() -> None:
    least = of("Least", AMOUNT, of("Cast", of("Literal", value="500", dataType="integer"), dataType="double"))
    text = SameNumbers().text(tree(least))
    limits = [test(f"{text} <> 500"), test(f"{A} IS NULL")]
    full = Floors(5, tests=[test(f"{text} <> 0"), *limits], strict={test(f"{text} <> 0")}, shares={(text, ALL): 80})
    found = terms(call("Sum", least), rows=ORDERED)
    assert not requires(found, full)
    for one in limits:
        assert requires(found, replace(full, tests=[other for other in full.tests if other != one]))


# -- parts of groups --------------------------------------------------------------------------------------------------

EAST = of("EqualTo", REGION, of("Literal", value="east", dataType="string"))
E = Canonical.shared(tree(EAST))


@pytest.mark.parametrize(
    "items",
    [
        call("CountIf", NORTH),
        call("Count", ONE, where=NORTH),
        call("Count", of("CaseWhen", NORTH, ONE)),
        call("Count", of("If", NORTH, ONE, of("Literal", value=None, dataType="integer"))),
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


def test_two_conditions_make_four_parts() -> None:
    found = terms(call("CountIf", NORTH), call("CountIf", EAST))
    parts = [test(f"{C} IS {one}TRUE", f"{E} IS {two}TRUE") for one in ("", "NOT ") for two in ("", "NOT ")]
    east = test(f"{E} IS TRUE")
    full = Floors(5, tests=parts, differences={pair(MEETS, east)})
    assert not requires(found, full)
    for difference in full.differences:
        assert requires(found, replace(full, differences=full.differences - {difference}))
    for one in parts:
        assert requires(found, replace(full, tests=[other for other in parts if other != one]))


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
    full = Floors(5, tests=parts, strict={*parts, *has}, differences={pair(ALL, one) for one in has})
    assert not requires(found, full)
    assert requires(found, replace(full, strict=has))
    for one in parts:
        assert requires(found, replace(full, strict={*parts, *has} - {one}))


def test_persons_whom_an_outer_join_supplies_are_in_one_part() -> None:
    (person,) = ROWS.persons
    rows = replace(ORDERED, persons=[person._replace(ids=frozenset([8]))])
    found = terms(call("Count", PLACE), rows=rows)
    has = test(f"{Canonical.shared(tree(PLACE))}{NULL}")
    assert not requires(found, Floors(5, differences={pair(ALL, has)}, strict={has, test("#8 IS NOT NULL IS TRUE")}))
    assert requires(found, Floors(5, differences={pair(ALL, has)}, strict={has, test("#8 IS NOT NULL IS NOT TRUE")}))
    both = replace(rows, persons=[*rows.persons, *ROWS.persons])
    assert requires(
        terms(call("Count", PLACE), rows=both), Floors(5, differences={pair(ALL, has)}, strict={has, test("#8 IS NOT NULL IS TRUE")})
    )


@pytest.mark.parametrize("items", [call("Count", AMOUNT, distinct=True), call("HyperLogLogPlusPlus", AMOUNT)])
def test_counts_of_different_values_are_refused(items: Items) -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(items)


def test_count_of_persons_who_meet_a_condition_divides_groups() -> None:
    asked = of("EqualNullSafe", NORTH, of("Literal", value="true", dataType="boolean"))
    for items in (asked, of("And", asked, of("IsNotNull", PERSON)), of("IsNotNull", IS_NORTH)):
        found = terms()
        found.read_persons(tree(items))
        assert not requires(found, Floors(5, tests=DIVIDED))
        assert requires(found, Floors(5, tests=DIVIDED[:1]))
    found = terms()
    found.read_persons(None)
    assert not requires(found, Floors(5))


def test_floor_of_one_person_needs_no_differences() -> None:
    assert not requires(terms(call("Count", AMOUNT), COUNT), Floors(1))


@pytest.mark.parametrize("kind", ["CollectList", "Percentile", "Mode", "BoolOr", "Min", "Max"])
def test_other_aggregates_show_single_persons(kind: str) -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call(kind, AMOUNT))


@pytest.mark.parametrize("kind", MOMENTS)
def test_sums_and_moments_are_read(kind: str) -> None:
    found = terms(call(kind, AMOUNT))
    assert requires(found, Floors(5))


def test_sum_of_different_values_shows_single_persons() -> None:
    with pytest.raises(Refused, match="values of single persons"):
        terms(call("Sum", AMOUNT, distinct=True))


@pytest.mark.parametrize("type", ["integer", "long", "short", "byte"])
@pytest.mark.parametrize("kind", ["Add", "Subtract", "Multiply"])
def test_arithmetic_with_whole_numbers_may_overflow(kind: str, type: str) -> None:
    whole = attribute(3, type)
    with pytest.raises(Refused, match="arithmetic with whole numbers"):
        terms(call("Sum", of(kind, whole, ONE)))
    terms(call("Sum", of("Multiply", of("Cast", whole, dataType="double"), ONE)))
    terms(call("Sum", of("Divide", whole, ONE)))


# -- differences of counts of persons ---------------------------------------------------------------------------------


def lacks(found: Terms, *counted: frozenset[tuple[frozenset[str], bool]], persons: int = 5, repeated: bool = False) -> bool:
    """Whether floors with some conditions on counted persons lack one."""
    try:
        found.require_counted(Floors(persons, counted=set(counted), repeated=repeated))
    except Refused:
        return True
    return False


def persons(*tests: Items | None, of: Terms | None = None) -> Terms:
    """Counts of the persons who meet tests; None for all persons."""
    found = of or terms()
    for items in tests:
        found.read_persons(tree(items) if items is not None else None)
    return found


IS_NORTH = of("CaseWhen", NORTH, PERSON)
TRUE_NORTH = of("EqualNullSafe", NORTH, of("Literal", value="true", dataType="boolean"))
FOUND = frozenset([f"{P} IS NOT NULL"])
WHERE = frozenset([f"{P} IS NOT NULL", f"{C} IS TRUE"])


def none_of(*tests: frozenset[str]) -> frozenset[tuple[frozenset[str], bool]]:
    return frozenset([(one, False) for one in tests])


def both_of(one: frozenset[str], first: bool, two: frozenset[str], second: bool) -> frozenset[tuple[frozenset[str], bool]]:
    return frozenset([(one, first), (two, second)])


@pytest.mark.parametrize(("items", "required"), [(of("IsNotNull", PERSON), FOUND), (of("And", TRUE_NORTH, of("IsNotNull", PERSON)), WHERE)])
def test_persons_without_a_row_are_counted(items: Items, required: frozenset[str]) -> None:
    found = persons(items)
    assert not lacks(found, none_of(required))
    assert lacks(found)
    assert lacks(found, frozenset([(required, True)]))
    assert not lacks(found, persons=1)


def test_persons_of_two_counts_are_compared() -> None:
    found = persons(of("IsNotNull", PERSON), of("And", TRUE_NORTH, of("IsNotNull", PERSON)))
    full = [none_of(FOUND), none_of(WHERE), none_of(FOUND, WHERE)]
    full += [both_of(FOUND, first, WHERE, second) for first, second in ((True, True), (True, False), (False, True))]
    assert not lacks(found, *full)
    for one in full:
        assert lacks(found, *(other for other in full if other != one))


def test_all_persons_need_no_condition() -> None:
    assert not lacks(persons(None))
    for items in (call("Count", PERSON), COUNT):
        assert not lacks(terms(items))


MADE = replace(ROWS, overlapping=True)
TRUE, FALSE = frozenset([f"{C} IS TRUE"]), frozenset([f"{C} IS NOT TRUE"])
PARTS = [
    none_of(TRUE, FALSE),
    none_of(TRUE),
    none_of(FALSE),
    *(both_of(TRUE, one, FALSE, two) for one, two in ((True, True), (True, False), (False, True))),
]


@pytest.mark.parametrize(
    "items", [call("CountIf", NORTH), call("Count", ONE, where=NORTH), call("Count", of("CaseWhen", NORTH, AMOUNT)), call("Sum", IS_NORTH)]
)
def test_every_condition_may_count_persons_whose_rows_the_text_makes(items: Items) -> None:
    pairs = replace(ROWS, unique=[frozenset([1, 2])])
    single = replace(ROWS, unique=[frozenset([1])])
    for rows in (MADE, replace(ROWS, repeated=frozenset([1])), pairs):
        found = terms(items, rows=rows)
        assert not lacks(found, *PARTS)
        for one in PARTS:
            assert lacks(found, *(other for other in PARTS if other != one))
    for rows in (ROWS, single):
        assert not lacks(terms(items, rows=rows))


@pytest.mark.parametrize("items", [call("CountIf", NORTH), call("Sum", AMOUNT, where=NORTH)])
def test_every_condition_may_count_persons_next_to_a_count_of_persons(items: Items) -> None:
    found = persons(None, of=terms(items))
    assert not lacks(found, *PARTS)
    for one in PARTS:
        assert lacks(found, *(other for other in PARTS if other != one))


def test_persons_with_several_rows_are_counted_where_the_text_makes_rows() -> None:
    ones = call("Sum", of("CaseWhen", NORTH, ONE))
    for other in (COUNT, call("CountIf", NORTH), call("Average", AMOUNT), call("Sum", ONE), ones):
        found = persons(None, of=terms(other, rows=MADE))
        conditions = PARTS if other[1]["class"].endswith("CountIf") or other is ones else []
        assert not lacks(found, *conditions, repeated=True)
        assert lacks(found, *conditions)
    assert not lacks(persons(None, of=terms(call("Sum", AMOUNT), rows=MADE)))
    assert not lacks(persons(None, of=terms(COUNT)))


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


def test_count_reads_stored_columns_or_those_that_queries_may_filter_by() -> None:
    large = of("GreaterThan", AMOUNT, ONE)
    terms(call("Count", AMOUNT), call("Count", of("Upper", REGION)), call("Count", of("If", NORTH, AMOUNT, of("Literal", value=None))))
    with pytest.raises(Refused, match="a count reads"):
        terms(call("Count", of("NullIf", large, large)))
    computed = replace(ROWS, columns={**ROWS.columns, 4: Column(4, ROWS.columns[3].shows, computed=True)})
    with pytest.raises(Refused, match="a count reads"):
        terms(call("Count", attribute(4)), rows=computed)


def test_condition_on_another_relation_chooses_no_values_whose_rows_a_join_repeats() -> None:
    own = replace(ROWS.columns[2], value=12)
    joined = replace(ROWS, columns={**ROWS.columns, 12: own}, repeated=frozenset([1]), relations={1: 1, 2: 1, 3: 1, 12: 2})
    other = of("EqualTo", attribute(12, "string"), of("Literal", value="a", dataType="string"))
    for found in (call("Sum", AMOUNT, where=NORTH), call("Count", PERSON, where=other), call("Count", ONE, where=other)):
        terms(found, rows=joined)
    chosen = [call("Sum", AMOUNT, where=other), call("Sum", of("If", other, AMOUNT, of("Literal", value=None)))]
    for found in chosen:
        terms(found, rows=replace(joined, repeated=frozenset()))
        with pytest.raises(Refused, match="another relation"):
            terms(found, rows=joined)


def test_sums_with_one_column_are_few() -> None:
    product = of("Multiply", AMOUNT, AMOUNT)
    products = [call("Sum", of("Multiply", AMOUNT, attribute(id))) for id in (5, 6, 7)]
    rows = replace(
        ROWS,
        columns={**ROWS.columns, **{id: replace(ROWS.columns[3], value=id, shows=frozenset([("orders", f"c{id}")])) for id in (5, 6, 7)}},
    )
    terms(call("Sum", AMOUNT), call("Average", AMOUNT), call("Sum", product), rows=rows)
    terms(call("Sum", AMOUNT), call("Sum", AMOUNT, where=NORTH), products[0], rows=rows)
    for several in ([call("Sum", AMOUNT), *products], [call("StddevPop", AMOUNT), *products[:2]]):
        with pytest.raises(Refused, match="different sums"):
            terms(*several, rows=rows)


def test_column_is_aggregated_of_two_steps_at_most() -> None:
    columns = {id: replace(ROWS.columns[3], value=id, step="Sum()") for id in (4, 5, 6)}
    rows = replace(ROWS, columns={**ROWS.columns, **columns, 7: replace(columns[4], value=7, power=2)})
    sums = [call("Sum", attribute(id)) for id in (4, 5, 7, 6)]
    terms(*sums[:3], rows=rows)
    with pytest.raises(Refused, match="more than 2 steps"):
        terms(*sums[:2], sums[3], rows=rows)
    means, repeated = (
        {id: replace(rows.columns[id], step=step) for id in (4, 5, 6, 7)} for step in ("Average()", "Sum() of repeated rows")
    )
    for other in (replace(rows, repeats=True), replace(rows, columns=rows.columns | means), replace(rows, columns=rows.columns | repeated)):
        terms(sums[0], sums[2], rows=other)
        with pytest.raises(Refused, match="more than 1 steps"):
            terms(*sums[:2], rows=other)


def test_count_is_no_factor_of_a_value_of_the_author() -> None:
    rows = replace(ORDERED, columns={**ORDERED.columns, 11: Column(11, step="Count()")})
    terms(call("Sum", of("Multiply", OWN, OWN)), rows=rows)
    with pytest.raises(Refused, match="multiplies a count"):
        terms(call("Sum", of("Multiply", OWN, attribute(11))), rows=rows)


def test_values_that_joins_repeat_are_not_in_groups_that_several_columns_choose() -> None:
    either = of("Or", NORTH, of("EqualTo", attribute(1, "string"), of("Literal", value="a", dataType="string")))
    joined = replace(ROWS, relations={1: 1, 2: 1, 3: 1}, repeated=frozenset([1]))
    summed, counted = [call("Sum", AMOUNT)], [call("Count", PERSON)]
    for rows, calls, keys in (
        (ROWS, summed, [either]), (joined, summed, [REGION]), (joined, counted, [either]),
        (replace(joined, repeated=frozenset([2])), summed, [either]),
    ):  # fmt: skip
        terms(*calls, rows=rows).require_no_choice([tree(key) for key in keys])
    divided = [call("Sum", AMOUNT, where=either)]
    for rows, calls, keys in (
        (joined, summed, [either]), (replace(joined, chooses=True), summed, []), (joined, divided, []),
        (replace(ROWS, repeats=True, chooses=True), summed, []),
    ):  # fmt: skip
        with pytest.raises(Refused, match="several columns"):
            terms(*calls, rows=rows).require_no_choice([tree(key) for key in keys])


def test_sum_of_whole_numbers_of_a_union_could_overflow() -> None:
    terms(call("Sum", attribute(13)), rows=SQUARED)
    with pytest.raises(Refused, match="arithmetic with whole numbers"):
        terms(call("Sum", attribute(13, "long")), rows=SQUARED)
