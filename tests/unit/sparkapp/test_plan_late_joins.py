"""Rows per person that are joined with other relations, and the aggregate of joined rows which they equal."""

from __future__ import annotations

from typing import Any

import pytest

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.late_joins import joined_before
from sparkapp.plan.tree import Node, tree
from tests.unit.sparkapp.test_plan_operators import ORDERS, OWN, attribute
from tests.unit.sparkapp.test_plan_sources import equal, join, literal
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, LOGICAL, node

Items = list[dict[str, Any]]


def of(kind: str, *children: Items, **fields: Any) -> Items:
    return node(f"{EXPRESSIONS}.{kind}", *children, **fields)


def alias(child: Items, id: int) -> Items:
    return of("Alias", child, name="x", exprId={"id": id})


def call(kind: str, *args: Items, distinct: bool = False) -> Items:
    return of("AggregateExpression", of(kind, *args), isDistinct=distinct)


AMOUNT = attribute(3)
LOWER = {
    42: of("Coalesce", call("Sum", of("Abs", AMOUNT)), literal(0)),
    43: call("BoolOr", AMOUNT),
    44: call("Count", literal(1)),
    45: call("Sum", AMOUNT),
    46: call("Max", AMOUNT),
}
KEYS = [attribute(2), attribute(1)]


def aggregate(child: Items, keys: list[Items], outputs: list[Items]) -> Items:
    return node(f"{LOGICAL}.Aggregate", child, groupingExpressions=keys, aggregateExpressions=outputs)


def rows(lower: dict[int, Items] | None = None, name: str = "__cr_q") -> Items:
    """The rows per person: region (2), person (41), and aggregates (42 to 46)."""
    outputs = [attribute(2), alias(attribute(1), 41), *(alias(items, id) for id, items in (lower or LOWER).items())]
    return node(f"{LOGICAL}.SubqueryAlias", aggregate(ORDERS, KEYS, outputs), identifier={"name": name})


AGAIN = [alias(call(kind, attribute(id)), id + 10) for kind, id in zip(("Sum", "BoolOr", "Sum", "Sum", "Max"), LOWER, strict=True)]
JOINED = join("Inner", rows(), OWN, equal(41, 11))
GROUPED = [attribute(12), attribute(2), attribute(41)]
SHOWN = [alias(attribute(12), 60), attribute(2), attribute(41)]


def again(child: Items = JOINED, keys: list[Items] = GROUPED, outputs: list[Items] | None = None) -> Items:
    return aggregate(child, keys, [*SHOWN, *AGAIN] if outputs is None else outputs)


def found(items: Items) -> tuple[Node, dict[int, int]] | None:
    return joined_before(tree(items))


def test_aggregate_of_joined_rows_is_that_of_the_rows() -> None:
    result = found(again())
    assert result is not None
    lower, names = result
    assert names == {60: 60, 2: 2, 41: 41, 52: 42, 53: 43, 54: 44, 55: 45, 56: 46}
    text = Canonical.shared
    assert [text(item) for item in lower.expressions("groupingExpressions")] == [text(tree(item)) for item in (*KEYS, attribute(12))]
    assert [item.id for item in lower.expressions("aggregateExpressions")] == [2, 41, *LOWER, 60]
    assert lower.child.kind == "Join"
    assert text(tree(lower.child.fields["condition"])) == text(tree(equal(1, 11)))
    assert [child.kind for child in lower.child.children] == ["View", "View"]


@pytest.mark.parametrize(
    "items",
    [
        again(JOINED, [attribute(12), attribute(41)], [SHOWN[0], SHOWN[2], *AGAIN]),
        again(JOINED, [attribute(12), attribute(2)], [SHOWN[0], SHOWN[1], *AGAIN]),
        again(JOINED, [*GROUPED, attribute(13)]),
        again(JOINED, [*GROUPED, attribute(42)]),
        again(JOINED, GROUPED[1:]),
        again(JOINED, GROUPED, [alias(of("Upper", attribute(12)), 60), *SHOWN[1:], *AGAIN]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Max", attribute(42)), 52)]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Sum", attribute(46)), 52)]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Sum", attribute(43)), 52)]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Sum", attribute(45), distinct=True), 52)]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Sum", of("Abs", attribute(45))), 52)]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Sum", attribute(13)), 52)]),
        again(JOINED, GROUPED, [*SHOWN, alias(call("Count", attribute(41)), 52)]),
        again(join("LeftOuter", rows(), OWN, equal(41, 11))),
        again(join("Inner", rows(), OWN)),
        again(join("Inner", rows(), OWN, node(f"{EXPRESSIONS}.LessThan", attribute(41), attribute(11)))),
        again(join("Inner", rows(), OWN, equal(41, 2))),
        again(join("Inner", rows(), OWN, equal(11, 12))),
        again(join("Inner", rows(), OWN, equal(42, 11))),
        again(join("Inner", rows(name="q"), OWN, equal(41, 11))),
        again(join("Inner", rows({42: of("Coalesce", call("Sum", AMOUNT), literal(1))}), OWN, equal(41, 11)), GROUPED, [*SHOWN, AGAIN[0]]),
        again(join("Inner", rows({42: call("Sum", AMOUNT, distinct=True)}), OWN, equal(41, 11)), GROUPED, [*SHOWN, AGAIN[0]]),
        again(join("Inner", rows({42: of("Abs", AMOUNT)}), OWN, equal(41, 11)), GROUPED, [*SHOWN, AGAIN[0]]),
        again(rows(), GROUPED[1:], [*SHOWN[1:], *AGAIN]),
        node(f"{LOGICAL}.Project", rows(), projectList=SHOWN[1:]),
        node(f"{LOGICAL}.Project", ORDERS, projectList=KEYS),
    ],
)
def test_other_forms_are_none_of_these(items: Items) -> None:
    assert found(items) is None


def test_two_relations_may_be_joined_later() -> None:
    second = node(f"{LOGICAL}.View", node(f"{LOGICAL}.LocalRelation", output=[attribute(31)]), desc={"identifier": {"table": "own"}})
    for pair in (equal(41, 31), equal(31, 41)):
        result = found(again(join("Inner", JOINED, second, pair)))
        assert result is not None
        assert [child.kind for child in result[0].child.children] == ["Join", "View"]
