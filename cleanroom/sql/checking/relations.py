"""Relations of a FROM clause.

A relation is a view of the catalogue, an earlier temporary view or common table expression of the same query, a subquery, or a list of
constants. A name with several parts is never a relation: in Spark it could read a file (``csv.`/path```) or another catalogue.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.catalog import View
from cleanroom.sql.checking.columns import alias_of, check_column_name, column_aliases, unique_alias
from cleanroom.sql.checking.nodes import (
    allow_only,
    checks_relation,
    located_at,
    marked_name,
    position_of,
    query_of,
    relation_of,
    value_of,
    values_of,
)
from cleanroom.sql.checking.queries import renamed
from cleanroom.sql.context import Context
from cleanroom.sql.model import NO_COLUMNS, NO_ORIGINS, CheckedQuery, ProtectedInput, Relation, Value
from cleanroom.sql.precedence import ATOM
from cleanroom.sql.privacy.rows import check_pivot
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import column_list, qualified, quote, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.characters import strip_invisible

_EXPANSION_PER_COLUMN = 8
"""Characters that each column of a relation counts for; see :data:`cleanroom.sql.context.MAX_EXPANSION`."""


@checks_relation(exp.Table)
def table(node: exp.Table, ctx: Context) -> tuple[Relation, str]:
    """A view of the catalogue, a temporary view or a common table expression, by name."""
    if not isinstance(node.this, exp.Identifier):
        raise Refusal(
            "TableFunctionNotAllowed", "a table function (range, read_files, explode …) is not allowed as a relation", position_of(node)
        )
    if node.args.get("db") or node.args.get("catalog"):
        raise Refusal(
            "MultiPartName",
            f"{strip_invisible('.'.join(part.name for part in node.parts))[:120]!r}: a relation is one plain name; "
            "files, formats and catalogues cannot be read",
            position_of(node),
        )
    allow_only(node, "this", "alias")
    name, scope = node.name, ctx.scope
    columns = column_aliases(node)
    query = ctx.relations.get(name.lower())
    if query is not None:
        relation = _add_query(alias_of(node, scope, name), query, columns, ctx)
        return relation, f"{quote(name)} AS {quote(relation.alias)}{column_list(columns)}"
    view = ctx.rules.catalog.view(name)
    if view is None:
        raise _unknown_relation(name, node, ctx)
    if columns:
        raise Refusal("ClauseNotAllowed", "column aliases on an input view are not allowed", position_of(node))
    relation = _add_view(view, alias_of(node, scope, view.name), ctx)
    return relation, f"{quote(view.name)} AS {quote(relation.alias)}"


def _unknown_relation(name: str, node: exp.Expr, ctx: Context) -> Refusal:
    known = sorted([view.name for view in ctx.rules.catalog.views] + list(ctx.relations))
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"the query may read {', '.join(known)}"
    return Refusal("UnknownRelation", f"unknown view {strip_invisible(name)[:120]!r}: {hint}", position_of(node))


@checks_relation(exp.Subquery)
def derived_table(node: exp.Subquery, ctx: Context) -> tuple[Relation, str]:
    """``(SELECT ...) AS t``. It may read columns of enclosing queries, but not of its neighbours in FROM."""
    allow_only(node, "this", "alias")
    if not isinstance(node.this, exp.Query) or isinstance(node.this, exp.Table):
        raise Refusal(
            "RelationNotAllowed",
            "a join in parentheses may stand first in FROM, or be an INNER JOIN with ON inside an INNER JOIN; "
            "otherwise write it as a subquery with an alias",
            position_of(node),
        )
    query = query_of(node.this, ctx, ctx.scope.parent, hidden=True)
    columns = column_aliases(node)
    if columns and query.protected:  # the columns that carry identities have no names in the alias
        query, columns = renamed(query, columns, node), []
    relation = _add_query(alias_of(node, ctx.scope, "subquery"), query, columns, ctx)
    return relation, f"{subquery(query.sql)} AS {quote(relation.alias)}{column_list(columns)}"


@checks_relation(exp.Values)
def constants(node: exp.Values, ctx: Context) -> tuple[Relation, str]:
    """``VALUES (1, 'a'), (2, 'b') AS t(x, y)``."""
    allow_only(node, "expressions", "alias")
    columns = column_aliases(node)
    rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in node.expressions]
    columns = columns or [f"col{index + 1}" for index in range(len(rows[0]))]
    if any(len(row) != len(columns) for row in rows):
        raise Refusal("RelationNotAllowed", "VALUES needs an alias that names each of its columns", position_of(node))
    outside = ctx.in_scope(Scope())
    values = [values_of(row, outside) for row in rows]
    if any(value.degree != 0 and value.origins for row in values for value in row):
        raise Refusal("RelationNotAllowed", "VALUES may contain constants only", position_of(node))
    scope = ctx.scope
    written = alias_of(node, scope, "values")
    relation = Relation(unique_alias(written, scope), written, {})
    source = frozenset([relation.alias])
    for name, first in zip(columns, values[0], strict=True):
        relation.columns[name.lower()] = Value.of_column(qualified(relation.alias, name), first.type, name, source)
    scope.relations[written.lower()] = relation
    scope.may_copy_rows = True
    text = ", ".join("(" + ", ".join(value.sql for value in row) + ")" for row in values)
    return relation, f"VALUES {text} AS {quote(relation.alias)}{column_list(columns)}"


def _add_view(view: View, written: str, ctx: Context) -> Relation:
    """Add an input view to the scope. Each of its rows is about the persons that its identity columns name."""
    scope, rereading = ctx.scope, ctx.rules.rereading
    alias = unique_alias(written, scope)
    visible = view.columns if rereading else view.visible()
    identities = view.identity_columns if view.min_group_size > 0 and not rereading else ()
    key = view.name.lower()
    ctx.findings.expand(_EXPANSION_PER_COLUMN * len(visible))
    source = frozenset([alias])
    columns = {}
    for column in visible:
        name = column.name.lower()
        origins = NO_ORIGINS if rereading else frozenset([(key, name, "value")])
        exposed = NO_COLUMNS if rereading else frozenset([(key, name)])
        columns[name] = Value.of_column(qualified(alias, column.name), column.type, column.name, source, origins, exposed)
        columns[name].identity = name in identities
    forbidden = frozenset([column.name.lower() for column in view.columns]) - columns.keys()
    relation = Relation(alias, written, columns, forbidden, view.name, view.unique_on)
    scope.relations[written.lower()] = relation
    exact = {column.name.lower(): column.name for column in view.columns}
    scope.protected += [ProtectedInput(key, name, qualified(alias, exact[name])) for name in identities]
    scope.views |= {key}
    ctx.findings.read_rows(key)
    return relation


def _add_query(written: str, query: CheckedQuery, names: Sequence[str], ctx: Context) -> Relation:
    """Add a checked query to the scope, with ``names`` for its columns if given."""
    scope = ctx.scope
    alias = unique_alias(written, scope)
    if names and len(names) != len(query.fields):
        raise Refusal("ClauseNotAllowed", f"{alias} has {len(query.fields)} columns and the alias names {len(names)}")
    if names and query.protected:
        raise Refusal(
            "ClauseNotAllowed", f"{alias}: column aliases on a relation under a privacy floor are not allowed; alias in its SELECT"
        )
    names = names or [field.name for field in query.fields]
    ctx.findings.expand(_EXPANSION_PER_COLUMN * len(names))
    source = frozenset([alias])
    columns = {}
    for name, field in zip(names, query.fields, strict=True):
        columns[name.lower()] = field.as_column(qualified(alias, name), name, source)
    unique_on = query.unique_on
    if unique_on is not None and list(names) != [field.name for field in query.fields]:
        new = {field.name.lower(): name.lower() for field, name in zip(query.fields, names, strict=True)}
        unique_on = frozenset([new[name] for name in unique_on])
    relation = Relation(alias, written, columns, unique_on=unique_on)
    scope.relations[written.lower()] = relation
    for item in query.protected:
        # The column that shows the identity, if the query has one, so that it can be joined on and grouped by.
        column = item.reference if item.output_position is None else query.fields[item.output_position].name
        scope.protected.append(ProtectedInput(item.view, item.identity_column, qualified(alias, column)))
    scope.overlapping = scope.overlapping or query.overlapping
    scope.releases |= query.releases
    scope.views |= query.views
    scope.may_copy_rows = scope.may_copy_rows or query.may_copy_rows
    return relation


_PARTS = ("expressions", "fields", "alias", "columns", "pivot_column_naming")
_CONSTANTS = (exp.Literal, exp.Neg, exp.Boolean, exp.Cast)
_EXPANSION_PER_VALUE = 16
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
        ctx.findings.expand(len(values) * len(aggregates) * _EXPANSION_PER_VALUE)
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
