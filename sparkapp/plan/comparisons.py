"""Comparisons of columns, and expressions that are a column in another form."""

from __future__ import annotations

from collections.abc import Iterator

from sparkapp.plan.conditions import constant
from sparkapp.plan.expressions import Columns
from sparkapp.plan.joins import Pair
from sparkapp.plan.tree import Node


def attributes(node: Node) -> Iterator[int]:
    """IDs of the attributes that an expression reads, without those of subqueries."""
    return (part.id for part in node.walk() if part.kind == "AttributeReference")


def plain(node: Node) -> list[int]:
    """The attribute that an expression is, if it is one."""
    inner = unchanged(node)
    return [inner.id] if inner.kind == "AttributeReference" else []


def unchanged(node: Node) -> Node:
    """The expression without casts to the type that it has."""
    while node.kind == "Cast" and node.child.fields.get("dataType") == node.fields.get("dataType"):
        node = node.child
    return node


def equal_columns(condition: Node, columns: Columns, restricts: frozenset[int] | None) -> Pair | None:
    """The columns of different relations that a condition compares for equality."""
    if condition.kind != "EqualTo":
        return None
    sides = [unchanged(child) for child in condition.children]
    inner = []
    how = "same"
    for side in sides:
        widened = side.kind == "Cast" and side.fields.get("dataType") == "long" and side.child.fields.get("dataType") == "integer"
        if side.kind == "OuterReference":
            side = side.expression("e")
        if side.kind == "AttributeReference":
            inner.append(side.id)
        elif widened and side.child.kind == "AttributeReference":
            inner.append(side.child.id)
            how = "widened"
        else:
            return None
    if any(id not in columns for id in inner):
        return None
    return Pair(columns[inner[0]].value, columns[inner[1]].value, how, restricts)


def counts_one(condition: Node, columns: Columns) -> list[frozenset[int]]:
    """Values that a condition ``COUNT(*) OVER (PARTITION BY …) = 1`` makes unique."""
    if condition.kind != "EqualTo" or condition.children[0].kind != "AttributeReference":
        return []
    counts = columns[condition.children[0].id].counts if condition.children[0].id in columns else None
    return [counts] if counts is not None and constant(condition.children[1]) == "1" else []
