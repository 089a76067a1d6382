"""Expressions: operators, conditions, CASE, constants, casts and calls.

Operators bind as in Spark, from OR to the sign. Where Spark's order is easy to misread, the author writes parentheses: conditions are
no operands of conditions or arithmetic, and ``||`` is not mixed with ``+`` and ``-``.
"""

from __future__ import annotations

from collections.abc import Callable

from cleanroom.sql.checking import constants
from cleanroom.sql.checking.calls import call, case, cast, extract
from cleanroom.sql.checking.columns import column
from cleanroom.sql.checking.values import combine, compared
from cleanroom.sql.context import Context
from cleanroom.sql.model import AND, ATOM, OR, PREDICATE, PRODUCT, ROWS, SIGN, SUM, CheckedQuery, SemiJoin, Value
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.privacy.release import check_correlation
from cleanroom.sql.privacy.rows import check_no_rows, joins_relations
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.remedies import CONSTRUCTS, outside_language
from cleanroom.sql.text.tokens import NUMBER, QUOTED, TEXT, Tokens
from cleanroom.sql.vocabulary import arithmetic_type

_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=", "<=>")
_PATTERNS = ("LIKE", "ILIKE", "RLIKE")
_LEVELS = {
    "OR": OR, "AND": AND, **dict.fromkeys((*_COMPARISONS, *_PATTERNS, "IS", "BETWEEN", "IN", "NOT"), PREDICATE),
    **dict.fromkeys(("+", "-", "||"), SUM), **dict.fromkeys(("*", "/", "%", "DIV"), PRODUCT),
}  # fmt: skip
"""Precedence of each operator between operands."""
_CHAINS = {"AND": ("boolean", PREDICATE), "OR": ("boolean", PREDICATE), "||": ("string", ATOM)}
"""Type, and the least precedence of an operand without parentheses."""
MAX_SIGNS = 8
"""NOT and signs in a row, which the checks read by recursion."""


def expression(ctx: Context, least: int = OR) -> Value:
    """Read and check an expression whose operators have a precedence of ``least`` or more."""
    value = condition(ctx, least)
    if value.semi_join is not None:
        check_no_rows(value.semi_join.protected)
    return value


def condition(ctx: Context, least: int = OR) -> Value:
    """Read an expression that may be, or combine by AND, conditions on rows of persons; see :class:`SemiJoin`."""
    text = ctx.text
    with text.located(text.at):
        value, before = _operand(ctx, least)
        while (level := _LEVELS.get(symbol := text.kinds[text.at], -1)) >= least:
            mixed = level == SUM and before != symbol and "||" in (before, symbol)
            if before and (_LEVELS[before] == PREDICATE <= level or (_LEVELS[before] == SUM and mixed)):
                raise _unclear(before, symbol)
            value = _grouped(value, ctx)
            text.at += 1
            if level == PREDICATE:
                value = _predicate(value, symbol, ctx)
            elif symbol in _CHAINS:
                value = _chain(value, symbol, level, ctx)
            else:
                value = _arithmetic(value, symbol, level, ctx)
            before = symbol
        return _grouped(value, ctx)


def _grouped(value: Value, ctx: Context) -> Value:
    """The group key that ``value`` is, or ``value``."""
    grouped = (ctx.scope.group_keys or {}).get(value.sql) if value.ungrouped and not ctx.aggregate else None
    if grouped is not None:
        value.ungrouped = False
        if grouped != value.sql:
            value.sql, value.precedence, value.operator, value.parts = grouped, ATOM, "", ()
    return value


def _unclear(one: str, two: str) -> Refusal:
    return Refusal(
        "ParenthesesNeeded", f"{one} next to {two} without parentheses: their order is easy to misread; write (…) around one of the two"
    )


def _operand(ctx: Context, least: int) -> tuple[Value, str]:
    """Read an operand, and say which operator it begins with: NOT, EXISTS, or none that matters."""
    text = ctx.text
    kind = text.kinds[text.at]
    if kind == "NOT" or (kind == "EXISTS" and text.kinds[text.at + 1] == "("):
        if least > PREDICATE:
            raise _unclear(kind, text.kinds[text.at - 1])
        text.at += 1
        return (_exists(ctx), "IN") if kind == "EXISTS" else (_negation(ctx), "NOT")
    if kind == "-":
        text.at += 1
        return _minus(ctx), ""
    if kind == "+":
        raise outside_language("ExpressionNotAllowed: a sign + before a value; leave it out", text.position())
    special = _PRIMARIES.get(kind)
    if special is not None and (value := special(ctx)) is not None:
        return value, ""
    if text.kinds[text.at + 1] == "(" and (kind == QUOTED or kind.isidentifier()):
        return call(ctx), ""
    return column(ctx), ""


def _check_signs(text: Tokens) -> None:
    if set(text.kinds[max(0, text.at - MAX_SIGNS - 1) : text.at]) <= {"NOT", "-"} and text.at > MAX_SIGNS:
        raise Refusal("QueryTooComplex", f"{text.values[text.at - 1]!r} occurs too often in a row")


