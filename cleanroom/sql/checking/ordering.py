"""ORDER BY, LIMIT and OFFSET."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.dispatch import value_of
from cleanroom.sql.checking.nodes import allow_only, direction, located_at, position_of, without_parentheses
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote

Output = tuple[str, Value]
"""Name and expression of an output column."""


def sort_keys(order: exp.Expr, ctx: Context) -> tuple[list[str], list[Value]]:
    """Texts with directions, and values, of ORDER BY inside a window or an aggregate."""
    texts, values = [], []
    for item in order.expressions:
        allow_only(item, "this", "desc", "nulls_first")
        values.append(value_of(item.this, ctx))
        texts.append(values[-1].sql + direction(item))
    return texts, values


def order_by(node: exp.Expr, ctx: Context, outputs: list[Output]) -> str:
    """The rendered ORDER BY clause of a query, or nothing.

    Args:
        node: The query.
        ctx: Context of the clause.
        outputs: Output columns of the query, which the clause may name.
    """
    order = node.args.get("order")
    if order is None:
        return ""
    allow_only(order, "expressions")
    names = {name.lower(): name for name, _ in outputs}
    values = {name.lower(): value for name, value in outputs}
    texts = {value.sql: name for name, value in outputs}
    parts = []
    for item in order.expressions:
        if len(order.expressions) == 1 and isinstance(item.this, exp.Var) and item.this.name.upper() == "ALL":
            allow_only(item, "this", "desc", "nulls_first")
            return "\nORDER BY " + ", ".join(quote(name) + direction(item) for name, _ in outputs)
        if not isinstance(item, exp.Ordered):
            raise Refusal("ClauseNotAllowed", "this form of ORDER BY is not allowed", position_of(item))
        allow_only(item, "this", "desc", "nulls_first")
        key = without_parentheses(item.this)
        if isinstance(key, exp.Literal) and not key.is_string:
            text = _ordinal(key, len(outputs), item)
            _check_key(outputs[int(text) - 1][1], item, ctx)
        elif isinstance(key, exp.Column) and not key.args.get("table") and key.name.lower() in names:
            text = quote(names[key.name.lower()])
            _check_key(values[key.name.lower()], item, ctx)
        else:
            text = _expression(key, ctx, texts, item)
        parts.append(text + direction(item))
    return "\nORDER BY " + ", ".join(parts)


def _ordinal(key: exp.Literal, count: int, item: exp.Expr) -> str:
    text = str(key.this)
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise Refusal("ClauseNotAllowed", f"ORDER BY {text}: the result has {count} columns", position_of(item))
    return text


def _expression(key: exp.Expr, ctx: Context, texts: dict[str, str], item: exp.Expr) -> str:
    value = value_of(key, ctx)
    if ctx.scope.group_keys is not None and value.ungrouped:
        raise Refusal("NotGrouped", "ORDER BY may read group keys and aggregates only", position_of(item))
    _check_key(value, item, ctx)
    return quote(texts[value.sql]) if value.sql in texts else value.sql


def _check_key(value: Value, item: exp.Expr, ctx: Context) -> None:
    """The order of the rows, and which of them LIMIT shows, tell the values by which they are sorted."""
    with located_at(item):
        check_condition([value], ctx.rules.catalog, "ORDER BY")


def is_limited(node: exp.Expr) -> bool:
    """Whether a query has LIMIT or OFFSET."""
    return bool(node.args.get("limit") or node.args.get("offset"))


def limit(node: exp.Expr) -> str:
    """The rendered LIMIT and OFFSET clauses of a query, or nothing."""
    text = ""
    for name, word in (("limit", "LIMIT"), ("offset", "OFFSET")):
        clause = node.args.get(name)
        if clause is None:
            continue
        fetch = isinstance(clause, exp.Fetch)
        if not fetch:
            allow_only(clause, "expression")
        count = clause.args.get("expression")
        if word == "LIMIT" and isinstance(count, exp.Var) and count.name.upper() == "ALL":
            continue
        if fetch:
            raise Refusal("ClauseNotAllowed", "FETCH FIRST is not Spark SQL; write LIMIT <whole number>", position_of(node))
        if not isinstance(count, exp.Literal) or count.is_string or not str(count.this).isdecimal():
            raise Refusal("ClauseNotAllowed", f"{word} takes a whole number", position_of(node))
        text += f"\n{word} {count.this}"
    return text
