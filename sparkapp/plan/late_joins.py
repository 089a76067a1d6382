"""Rows per person that are joined with other relations, as the aggregate of joined rows which they equal.

This form::

    Aggregate (by the groupings and the group keys of R; sums of sums and counts, extremes of extremes)
    +- Join (inner, a grouping of the aggregate = a column of R)
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

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import MERGED, argument, is_aggregate, number_of, without_alias
from sparkapp.plan.tree import Node, join_kind

_AGAIN = {**MERGED, "BoolOr": ("BoolOr",), "Max": ("Max", *MERGED["Moment"])}
"""For each aggregate of the joined rows, those of their parts that it combines: also the tests and the moments of persons.

The parts are copies of each other, which have the same moments.
"""


def joined_before(upper: Node) -> tuple[Node, dict[int, int]] | None:
    """The aggregate of joined rows that an ``upper`` aggregate equals, and the output of it that each column is; None for any other one."""
    joins: list[Node] = []
    node = upper.child
    while node.kind == "Join" and join_kind(node) == "Inner" and node.fields.get("condition"):
        joins.append(node)
        node = node.children[0]
    if node.kind != "SubqueryAlias" or node.fields["identifier"]["name"] != "__cr_q":
        return None
    while node.kind == "SubqueryAlias":
        node = node.child
    if node.kind != "Aggregate" or not joins:
        return None
    outputs = {item.id: without_alias(item) for item in node.expressions("aggregateExpressions")}
    groupings = {Canonical.shared(item) for item in node.expressions("groupingExpressions")}
    keys = {id: item for id, item in outputs.items() if Canonical.shared(item) in groupings}
    rows = node.child
    for join in reversed(joins):
        condition = join.expression("condition")
        ids = [side.id for side in condition.children if side.kind == "AttributeReference"]
        if condition.kind != "EqualTo" or len(ids) != 2 or len(keys.keys() & ids) != 1:
            return None
        (key,) = keys.keys() & ids
        if keys[key].kind != "AttributeReference":
            return None
        parts = [_json(keys[key]) if part.get("exprId", {}).get("id") == key else part for part in join.fields["condition"]]
        rows = replace(join, fields={**join.fields, "condition": parts}, children=[rows, join.children[1]])
    names, late = {}, []
    for item, raw in zip(upper.expressions("aggregateExpressions"), upper.fields["aggregateExpressions"], strict=True):
        inner = without_alias(item)
        part = _part(inner, outputs)
        known = part.kind == "AttributeReference" and part.id in outputs
        names[item.id] = part.id if known else item.id
        if not known:
            if any(
                part.kind == "AggregateExpression" or (part.kind == "AttributeReference" and part.id in outputs) for part in inner.walk()
            ):
                return None
            late.append((inner, raw[1:] if item.kind == "Alias" else raw, raw))
    grouped = [keys.get(item.id, item) if item.kind == "AttributeReference" else item for item in upper.expressions("groupingExpressions")]
    if {*map(Canonical.shared, grouped)} != groupings | {Canonical.shared(inner) for inner, *_ in late}:
        return None
    fields = {
        "groupingExpressions": [*node.fields["groupingExpressions"], *(expression for _, expression, _ in late)],
        "aggregateExpressions": [*node.fields["aggregateExpressions"], *(item for _, _, item in late)],
    }
    return replace(node, fields={**node.fields, **fields}, children=[rows]), names


def _part(node: Node, outputs: Mapping[int, Node]) -> Node:
    """The attribute of the rows per person that an aggregate of the joined rows combines; ``node`` itself for any other expression."""
    for function, combined in _AGAIN.items():
        read = argument(node, function)
        lower = outputs.get(read.id) if read is not None and read.kind == "AttributeReference" else None
        if read is None or lower is None:
            continue
        if lower.kind == "Coalesce" and function == "Sum" and number_of(lower.children[1]) == 0:
            lower = lower.children[0]
        if is_aggregate(lower, combined):
            return read
    return node


def _json(node: Node) -> dict[str, Any]:
    return {"class": f"{node.package}.{node.kind}", "num-children": 0, **node.fields}
