"""The walk over plans of few operators, which are written as Spark serialises them."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.errors import Refused
from cleanroom.sql import Catalog
from sparkapp.plan.rows import Column, Rows
from sparkapp.plan.tree import tree
from sparkapp.plan.walk import PlanWalk
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, LOGICAL, node

Items = list[dict[str, Any]]
CATALOG = Catalog.model_validate(
    {
        "views": {
            "orders": {
                "columns": {"person": "string", "region": "string", "amount": "number"},
                "floors": {"minGroupSize": 5, "identity": "person", "dimensions": ["region"]},
            },
            "own": {"columns": {"key": "string", "other": "string", "value": "number"}, "uniqueColumns": ["key", "other"]},
            "single": {"columns": {"key": "string", "other": "string", "value": "number"}, "uniqueColumns": ["key"]},
            "ids": {
                "columns": {"p": "string", "a": "string"},
                "uniqueColumns": ["p"],
                "floors": {"minGroupSize": 0, "identity": "p", "dimensions": ["a"]},
            },
            "listed": {"columns": {"a": "string", "b": "number"}, "floors": {"minGroupSize": 0, "dimensions": ["a"]}},
        }
    }
)


def attribute(id: int, name: str = "x") -> Items:
    return node(f"{EXPRESSIONS}.AttributeReference", name=name, dataType="string", exprId={"id": id})


def view(name: str, **columns: int) -> Items:
    output = [attribute(id, column) for column, id in columns.items()]
    return node(f"{LOGICAL}.View", node(f"{LOGICAL}.LocalRelation", output=output), desc={"identifier": {"table": name}})


ORDERS = view("orders", person=1, region=2, amount=3)
OWN = view("own", key=11, other=12, value=13)
SINGLE = view("single", key=11, other=12, value=13)
LISTED = view("listed", a=21, b=22)


def project(child: Items, *ids: int) -> Items:
    return node(f"{LOGICAL}.Project", child, projectList=[attribute(id) for id in ids])


def order(id: int) -> Items:
    return node(f"{EXPRESSIONS}.SortOrder", attribute(id))


def window(child: Items, *partition: int, function: Items, by: tuple[int, ...] = ()) -> Items:
    parts = [attribute(id) for id in partition]
    definition = node(f"{EXPRESSIONS}.WindowSpecDefinition", *parts, *map(order, by))
    call = node(f"{EXPRESSIONS}.WindowExpression", function, definition)
    alias = node(f"{EXPRESSIONS}.Alias", call, name="n", exprId={"id": 90})
    return node(f"{LOGICAL}.Window", child, windowExpressions=[alias], partitionSpec=parts, orderSpec=[order(id) for id in by])


COUNT_ROWS = node(f"{EXPRESSIONS}.AggregateExpression", node(f"{EXPRESSIONS}.Count", node(f"{EXPRESSIONS}.Literal", value="1")))
ROW_NUMBER = node(f"{EXPRESSIONS}.RowNumber")


def rows(items: Items) -> Rows:
    return PlanWalk(CATALOG).settled(tree(items), {})


def code_of(items: Items) -> str:
    with pytest.raises(Refused) as caught:
        PlanWalk(CATALOG).result(tree(items))
    return caught.value.code


def test_every_column_of_the_result_must_be_listed() -> None:
    PlanWalk(CATALOG).result(tree(project(LISTED, 21)))
    assert code_of(project(LISTED, 22)) == "PlanColumnNotAllowed"
    assert code_of(project(LISTED, 22, 21)) == "PlanColumnNotAllowed"
    assert code_of(project(LISTED, 21, 22)) == "PlanColumnNotAllowed"


def test_view_has_persons_identities_and_unique_columns_of_the_catalogue() -> None:
    found = rows(ORDERS)
    assert [(person.view, person.floor, person.share, person.ids) for person in found.persons] == [("orders", 5, 80, frozenset([1]))]
    assert found.columns[1] == Column(1, frozenset([("orders", "person")]), identity=True)
    assert found.columns[2] == Column(2, frozenset([("orders", "region")]))
    assert rows(OWN).unique == [frozenset([11, 12])]
    assert rows(view("own", key=11, value=13)).unique == []
    assert not any(column.identity for column in rows(LISTED).columns.values())


def test_view_without_an_identity_or_with_an_unknown_column_is_refused() -> None:
    assert code_of(view("orders", region=2)) == "PlanLeafUnknown"
    assert code_of(view("own", key=11, hidden=12)) == "PlanLeafUnknown"


@pytest.mark.parametrize("kind", ["Except", "Intersect"])
@pytest.mark.parametrize("sides", [(ORDERS, OWN), (OWN, ORDERS)])
def test_set_operations_with_rows_of_persons_are_refused(kind: str, sides: tuple[Items, Items]) -> None:
    assert code_of(node(f"{LOGICAL}.{kind}", *sides)) == "PlanRowsOfPersons"


def test_set_operation_shows_the_columns_of_both_sides() -> None:
    assert code_of(node(f"{LOGICAL}.Except", project(LISTED, 22), project(OWN, 13))) == "PlanColumnNotAllowed"
    assert code_of(node(f"{LOGICAL}.Except", project(OWN, 13), project(LISTED, 22))) == "PlanColumnNotAllowed"
    PlanWalk(CATALOG).result(tree(node(f"{LOGICAL}.Except", project(OWN, 13), project(LISTED, 21))))


def test_distinct_rows_are_unique_and_keep_the_identity() -> None:
    assert rows(node(f"{LOGICAL}.Distinct", OWN)).unique == [frozenset([11, 12]), frozenset([11, 12, 13])]
    assert rows(node(f"{LOGICAL}.Distinct", ORDERS)).persons
    assert code_of(node(f"{LOGICAL}.Distinct", project(ORDERS, 2))) == "PlanRowsOfPersons"


@pytest.mark.parametrize("kind", ["GlobalLimit", "LocalLimit", "Offset"])
def test_operators_that_choose_rows_of_persons_are_refused(kind: str) -> None:
    assert code_of(node(f"{LOGICAL}.{kind}", ORDERS)) == "PlanRowsOfPersons"
    assert rows(node(f"{LOGICAL}.{kind}", OWN)).columns.keys() == {11, 12, 13}


def test_sort_reads_columns_that_queries_may_filter_by() -> None:
    def sorted_by(id: int) -> Items:
        return node(f"{LOGICAL}.Sort", project(LISTED, 21, 22), order=[order(id)])

    assert rows(sorted_by(21)).columns.keys() == {21, 22}
    assert code_of(sorted_by(22)) == "PlanColumnNotAllowed"


def test_window_over_persons_sees_one_person_at_a_time() -> None:
    assert rows(window(ORDERS, 1, function=COUNT_ROWS)).persons
    assert rows(window(ORDERS, 2, 1, function=COUNT_ROWS)).persons
    assert code_of(window(ORDERS, 2, function=COUNT_ROWS)) == "PlanRowsOfPersons"


def test_window_does_not_show_the_identity_by_which_it_is_partitioned() -> None:
    assert rows(window(ORDERS, 1, function=ROW_NUMBER)).columns[90].shows == frozenset()
    assert rows(window(ORDERS, 1, function=ROW_NUMBER, by=(2,))).columns[90].shows == frozenset([("orders", "region")])


def test_window_counts_rows_only_without_an_order() -> None:
    assert rows(window(OWN, 11, 12, function=COUNT_ROWS)).columns[90].counts == frozenset([11, 12])
    assert rows(window(OWN, 11, function=COUNT_ROWS, by=(12,))).columns[90].counts is None
    assert rows(window(OWN, 11, function=ROW_NUMBER)).columns[90].counts is None


def test_row_number_shows_its_partition_and_its_order() -> None:
    assert rows(window(LISTED, 22, function=ROW_NUMBER)).columns[90].shows == frozenset([("listed", "b")])
    assert rows(window(LISTED, 21, function=ROW_NUMBER, by=(22,))).columns[90].shows == frozenset([("listed", "a"), ("listed", "b")])
    assert code_of(project(window(LISTED, 21, function=ROW_NUMBER, by=(22,)), 90)) == "PlanColumnNotAllowed"


def test_distinct_rows_of_a_union_are_refused_if_some_are_about_no_person() -> None:
    hidden = node(f"{EXPRESSIONS}.Alias", attribute(1), name="h", exprId={"id": 81})
    own = node(f"{LOGICAL}.Project", OWN, projectList=[attribute(11), NULL])
    union = node(f"{LOGICAL}.Union", node(f"{LOGICAL}.Project", ORDERS, projectList=[attribute(2), hidden]), own)
    assert rows(union).persons
    assert code_of(node(f"{LOGICAL}.Distinct", union)) == "PlanRowsOfPersons"


NULL = node(f"{EXPRESSIONS}.Alias", node(f"{EXPRESSIONS}.Cast", node(f"{EXPRESSIONS}.Literal", value=None)), name="h", exprId={"id": 80})


def test_union_keeps_the_identity_of_one_side_where_the_other_is_null() -> None:
    own = node(f"{LOGICAL}.Project", OWN, projectList=[attribute(11), attribute(13), NULL])
    both = node(f"{LOGICAL}.Project", own, projectList=[attribute(11), attribute(13), attribute(80)])
    hidden = node(f"{EXPRESSIONS}.Alias", attribute(1), name="h", exprId={"id": 81})
    persons = node(f"{LOGICAL}.Project", ORDERS, projectList=[attribute(1), attribute(3), hidden])
    found = rows(node(f"{LOGICAL}.Union", both, persons))
    first, second, third = found.columns.values()
    assert [person.ids for person in found.persons] == [frozenset([third.value])]
    assert [column.identity for column in (first, second, third)] == [True, False, True]
    assert not found.overlapping
    assert second.shows == frozenset([("own", "value"), ("orders", "amount")])
    assert code_of(node(f"{LOGICAL}.Union", ORDERS, view("orders", person=31, region=32, amount=33))) == "PlanRowsOfPersons"


def test_unknown_leaf_and_missing_table_are_refused() -> None:
    assert code_of(node(f"{LOGICAL}.Range")) == "PlanLeafUnknown"
    assert code_of(node(f"{LOGICAL}.CTERelationRef", cteId=1, output=[])) == "PlanUnreadable"
    assert code_of(project(OWN, 99)) == "PlanUnreadable"
    assert rows(node(f"{LOGICAL}.OneRowRelation")) == Rows()


def explode(child: Items, id: int) -> Items:
    return node(f"{LOGICAL}.Generate", child, generator=node(f"{EXPRESSIONS}.Explode", attribute(id)), generatorOutput=[attribute(70)])


def test_explode_repeats_the_rows_of_persons() -> None:
    found = rows(explode(ORDERS, 2))
    assert found.persons
    assert (found.exploded, found.overlapping, found.unique) == (True, True, [])
    assert found.columns[70] == Column(70, frozenset([("orders", "region")]))
    own = rows(explode(OWN, 12))
    assert (own.exploded, own.overlapping, own.unique) == (False, False, [])
    assert code_of(explode(ORDERS, 3)) == "PlanColumnNotAllowed"


def test_explode_of_an_array_that_the_text_makes_is_refused() -> None:
    def made(kind: str, *children: Items) -> Items:
        generator = node(f"{EXPRESSIONS}.Explode", node(f"{EXPRESSIONS}.{kind}", *children))
        return node(f"{LOGICAL}.Generate", ORDERS, generator=generator, generatorOutput=[attribute(70)])

    separator = node(f"{EXPRESSIONS}.Literal", value=",", dataType="string")
    assert rows(made("StringSplit", attribute(2), separator)).exploded
    for items in (made("CreateArray", attribute(2), separator), made("StringSplit", attribute(2), attribute(2))):
        with pytest.raises(Refused, match="an array that the text makes"):
            rows(items)


@pytest.mark.parametrize("sides", [(explode(ORDERS, 2), OWN), (OWN, explode(ORDERS, 2))])
def test_exploded_rows_of_persons_are_not_in_a_union(sides: tuple[Items, Items]) -> None:
    with pytest.raises(Refused, match="a union of exploded rows"):
        rows(node(f"{LOGICAL}.Union", *sides))


def test_window_over_persons_may_choose_their_rows() -> None:
    assert rows(window(ORDERS, 1, function=ROW_NUMBER)).overlapping
    assert not rows(window(OWN, 11, function=ROW_NUMBER)).overlapping


def test_union_of_persons_of_two_views_overlaps() -> None:
    catalog = Catalog.model_validate(
        {"views": {name: {"columns": {"p": "string"}, "floors": {"minGroupSize": 5, "identity": "p"}} for name in ("a", "b")}}
    )
    union = tree(node(f"{LOGICAL}.Union", view("a", p=1), view("b", p=2)))
    found = PlanWalk(catalog).settled(union, {})
    assert found.overlapping
    assert [person.all_ids for person in found.persons] == [frozenset(), frozenset()]


def large(id: int) -> Items:
    return node(f"{EXPRESSIONS}.GreaterThan", attribute(id), node(f"{EXPRESSIONS}.Literal", value="3"))


def computed(child: Items, *ids: int, of: int) -> Items:
    """Columns, and a column with the ID 60 that compares another one with a constant."""
    alias = node(f"{EXPRESSIONS}.Alias", large(of), name="f", exprId={"id": 60})
    return node(f"{LOGICAL}.Project", child, projectList=[*map(attribute, ids), alias])


def grouped(child: Items, *keys: Items, counted: int | None = None) -> Items:
    """The first of the group keys, and the number of different values of a column as the column 61."""
    outputs = [keys[0]]
    if counted is not None:
        count = node(f"{EXPRESSIONS}.AggregateExpression", node(f"{EXPRESSIONS}.Count", attribute(counted)), isDistinct=True)
        outputs.append(node(f"{EXPRESSIONS}.Alias", count, name="n", exprId={"id": 61}))
    return node(f"{LOGICAL}.Aggregate", child, groupingExpressions=[*keys], aggregateExpressions=outputs)


BOTH = node(f"{LOGICAL}.Union", LISTED, project(OWN, 12, 13))


@pytest.mark.parametrize("kind", ["Except", "Intersect"])
def test_set_operation_compares_columns_that_queries_may_filter_by(kind: str) -> None:
    assert code_of(project(node(f"{LOGICAL}.{kind}", LISTED, project(OWN, 12, 13)), 21)) == "PlanColumnNotAllowed"
    assert code_of(project(node(f"{LOGICAL}.{kind}", project(OWN, 12, 13), LISTED), 12)) == "PlanColumnNotAllowed"
    assert rows(node(f"{LOGICAL}.{kind}", project(LISTED, 21), project(OWN, 12))).columns.keys() == {21}


def test_distinct_compares_stored_columns_and_computed_ones_that_queries_may_filter_by() -> None:
    assert code_of(project(node(f"{LOGICAL}.Distinct", computed(LISTED, 21, of=22)), 21)) == "PlanColumnNotAllowed"
    assert code_of(project(node(f"{LOGICAL}.Distinct", BOTH), 21)) == "PlanColumnNotAllowed"
    assert code_of(node(f"{LOGICAL}.Distinct", computed(ORDERS, 1, of=3))) == "PlanColumnNotAllowed"
    assert code_of(project(node(f"{LOGICAL}.Distinct", LISTED), 21)) == "PlanColumnNotAllowed"
    for child in (project(LISTED, 21), computed(LISTED, of=21), computed(ORDERS, 1, 3, of=2)):
        assert rows(node(f"{LOGICAL}.Distinct", child)).unique


def test_count_of_different_values_reads_one_stored_column_that_its_owner_lists_or_of_persons() -> None:
    PlanWalk(CATALOG).result(tree(grouped(LISTED, attribute(21), counted=21)))
    assert code_of(grouped(LISTED, attribute(21), counted=22)) == "PlanColumnNotAllowed"
    assert code_of(grouped(BOTH, attribute(21), counted=22)) == "PlanColumnNotAllowed"
    assert code_of(grouped(computed(LISTED, 21, of=22), attribute(21), counted=60)) == "PlanColumnNotAllowed"


def test_groups_of_a_person_are_divided_by_stored_columns_or_those_that_queries_may_filter_by() -> None:
    assert code_of(grouped(ORDERS, attribute(1), large(3))) == "PlanColumnNotAllowed"
    assert code_of(grouped(computed(ORDERS, 1, of=3), attribute(1), attribute(60))) == "PlanColumnNotAllowed"
    for child, key in ((ORDERS, attribute(3)), (ORDERS, large(2)), (computed(ORDERS, 1, of=2), attribute(60))):
        assert rows(grouped(child, attribute(1), key)).persons


def test_expanded_rows_show_the_columns_of_all_copies() -> None:
    def expand(child: Items, *ids: int) -> Items:
        return node(f"{LOGICAL}.Expand", child, projections=[[attribute(id)] for id in ids], output=[attribute(95)])

    assert rows(expand(OWN, 11, 13)).columns[95].shows == {("own", "key"), ("own", "value")}
    assert code_of(expand(ORDERS, 1)) == "PlanRowsOfPersons"


def test_view_without_a_minimum_has_no_persons() -> None:
    catalog = Catalog.model_validate(
        {"views": {"free": {"columns": {"p": "string"}, "floors": {"minGroupSize": 0, "identity": "p", "dimensions": ["p"]}}}}
    )
    found = PlanWalk(catalog).settled(tree(view("free", p=1)), {})
    assert not found.persons
    assert not found.columns[1].identity


def test_union_with_rows_that_the_text_chooses_overlaps() -> None:
    chosen = project(window(ORDERS, 1, function=ROW_NUMBER), 1, 2, 3)
    for sides in ((chosen, OWN), (OWN, chosen)):
        assert rows(node(f"{LOGICAL}.Union", *sides)).overlapping
    assert not rows(node(f"{LOGICAL}.Union", ORDERS, OWN)).overlapping
