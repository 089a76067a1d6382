"""GROUP BY, ORDER BY and LIMIT."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.checking.nodes import direction, located_at, value_of, whole_number, without_parentheses
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.privacy.release import check_group_keys
from cleanroom.sql.privacy.rows import is_per_person
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote

Items = Sequence[exp.Expr | Value]
"""The SELECT list, with ``*`` replaced by columns."""
Output = tuple[str, Value]
"""Name and expression of an output column."""


def group_rows(node: exp.Select, ctx: Context, items: Items) -> None:
    """Check GROUP BY and fill in the groups of the scope. HAVING without GROUP BY has one group."""
    scope, group = ctx.scope, node.args.get("group")
    scope.aliases = {item.alias.lower(): item.this for item in node.expressions if type(item) is exp.Alias}
    if group is not None:
        if not group.expressions:
            raise Refusal("Unparsable", "GROUP BY needs a key")
        scope.keys = keys = [_group_key(key, ctx, items) for key in group.expressions]
        scope.group_text = "\nGROUP BY " + ", ".join(key.sql for key in keys)
        scope.group_keys = {key.sql for key in keys}
        if not scope.protected:
            check_condition(keys, ctx.rules.catalog, "GROUP BY")
            return
        scope.per_person = is_per_person(scope.protected, keys, scope.equal)
        scope.plain_group_keys = [key.sql for key in keys if key.plain]
        if not scope.per_person:
            check_group_keys(keys, ctx.rules.catalog)
    elif node.args.get("having") is not None:
        scope.group_keys = set()


def _group_key(node: exp.Expr, ctx: Context, items: Items) -> Value:
    node = without_parentheses(node)
    with located_at(node):
        if ordinal := whole_number(node):
            item = items[_index(ordinal, len(items), "GROUP BY")]
            value = item if isinstance(item, Value) else value_of(item, ctx)
            ctx.findings.expand(len(value.sql))
        else:
            value = value_of(node, ctx)
        constant = not value.origins and not value.sources and value.degree == 0
        if constant or value.sql.isdecimal():
            raise Refusal("ClauseNotAllowed", "GROUP BY a constant has no meaning")
    return value


def _index(ordinal: str, count: int, clause: str) -> int:
    """Index of the column that an ordinal of GROUP BY or ORDER BY means."""
    if not ordinal or not 1 <= int(ordinal) <= count:
        raise Refusal("ClauseNotAllowed", f"{clause} {ordinal or 'a constant'}: the SELECT has {count} columns")
    return int(ordinal) - 1


def order_by(node: exp.Expr, ctx: Context, outputs: Sequence[Output]) -> str:
    """The rendered ORDER BY clause of a query, or nothing. It may name the output columns ``outputs``."""
    order = node.args.get("order")
    if order is None:
        return ""
    parts = []
    for item in order.expressions:
        with located_at(item):
            text, value = _sort_key(without_parentheses(item.this), ctx, outputs)
            # The order of the rows, and which of them LIMIT shows, tell the values by which they are sorted.
            check_condition([value], ctx.rules.catalog, "ORDER BY")
        parts.append(text + direction(item))
    return "\nORDER BY " + ", ".join(parts)


def _sort_key(key: exp.Expr, ctx: Context, outputs: Sequence[Output]) -> tuple[str, Value]:
    if isinstance(key, exp.Literal) and not key.is_string:
        ordinal = whole_number(key)
        return ordinal, outputs[_index(ordinal, len(outputs), "ORDER BY")][1]
    if isinstance(key, exp.Column) and not key.args.get("table"):
        for name, value in reversed(outputs):
            if name.lower() == key.name.lower():
                return quote(name), value
    value = value_of(key, ctx)
    if ctx.scope.group_keys is not None and value.ungrouped:
        raise Refusal("NotGrouped", "ORDER BY may read group keys and aggregates only")
    return next((quote(name) for name, output in reversed(outputs) if output.sql == value.sql), value.sql), value


def limit(node: exp.Expr) -> str:
    """The rendered LIMIT clause of a query, or nothing."""
    clause = node.args.get("limit")
    if clause is None:
        return ""
    count = whole_number(clause.args.get("expression"))
    if not count:
        raise Refusal("ClauseNotAllowed", "LIMIT takes a whole number")
    return f"\nLIMIT {count}"
