"""The SELECT list: ``*``, names of output columns, and their expressions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.checking.columns import read_column
from cleanroom.sql.checking.dispatch import value_of
from cleanroom.sql.checking.names import check_column_name
from cleanroom.sql.checking.nodes import allow_only, located_at, position_of
from cleanroom.sql.checking.ordering import Output
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.refusal import Refusal

Item = tuple[exp.Expr | Value, str]
"""An expression, or a column that ``*`` stands for, and the name of the output column."""


def select_items(node: exp.Select, ctx: Context) -> list[Item]:
    """The SELECT list with ``*`` replaced by the columns that the query may read."""
    items: list[Item] = []
    taken: dict[str, int] = {}
    for item in node.expressions:
        star = _star_of(item)
        if star is not None:
            items += [(value, _unused(value.name, taken)) for value in _star_columns(item, star, ctx)]
            continue
        target = item
        name = f"_c{len(items)}"
        if isinstance(item, exp.Alias):
            allow_only(item, "this", "alias")
            target, name = item.this, item.alias
        elif isinstance(item, exp.Column) and isinstance(item.this, exp.Identifier):
            name = item.name
        check_column_name(name, item)
        items.append((target, name))
        taken.setdefault(name.lower(), 1)
    if not items:
        raise Refusal("Unparsable", "a SELECT needs at least one column", position_of(node))
    return items


def _star_of(item: exp.Expr) -> exp.Star | None:
    if isinstance(item, exp.Star):
        return item
    return item.this if isinstance(item, exp.Column) and isinstance(item.this, exp.Star) else None


def _star_columns(item: exp.Expr, star: exp.Star, ctx: Context) -> list[Value]:
    """Columns of ``*``, ``t.*`` or ``* EXCEPT (a, b)``."""
    allow_only(star, "except_")
    if star.args.get("except_") == []:
        raise Refusal("Unparsable", "EXCEPT names the columns to leave out", position_of(item))
    scope = ctx.scope
    excepted = {part.name.lower() for part in star.args.get("except_") or []}
    if isinstance(item, exp.Column):
        allow_only(item, "this", "table")
        relation = scope.relations.get(item.table.lower())
        if relation is None:
            raise Refusal("UnknownRelation", f"unknown relation {item.table!r}", position_of(item))
        found = list(relation.columns.values())
    else:
        found = list(scope.merged.values())
        for relation in scope.relations.values():
            found += [value for key, value in relation.columns.items() if key not in scope.merged]
    unknown = excepted - {value.name.lower() for value in found}
    if unknown:
        raise Refusal("UnknownColumn", f"EXCEPT names unknown columns: {', '.join(sorted(unknown))}", position_of(item))
    if not scope.relations:
        raise Refusal("UnknownRelation", "* needs a FROM", position_of(item))
    columns = [value for value in found if value.name.lower() not in excepted]
    with located_at(item):
        ctx.findings.expand(sum(len(value.sql) + len(value.name) for value in columns))
    for value in columns:
        ctx.record(value)
    return columns


def _unused(name: str, taken: dict[str, int]) -> str:
    """``name``, or a variation: ``*`` over a join may bring two columns of the same name."""
    unique, number = name, taken.get(name.lower(), 1)
    while unique.lower() in taken:
        number += 1
        unique = f"{name}_{number}"
    taken[name.lower()] = number
    taken.setdefault(unique.lower(), 1)
    return unique


def output_values(items: Sequence[Item], ctx: Context) -> list[Output]:
    """Check the expressions of the SELECT list. Each may refer to the aliases before it. Refusals are collected."""
    scope, findings = ctx.scope, ctx.findings
    aliases = scope.aliases
    scope.aliases = {}
    outputs = []
    for item, name in items:
        if isinstance(item, Value):
            value = read_column(item, ctx, scope)
        else:
            try:
                value = value_of(item, ctx)
            except Refusal as refusal:
                findings.note(refusal)
                value = Value("NULL", "unknown")
        if scope.group_keys is not None and value.ungrouped:
            position = None if isinstance(item, Value) else position_of(item)
            findings.note(Refusal("NotGrouped", f"{name}: neither in GROUP BY nor inside an aggregate", position))
        outputs.append((name, value))
        if name.lower() in aliases:
            scope.aliases[name.lower()] = aliases[name.lower()]
    return outputs
