"""FROM and WHERE: joins and filters over views, as Spark serialises them."""

from __future__ import annotations

import pytest

from sparkapp.plan.rows import Rows
from tests.unit.sparkapp.test_plan_operators import (
    COUNT_ROWS,
    LISTED,
    ORDERS,
    OWN,
    SINGLE,
    Items,
    attribute,
    code_of,
    explode,
    project,
    rows,
    view,
    window,
)
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, LOGICAL, node

SECOND = view("single", key=31, other=32, value=33)


def equal(one: int, two: int) -> Items:
    return node(f"{EXPRESSIONS}.EqualTo", attribute(one), attribute(two))


def literal(value: object) -> Items:
    return node(f"{EXPRESSIONS}.Literal", value=str(value))


def both(*parts: Items) -> Items:
    return parts[0] if len(parts) == 1 else node(f"{EXPRESSIONS}.And", parts[0], both(*parts[1:]))


def join(kind: str, left: Items, right: Items, *parts: Items) -> Items:
    condition = {"condition": both(*parts)} if parts else {}
    return node(f"{LOGICAL}.Join", left, right, joinType={"object": f"org.apache.spark.sql.catalyst.plans.{kind}$"}, **condition)


def where(child: Items, *parts: Items) -> Items:
    return node(f"{LOGICAL}.Filter", child, condition=both(*parts))


def member(id: int, plan: Items) -> Items:
    return node(f"{EXPRESSIONS}.InSubquery", attribute(id), node(f"{EXPRESSIONS}.ListQuery", plan=plan))


def optional(found: Rows) -> set[int]:
    return {id for id, column in found.columns.items() if column.optional}


UNIQUE = where(window(OWN, 11, function=COUNT_ROWS), node(f"{EXPRESSIONS}.EqualTo", attribute(90), literal(1)))


def test_rows_whose_window_counts_one_are_unique() -> None:
    assert rows(UNIQUE).unique == [frozenset([11, 12]), frozenset([11])]
    two = where(window(OWN, 11, function=COUNT_ROWS), node(f"{EXPRESSIONS}.EqualTo", attribute(90), literal(2)))
    assert rows(two).unique == [frozenset([11, 12])]
    joined = join("Inner", window(OWN, 11, function=COUNT_ROWS), SECOND, equal(11, 31))
    assert rows(where(joined, node(f"{EXPRESSIONS}.EqualTo", attribute(90), literal(1)))).unique == []


@pytest.mark.parametrize(("kind", "left", "right"), [("LeftOuter", ORDERS, SINGLE), ("RightOuter", SINGLE, ORDERS)])
def test_outer_join_with_persons_marks_the_columns_that_it_supplies(kind: str, left: Items, right: Items) -> None:
    found = rows(join(kind, left, right, equal(1, 11)))
    assert optional(found) == {11, 12, 13}
    assert {column.optional for id, column in found.columns.items() if id > 10} == {frozenset([frozenset([11])])}
    assert not optional(rows(project(node(f"{LOGICAL}.SubqueryAlias", join(kind, left, right, equal(1, 11))), 1, 11)))


def test_outer_join_that_supplies_persons_marks_theirs() -> None:
    found = rows(join("LeftOuter", SINGLE, ORDERS, equal(11, 1)))
    assert optional(found) == {1, 2, 3}
    assert [(person.ids, person.found) for person in found.persons] == [(frozenset([1]), frozenset([11]))]


def test_two_outer_joins_mark_their_own_columns() -> None:
    found = rows(join("LeftOuter", join("LeftOuter", ORDERS, SINGLE, equal(1, 11)), SECOND, equal(1, 31)))
    assert {id: column.optional for id, column in found.columns.items()} == {
        **dict.fromkeys((1, 2, 3), frozenset()),
        **dict.fromkeys((11, 12, 13), frozenset([frozenset([11])])),
        **dict.fromkeys((31, 32, 33), frozenset([frozenset([31])])),
    }


@pytest.mark.parametrize("kind", ["Inner", "Cross"])
def test_other_joins_mark_nothing(kind: str) -> None:
    assert not optional(rows(join(kind, ORDERS, SINGLE, equal(1, 11))))
    assert not optional(rows(join("LeftOuter", OWN, SECOND, equal(11, 31))))
    assert not optional(rows(join(kind, join("LeftOuter", SINGLE, SECOND, equal(11, 31)), ORDERS, equal(1, 11))))


def test_full_join_with_persons_is_refused() -> None:
    assert code_of(join("FullOuter", ORDERS, OWN, equal(1, 11))) == "PlanRowsOfPersons"
    assert code_of(join("FullOuter", OWN, ORDERS, equal(1, 11))) == "PlanRowsOfPersons"
    assert not rows(join("FullOuter", OWN, SECOND, equal(11, 31))).persons


def test_semi_join_with_persons_is_refused() -> None:
    assert code_of(join("LeftSemi", OWN, ORDERS, equal(11, 1))) == "PlanRowsOfPersons"
    plain = rows(join("LeftSemi", OWN, SECOND, equal(11, 31)))
    assert not plain.persons
    assert not plain.overlapping


