"""PIVOT: columns of aggregates, one for each listed value of a column."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.dispatch import checks_relation, relation_of, value_of
from cleanroom.sql.checking.names import alias_of, check_column_name, unique_alias
from cleanroom.sql.checking.nodes import allow_only, located_at, marked_name, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import Relation, Value
from cleanroom.sql.precedence import ATOM
from cleanroom.sql.privacy.rows import check_pivot
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import qualified, quote, subquery
from cleanroom.sql.scope import Scope

_PARTS = ("expressions", "fields", "alias", "columns", "pivot_column_naming")
_CONSTANTS = (exp.Literal, exp.Neg, exp.Boolean, exp.Cast)
_EXPANSION_PER_COLUMN = 16
"""Characters that each new column counts for; see :data:`cleanroom.sql.context.MAX_EXPANSION`."""


@checks_relation(exp.Pivot)
def pivot(node: exp.Expr, ctx: Context) -> tuple[Relation, str]:
    """``relation PIVOT (aggregates FOR column IN (values))``.

    The columns of the result are those of the relation that neither an aggregate nor FOR names, which form the groups, and then one
    per value and aggregate.
    """
    clause = node.args["pivots"][0]
    if len(node.args["pivots"]) > 1 or clause.args.get("unpivot"):
        raise Refusal("ClauseNotAllowed", "UNPIVOT and several PIVOTs are not allowed; write UNION ALL or several steps", position_of(node))
    allow_only(clause, *_PARTS)
    scope = ctx.scope
    inner = Scope(scope.parent)
    source, text = _pivoted_relation(node, ctx.in_scope(inner))
    inner.parent = None
    for value in source.columns.values():
        value.sql = quote(value.name)
    in_group = ctx.in_scope(inner).in_clause("group")
    aggregates = _aggregates(clause, in_group.in_clause("output", aggregates=True))
    key, values = _pivot_values(clause, in_group)
    used = {column.name.lower() for part in clause.expressions for column in part.find_all(exp.Column)} | {key.name.lower()}
    columns = [(value.name, value) for name, value in source.columns.items() if name not in used]
    for _, value in columns:
        in_group.record(value)
    with located_at(clause):
        ctx.findings.expand(len(values) * len(aggregates) * _EXPANSION_PER_COLUMN)
    columns += _value_columns(aggregates, key, values)
    if len({name.lower() for name, _ in columns}) != len(columns):
        raise Refusal("DuplicateColumn", "two columns of the PIVOT have the same name; give its values other aliases", position_of(node))
    written = alias_of(clause, scope, source.written_alias)
    if clause.args.get("alias") is not None and clause.args["alias"].args.get("columns"):
        raise Refusal("ClauseNotAllowed", "column aliases on a PIVOT are not allowed; alias its values", position_of(node))
    out = Relation(unique_alias(written, scope), written, {})
    alias = frozenset([out.alias])
    for name, value in columns:
        column = Value.of_column(qualified(out.alias, name), value.type, name, alias, value.origins, value.exposed, None)
        column.plain = column.joinable = value.plain
        out.columns[name.lower()] = column
    scope.relations[written.lower()] = out
    scope.views |= inner.views
    scope.releases |= inner.releases
    scope.may_copy_rows = True
    calls = ", ".join(value.sql + (f" AS {quote(name)}" if len(aggregates) > 1 else "") for name, value in aggregates)
    listed = ", ".join(f"{sql} AS {quote(label)}" for label, sql in values)
    return out, f"{text} PIVOT({calls} FOR {key.sql} IN ({listed})) AS {quote(out.alias)}"


def _pivoted_relation(node: exp.Expr, ctx: Context) -> tuple[Relation, str]:
    """The relation before PIVOT, reduced to the columns that the query may read, because the other columns would form groups too."""
    source, text = relation_of(type(node)(**{name: part for name, part in node.args.items() if name != "pivots"}), ctx)
    with located_at(node):
        check_pivot(ctx.scope.protected)
    if isinstance(node, exp.Table):
        columns = ",\n  ".join(f"{value.sql} AS {quote(value.name)}" for value in source.columns.values())
        rows = f"SELECT\n  {columns}\nFROM {text}"
        text = f"{subquery(rows)} AS {quote(source.alias)}"
    return source, text


def _aggregates(clause: exp.Expr, ctx: Context) -> list[tuple[str, Value]]:
    """Alias (or nothing) and value of each aggregate."""
    scope = ctx.scope
    scope.group_keys = set()
    out = []
    for item in clause.expressions:
        value = value_of(item.this if isinstance(item, exp.Alias) else item, ctx)
        if not value.aggregated or value.ungrouped or value.windowed or value.precedence != ATOM:
            raise Refusal("ClauseNotAllowed", "PIVOT takes aggregates", position_of(item))
        if not isinstance(item, exp.Alias) and len(clause.expressions) > 1:
            raise Refusal("ClauseNotAllowed", "several aggregates in one PIVOT need an alias each", position_of(item))
        if isinstance(item, exp.Alias):
            check_column_name(item.alias, item)
        out.append((item.alias, value))
    scope.group_keys = None
    return out


def _pivot_values(clause: exp.Expr, ctx: Context) -> tuple[Value, list[tuple[str, str]]]:
    """The column of FOR, and name and text of each of its values."""
    fields = clause.args.get("fields") or []
    if len(fields) != 1 or not isinstance(fields[0], exp.In) or not isinstance(fields[0].this, exp.Column):
        raise _not_constants(clause)
    allow_only(fields[0], "this", "expressions")
    key = value_of(fields[0].this, ctx)
    outside = ctx.in_scope(Scope())
    values = []
    for item in fields[0].expressions:
        constant = item.this if isinstance(item, exp.PivotAlias) else item
        if not _is_constant(constant):
            raise _not_constants(clause)
        checked = value_of(constant, outside)
        if isinstance(item, exp.PivotAlias):
            label = item.args["alias"].name
        elif isinstance(constant, exp.Literal):
            label = str(constant.this)
        else:
            raise Refusal("ClauseNotAllowed", "this value of a PIVOT needs an alias", position_of(clause))
        check_column_name(label, clause)
        values.append((label, checked.sql))
    if not values:
        raise _not_constants(clause)
    return key, values


def _not_constants(clause: exp.Expr) -> Refusal:
    return Refusal("ClauseNotAllowed", "PIVOT … FOR takes one column IN (constants)", position_of(clause))


def _is_constant(node: exp.Expr) -> bool:
    if isinstance(node, _CONSTANTS):
        return True
    return marked_name(node) == "CAST" and isinstance(node.expressions[0], exp.Literal | exp.Neg)


def _value_columns(aggregates: list[tuple[str, Value]], key: Value, values: list[tuple[str, str]]) -> list[tuple[str, Value]]:
    """Name and value of the columns of the listed values. Each exposes the column of FOR as well."""
    by_key = frozenset([(view, column, "computed") for view, column, _ in key.origins])
    out = []
    for label, _ in values:
        for name, value in aggregates:
            shown = Value("", value.type, origins=value.origins | by_key, exposed=value.exposed | key.exposed, degree=None)
            out.append((label if len(aggregates) == 1 else f"{label}_{name}", shown))
    return out
