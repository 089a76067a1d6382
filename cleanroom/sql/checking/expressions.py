"""Operators, conditions, CASE, constants, casts and calls of scalar functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from sqlglot import exp

from cleanroom.sql.checking.aggregates import aggregate
from cleanroom.sql.checking.nodes import chain_operands, checks_expression, combine, marked_name, value_of, values_of
from cleanroom.sql.checking.queries import in_subquery
from cleanroom.sql.context import Context
from cleanroom.sql.model import AND, ATOM, OR, PREDICATE, PRODUCT, SIGN, SUM, Value
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.privacy.aggregates import condition_divisions
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation
from cleanroom.sql.privacy.polynomials import LARGEST_FACTOR, highest_degree, scale_of
from cleanroom.sql.privacy.rows import joins_relations
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised, text_literal
from cleanroom.sql.text.language import LANGUAGE, not_listed
from cleanroom.sql.text.marking import CASTS, LITERAL
from cleanroom.sql.text.tokens import strip_invisible
from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, TYPES, Function, arithmetic_type, result_type, widest

_ARITHMETIC: dict[type[exp.Expr], int] = {exp.Add: SUM, exp.Sub: SUM, **dict.fromkeys((exp.Mul, exp.Div, exp.Mod, exp.IntDiv), PRODUCT)}
_CHAINS: dict[type[exp.Expr], tuple[str, int, int]] = {
    exp.And: ("boolean", AND, PREDICATE), exp.Or: ("boolean", OR, PREDICATE), exp.DPipe: ("string", SUM, ATOM),
}  # fmt: skip
"""Type, precedence, and the least precedence of an operand without parentheses."""
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ)
_LIKES = (exp.Like, exp.ILike, exp.RegexpLike)


def _symbol(node: exp.Expr) -> str:
    return LANGUAGE[type(node)].words[0]


@checks_expression(exp.Paren)
def parentheses(node: exp.Expr, ctx: Context) -> Value:
    """An expression in parentheses. They are rendered only where precedence requires them."""
    return value_of(node.this, ctx)


@checks_expression(*_ARITHMETIC)
def arithmetic(node: exp.Expr, ctx: Context) -> Value:
    """A chain of one arithmetic operator, from left to right and without recursion."""
    kind = type(node)
    symbol, precedence = _symbol(node), _ARITHMETIC[kind]
    operands, first = [node.args["expression"]], node.this
    while type(first) is kind:
        operands.append(first.args["expression"])
        first = first.this
    left = value_of(first, ctx)
    # The first operand may be another chain of the same precedence, which its author has put into parentheses.
    left_sql = f"({left.sql})" if left.precedence <= precedence else left.sql
    for part in reversed(operands):
        right = value_of(part, ctx)
        degree, scale, constant = polynomials.arithmetic(symbol, left, right)
        sql = f"{left_sql} {symbol} {parenthesised(right, precedence + 1)}"
        kind_of = arithmetic_type(symbol, left.type, right.type)
        out = combine(sql, kind_of, precedence, (left, right), degree=degree, scale=scale)
        out.mixed = out.mixed or polynomials.mixes(symbol, left, right)
        out.constant = constant
        out.whole = out.whole or (symbol in "+-*" and out.degree != 0 and kind_of in ("integer", "long", "smallint", "tinyint"))
        left, left_sql = out, out.sql
    return left


@checks_expression(exp.Neg)
def minus(node: exp.Expr, ctx: Context) -> Value:
    """``-x``."""
    part = value_of(node.this, ctx)
    out = combine(f"-{parenthesised(part, ATOM)}", part.type, SIGN, [part], degree=part.degree, scale=part.scale)
    out.constant = None if part.constant is None else -part.constant
    out.mixed = out.mixed or out.degree != 0
    return out


@checks_expression(*_CHAINS)
def chain(node: exp.Expr, ctx: Context) -> Value:
    """``a AND b AND c``, and the same with OR and ``||``, without recursion."""
    word, (kind, precedence, least) = _symbol(node), _CHAINS[type(node)]
    parts = values_of(chain_operands(node, type(node)), ctx)
    texts = [part.sql if part.operator_chain == word else parenthesised(part, least) for part in parts]
    out = combine(f" {word} ".join(texts), kind, precedence, parts)
    out.operator_chain = word
    if word == "OR":
        _warn_of_or(out, ctx)
    return out


def _warn_of_or(condition: Value, ctx: Context) -> None:
    columns = [f"{view}.{column}" for view, column in sorted(condition.exposed) if ctx.rules.catalog.has_floor(view)]
    if columns:
        ctx.findings.warn("OrOverProtectedColumns", f"OR combines conditions on {', '.join(columns)}")


@checks_expression(exp.Not)
def negation(node: exp.Expr, ctx: Context) -> Value:
    """``NOT x``, which is also how the parser reads ``x NOT IN (…)``, ``x IS NOT NULL`` and so on."""
    inner = node.this
    if type(inner) in _NEGATABLE:
        return _NEGATABLE[type(inner)](inner, ctx, True)
    part = value_of(inner, ctx)
    if part.operator_chain == "AND":  # NOT (a AND b) is NOT a OR NOT b
        _warn_of_or(part, ctx)
    return combine(f"NOT {parenthesised(part, ATOM)}", "boolean", PREDICATE, [part])


@checks_expression(*_COMPARISONS)
def comparison(node: exp.Expr, ctx: Context) -> Value:
    """``a = b``, ``a <= b``, ``a <=> b`` and so on."""
    return compared(node, ctx)[0]


def compared(node: exp.Expr, ctx: Context) -> tuple[Value, Value, Value]:
    """A comparison and its two sides."""
    left, right = value_of(node.this, ctx), value_of(node.args["expression"], ctx)
    # An identity may be compared for equality with a column of another relation, as a join does, and with nothing else.
    join = type(node) is exp.EQ and joins_relations(left, right)
    text = f"{parenthesised(left, SUM)} {_symbol(node)} {parenthesised(right, SUM)}"
    out = combine(text, "boolean", PREDICATE, (left, right), identity=join)
    out.identity = False
    return out, left, right


@checks_expression(exp.Is)
def is_test(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x IS NULL``, ``x IS TRUE`` and ``x IS FALSE``."""
    test = node.args["expression"]
    if not isinstance(test, exp.Null | exp.Boolean):
        raise Refusal("ExpressionNotAllowed", "IS is allowed with NULL, TRUE and FALSE")
    word = value_of(test, ctx).sql
    part = value_of(node.this, ctx)
    text = f"{parenthesised(part, SUM)} IS {'NOT ' if negated else ''}{word}"
    out = combine(text, "boolean", PREDICATE, [part], identity=word == "NULL" and part.plain)
    if part.identity and part.outer_join_markers:  # whether an outer join found the person, and nothing of the identity
        out.exposed = frozenset()
    out.identity = False
    return out


