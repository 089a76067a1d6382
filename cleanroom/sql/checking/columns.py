"""Which input column, or which alias of the SELECT list, a name refers to."""

from __future__ import annotations

import difflib

from sqlglot import exp

from cleanroom.sql.checking.dispatch import checks_expression, value_of
from cleanroom.sql.checking.nodes import allow_only, located_at, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import ATOM
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.characters import strip_invisible


@checks_expression(exp.Column)
def column(node: exp.Column, ctx: Context) -> Value:
    """A column of the innermost SELECT that has it; otherwise an alias of the same SELECT."""
    allow_only(node, "this", "table")
    identifier, table = node.this, node.args.get("table")
    if not isinstance(identifier, exp.Identifier):
        raise Refusal("ExpressionNotAllowed", "* is allowed only as an item of a SELECT and in COUNT(*)", position_of(node))
    scope = ctx.scope
    name = str(identifier.args["this"])
    if (
        table is not None
        and (relation := scope.relations.get(table.args["this"].lower()))
        and (known := relation.columns.get(name.lower()))
    ):
        return read_column(known, ctx, scope)
    table_name = table.name if table is not None else None
    for level in scope.enclosing():
        found = _find(name, table_name, level, node)
        if found is not None:
            return read_column(found, ctx, level)
        if level is scope and table is None and _names_alias(name, ctx):
            return _aliased_value(name, ctx, node)
    raise _unknown_column(name, table_name, scope, node)


def read_column(found: Value, ctx: Context, level: Scope) -> Value:
    """The column ``found`` of ``level``, which is the scope of this SELECT or of an enclosing one, as an operand."""
    ctx.record(found)
    if level is not ctx.scope:
        for inner in ctx.scope.enclosing():
            if inner is level:
                break
            inner.outer_reads.append(found)
    if level.group_keys is None or found.sql not in level.group_keys:
        return found
    out = found.copy()
    out.joinable, out.ungrouped = found.plain, False
    return out


def columns_named_in(node: exp.Expr, scope: Scope) -> tuple[Value, ...]:
    """Columns of the relations of ``scope`` that the expression ``node`` names."""
    names = [(part.name, part.table or None) for part in node.find_all(exp.Column) if isinstance(part.this, exp.Identifier)]
    return tuple(value for name, table in names if (value := _find(name, table, scope, node)) is not None)


def alias_target(node: exp.Expr, ctx: Context) -> exp.Expr | None:
    """The expression that ``node`` stands for, if it is an alias of the same SELECT."""
    plain = isinstance(node, exp.Column) and not node.args.get("table") and isinstance(node.this, exp.Identifier)
    if not plain or ctx.in_qualify or not _names_alias(node.name, ctx):
        return None
    return ctx.scope.aliases[node.name.lower()] if _find(node.name, None, ctx.scope, node) is None else None


def _names_alias(name: str, ctx: Context) -> bool:
    key = name.lower()
    return key in ctx.scope.aliases and key not in ctx.expanding


def _aliased_value(name: str, ctx: Context, node: exp.Expr) -> Value:
    value = value_of(ctx.scope.aliases[name.lower()], ctx.expanding_alias(name))
    with located_at(node):
        ctx.findings.expand(len(value.sql))
    if ctx.in_qualify:  # Spark evaluates the SELECT list first
        value.sql, value.precedence = quote(name), ATOM
    return value


def _find(name: str, table: str | None, scope: Scope, node: exp.Expr) -> Value | None:
    key = name.lower()
    if table is not None:
        relation = scope.relations.get(table.lower()) or next(
            (item for item in scope.relations.values() if item.written_alias.lower() == table.lower()), None
        )
        return relation.columns.get(key) if relation is not None else None
    if key in scope.merged:
        return scope.merged[key]
    found = [relation.columns[key] for relation in scope.relations.values() if key in relation.columns]
    if len(found) > 1:
        raise Refusal(
            "AmbiguousColumn", f"{strip_invisible(name)[:80]} is in several relations; write alias.{name[:80]}", position_of(node)
        )
    return found[0] if found else None


def _unknown_column(name: str, table: str | None, scope: Scope, node: exp.Expr) -> Refusal:
    shown = strip_invisible(name)[:120]
    for level in scope.enclosing():
        for relation in level.relations.values():
            if (table is None or relation.written_alias.lower() == table.lower()) and name.lower() in relation.forbidden:
                allowed = ", ".join(value.name for value in relation.columns.values())
                close = difflib.get_close_matches(name.lower(), list(relation.columns), 1)
                hint = f"did you mean {close[0]}? " if close else ""
                return Refusal(
                    "ColumnNotAllowed",
                    f"the owner of {relation.view} does not allow the column {shown!r}; {hint}allowed: {allowed}",
                    position_of(node),
                )
    if table is not None and not any(table.lower() in level.relations for level in scope.enclosing()):
        return Refusal("UnknownRelation", f"unknown relation {strip_invisible(table)[:120]!r}", position_of(node))
    names = [value.name for level in scope.enclosing() for relation in level.relations.values() for value in relation.columns.values()]
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(set(names))[:20])}"
    return Refusal("UnknownColumn", f"unknown column {shown!r}: {hint}", position_of(node))
