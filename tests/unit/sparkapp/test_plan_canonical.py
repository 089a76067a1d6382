"""Canonical texts of plans: two readings of one text are equal, although Spark gives their attributes other IDs."""

from __future__ import annotations

from typing import Any

import pytest

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.tree import Node, tree

EXPRESSIONS = "org.apache.spark.sql.catalyst.expressions"


def attribute(number: int, name: str = "status") -> dict[str, Any]:
    identity = {"product-class": f"{EXPRESSIONS}.ExprId", "id": number, "jvmId": "j"}
    return {"class": f"{EXPRESSIONS}.AttributeReference", "num-children": 0, "name": name, "dataType": "string", "exprId": identity}


def literal(value: str) -> dict[str, Any]:
    return {"class": f"{EXPRESSIONS}.Literal", "num-children": 0, "value": value, "dataType": "string"}


def case(number: int, value: str = "paid", result: str = "1") -> Node:
    """``CASE WHEN status = 'paid' THEN '1' END`` as Spark serialises it: the branch is also a member."""
    equal = [{"class": f"{EXPRESSIONS}.EqualTo", "num-children": 2, "left": 0, "right": 1}, attribute(number), literal(value)]
    branch = {"product-class": "scala.Tuple2", "_1": equal, "_2": [literal(result)]}
    return tree([{"class": f"{EXPRESSIONS}.CaseWhen", "num-children": 2, "branches": [branch]}, *equal, literal(result)])


def alias(number: int, name: str, inner: int) -> Node:
    identity = {"product-class": f"{EXPRESSIONS}.ExprId", "id": number, "jvmId": "j"}
    return tree([{"class": f"{EXPRESSIONS}.Alias", "num-children": 1, "name": name, "exprId": identity}, attribute(inner)])


def test_expressions_over_other_attribute_ids_are_equal() -> None:
    assert Canonical().text(case(7)) == Canonical().text(case(4711))
    assert Canonical().text(alias(1, "a", 2)) == Canonical().text(alias(30, "b", 20))


@pytest.mark.parametrize("other", [case(7, value="void"), case(7, result="2"), alias(1, "a", 2)])
def test_other_expressions_have_other_texts(other: Node) -> None:
    assert Canonical().text(other) != Canonical().text(case(7))


def test_attributes_are_told_apart_within_one_text() -> None:
    first, second = Canonical(), Canonical()
    assert first.text(case(1)) + first.text(case(1)) != second.text(case(1)) + second.text(case(2))
    assert Canonical.shared(case(1)) != Canonical.shared(case(2))
