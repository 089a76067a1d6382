"""The tables of allowed nodes, by type, and the recursion through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sqlglot import exp

from cleanroom.sql.checking.mixing import LEFT, check_operands
from cleanroom.sql.checking.nodes import describe, not_listed, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery, Relation, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope

Check = TypeVar("Check", bound=Callable[..., Any])
ExpressionCheck = Callable[[Any, Context], Value]
RelationCheck = Callable[[Any, Context], tuple[Relation, str]]
QueryCheck = Callable[[Any, Context, Scope | None, bool], CheckedQuery]

EXPRESSIONS: dict[type[exp.Expr], ExpressionCheck] = {}
"""Every expression that may appear in a query, and the function that checks it."""
RELATIONS: dict[type[exp.Expr], RelationCheck] = {}
"""Every relation that may appear in FROM, and the function that checks it."""
QUERIES: dict[type[exp.Expr], QueryCheck] = {}
"""Every kind of query, and the function that checks it; ``exp.Query`` stands for every other kind."""


def checks_expression(*kinds: type[exp.Expr]) -> Callable[[Check], Check]:
    """Register the decorated function for expressions of ``kinds``."""
    return _registered(EXPRESSIONS, kinds)


def checks_relation(*kinds: type[exp.Expr]) -> Callable[[Check], Check]:
    """Register the decorated function for relations of ``kinds``."""
    return _registered(RELATIONS, kinds)


def checks_query(*kinds: type[exp.Expr]) -> Callable[[Check], Check]:
    """Register the decorated function for queries of ``kinds``."""
    return _registered(QUERIES, kinds)


def _registered(table: dict[type[exp.Expr], Any], kinds: Iterable[type[exp.Expr]]) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        for kind in kinds:
            if kind in table:
                raise ValueError(f"two checks are registered for {kind.__name__}")
            table[kind] = check
        return check

    return register


def value_of(node: exp.Expr, ctx: Context) -> Value:
    """Check an expression.

    Raises:
        Refusal: The expression, or a part of it, is not on the allowlist.
    """
    check = EXPRESSIONS.get(type(node))
    if check is None:
        if isinstance(node, exp.Func):
            raise not_listed(node)
        if isinstance(node, exp.Query):
            raise Refusal("ClauseNotAllowed", "a query is not allowed here", position_of(node))
        raise Refusal("ExpressionNotAllowed", f"an expression of kind {describe(node)} is not allowed", position_of(node))
    if type(node) in LEFT:
        check_operands(node, type(node))
    value = check(node, ctx)
    if value.ungrouped:
        keys = ctx.scope.group_keys
        if keys is not None and value.sql in keys:
            value.ungrouped = False
    return value


def values_of(nodes: Iterable[exp.Expr], ctx: Context) -> list[Value]:
    """Check several expressions."""
    return [value_of(node, ctx) for node in nodes]


def relation_of(node: exp.Expr, ctx: Context) -> tuple[Relation, str]:
    """Check a relation of FROM, and add it to the scope.

    Returns:
        The relation and its rendered text.
    """
    check = RELATIONS.get(exp.Pivot if node.args.get("pivots") else type(node))
    if check is not None:
        return check(node, ctx)
    if isinstance(node, exp.Lateral):
        raise Refusal(
            "RelationNotAllowed", "LATERAL is not allowed; join a subquery that groups by the columns of the join", position_of(node)
        )
    if isinstance(node, exp.Func):
        raise Refusal("TableFunctionNotAllowed", "a table function is not allowed as a relation", position_of(node))
    raise Refusal("RelationNotAllowed", f"a relation of kind {type(node).__name__} is not allowed", position_of(node))


def query_of(node: exp.Expr, ctx: Context, parent: Scope | None, *, hidden: bool) -> CheckedQuery:
    """Check a query.

    Args:
        node: The query.
        ctx: Context around it.
        parent: Scope whose columns the query may read, if it is a correlated subquery.
        hidden: Append the identity columns of protected rows to the output, so that an enclosing query can count persons.
    """
    check = QUERIES.get(type(node)) or QUERIES[exp.Query]
    return check(node, ctx, parent, hidden)
