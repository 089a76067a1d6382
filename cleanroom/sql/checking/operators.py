"""Operators, conditions and CASE."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.checking.columns import alias_target
from cleanroom.sql.checking.nodes import (
    LEFT,
    allow_only,
    chain_operands,
    check_operands,
    checks_expression,
    combine,
    located_at,
    position_of,
    value_of,
    values_of,
    without_parentheses,
)
from cleanroom.sql.checking.queries import in_subquery
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import AND, ATOM, OR, PREDICATE, PRODUCT, SIGN, SUM
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.privacy.aggregates import condition_divisions
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation
from cleanroom.sql.privacy.polynomials import highest_degree
from cleanroom.sql.privacy.rows import joins_relations
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised, text_literal
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


_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.NullSafeEQ: "<=>",
    exp.NullSafeNEQ: "<=>",
}
_LIKES: dict[type[exp.Expr], str] = {exp.Like: "LIKE", exp.ILike: "ILIKE", exp.RegexpLike: "RLIKE"}


@checks_expression(exp.And, exp.Or)
def logical(node: exp.Expr, ctx: Context) -> Value:
    """A chain of AND, or of OR."""
    kind = type(node)
    word, precedence = ("AND", AND) if kind is exp.And else ("OR", OR)
    parts = values_of(chain_operands(node, kind), ctx)
    texts = [part.sql if part.precedence >= PREDICATE or part.operator_chain == word else f"({part.sql})" for part in parts]
    out = combine(f" {word} ".join(texts), "boolean", precedence, parts, node)
    out.operator_chain = word
    if kind is exp.Or:
        _warn_of_or(out, ctx)
    return out


def _warn_of_or(condition: Value, ctx: Context) -> None:
    columns = [f"{view}.{column}" for view, column in sorted(condition.exposed) if ctx.rules.catalog.has_floor(view)]
    if columns:
        ctx.findings.warn("OrOverProtectedColumns", f"OR combines conditions on {', '.join(columns)}")


@checks_expression(exp.Not)
def negation(node: exp.Expr, ctx: Context) -> Value:
    """``NOT x``, rendered as ``NOT IN``, ``IS NOT`` and so on where SQL has such a form."""
    allow_only(node, "this")
    return _negated(node.this, node, ctx)


def _negated(inner: exp.Expr, node: exp.Expr, ctx: Context) -> Value:
    inner = without_parentheses(inner)
    target = alias_target(inner, ctx)
    if target is not None:  # rendered as NOT of the aliased expression, because that is how the rendering is read back
        return _negated(target, node, ctx.expanding_alias(inner.name))
    if type(inner) in LEFT:
        check_operands(inner, type(inner))
    if isinstance(inner, exp.In):
        return membership(inner, ctx, negated=True)
    if isinstance(inner, exp.Is):
        return is_test(inner, ctx, negated=True)
    if isinstance(inner, exp.Between):
        return between(inner, ctx, negated=True)
    # NOT before a condition with ANY or ALL negates the whole condition; NOT LIKE ANY negates each pattern.
    if isinstance(inner, exp.Like | exp.ILike | exp.RegexpLike) and not isinstance(inner.args["expression"], exp.Any | exp.All):
        return like(inner, ctx, negated=True)
    part = value_of(inner, ctx)
    if isinstance(inner, exp.And):  # NOT (a AND b) is NOT a OR NOT b
        _warn_of_or(part, ctx)
    return combine(f"NOT {parenthesised(part, ATOM)}", "boolean", PREDICATE, [part], node)


@checks_expression(*_COMPARISONS)
def comparison(node: exp.Expr, ctx: Context) -> Value:
    """``a = b``, ``a <= b``, ``a <=> b`` and so on."""
    return compared(node, ctx)[0]


def compared(node: exp.Expr, ctx: Context) -> tuple[Value, Value, Value]:
    """A comparison and its two sides."""
    allow_only(node, "this", "expression")
    kind = type(node)
    left, right = value_of(node.this, ctx), value_of(node.args["expression"], ctx)
    # An identity may be compared for equality with a column of another relation, as a join does, and with nothing else.
    join = kind is exp.EQ and joins_relations(left, right)
    text = f"{parenthesised(left, SUM)} {_COMPARISONS[kind]} {parenthesised(right, SUM)}"
    out = combine(text, "boolean", PREDICATE, (left, right), node, identity=join)
    out.identity = False
    if kind is exp.NullSafeNEQ:
        out.sql = f"NOT ({out.sql})"
    return out, left, right


@checks_expression(exp.Is)
def is_test(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x IS NULL``, ``x IS TRUE`` and ``x IS FALSE``."""
    allow_only(node, "this", "expression")
    test = node.args["expression"]
    if isinstance(test, exp.Null):
        word = "NULL"
    elif isinstance(test, exp.Boolean):
        word = "TRUE" if test.this else "FALSE"
    else:
        raise Refusal("ExpressionNotAllowed", "IS is allowed with NULL, TRUE and FALSE", position_of(node))
    part = value_of(node.this, ctx)
    text = f"{parenthesised(part, SUM)} IS {'NOT ' if negated else ''}{word}"
    out = combine(text, "boolean", PREDICATE, [part], node, identity=word == "NULL" and part.plain)
    if part.identity and part.outer_join_markers:  # whether an outer join found the person, and nothing of the identity
        out.exposed = frozenset()
    out.identity = False
    return out