def test_anti_join_with_persons_is_refused() -> None:
    assert code_of(join("LeftAnti", OWN, ORDERS, equal(11, 1))) == "PlanRowsOfPersons"
    assert rows(join("LeftAnti", ORDERS, OWN, equal(1, 11))).persons
    assert code_of(join("LeftAnti", project(OWN, 13), LISTED, equal(13, 22))) == "PlanColumnNotAllowed"


def test_condition_of_a_semi_join_reads_columns_that_queries_may_filter_by() -> None:
    assert code_of(join("LeftSemi", OWN, LISTED, equal(13, 22))) == "PlanColumnNotAllowed"


IDS = view("ids", p=51, a=52)


def test_identity_of_a_dataset_without_a_minimum_is_compared_with_identities_of_persons_only() -> None:
    assert rows(join("Inner", ORDERS, IDS, equal(1, 51))).persons
    assert rows(join("LeftAnti", ORDERS, IDS, equal(1, 51))).persons
    assert code_of(join("LeftAnti", ORDERS, IDS, equal(1, 52), equal(1, 51), equal(2, 51))) == "PlanColumnNotAllowed"
    assert code_of(project(join("Inner", OWN, IDS, equal(11, 51)), 11)) == "PlanColumnNotAllowed"
    assert code_of(project(where(IDS, equal(51, 52)), 52)) == "PlanColumnNotAllowed"
    assert code_of(project(where(OWN, member(11, project(IDS, 51))), 11)) == "PlanColumnNotAllowed"


def test_membership_among_persons_makes_rows_theirs() -> None:
    found = rows(where(SINGLE, member(11, project(ORDERS, 1))))
    assert [(person.view, person.ids, person.found) for person in found.persons] == [("orders", frozenset([11]), frozenset())]
    assert found.overlapping
    assert code_of(where(SINGLE, member(11, project(ORDERS, 2, 1)))) == "PlanJoinNotAllowed"
    assert not rows(where(OWN, member(11, project(SECOND, 31)))).persons
    assert code_of(where(OWN, member(13, project(LISTED, 22)))) == "PlanColumnNotAllowed"
    changed = node(f"{EXPRESSIONS}.InSubquery", node(f"{EXPRESSIONS}.Upper", attribute(11)), node(f"{EXPRESSIONS}.ListQuery", plan=ORDERS))
    assert code_of(where(SINGLE, changed)) == "PlanJoinNotAllowed"


def test_membership_in_the_condition_of_an_outer_join_is_refused() -> None:
    condition = both(equal(11, 31), member(11, project(ORDERS, 1)))
    assert code_of(join("LeftOuter", OWN, SECOND, condition)) == "PlanRowsOfPersons"


def test_existence_of_a_person_is_refused() -> None:
    outer = node(f"{EXPRESSIONS}.OuterReference", e=attribute(11))
    for column in (1, 2):
        inner = where(ORDERS, node(f"{EXPRESSIONS}.EqualTo", attribute(column), outer))
        assert code_of(where(SINGLE, node(f"{EXPRESSIONS}.Exists", plan=inner))) == "PlanRowsOfPersons"


def test_rows_that_persons_choose_are_rows_of_persons_or_unique() -> None:
    assert code_of(where(OWN, member(11, project(ORDERS, 1)))) == "PlanJoinNotAllowed"
    assert rows(where(node(f"{LOGICAL}.SubqueryAlias", UNIQUE), member(11, project(ORDERS, 1)))).persons
    assert len(rows(where(view("orders", person=41, region=42), member(41, project(ORDERS, 1)))).persons) == 2
    assert code_of(where(SINGLE, member(12, project(ORDERS, 1)))) == "PlanJoinNotAllowed"
    two = both(member(11, project(ORDERS, 1)), member(31, project(ORDERS, 1)))
    assert len(rows(where(join("Inner", SINGLE, SECOND, equal(11, 31)), two)).persons) == 2


# -- aggregates -------------------------------------------------------------------------------------------------------


def aggregate(child: Items, *keys: int, shown: tuple[int, ...] = ()) -> Items:
    return node(
        f"{LOGICAL}.Aggregate",
        child,
        groupingExpressions=[attribute(id) for id in keys],
        aggregateExpressions=[attribute(id) for id in shown or keys],
    )


def test_groups_are_unique_on_their_keys_if_all_are_shown() -> None:
    assert rows(aggregate(OWN, 12, 13)).unique == [frozenset([12, 13])]
    assert rows(aggregate(OWN, 12, 13, shown=(12,))).unique == []


def test_groups_of_rows_without_persons_are_by_columns_that_queries_may_filter_by() -> None:
    assert code_of(aggregate(LISTED, 22)) == "PlanColumnNotAllowed"
    assert rows(aggregate(LISTED, 21)).unique == [frozenset([21])]


def test_groups_of_persons_keep_them_apart() -> None:
    assert [person.ids for person in rows(aggregate(ORDERS, 1, 2)).persons] == [frozenset([1])]
    assert code_of(aggregate(ORDERS, 2)) == "PlanFloorMissing"
    assert code_of(aggregate(explode(ORDERS, 2), 1)) == "PlanRowsOfPersons"


def test_groups_by_the_identity_alone_do_not_overlap() -> None:
    chosen = where(SINGLE, member(11, ORDERS))
    assert not rows(aggregate(chosen, 11)).overlapping
    assert rows(aggregate(chosen, 11, 12)).overlapping