def _minus(ctx: Context) -> Value:
    _check_signs(ctx.text)
    part = ctx.expression(SIGN)
    out = combine(f"-{parenthesised(part, ATOM)}", part.type, SIGN, [part])
    out.constant = None if part.constant is None else -part.constant
    return out


def _negation(ctx: Context) -> Value:
    _check_signs(ctx.text)
    part = ctx.expression(PREDICATE)
    if part.operator == "AND":  # NOT (a AND b) is NOT a OR NOT b
        _warn_of_or(part, ctx)
    return combine(f"NOT {parenthesised(part, ATOM)}", "boolean", PREDICATE, [part])


def _arithmetic(left: Value, symbol: str, level: int, ctx: Context) -> Value:
    """A chain of one arithmetic operator, from left to right."""
    text = ctx.text
    # The first operand may be another chain of the same precedence, which its author has put into parentheses.
    sql = f"({left.sql})" if left.precedence <= level else left.sql
    while True:
        right = expression(ctx, level + 1)
        degree = polynomials.product(left, right) if symbol == "*" else None
        sql = f"{sql} {symbol} {parenthesised(right, level + 1)}"
        kind = arithmetic_type(symbol, left.type, right.type)
        out = combine(sql, kind, level, (left, right), degree=degree)
        out.factors = tuple(sorted(polynomials.factors_of(left) + polynomials.factors_of(right))) if degree else ()
        out.whole = out.whole or (symbol in "+-*" and out.degree != 0 and kind in ("integer", "long", "smallint", "tinyint"))
        out.day = symbol in "+-" and [part.day for part in (left, right) if part.columns] == [True]
        left = out
        if not text.accept(symbol):
            return left


def _chain(left: Value, symbol: str, level: int, ctx: Context) -> Value:
    """``a AND b AND c``, and the same with OR and ``||``. Parentheses inside the chain have no effect."""
    kind, least = _CHAINS[symbol]
    read = condition if symbol == "AND" else expression
    parts = [left, read(ctx, level + 1)]
    while ctx.text.accept(symbol):
        parts.append(read(ctx, level + 1))
    text = f" {symbol} ".join(part.sql if part.operator == symbol else parenthesised(part, least) for part in parts)
    out = combine(text, kind, level, parts, rows=symbol == "AND")
    out.operator = symbol
    if symbol == "AND":
        out.parts = tuple(inner for part in parts for inner in (part.parts if part.operator == "AND" else (part,)))
    elif symbol == "OR":
        _warn_of_or(out, ctx)
    return out


def _warn_of_or(value: Value, ctx: Context) -> None:
    columns = [f"{view}.{name}" for view, name in sorted(value.exposed) if ctx.catalog.has_floor(view)]
    if columns:
        ctx.findings.warn("OrOverProtectedColumns", f"OR combines conditions on {', '.join(columns)}")


# -- conditions -------------------------------------------------------------------------------------------------------


def _predicate(left: Value, symbol: str, ctx: Context) -> Value:
    """A comparison, or another condition on ``left``."""
    text = ctx.text
    negated = symbol == "NOT"
    if negated:
        symbol = text.kinds[text.at]
        if symbol not in ("BETWEEN", "IN", *_PATTERNS):
            if symbol == "NULL":
                raise outside_language("ExpressionNotAllowed: NOT NULL after a value; write IS NOT NULL", text.position())
            raise text.unexpected()
        text.at += 1
    if symbol in _COMPARISONS:
        return _comparison(left, symbol, ctx.expression(SUM))
    if symbol == "IS":
        return _is(left, ctx)
    parts = [left]
    if symbol == "BETWEEN":
        parts.append(ctx.expression(SUM))
        text.expect("AND")
        parts.append(ctx.expression(SUM))
        rest = f"BETWEEN {parenthesised(parts[1], SUM)} AND {parenthesised(parts[2], SUM)}"
    elif symbol == "IN":
        text.expect("(")
        if text.begins_query(text.at):
            return _membership(left, negated, ctx)
        if text.accept(")"):
            raise Refusal("Unparsable", "IN needs at least one value")
        if text.kinds[text.at] == "(" and text.begins_query(text.at + 1) and text.kinds[text.closing[text.at] + 1] == ")":
            raise Refusal("ParenthesesNeeded", "IN ((SELECT …)): write one pair of parentheses")  # in Spark a list with one value
        parts += ctx.expressions()
        text.expect(")")
        rest = f"IN ({', '.join([part.sql for part in parts[1:]])})"
    else:
        if text.kinds[text.at] in ("ANY", "ALL", "SOME") and text.kinds[text.at + 1] == "(":
            raise outside_language(CONSTRUCTS["ANY"], text.position())
        parts.append(ctx.expression(SUM))
        rest = f"{symbol} {parenthesised(parts[1], SUM)}"
    out = combine(f"{parenthesised(left, SUM)} {'NOT ' * negated}{rest}", "boolean", PREDICATE, parts)
    return compared(out, parts) if symbol == "BETWEEN" else out