@checks_expression(exp.Between)
def between(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x BETWEEN low AND high``."""
    allow_only(node, "this", "low", "high")
    parts = values_of((node.this, node.args["low"], node.args["high"]), ctx)
    what, low, high = (parenthesised(part, SUM) for part in parts)
    return combine(f"{what} {'NOT ' if negated else ''}BETWEEN {low} AND {high}", "boolean", PREDICATE, parts, node)


@checks_expression(exp.In)
def membership(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x IN (1, 2)``, ``(a, b) IN ((1, 2), (3, 4))`` and ``x IN (SELECT ...)``."""
    if node.args.get("query") is not None:
        return in_subquery(node, ctx, negated)
    allow_only(node, "this", "expressions")
    if not node.expressions:
        raise Refusal("Unparsable", "IN needs at least one value", position_of(node))
    if isinstance(node.this, exp.Tuple):
        return _tuple_membership(node, ctx, negated)
    what = value_of(node.this, ctx)
    items = values_of(node.expressions, ctx)
    text = f"{parenthesised(what, SUM)} {'NOT ' if negated else ''}IN ({', '.join([item.sql for item in items])})"
    return combine(text, "boolean", PREDICATE, [what, *items], node)


def _tuple_membership(node: exp.Expr, ctx: Context, negated: bool) -> Value:
    columns = values_of(node.this.expressions, ctx)
    rows = []
    for row in node.expressions:
        if not isinstance(row, exp.Tuple) or len(row.expressions) != len(columns):
            raise Refusal("WrongArguments", f"(…) IN takes lists of {len(columns)} values", position_of(node))
        rows.append(values_of(row.expressions, ctx))
    items = ", ".join(f"({', '.join(part.sql for part in row)})" for row in rows)
    text = f"({', '.join(part.sql for part in columns)}) {'NOT ' if negated else ''}IN ({items})"
    return combine(text, "boolean", PREDICATE, [*columns, *(part for row in rows for part in row)], node)


@checks_expression(*_LIKES)
def like(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x LIKE pattern``, ``ILIKE`` and ``RLIKE``, and ``x LIKE ANY ('a%', 'b%')``."""
    allow_only(node, "this", "expression", "negate")
    if node.args.get("negate"):
        negated = not negated
    word = f"{'NOT ' if negated else ''}{_LIKES[type(node)]}"
    pattern = node.args["expression"]
    if isinstance(pattern, exp.Any | exp.All):
        return _quantified_like(node, pattern, word, ctx)
    parts = values_of((node.this, pattern), ctx)
    return combine(f"{parenthesised(parts[0], SUM)} {word} {parenthesised(parts[1], SUM)}", "boolean", PREDICATE, parts, node)


def _quantified_like(node: exp.Expr, group: exp.Expr, word: str, ctx: Context) -> Value:
    allow_only(group, "this")
    inner = group.this
    patterns = inner.expressions if isinstance(inner, exp.Tuple) else [inner.this] if isinstance(inner, exp.Paren) else []
    if isinstance(node, exp.RegexpLike) or not patterns or not all(isinstance(part, exp.Literal) and part.is_string for part in patterns):
        raise Refusal("ExpressionNotAllowed", "LIKE ANY and LIKE ALL take a list of texts in quotes", position_of(node))
    parts = values_of((node.this, *patterns), ctx)
    quantifier = "ALL" if isinstance(group, exp.All) else "ANY"
    texts = ", ".join(part.sql for part in parts[1:])
    return combine(f"{parenthesised(parts[0], SUM)} {word} {quantifier} ({texts})", "boolean", PREDICATE, parts, node)


@checks_expression(exp.Escape)
def escape(node: exp.Expr, ctx: Context) -> Value:
    """``x LIKE pattern ESCAPE '!'``."""
    allow_only(node, "this", "expression")
    sign = node.args["expression"]
    pattern = node.this.args.get("expression") if isinstance(node.this, exp.Like | exp.ILike) else None
    if pattern is None or isinstance(pattern, exp.Any | exp.All) or not isinstance(sign, exp.Literal) or len(str(sign.this)) != 1:
        raise Refusal("LiteralNotAllowed", "LIKE … ESCAPE takes one pattern and one character", position_of(node))
    out = value_of(node.this, ctx)
    out.sql += f" ESCAPE {text_literal(str(sign.this))}"
    return out


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
