"""Relations of a FROM clause.

A relation is a view of the catalogue, an earlier temporary view or common table expression of the same query, a subquery, or a list of
constants. A name with several parts is never a relation: in Spark it could read a file (``csv.`/path```) or another catalogue.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.catalog import View
from cleanroom.sql.checking.dispatch import checks_relation, query_of, values_of
from cleanroom.sql.checking.names import alias_of, column_aliases, unique_alias
from cleanroom.sql.checking.nodes import allow_only, position_of
from cleanroom.sql.checking.queries import renamed
from cleanroom.sql.context import Context
from cleanroom.sql.model import NO_COLUMNS, NO_ORIGINS, CheckedQuery, ProtectedInput, Relation, Value
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
    relation = Relation(alias, written, columns, forbidden, view.name)
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
