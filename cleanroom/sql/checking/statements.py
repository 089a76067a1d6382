"""Statements: the one SELECT of a query, and the temporary views before it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from cleanroom.sql.checking.dispatch import query_of
from cleanroom.sql.checking.names import check_distinct_columns, check_new_relation_name
from cleanroom.sql.checking.nodes import allow_only, position_of
from cleanroom.sql.checking.queries import renamed
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote


@dataclass(frozen=True, slots=True)
class Statement:
    """A checked statement.

    Attributes:
        sql: Rendered text.
        view: Name of the temporary view that it creates; None for the SELECT.
        query: The SELECT, or the query behind the view.
    """

    sql: str
    view: str | None
    query: CheckedQuery


def check_statement(node: exp.Expr, ctx: Context, *, last: bool) -> Statement:
    """Check one statement. The last one of a query is its SELECT; those before it create temporary views."""
    if isinstance(node, exp.Create):
        return _create_view(node, ctx, last)
    if not isinstance(node, exp.Query):
        raise Refusal(
            "StatementNotAllowed",
            f"{type(node).__name__.upper()} is not allowed; only SELECT and CREATE OR REPLACE TEMP VIEW … AS SELECT",
            position_of(node),
        )
    if not last:
        raise Refusal(
            "SelectNotLast", "only the last segment is a SELECT; the segments before it create temporary views", position_of(node)
        )
    query = query_of(node, ctx, None, hidden=False)
    return Statement(query.sql, None, query)


def _create_view(node: exp.Create, ctx: Context, last: bool) -> Statement:
    if str(node.args.get("kind")).upper() != "VIEW":
        raise Refusal("StatementNotAllowed", f"CREATE {node.args.get('kind')} is not allowed", position_of(node))
    allow_only(node, "this", "kind", "replace", "expression", "properties")
    properties = node.args["properties"].expressions if node.args.get("properties") else []
    if [type(part) for part in properties] != [exp.TemporaryProperty] or any(properties[0].args.values()):
        raise Refusal("StatementNotAllowed", "only CREATE OR REPLACE TEMP VIEW <name> AS SELECT … is allowed", position_of(node))
    if last:
        raise Refusal("LastSegmentNotSelect", "the last segment must be a SELECT: its rows are the result", position_of(node))
    target, columns = _target(node)
    if not isinstance(node.args.get("expression"), exp.Query):
        raise Refusal("StatementNotAllowed", "write a temporary view as CREATE OR REPLACE TEMP VIEW <name> AS SELECT …", position_of(node))
    check_new_relation_name(target.name, target, ctx)
    query = query_of(node.args["expression"], ctx, None, hidden=True)
    if columns:
        query = renamed(query, columns, node)
    check_distinct_columns(query, f"the view {target.name}", node)
    return Statement(f"CREATE OR REPLACE TEMPORARY VIEW {quote(target.name)} AS\n{query.sql}", target.name, query)


def _target(node: exp.Create) -> tuple[exp.Table, list[str]]:
    """The new view, and its column names if given."""
    target, columns = node.this, []
    if isinstance(target, exp.Schema):
        allow_only(target, "this", "expressions")
        if not all(isinstance(column, exp.Identifier) for column in target.expressions):
            raise Refusal("StatementNotAllowed", "the columns of a temporary view are plain names", position_of(node))
        columns = [column.name for column in target.expressions]
        target = target.this
    plain = isinstance(target, exp.Table) and isinstance(target.this, exp.Identifier)
    if not plain or target.args.get("db") or target.args.get("catalog"):
        raise Refusal("StatementNotAllowed", "a temporary view has one plain name", position_of(node))
    allow_only(target, "this")
    return target, columns
