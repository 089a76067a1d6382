"""Subqueries in expressions: scalar, EXISTS and IN, and those that act as a join with protected rows."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.combining import combine
from cleanroom.sql.checking.dispatch import checks_expression, query_of, value_of, values_of
from cleanroom.sql.checking.nodes import allow_only, located_at, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import ROWS, CheckedQuery, Value
from cleanroom.sql.precedence import ATOM, PREDICATE, SUM
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.release import check_correlation
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised, subquery
from cleanroom.sql.scope import Scope


@checks_expression(exp.Subquery)
def scalar_subquery(node: exp.Expr, ctx: Context) -> Value:
    """``(SELECT one_column ...)`` as a value."""
    allow_only(node, "this")
    query, reads = _inner_query(node.this, ctx)
    _check_no_rows(query, node)
    if len(query.fields) != 1:
        raise Refusal("WrongArguments", "a subquery in an expression has exactly one column", position_of(node))
    field = query.fields[0]
    inner = Value("", field.type, origins=field.origins, exposed=field.exposed, degree=None)
    return combine(subquery(query.sql), field.type, ATOM, [inner, *reads], node, identity=True)


@checks_expression(exp.Exists)
def exists(node: exp.Expr, ctx: Context) -> Value:
    """``EXISTS (SELECT ...)``."""
    allow_only(node, "this")
    query, reads = _inner_query(node.this, ctx)
    _check_no_rows(query, node)
    return _exists(query, reads, node)


def in_subquery(node: exp.Expr, ctx: Context, negated: bool) -> Value:
    """``x IN (SELECT ...)`` and ``(a, b) IN (SELECT ...)``."""
    what, query, reads = _membership(node, ctx)
    _check_no_rows(query, node)
    return _in_query(node, what, query, reads, negated)


def semi_join(node: exp.Expr, ctx: Context) -> Value | None:
    """``x IN (SELECT identity ...)`` and ``EXISTS (... WHERE identity = x)`` as conditions that every row meets.

    The rows of the SELECT are then protected by the floor of the subquery's rows.

    Returns:
        None if ``node`` is neither.
    """
    scope = ctx.scope
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        what, query, reads = _membership(node, ctx)
        with located_at(node):
            scope.protected += rows.membership_inputs(query.protected, what, query.fields[0].type)
        if ctx.rules.withheld and what.plain:
            scope.equal.compared.append((what, Value("", what.type, exposed=query.fields[0].exposed)))
        return _in_query(node, what, query, reads, False)
    if isinstance(node, exp.Exists):
        allow_only(node, "this")
        query, reads = _inner_query(node.this, ctx)
        with located_at(node):
            scope.protected += rows.existence_inputs(query.protected, scope.aliases_in_from)
        return _exists(query, reads, node)
    return None


def _inner_query(node: exp.Expr, ctx: Context) -> tuple[CheckedQuery, list[Value]]:
    """A subquery, and the columns of the queries around it that it reads."""
    if ctx.aggregate:
        raise Refusal("ClauseNotAllowed", "a subquery inside an aggregate is not allowed", position_of(node))
    enclosing = Scope(ctx.scope)
    query = query_of(node, ctx, enclosing, hidden=False)
    reads = enclosing.outer_reads
    with located_at(node):
        check_correlation(query.releases, reads)
    ctx.scope.releases |= query.releases
    ctx.scope.views |= query.views
    return query, reads


def _check_no_rows(query: CheckedQuery, node: exp.Expr) -> None:
    with located_at(node):
        rows.check_no_rows(query.protected)


def _exists(query: CheckedQuery, reads: list[Value], node: exp.Expr) -> Value:
    found = Value("", "boolean", origins=frozenset([(view, ROWS, "exists") for view in query.views]), degree=None)
    out = combine(f"EXISTS{subquery(query.sql)}", "boolean", PREDICATE, [found, *reads], node, identity=True)
    out.identity, out.degree = False, None
    return out


def _membership(node: exp.Expr, ctx: Context) -> tuple[Value, CheckedQuery, list[Value]]:
    """Left side and subquery of IN, and the columns of the queries around it that the subquery reads."""
    allow_only(node, "this", "query")
    what = _tuple(node.this, ctx) if isinstance(node.this, exp.Tuple) else value_of(node.this, ctx)
    width = len(node.this.expressions) if isinstance(node.this, exp.Tuple) else 1
    inner = node.args["query"]
    if isinstance(inner, exp.Subquery):
        allow_only(inner, "this")
        inner = inner.this
    if isinstance(inner, exp.Subquery):  # in Spark a list with one value, and not the rows of the query
        raise Refusal("ParenthesesNeeded", "IN ((SELECT …)): write one pair of parentheses", position_of(node))
    query, reads = _inner_query(inner, ctx)
    if len(query.fields) != width:
        raise Refusal("WrongArguments", f"IN (SELECT …) has {len(query.fields)} columns and {width} to compare", position_of(node))
    return what, query, reads


def _tuple(node: exp.Expr, ctx: Context) -> Value:
    """``(a, b)`` before IN (SELECT ...). None of the columns is an identity: an identity is compared alone."""
    parts = values_of(node.expressions, ctx)
    return combine(f"({', '.join(part.sql for part in parts)})", "unknown", ATOM, parts, node)


def _in_query(node: exp.Expr, what: Value, query: CheckedQuery, reads: list[Value], negated: bool) -> Value:
    text = f"{parenthesised(what, SUM)} {'NOT ' if negated else ''}IN {subquery(query.sql)}"
    join = bool(query.fields[0].origins) and bool(what.origins)
    shown = Value(
        "",
        "unknown",
        degree=None,
        origins=frozenset([origin for field in query.fields for origin in field.origins]),
        exposed=frozenset([pair for field in query.fields for pair in field.exposed]),
    )
    out = combine(text, "boolean", PREDICATE, [what, shown, *reads], node, identity=join or not what.identity)
    out.identity, out.degree = False, None
    return out
