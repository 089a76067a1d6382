"""CASE, and functions that choose between their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.checking.combining import combine
from cleanroom.sql.checking.dispatch import checks_expression, value_of
from cleanroom.sql.checking.nodes import allow_only, located_at
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import ATOM, PREDICATE
from cleanroom.sql.privacy.aggregates import condition_divisions
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation
from cleanroom.sql.privacy.polynomials import highest_degree
from cleanroom.sql.rendering import parenthesised
from cleanroom.sql.spark_types import widest


@checks_expression(exp.Case)
def case(node: exp.Expr, ctx: Context) -> Value:
    """``CASE WHEN condition THEN x ELSE y END`` and ``CASE subject WHEN value THEN x END``."""
    allow_only(node, "this", "ifs", "default")
    subject = value_of(node.this, ctx) if node.this is not None else None
    text = ["CASE" if subject is None else f"CASE {parenthesised(subject, ATOM)}"]
    conditions, results = [], []
    for branch in node.args["ifs"]:
        allow_only(branch, "this", "true")
        condition, result = value_of(branch.this, ctx), value_of(branch.args["true"], ctx)
        text.append(f"WHEN {condition.sql} THEN {result.sql}")
        if subject is not None:
            equality = f"{parenthesised(subject, ATOM)} = {parenthesised(condition, ATOM)}"
            condition = combine(equality, "boolean", PREDICATE, [subject, condition], node)
        conditions.append(condition)
        results.append(result)
    if node.args.get("default") is not None:
        results.append(value_of(node.args["default"], ctx))
        text.append(f"ELSE {results[-1].sql}")
    return conditional(" ".join([*text, "END"]), conditions, results, node, ctx)


def conditional(sql: str, conditions: Sequence[Value], results: Sequence[Value], node: exp.Expr, ctx: Context) -> Value:
    """A value that is one of ``results``, depending on ``conditions``.

    Inside an aggregate over protected rows, the conditions divide the rows of each group, and the floor applies to each part.
    """
    scope = ctx.scope
    with located_at(node):
        check_condition(conditions, ctx.rules.catalog)
    divides = bool(ctx.aggregate) and scope.aggregates_persons
    if divides:
        with located_at(node):
            scope.divide(condition_divisions(conditions, ctx.rules.catalog))
            check_one_relation(scope, conditions, [result for result in results if not result.identity])
    degree = highest_degree(results) if divides else None
    for condition in conditions:
        if condition.identity:
            combine("", "boolean", ATOM, [condition], node)  # refuses it
    out = combine(
        sql,
        widest([result.type for result in results]),
        ATOM,
        [*conditions, *results],
        node,
        degree=degree,
        identity=divides,
        scale=max((result.scale for result in results), default=1.0),
    )
    if out.degree == 0 and any(condition.degree != 0 for condition in conditions):
        out.degree = degree
    out.mixed = out.mixed or len({result.exposed for result in results if result.origins}) > 1
    # COUNT(DISTINCT CASE WHEN … THEN column END) counts unchanged values of the rows of one branch.
    out.plain = divides and any(result.plain for result in results) and all(result.plain or result.type == "null" for result in results)
    out.flag = all(result.constant in (0, 1) or result.flag or result.type == "null" for result in results)
    return out
