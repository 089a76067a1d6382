"""Which input columns an expression shows, and which columns its conditions read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cleanroom.sql import Catalog
from sparkapp.plan.rows import NOTHING, Column, InputColumn, Rows
from sparkapp.plan.tree import Node, refused

Columns = Mapping[int, Column]
Subquery = Callable[[Node, Columns], Rows]

_COMPARISONS = frozenset(
    {"EqualTo", "EqualNullSafe", "LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "With", "DateDiff", "MonthsBetween"}
)
COUNTS = frozenset({"Count", "CountIf", "HyperLogLogPlusPlus"})
MOMENTS = frozenset({"Sum", "Average", "StddevSamp", "StddevPop", "VarianceSamp", "VariancePop"})
"""Aggregates that mix the values of a group."""
POWERS = {"Sum": 1, "Average": 1, "Skewness": 3, "Kurtosis": 4}
"""Powers of their arguments that aggregates contain, if not two."""
EXTREMES = frozenset({"Min", "Max"})
CHOICES = frozenset({"CaseWhen", "If"})


def shown(node: Node, columns: Columns, subquery: Subquery, *, persons: bool) -> frozenset[InputColumn]:
    """Input columns whose values can be read from an expression.

    Args:
        node: The expression.
        columns: Attributes that it may read.
        subquery: Reads the plan of a subquery.
        persons: Aggregates combine rows of several persons, so that counts show none of their values.
    """
    kind = node.kind
    if kind in ("AttributeReference", "TempResolvedColumn"):
        node = node if kind == "AttributeReference" else node.children[0]
        if node.id not in columns:
            raise refused("PlanUnreadable", f"an expression reads the unknown attribute {node.name!r}")
        return columns[node.id].shows
    if kind in ("IsNull", "IsNotNull") and node.child.kind == "AttributeReference" and node.child.id in columns:
        column = columns[node.child.id]
        return NOTHING if column.identity else column.shows
    if kind == "OuterReference":
        return shown(node.expression("e"), columns, subquery, persons=persons)
    counts = kind == "AggregateExpression" and node.children[0].kind in COUNTS
    if counts and (persons or all(is_stored(child, columns) for child in node.children[0].children)):
        if not counts_different(node):
            return NOTHING
        read = (columns[part.id] for part in node.walk() if part.kind == "AttributeReference" and part.id in columns)
        return NOTHING.union(*(column.shows for column in read if not column.countable))
    parts = [shown(child, columns, subquery, persons=persons) for child in node.children]
    if "plan" in node.fields:
        rows = subquery(node.expression("plan"), columns)
        if kind != "Exists":
            parts.extend(column.shows for column in rows.columns.values())
    return NOTHING.union(*parts)


def counts_different(call: Node) -> bool:
    """Whether an aggregate counts different values."""
    return bool(call.fields.get("isDistinct")) or call.children[0].kind == "HyperLogLogPlusPlus"


def is_stored(node: Node, columns: Columns) -> bool:
    """Whether an expression is a constant or an unchanged input column."""
    return node.kind == "Literal" or (node.kind == "AttributeReference" and not (node.id in columns and columns[node.id].computed))


def is_flag(node: Node, columns: Columns) -> bool:
    """Whether an expression is 0 or 1 by its form."""
    if node.kind == "AttributeReference":
        return node.id in columns and columns[node.id].flag
    if node.kind == "AggregateExpression" and node.children[0].kind in EXTREMES:
        return is_flag(node.children[0].child, columns)
    if node.kind in CHOICES:
        results = results_of(node)
        complete = len(results) > len(conditions_of(node))  # without ELSE it may be NULL
        return complete and all(part.kind == "Literal" and str(part.fields.get("value")) in ("0", "1") for part in results)
    return False


def power(node: Node, columns: Columns) -> int:
    """The largest number of columns that an expression multiplies. A total of products is a product as well."""
    if node.kind == "AttributeReference":
        return columns[node.id].power if node.id in columns else 1
    if node.kind == "AggregateExpression":
        function = node.children[0].kind
        largest = max((power(child, columns) for child in node.children[0].children), default=1)
        return 1 if function in COUNTS else largest * (POWERS.get(function, 2) if function not in EXTREMES else 1)
    parts = [power(child, columns) for child in results_of(node)]
    return sum(parts) if node.kind in ("Multiply", "Divide") else max(parts, default=0)


def step_of(node: Node, columns: Columns) -> str:
    """The aggregates that compute an expression from values; see :class:`sparkapp.plan.rows.Column`."""
    if node.kind == "AttributeReference":
        return columns[node.id].step if node.id in columns else ""
    steps = " ".join(sorted({step_of(child, columns) for child in results_of(node)} - {""}))
    return f"{node.children[0].kind}({steps})" if node.kind == "AggregateExpression" else steps


class Combined(NamedTuple):
    """How an expression combines columns; see :class:`sparkapp.plan.rows.Column`."""

    reads: frozenset[int]  # values of the columns
    mixed: int
    day: bool


def combined(node: Node, columns: Columns) -> Combined:
    """How an expression combines columns, also those that a subquery in it reads."""
    if node.kind == "AttributeReference":
        found = columns.get(node.id)
        return Combined(frozenset([found.value]), found.mixed, found.day) if found is not None else Combined(frozenset(), 0, False)
    operands = node.children
    if node.kind == "With" and [len(part.children) for part in node.children[0].children] == [2, 2]:  # BETWEEN
        operands = [*(part.children[1] for part in node.children[0].children), node.children[1]]
    parts = [(child, part) for child in operands if (part := combined(child, columns)).reads]
    outer = frozenset(columns[id].value for id in node.outer_reads() if id in columns) if "plan" in node.fields else frozenset()
    sets = {part.reads for _, part in parts} | ({outer} if outer else set())
    most = max((part.mixed for _, part in parts), default=0)
    days = all(part.day for _, part in parts) and not outer
    if len(sets) > 1:
        plain = {columns[child.id].shows if child.kind == "AttributeReference" else None for child, _ in parts}
        same = len(plain) == 1 and None not in plain
        most = max(most, 1 if node.kind in _COMPARISONS and (days or same) else 2)
    return Combined(frozenset[int]().union(*sets), most, days and len(parts) == 1 and node.kind not in (*CHOICES, *_COMPARISONS))


def combines(node: Node, columns: Columns, catalog: Catalog) -> bool:
    """Whether a condition or a group key combines several columns. Only dates of persons may be compared with each other."""
    found = combined(node, columns)
    shows = [name for column in columns.values() if column.value in found.reads for name, _ in column.shows] if found.mixed == 1 else []
    return found.mixed > 1 or not all(map(catalog.has_floor, shows))


def conditions_of(node: Node) -> list[Node]:
    """The conditions of a CASE, an IF, a COUNT_IF or a FILTER; empty for any other node."""
    if node.kind in ("If", "CountIf"):
        return node.children[:1]
    if node.kind == "CaseWhen":
        return node.children[: len(node.children) // 2 * 2 : 2]
    return node.children[1:] if node.kind == "AggregateExpression" else []


def results_of(node: Node) -> list[Node]:
    """The operands of which a CASE or an IF chooses one; all operands of any other node."""
    if node.kind == "CaseWhen":
        return [*node.children[1::2], *node.children[len(node.children) // 2 * 2 :]]
    return node.children[1:] if node.kind == "If" else node.children


def require_conditions(node: Node, columns: Columns, subquery: Subquery, catalog: Catalog, *, all_of_it: bool = False) -> None:
    """Require that conditions read columns which queries may filter by: which rows meet one shows the column's values.

    Args:
        node: An expression.
        columns: Attributes that it may read.
        subquery: Reads the plan of a subquery.
        catalog: The registered views.
        all_of_it: The expression is a condition. Otherwise only the conditions of CASE, IF, COUNT_IF and FILTER in it are.

    Raises:
        Refused: ``PlanColumnNotAllowed``.
    """
    if all_of_it:
        require_shown(shown(node, columns, subquery, persons=True), "a condition reads", catalog, identities=True)
        return
    for part in node.walk():
        for condition in conditions_of(part):
            require_shown(shown(condition, columns, subquery, persons=True), "a condition reads", catalog, identities=True)


def require_shown(
    shows: frozenset[InputColumn], what: str, catalog: Catalog, *, identities: bool = False, joins_persons: bool = False
) -> None:
    """Require that the owners of input columns allow their values to be shown.

    Args:
        shows: The columns.
        what: What shows them, for the message.
        catalog: The registered views.
        identities: Identities of persons may be shown as well.
        joins_persons: So may identities of datasets without a floor.

    Raises:
        Refused: ``PlanColumnNotAllowed``.
    """
    for name, column in sorted(shows):
        view = catalog.view(name)
        identity = view is not None and column in view.identity_columns and ((identities and view.min_group_size) or joins_persons)
        if view is None or not (view.may_output(column) or identity):
            raise refused("PlanColumnNotAllowed", f"{what} the column {column} of {name}, which its owner does not list")
