"""Queries in general: WITH, and new names for the columns of a query."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.dispatch import checks_query, query_of
from cleanroom.sql.checking.names import check_column_name, check_distinct_columns, check_new_relation_name, column_aliases
from cleanroom.sql.checking.nodes import allow_only, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote, subquery
from cleanroom.sql.scope import Scope


@checks_query(exp.Subquery)
def query_in_parentheses(node: exp.Subquery, ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """``(SELECT ...)`` as a query."""
    allow_only(node, "this")
    return query_of(node.this, ctx, parent, hidden=hidden)


@checks_query(exp.Query)
def other_query(node: exp.Query, ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """A query of any other kind, which is refused."""
    with_clause(node, ctx)
    raise Refusal("StatementNotAllowed", f"a {type(node).__name__} is not an allowed query", position_of(node))


def with_clause(node: exp.Expr, ctx: Context) -> tuple[Context, str]:
    """The context with the common table expressions of a query, and the rendered WITH clause or nothing."""
    clause = node.args.get("with_")
    if clause is None:
        return ctx, ""
    allow_only(clause, "expressions")
    parts = []
    for table in clause.expressions:
        allow_only(table, "this", "alias")
        name = table.alias
        check_new_relation_name(name, table, ctx)
        columns = column_aliases(table)
        query = query_of(table.this, ctx, None, hidden=True)
        if columns:
            query = renamed(query, columns, table)
        check_distinct_columns(query, f"the table expression {name}", table)
        ctx = ctx.with_relations({**ctx.relations, name.lower(): query})
        parts.append(f"{quote(name)} AS {subquery(query.sql)}")
    return ctx, f"WITH {', '.join(parts)}\n"


def renamed(query: CheckedQuery, names: list[str], node: exp.Expr) -> CheckedQuery:
    """``query`` with other column names."""
    for name in names:
        check_column_name(name, node)
    if len(names) != len(query.fields):
        raise Refusal("ClauseNotAllowed", f"{len(names)} column names for {len(query.fields)} columns", position_of(node))
    check_distinct_columns(query, "the query", node)
    columns = [(field.name, name) for field, name in zip(query.fields, names, strict=True)]
    columns += [(item.reference, item.reference) for item in query.protected]
    items = ",\n  ".join(f"`renamed`.{quote(old)} AS {quote(new)}" for old, new in columns)
    fields = [field.copy() for field in query.fields]
    for field, name in zip(fields, names, strict=True):
        field.name = name
    new_names = {field.name.lower(): name.lower() for field, name in zip(query.fields, names, strict=True)}
    unique_on = None if query.unique_on is None else frozenset([new_names[name] for name in query.unique_on])
    sql = f"SELECT\n  {items}\nFROM {subquery(query.sql)} AS `renamed`"
    return CheckedQuery(sql, fields, query.protected, query.releases, query.views, query.may_copy_rows, unique_on, query.overlapping)
