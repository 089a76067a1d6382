"""Which columns an expression shows, which values are flags, and which columns conditions may read."""

from __future__ import annotations

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.expressions import combined, combines, is_flag, require_conditions, shown
from sparkapp.plan.rows import NOTHING, Column
from sparkapp.plan.tree import tree
from sparkapp.plan.walk import PlanWalk
from tests.unit.sparkapp.test_plan_operators import CATALOG, LISTED, OWN, Items, attribute, project
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, node

WALK = PlanWalk(CATALOG)
KEY, OTHER = frozenset([("listed", "a")]), frozenset([("listed", "b")])
COLUMNS = {
    1: Column(1, KEY),
    2: Column(2, OTHER),
    3: Column(3, OTHER, identity=True),
    4: Column(4, KEY, flag=True),
    5: Column(5, KEY, computed=True),
}


def of(kind: str, *children: Items, **fields: object) -> Items:
    return node(f"{EXPRESSIONS}.{kind}", *children, **fields)


def literal(value: object) -> Items:
    return of("Literal", value=None if value is None else str(value))


def shows(items: Items, *, persons: bool = False) -> frozenset[tuple[str, str]]:
    return shown(tree(items), COLUMNS, WALK.subquery, persons=persons)


def call(kind: str, *args: Items, where: Items | None = None) -> Items:
    return of("AggregateExpression", of(kind, *args), *([where] if where else []), isDistinct=False)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (of("TempResolvedColumn", attribute(2)), OTHER),
        (of("OuterReference", e=attribute(2)), OTHER),
        (of("Add", attribute(1), attribute(2)), KEY | OTHER),
        (of("IsNull", attribute(2)), OTHER),
        (of("IsNotNull", attribute(2)), OTHER),
        (of("IsNull", attribute(3)), NOTHING),
        (of("IsNotNull", attribute(3)), NOTHING),
        (of("IsNull", of("Upper", attribute(3))), OTHER),
        (of("Not", attribute(3)), OTHER),
        (of("Exists", plan=project(LISTED, 21)), NOTHING),
        (of("ScalarSubquery", plan=project(LISTED, 22)), OTHER),
        (call("Count", attribute(2)), NOTHING),
        (call("Count", attribute(5)), KEY),
        (call("Count", of("Upper", attribute(2))), OTHER),
        (call("Sum", attribute(2)), OTHER),
    ],
)
def test_expression_shows_the_columns_that_it_reads(items: Items, expected: frozenset[tuple[str, str]]) -> None:
    assert shows(items) == expected


def test_count_over_several_persons_shows_no_values() -> None:
    for kind in ("Count", "CountIf", "HyperLogLogPlusPlus"):
        assert shows(call(kind, of("Upper", attribute(2))), persons=True) == NOTHING
    assert shows(call("Max", attribute(2)), persons=True) == OTHER


def test_unknown_attribute_is_refused() -> None:
    with pytest.raises(Refused, match="unknown attribute"):
        shows(attribute(99))


@pytest.mark.parametrize(
    ("items", "flag"),
    [
        (attribute(4), True),
        (attribute(1), False),
        (attribute(99), False),
        (call("Max", attribute(4)), True),
        (call("Min", attribute(4)), True),
        (call("Sum", attribute(4)), False),
        (of("CaseWhen", attribute(1), literal(1)), False),
        (of("CaseWhen", attribute(1), literal(1), literal(0)), True),
        (of("CaseWhen", attribute(1), literal(1), attribute(2), literal(None), literal(0)), False),
        (of("CaseWhen", attribute(1), literal(2), literal(0)), False),
        (of("CaseWhen", attribute(1), literal(0), literal(2)), False),
        (of("CaseWhen", attribute(1), literal(0), attribute(2), literal(2)), False),
        (of("CaseWhen", attribute(1), attribute(2), literal(0)), False),
        (of("CaseWhen", attribute(1), of("Cast", literal(1), value="1"), literal(0)), False),
        (of("If", attribute(1), literal(1), literal(0)), True),
        (of("If", attribute(1), literal(3), literal(0)), False),
        (of("If", attribute(1), literal(0), literal(3)), False),
        (literal(1), False),
    ],
)
def test_flag_is_0_or_1_by_its_form(items: Items, flag: bool) -> None:
    assert is_flag(tree(items), COLUMNS) == flag