@checks_expression(exp.Between)
def between(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x BETWEEN low AND high``."""
    parts = values_of((node.this, node.args["low"], node.args["high"]), ctx)
    what, low, high = (parenthesised(part, SUM) for part in parts)
    return combine(f"{what} {'NOT ' if negated else ''}BETWEEN {low} AND {high}", "boolean", PREDICATE, parts)


@checks_expression(exp.In)
def membership(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x IN (1, 2)`` and ``x IN (SELECT ...)``."""
    if node.args.get("query") is not None:
        return in_subquery(node, ctx, negated)
    if not node.expressions:
        raise Refusal("Unparsable", "IN needs at least one value")
    what, *items = parts = values_of((node.this, *node.expressions), ctx)
    text = f"{parenthesised(what, SUM)} {'NOT ' if negated else ''}IN ({', '.join([item.sql for item in items])})"
    return combine(text, "boolean", PREDICATE, parts)


@checks_expression(*_LIKES)
def like(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x LIKE pattern``, ``ILIKE`` and ``RLIKE``."""
    word = f"{'NOT ' if negated != bool(node.args.get('negate')) else ''}{_symbol(node)}"
    parts = values_of((node.this, node.args["expression"]), ctx)
    return combine(f"{parenthesised(parts[0], SUM)} {word} {parenthesised(parts[1], SUM)}", "boolean", PREDICATE, parts)


_NEGATABLE: dict[type[exp.Expr], Callable[[exp.Expr, Context, bool], Value]] = {
    exp.In: membership, exp.Is: is_test, exp.Between: between, **dict.fromkeys(_LIKES, like),
}  # fmt: skip
"""Conditions with a negated form of their own."""


@checks_expression(exp.Case)
def case(node: exp.Expr, ctx: Context) -> Value:
    """``CASE WHEN condition THEN x ELSE y END`` and ``CASE subject WHEN value THEN x END``."""
    subject = value_of(node.this, ctx) if node.this is not None else None
    text = ["CASE" if subject is None else f"CASE {parenthesised(subject, ATOM)}"]
    conditions, results = [], []
    for branch in node.args["ifs"]:
        condition, result = value_of(branch.this, ctx), value_of(branch.args["true"], ctx)
        text.append(f"WHEN {condition.sql} THEN {result.sql}")
        if subject is not None:
            equality = f"{parenthesised(subject, ATOM)} = {parenthesised(condition, ATOM)}"
            condition = combine(equality, "boolean", PREDICATE, [subject, condition])
        conditions.append(condition)
        results.append(result)
    if node.args.get("default") is not None:
        results.append(value_of(node.args["default"], ctx))
        text.append(f"ELSE {results[-1].sql}")
    return conditional(" ".join([*text, "END"]), conditions, results, ctx)


def conditional(sql: str, conditions: Sequence[Value], results: Sequence[Value], ctx: Context) -> Value:
    """A value that is one of ``results``, depending on ``conditions``.

    Inside an aggregate over protected rows, the conditions divide the rows of each group, and the floor applies to each part.
    """
    scope = ctx.scope
    divides = bool(ctx.aggregate) and scope.aggregates_persons
    check_condition(conditions, ctx.rules.catalog)
    if divides:
        scope.divide(condition_divisions(conditions, ctx.rules.catalog))
        check_one_relation(scope, conditions, [result for result in results if not result.identity])
    degree = highest_degree(results) if divides else None
    for condition in conditions:
        if condition.identity:
            combine("", "boolean", ATOM, [condition])  # refuses it
    kind, scale = widest([result.type for result in results]), max((result.scale for result in results), default=1.0)
    out = combine(sql, kind, ATOM, [*conditions, *results], degree=degree, identity=divides, scale=scale)
    if out.degree == 0 and any(condition.degree != 0 for condition in conditions):
        out.degree = degree
    out.mixed = out.mixed or len({result.exposed for result in results if result.origins}) > 1
    # COUNT(DISTINCT CASE WHEN … THEN column END) counts unchanged values of the rows of one branch.
    out.plain = divides and any(result.plain for result in results) and all(result.plain or result.type == "null" for result in results)
    out.flag = all(result.constant in (0, 1) or result.flag or result.type == "null" for result in results)
    return out


# -- constants --------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[0-9]{1,38}(\.[0-9]{0,38})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,38}([eE][+-]?[0-9]{1,3})?")
_EXACT_DIGITS = 16
"""Length up to which the text of a number is exact as a double."""
_INTERVAL_UNITS = ("YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND")
_CONSTANTS: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Null: ("NULL", "null"), exp.CurrentDate: ("CURRENT_DATE()", "date"), exp.CurrentTimestamp: ("CURRENT_TIMESTAMP()", "timestamp"),
}  # fmt: skip


@checks_expression(exp.Literal)
def literal(node: exp.Literal, ctx: Context) -> Value:
    """A number, a text, a date or a timestamp."""
    text = str(node.this)
    if node.args["is_string"]:
        _, kind, date = text.split(LITERAL) if text.startswith(LITERAL) else ("", "", "")
        sql = f"CAST({text_literal(date)} AS {kind})" if kind else text_literal(text)
        return Value(sql, kind.lower() or "string", scale=math.inf)
    if text.isdecimal() and len(text) < 6:
        number = float(text)
        return Value(text, "integer", scale=max(1.0, number), constant=number)
    if not _NUMBER.fullmatch(text):
        raise Refusal("LiteralNotAllowed", f"{strip_invisible(text)[:40]!r} is not an allowed number")
    number = float(text)
    scientific = "e" in text.lower()
    degree = 0 if number <= LARGEST_FACTOR and len(text) <= _EXACT_DIGITS and not scientific else None
    kind = "number" if scientific else "decimal" if "." in text else "integer" if int(text) < 2**31 else "long"
    return Value(text, kind, scale=scale_of(number), degree=degree, constant=number)


@checks_expression(*_CONSTANTS, exp.Boolean)
def constant(node: exp.Expr, ctx: Context) -> Value:
    """TRUE, FALSE, NULL, CURRENT_DATE and CURRENT_TIMESTAMP."""
    return Value(*(_CONSTANTS.get(type(node)) or ("TRUE" if node.this else "FALSE", "boolean")))


@checks_expression(exp.Interval)
def interval(node: exp.Expr, ctx: Context) -> Value:
    """``INTERVAL 3 DAYS`` and ``INTERVAL '3' MONTH``."""
    unit, amount = node.args.get("unit"), node.this
    text = str(amount.this).strip() if isinstance(amount, exp.Literal) else ""
    name = unit.name.upper().rstrip("S") if isinstance(unit, exp.Var) else ""
    if name not in _INTERVAL_UNITS or not re.fullmatch("-?[0-9]{1,9}", text):
        how = f"write an interval as INTERVAL '<whole number>' <unit>, with one of the units {', '.join(_INTERVAL_UNITS)}; add several up"
        raise Refusal("LiteralNotAllowed", how)
    return Value(f"INTERVAL '{int(text)}' {name}", "interval")


# -- calls ------------------------------------------------------------------------------------------------------------


@checks_expression(exp.Anonymous)
def call(node: exp.Anonymous, ctx: Context) -> Value:
    """A call of a function of the vocabulary, or a cast, whose name the lexer has marked."""
    name = marked_name(node)
    if not name:
        raise not_listed(node.name, node)
    if name in CASTS:
        return _cast(node, name, ctx)
    function, nodes = FUNCTIONS[name], node.expressions
    if not function.least <= len(nodes) <= function.most and not (len(nodes) == 1 and isinstance(nodes[0], exp.Distinct)):
        takes = f"{function.least} to {function.most}" if function.most > function.least else function.most
        raise Refusal("WrongArguments", f"{name} takes {takes} arguments, and not {len(nodes)}")
    if function.kind == "aggregate":
        return aggregate(node, name, ctx)
    if function.kind == "window" and not ctx.in_window:
        raise Refusal("FunctionNotAllowed", f"{name} needs OVER (…)")
    if function.kind == "generator":
        raise Refusal("FunctionNotAllowed", f"{name} is allowed only as LATERAL VIEW {name.lower()}(…)")
    return _scalar(node, name, function, ctx)


def _scalar(node: exp.Anonymous, name: str, function: Function, ctx: Context) -> Value:
    args = values_of(node.expressions, ctx)
    sql = f"{name}({', '.join([arg.sql for arg in args])})"
    if name == "IF":
        return conditional(sql, args[:1], args[1:], ctx)
    degree, scale = polynomials.call(function, args)
    normalised = function.normalises_identity and all(arg.degree == 0 for arg in args[1:])
    kind = result_type(function, [arg.type for arg in args])
    out = combine(sql, kind, ATOM, args, degree=degree, identity=normalised, scale=scale)
    out.joinable = normalised and args[0].joinable and args[0].type == "string"  # the text of a number is another value
    out.transformed = out.transformed or (function.degree_rule == "transforms" and out.degree == 1)
    out.filled = out.filled or (function.degree_rule == "first_argument" and out.degree == 1)
    return out


def _cast(node: exp.Anonymous, word: str, ctx: Context) -> Value:
    """``CAST(x AS type)``, which the lexer turned into a call with the type as its second argument."""
    if len(node.expressions) != 2 or not isinstance(node.expressions[1], exp.Literal):
        raise Refusal("WrongArguments", f"{word} takes one value AS a type")
    written, _, inside = str(node.expressions[1].this).partition("(")
    name, kind = TYPES[written]
    sizes = inside.rstrip(")").split(", ") if inside and name == "DECIMAL" else []
    part = value_of(node.expressions[0], ctx)
    exact = polynomials.keeps_value(word, part.type, kind, sizes)
    degree, scale = (part.degree, part.scale) if exact else (None, math.inf)
    spark_type = f"{name}({', '.join(sizes)})" if sizes else name
    return combine(f"{word}({part.sql} AS {spark_type})", kind, ATOM, [part], degree=degree, identity=kind == "string", scale=scale)


@checks_expression(exp.Extract)
def extract(node: exp.Expr, ctx: Context) -> Value:
    """``EXTRACT(field FROM x)``."""
    field = str(node.this.name if isinstance(node.this, exp.Expr) else node.this).upper()
    if field not in EXTRACT_FIELDS:
        raise Refusal("LiteralNotAllowed", f"EXTRACT takes a field of {', '.join(sorted(EXTRACT_FIELDS))}")
    part = value_of(node.args["expression"], ctx)
    kind = "decimal" if field == "SECOND" else "integer"
    return combine(f"EXTRACT({field} FROM {parenthesised(part, SUM)})", kind, ATOM, [part])


@checks_expression(exp.Substring)
def substring(node: exp.Expr, ctx: Context) -> Value:
    """``SUBSTRING(x FROM 1 FOR 2)``, rendered as an ordinary call."""
    parts = values_of([node.args[name] for name in ("this", "start", "length") if node.args.get(name) is not None], ctx)
    return combine(f"SUBSTRING({', '.join(part.sql for part in parts)})", "string", ATOM, parts)
