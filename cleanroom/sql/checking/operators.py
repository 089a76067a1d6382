"""Arithmetic, concatenation and bitwise operators."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.combining import combine
from cleanroom.sql.checking.dispatch import checks_expression, value_of, values_of
from cleanroom.sql.checking.nodes import allow_only, chain_operands, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import ATOM, PREDICATE, PRODUCT, SIGN, SUM
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised
from cleanroom.sql.spark_types import WHOLE, arithmetic_type, widest

_ARITHMETIC: dict[type[exp.Expr], tuple[str, int]] = {
    exp.Add: ("+", SUM),
    exp.Sub: ("-", SUM),
    exp.Mul: ("*", PRODUCT),
    exp.Div: ("/", PRODUCT),
    exp.Mod: ("%", PRODUCT),
    exp.IntDiv: ("DIV", PRODUCT),
}
_BITWISE: dict[type[exp.Expr], str] = {exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^"}


@checks_expression(exp.Paren)
def parentheses(node: exp.Expr, ctx: Context) -> Value:
    """An expression in parentheses. They are rendered only where precedence requires them."""
    allow_only(node, "this")
    return value_of(node.this, ctx)


@checks_expression(*_ARITHMETIC)
def arithmetic(node: exp.Expr, ctx: Context) -> Value:
    """A chain of one arithmetic operator, from left to right and without recursion."""
    allow_only(node, "this", "expression", "typed", "safe")
    kind = type(node)
    symbol, precedence = _ARITHMETIC[kind]
    operands = [node.args["expression"]]
    first = node.this
    while type(first) is kind:
        allow_only(first, "this", "expression", "typed", "safe")
        operands.append(first.args["expression"])
        first = first.this
    left = value_of(first, ctx)
    # The first operand may be another chain of the same precedence, which its author has put into parentheses.
    left_sql = f"({left.sql})" if left.precedence <= precedence else left.sql
    for part in reversed(operands):
        right = value_of(part, ctx)
        degree, scale, constant = polynomials.arithmetic(symbol, left, right)
        operands_of = (left, right)
        left = combine(
            f"{left_sql} {symbol} {parenthesised(right, precedence + 1)}",
            arithmetic_type(symbol, left.type, right.type),
            precedence,
            (left, right),
            node,
            degree=degree,
            scale=scale,
        )
        left.mixed = left.mixed or polynomials.mixes(symbol, *operands_of)
        left.constant = constant
        left_sql = left.sql
    return left


@checks_expression(exp.Neg)
def minus(node: exp.Expr, ctx: Context) -> Value:
    """``-x``."""
    allow_only(node, "this")
    part = value_of(node.this, ctx)
    out = combine(f"-{parenthesised(part, ATOM)}", part.type, SIGN, [part], node, degree=part.degree, scale=part.scale)
    out.constant = None if part.constant is None else -part.constant
    return out


@checks_expression(exp.DPipe)
def concatenation(node: exp.Expr, ctx: Context) -> Value:
    """``a || b || c``."""
    allow_only(node, "this", "expression", "safe")
    parts = values_of(chain_operands(node, exp.DPipe), ctx)
    texts = [part.sql if part.operator_chain == "||" else parenthesised(part, ATOM) for part in parts]
    out = combine(" || ".join(texts), "string", SUM, parts, node)
    out.operator_chain = "||"
    return out


@checks_expression(exp.BitwiseNot)
def bitwise_not(node: exp.Expr, ctx: Context) -> Value:
    """``~x``."""
    allow_only(node, "this", "expression")
    part = value_of(node.this, ctx)
    return _bitwise(f"~{parenthesised(part, ATOM)}", [part], node)


@checks_expression(*_BITWISE)
def bitwise(node: exp.Expr, ctx: Context) -> Value:
    """``a & b``, ``a | b`` and ``a ^ b``, always with parentheses around operands that are expressions."""
    allow_only(node, "this", "expression")
    left, right = value_of(node.this, ctx), value_of(node.args["expression"], ctx)
    return _bitwise(f"{parenthesised(left, ATOM)} {_BITWISE[type(node)]} {parenthesised(right, ATOM)}", [left, right], node)


def _bitwise(sql: str, parts: list[Value], node: exp.Expr) -> Value:
    if any(part.type not in WHOLE for part in parts):
        raise Refusal("TypeNotAllowed", "bitwise operators take whole numbers", position_of(node))
    return combine(sql, widest([part.type for part in parts]), PREDICATE, parts, node)