@pytest.mark.parametrize(
    "items",
    [
        of("If", attribute(2), literal(1), literal(0)),
        call("CountIf", attribute(2)),
        call("Sum", literal(1), where=attribute(2)),
        of("CaseWhen", attribute(2), literal(1)),
        of("CaseWhen", attribute(1), literal(1), attribute(2), literal(0), literal(3)),
        of("Add", literal(1), of("If", attribute(2), literal(1), literal(0))),
    ],
)
def test_conditions_read_columns_that_queries_may_filter_by(items: Items) -> None:
    with pytest.raises(Refused, match="a condition reads the column b"):
        require_conditions(tree(items), COLUMNS, WALK.subquery, CATALOG)


def test_values_are_no_conditions() -> None:
    for items in (of("If", attribute(1), attribute(2), literal(0)), of("CaseWhen", attribute(1), attribute(2), attribute(2)), attribute(2)):
        require_conditions(tree(items), COLUMNS, WALK.subquery, CATALOG)
    counted = of("GreaterThan", call("Count", of("Upper", attribute(2))), literal(1))
    require_conditions(tree(counted), COLUMNS, WALK.subquery, CATALOG, all_of_it=True)
    with pytest.raises(Refused, match="a condition reads the column b"):
        require_conditions(tree(attribute(2)), COLUMNS, WALK.subquery, CATALOG, all_of_it=True)


def test_subquery_of_own_rows_may_be_compared() -> None:
    assert shows(of("ScalarSubquery", plan=project(OWN, 13))) == {("own", "value")}


# -- expressions that combine columns ---------------------------------------------------------------------------------

DATES = {
    1: Column(1, KEY, day=True), 2: Column(2, OTHER, day=True), 3: Column(3, KEY), 4: Column(4, KEY), 5: Column(5, OTHER),
    6: Column(6, OTHER, mixed=1), 7: Column(7, frozenset([("own", "d")]), day=True), 8: Column(8, KEY, mixed=2),
}  # fmt: skip
ONE, TWO, NAME, SAME, WORD, COMPARED, MINE, EARLIER = map(attribute, range(1, 9))
LATER = of("DateAdd", ONE, literal(7))


def between(value: Items, low: Items, high: Items) -> Items:
    bounds = of("And", of("GreaterThanOrEqual", of("CommonExpressionRef"), low), of("LessThanOrEqual", of("CommonExpressionRef"), high))
    return of("Between", of("With", bounds, of("CommonExpressionDef", value)))


@pytest.mark.parametrize(
    ("items", "mixed"),
    [
        (ONE, 0),
        (of("Or", of("EqualTo", NAME, literal("a")), of("EqualTo", NAME, literal("b"))), 0),
        (of("CaseWhen", of("EqualTo", NAME, literal("a")), NAME, literal("b")), 0),
        (of("LessThan", ONE, TWO), 1),
        (of("LessThan", LATER, TWO), 1),
        (of("GreaterThan", of("DateDiff", TWO, ONE), literal(3)), 1),
        (between(TWO, ONE, LATER), 1),
        (of("LessThan", NAME, SAME), 1),
        (COMPARED, 1),
        (of("LessThan", NAME, WORD), 2),
        (of("LessThan", of("Upper", NAME), SAME), 2),
        (of("LessThan", of("CaseWhen", of("EqualTo", ONE, literal("a")), literal("b")), TWO), 2),
        (of("Concat", ONE, TWO), 2),
        (between(TWO, NAME, LATER), 2),
        (of("Or", of("LessThan", ONE, TWO), of("EqualTo", ONE, literal("a"))), 2),
        (of("CaseWhen", of("EqualTo", NAME, literal("a")), WORD), 2),
        (of("Not", EARLIER), 2),
        (of("InSubquery", NAME, plan=node(f"{EXPRESSIONS}.OuterReference", e=WORD)), 2),
    ],
)
def test_expressions_combine_columns_unless_they_compare_dates_or_one_column_of_two_relations(items: Items, mixed: int) -> None:
    assert combined(tree(items), DATES).mixed == mixed


def test_dates_of_the_author_are_combined_with_those_of_persons() -> None:
    guarded = DATES | {id: Column(id, frozenset([("orders", "day")]), day=True) for id in (1, 2)}
    assert not combines(tree(of("LessThan", ONE, TWO)), guarded, CATALOG)
    assert combines(tree(of("LessThan", ONE, MINE)), guarded, CATALOG)
    assert combines(tree(of("LessThan", NAME, WORD)), guarded, CATALOG)
