"""GROUP BY, ORDER BY and LIMIT."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.checking.aggregates import contains_aggregate
from cleanroom.sql.checking.nodes import allow_only, direction, located_at, position_of, value_of, whole_number, without_parentheses
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.privacy.release import check_group_keys, check_grouping_sets
from cleanroom.sql.privacy.rows import is_per_person
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote

Items = Sequence[exp.Expr | Value]
"""The SELECT list, with ``*`` replaced by columns."""

_GROUPING_SETS = (exp.Rollup, exp.Cube, exp.GroupingSets)


def group_rows(node: exp.Select, ctx: Context, items: Items) -> None:
    """Check GROUP BY and fill in the groups of the scope."""
    scope = ctx.scope
    aliases = {}
    for item in node.expressions:
        if type(item) is exp.Alias and isinstance(item.args["alias"], exp.Identifier):
            aliases[str(item.args["alias"].this).lower()] = item.this
    scope.aliases = aliases
    group = node.args.get("group")
    keys: list[Value] = []
    if group is not None:
        keys = _group_by(group, ctx, items)
        scope.group_keys, scope.keys = {key.sql for key in keys}, keys
    elif node.args.get("having") is not None or any(contains_aggregate(item) for item in node.expressions):
        scope.group_keys = set()
    if not scope.protected:
        for key in keys:
            with located_at(node):
                check_condition([key], ctx.rules.catalog, "GROUP BY")
    if scope.group_keys is not None and scope.protected:
        scope.per_person = is_per_person(scope.protected, keys, scope.equal)
        scope.plain_group_keys = [key.sql for key in keys if key.plain]
        if not scope.per_person:
            with located_at(node):
                check_group_keys(keys, ctx.rules.catalog)


def _group_by(group: exp.Expr, ctx: Context, items: Items) -> list[Value]:
    allow_only(group, "expressions", "rollup", "cube", "grouping_sets", "all")
    plain = _plain_keys(group, ctx, items)
    sets = [key for key in group.expressions if isinstance(key, _GROUPING_SETS)]
    sets += [part for name in ("rollup", "cube", "grouping_sets") for part in group.args.get(name) or []]
    if sets:
        ctx.scope.may_copy_rows = True
        with located_at(group):
            check_grouping_sets(ctx.scope.protected)
    keys = [_group_key(key, ctx, items) for key in plain]
    texts = [key.sql for key in keys]
    for part in sets:
        inner, text = _grouping_set(part, keys, ctx, items)
        if not part.expressions:  # GROUP BY a, b WITH ROLLUP
            texts = []
        keys = keys + inner
        texts.append(text)
    if plain and any(isinstance(part, exp.GroupingSets) for part in sets):
        raise Refusal("ClauseNotAllowed", "GROUPING SETS with other group keys: write every set out instead", position_of(group))
    ctx.scope.group_text = "\nGROUP BY " + ", ".join(texts)
    return keys


def _plain_keys(group: exp.Expr, ctx: Context, items: Items) -> list[exp.Expr]:
    """Group keys outside of ROLLUP, CUBE and GROUPING SETS."""
    plain = [key for key in group.expressions if not isinstance(key, _GROUPING_SETS)]
    if group.args.get("all"):
        plain = [
            exp.Literal.number(index + 1) for index, item in enumerate(items) if isinstance(item, Value) or not contains_aggregate(item)
        ]
        if group.expressions or not plain:
            raise Refusal("ClauseNotAllowed", "GROUP BY ALL needs a column that is not an aggregate", position_of(group))
    sets = group.args.get("grouping_sets")
    if sets and plain and not group.args.get("rollup") and not group.args.get("cube"):  # GROUP BY a, b GROUPING SETS ((a), (b))
        listed = {key.sql for key in _grouping_set(sets[0], [], ctx, items)[0]}
        if not all(_group_key(key, ctx, items).sql in listed for key in plain):
            raise Refusal("ClauseNotAllowed", "each key before GROUPING SETS must be in one of the sets", position_of(group))
        plain = []
    return plain


def _grouping_set(node: exp.Expr, before: list[Value], ctx: Context, items: Items) -> tuple[list[Value], str]:
    """Keys and text of ROLLUP, CUBE or GROUPING SETS. WITH ROLLUP applies to the keys ``before`` it."""
    allow_only(node, "expressions")
    if not isinstance(node, exp.GroupingSets):
        inner = [_group_key(key, ctx, items) for key in node.expressions]
        word = "ROLLUP" if isinstance(node, exp.Rollup) else "CUBE"
        return inner, f"{word}({', '.join(key.sql for key in inner or before)})"
    keys: list[Value] = []
    sets = []
    for each in node.expressions:
        members = each.expressions if isinstance(each, exp.Tuple) else [each]
        inner = [_group_key(key, ctx, items) for key in members]
        keys += inner
        sets.append(f"({', '.join(key.sql for key in inner)})")
    return keys, f"GROUPING SETS({', '.join(sets)})"


def _group_key(node: exp.Expr, ctx: Context, items: Items) -> Value:
    node = without_parentheses(node)
    ordinal = whole_number(node)
    if ordinal:
        index = int(ordinal) - 1
        if not 0 <= index < len(items):
            raise Refusal("ClauseNotAllowed", f"GROUP BY {ordinal}: the SELECT list has {len(items)} columns", position_of(node))
        item = items[index]
        value = item if isinstance(item, Value) else value_of(item, ctx)
        with located_at(node):
            ctx.findings.expand(len(value.sql))
    else:
        value = value_of(node, ctx)
    constant = not value.origins and not value.sources and value.degree == 0
    if constant or value.sql.isdecimal():
        raise Refusal("ClauseNotAllowed", "GROUP BY a constant has no meaning", position_of(node))
    return value


Output = tuple[str, Value]
"""Name and expression of an output column."""


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
