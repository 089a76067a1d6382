"""Rows per person that are joined with relations of one row per person, as the aggregate of joined rows which they equal.

This form::

    Project (columns of the aggregate, and group keys of R)
    +- Join (inner, a grouping of the aggregate = a column on which R is unique)
       :- Aggregate (by groupings)
       |  +- rows
       +- R

has the same rows as this one, which the rules are about::

    Aggregate (by groupings and the group keys of R)
    +- Join (inner, the same condition)
       :- rows
       +- R
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.tree import Node, join_kind, tree


def joined_before(project: Node, is_unique: Callable[[Node, int], bool]) -> tuple[Node, dict[int, int]] | None:
    """The aggregate of joined rows, and the output of it that each column of a projection is; None for any other projection.

    Args:
        project: The projection.
        is_unique: Whether a relation has one row at most for each value of an attribute.
    """
    joins: list[Node] = []
    node = project.child
    while node.kind == "Join" and join_kind(node) == "Inner" and node.fields.get("condition"):
        joins.append(node)
        node = node.children[0]
    while node.kind == "SubqueryAlias":
        node = node.child
    if node.kind != "Aggregate" or not joins:
        return None
    outputs = {item.id: item.child if item.kind == "Alias" else item for item in node.expressions("aggregateExpressions")}
    groupings = {Canonical.shared(item) for item in node.expressions("groupingExpressions")}
    keys = {id: item for id, item in outputs.items() if item.kind == "AttributeReference" and Canonical.shared(item) in groupings}
    rows = node.child
    for join in reversed(joins):
        condition = tree(join.fields["condition"])
        ids = [side.id for side in condition.children if side.kind == "AttributeReference"]
        if condition.kind != "EqualTo" or len(ids) != 2 or len(keys.keys() & ids) != 1:
            return None
        ((key, other),) = ((one, two) for one, two in (ids, ids[::-1]) if one in keys)
        if not is_unique(join.children[1], other):
            return None
        parts = [_json(keys[key]) if part.get("exprId", {}).get("id") == key else part for part in join.fields["condition"]]
        rows = replace(join, fields={**join.fields, "condition": parts}, children=[rows, join.children[1]])
    names, late, shown = {}, [], []
    for item, raw in zip(project.expressions("projectList"), project.fields["projectList"], strict=True):
        inner = item.child if item.kind == "Alias" else item
        names[item.id] = inner.id if inner.kind == "AttributeReference" and inner.id in outputs else item.id
        if names[item.id] == item.id:
            late.append(raw[1:] if item.kind == "Alias" else raw)
            shown.append(raw)
            if any(part.kind == "AttributeReference" and part.id in outputs for part in inner.walk()):
                return None
    fields = {
        "groupingExpressions": [*node.fields["groupingExpressions"], *late],
        "aggregateExpressions": [*node.fields["aggregateExpressions"], *shown],
    }
    return replace(node, fields={**node.fields, **fields}, children=[rows]), names


def _json(node: Node) -> dict[str, Any]:
    return {"class": f"{node.package}.{node.kind}", "num-children": 0, **node.fields}
