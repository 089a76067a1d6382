"""Reading of serialised plans, and the lists of operators and expressions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.tree import Node, is_generated_join, join_kind, parse_plan, tree
from sparkapp.plan.vocabulary import require_known

LOGICAL = "org.apache.spark.sql.catalyst.plans.logical"
EXPRESSIONS = "org.apache.spark.sql.catalyst.expressions"


def node(_class: str, *children: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """A node as Spark serialises it, with the nodes below it."""
    return [{"class": _class, "num-children": len(children), **fields}, *(part for child in children for part in child)]


def view(name: str, *children: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return node(f"{LOGICAL}.View", *children, desc={"identifier": {"table": name}})


def code_of(items: list[dict[str, Any]]) -> str:
    with pytest.raises(Refused) as caught:
        require_known(tree(items), frozenset(["orders"]))
    return caught.value.code


def _nodes(count: int, found: int) -> str:
    """A node with ``count`` children, of which ``found`` follow."""
    return json.dumps([{"class": "a.B", "num-children": count}] + [{"class": "a.C", "num-children": 0}] * found)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "[1]", json.dumps([{"num-children": 0}]), json.dumps([{"class": "a.B"}]), "[" * 100_000),
        *(_nodes(1, 0), _nodes(0, 1), _nodes(2, 3)),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_plan(text)
    assert caught.value.code == "PlanUnreadable"
    assert caught.value.message.startswith("Spark's plan of the query: it cannot be read (")
    assert "Report this" in caught.value.hint


def test_children_are_those_that_follow_in_preorder() -> None:
    found = parse_plan(json.dumps(node("a.Top", node("a.Left", node("a.Leaf", x=1)), node("b.c.Right", y=[2]))))
    assert [part.kind for part in found.walk()] == ["Top", "Left", "Leaf", "Right"]
    assert found.children[1].package == "b.c"
    assert (found.children[0].child.fields, found.children[1].fields) == ({"x": 1}, {"y": [2]})
    with pytest.raises(ValueError, match="too many"):
        _ = found.child


@pytest.mark.parametrize(
    ("alias", "kind", "generated"),
    [("__cr_g", "LeftSemi$", True), ("__cr_x", "LeftAnti$", True), ("__cr_g", "Inner$", False), ("a__cr_g", "LeftSemi$", False)],
)
def test_joins_with_generated_groups_are_told_by_alias_and_kind(alias: str, kind: str, generated: bool) -> None:
    groups = node(f"{LOGICAL}.SubqueryAlias", view("orders"), identifier={"name": alias})
    join = tree(node(f"{LOGICAL}.Join", view("orders"), groups, joinType={"object": f"plans.{kind}"}))
    assert join_kind(join) == kind.rstrip("$")
    assert is_generated_join(join) is generated
    assert not is_generated_join(join.children[1])
    assert not is_generated_join(Node("Join", LOGICAL, join.fields, [join.children[1], join.children[0]]))


def test_registered_views_are_returned_and_their_plans_are_not_read() -> None:
    unknown = node(f"{LOGICAL}.Sample")
    plan = node(f"{LOGICAL}.Union", view("ORDERS", unknown), view("mine", view("orders", unknown)))
    found = require_known(tree(plan), frozenset(["orders"]))
    assert len(found) == 2
    assert code_of(view("mine", node(f"{LOGICAL}.Sample", view("orders")))) == "PlanOperatorNotAllowed"


@pytest.mark.parametrize(
    ("items", "code"),
    [
        (node(f"{LOGICAL}.Range"), "PlanLeafUnknown"),
        (node("org.apache.spark.sql.execution.LogicalRDD"), "PlanLeafUnknown"),
        (node(f"{LOGICAL}.Sample", view("orders")), "PlanOperatorNotAllowed"),
        (node("org.apache.spark.sql.execution.Filter2", view("orders")), "PlanOperatorNotAllowed"),
        (node(f"{EXPRESSIONS}.Rand"), "PlanExpressionNotAllowed"),
        (node("com.example.Upper"), "PlanExpressionNotAllowed"),
        (node(f"{EXPRESSIONS}.objects.StaticInvoke", staticObject="java.lang.System"), "PlanExpressionNotAllowed"),
        (node(f"{EXPRESSIONS}.Upper", node(f"{EXPRESSIONS}.Rand")), "PlanExpressionNotAllowed"),
        (node(f"{LOGICAL}.Filter", view("orders"), condition=node(f"{EXPRESSIONS}.Rand")), "PlanExpressionNotAllowed"),
        (node(f"{LOGICAL}.Project", view("orders"), projectList=[[], node(f"{EXPRESSIONS}.Rand")]), "PlanExpressionNotAllowed"),
    ],
)  # fmt: skip
def test_operators_and_expressions_outside_of_the_lists_are_refused(items: list[dict[str, Any]], code: str) -> None:
    assert code_of(items) == code


@pytest.mark.parametrize(
    "items",
    [
        node(f"{EXPRESSIONS}.objects.StaticInvoke", staticObject=f"{EXPRESSIONS}.ExpressionImplUtils"),
        node(f"{EXPRESSIONS}.objects.Invoke", node(f"{EXPRESSIONS}.Literal")),
        node(f"{EXPRESSIONS}.aggregate.Sum", node(f"{EXPRESSIONS}.Literal")),
        node(f"{LOGICAL}.Filter", view("orders"), condition=node(f"{EXPRESSIONS}.IsNull", node(f"{EXPRESSIONS}.Literal"))),
    ],
)
def test_listed_operators_and_expressions_are_known(items: list[dict[str, Any]]) -> None:
    require_known(tree(items), frozenset(["orders"]))


@pytest.mark.parametrize(
    "name",
    [
        *("Aggregate", "CTERelationDef", "CTERelationRef", "Distinct", "Except", "Expand", "Filter", "Generate", "GlobalLimit"),
        *("Intersect", "Join", "LocalLimit", "LocalRelation", "Offset", "OneRowRelation", "Project", "Sort", "SubqueryAlias"),
        *("Union", "View", "Window", "WithCTE"),
    ],
)
def test_operators_of_rewritten_queries_are_known(name: str) -> None:
    require_known(tree(node(f"{LOGICAL}.{name}", desc={"identifier": {"table": "other"}})), frozenset())


def test_members_that_are_no_trees_are_ignored() -> None:
    expression = node(f"{EXPRESSIONS}.Literal", value=[{"product-class": "x"}, "class", ["class"], [], 3, [[node(f"{EXPRESSIONS}.Rand")]]])
    assert code_of(expression) == "PlanExpressionNotAllowed"
    require_known(tree(node(f"{EXPRESSIONS}.Literal", value=[{"product-class": "x"}, ["class"], []])), frozenset())