def _comparison(left: Value, symbol: str, right: Value) -> Value:
    # An identity may be compared for equality with a column of another relation, as a join does, and with nothing else.
    join = symbol == "=" and joins_relations(left, right)
    text = f"{parenthesised(left, SUM)} {symbol} {parenthesised(right, SUM)}"
    out = combine(text, "boolean", PREDICATE, (left, right), identity=join)
    out.identity = False
    if symbol == "=":
        out.operator, out.parts = symbol, (left, right)
    return compared(out, (left, right))


def _is(left: Value, ctx: Context) -> Value:
    text = ctx.text
    negated = text.accept("NOT")
    if text.accept("DISTINCT", "FROM"):
        if not negated:
            raise outside_language("ExpressionNotAllowed: IS DISTINCT FROM; write NOT (a <=> b)", text.position(text.at - 1))
        return _comparison(left, "<=>", ctx.expression(SUM))
    word = text.kinds[text.at]
    if word not in ("NULL", "TRUE", "FALSE"):
        raise text.construct(text.at) or Refusal("ExpressionNotAllowed", "IS is allowed with NULL, TRUE and FALSE")
    text.at += 1
    sql = f"{parenthesised(left, SUM)} IS {'NOT ' * negated}{word}"
    out = combine(sql, "boolean", PREDICATE, [left], identity=word == "NULL" and left.plain)
    if left.identity and left.outer_join_markers:  # whether an outer join found the person, and nothing of the identity
        out.exposed = frozenset()
    out.identity = False
    return out


def _membership(left: Value, negated: bool, ctx: Context) -> Value:
    """``x IN (SELECT ...)``."""
    query, reads = _subquery(ctx)
    if len(query.fields) != 1:
        raise Refusal("WrongArguments", f"IN (SELECT …) has {len(query.fields)} columns and 1 to compare")
    if negated:
        check_no_rows(query.protected)
    (field,) = query.fields
    shown = Value("", "unknown", degree=None, origins=field.origins, exposed=field.exposed)
    join = bool(field.origins) and bool(left.origins)
    text = f"{parenthesised(left, SUM)} {'NOT ' * negated}IN {subquery(query.sql)}"
    out = combine(text, "boolean", PREDICATE, [left, shown, *reads], identity=join or not left.identity)
    out.identity, out.degree = False, None
    if query.protected and not negated:
        out.semi_join = SemiJoin(query.protected, left, field.type)
    return out


def _exists(ctx: Context) -> Value:
    """``EXISTS (SELECT ...)``."""
    ctx.text.expect("(")
    query, reads = _subquery(ctx)
    check_no_rows(query.protected)
    found = Value("", "boolean", origins=frozenset([(view, ROWS, "exists") for view in query.views]), degree=None)
    out = combine(f"EXISTS{subquery(query.sql)}", "boolean", PREDICATE, [found, *reads], identity=True)
    out.identity, out.degree = False, None
    return out


def _subquery(ctx: Context) -> tuple[CheckedQuery, list[Value]]:
    """Read a subquery after its opening parenthesis. Returns it, and the columns of the queries around it that it reads."""
    if ctx.aggregate:
        raise Refusal("ClauseNotAllowed", "a subquery inside an aggregate is not allowed")
    enclosing = Scope(ctx.scope)
    query = ctx.query(enclosing, False)
    ctx.text.expect(")")
    reads = enclosing.outer_reads
    check_correlation(query.releases, reads)
    ctx.scope.releases |= query.releases
    ctx.scope.views |= query.views
    return query, reads


def _parentheses(ctx: Context) -> Value:
    """An expression in parentheses, which are rendered only where precedence requires them, or a scalar subquery."""
    text = ctx.text
    text.at += 1
    if not text.begins_query(text.at):
        value = condition(ctx)
        if text.kinds[text.at] == ",":
            raise outside_language("ExpressionNotAllowed: a list in parentheses; compare one column after the other", text.position())
        text.expect(")")
        return value
    query, reads = _subquery(ctx)
    check_no_rows(query.protected)
    if len(query.fields) != 1:
        raise Refusal("WrongArguments", "a subquery in an expression has exactly one column")
    (field,) = query.fields
    inner = Value("", field.type, origins=field.origins, exposed=field.exposed, degree=None)
    return combine(subquery(query.sql), field.type, ATOM, [inner, *reads], identity=True)


_PRIMARIES: dict[str, Callable[[Context], Value | None]] = {
    "(": _parentheses, TEXT: constants.string, "R": constants.raw, NUMBER: constants.number, "CASE": case, "DATE": constants.date,
    **dict.fromkeys(constants.CONSTANTS, constants.constant), "TIMESTAMP": constants.date, "INTERVAL": constants.interval,
    "CAST": cast, "TRY_CAST": cast, "EXTRACT": extract,
}  # fmt: skip
"""Readers of the operands that begin with a certain token. Some return None if the token is the name of a column or a function."""
