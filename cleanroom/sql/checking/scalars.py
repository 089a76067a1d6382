"""Constants, casts and calls of scalar functions."""

from __future__ import annotations

import math
import re

from sqlglot import exp

from cleanroom.sql.checking.aggregates import aggregate
from cleanroom.sql.checking.nodes import (
    allow_only,
    check_operand,
    checks_expression,
    combine,
    marked_name,
    not_listed,
    position_of,
    value_of,
    values_of,
)
from cleanroom.sql.checking.operators import conditional
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import ATOM, SUM
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.privacy.polynomials import LARGEST_FACTOR, scale_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised, text_literal
from cleanroom.sql.spark_types import result_type
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.text.marking import CASTS
from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, TYPES, UNITS, Function

_NUMBER = re.compile(r"[0-9]{1,38}(\.[0-9]{0,38})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,38}([eE][+-]?[0-9]{1,3})?")
_EXACT_DIGITS = 16
"""Length up to which the text of a number is exact as a double."""
_INTERVAL_UNITS = frozenset({"YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "MICROSECOND"})
_INTERVAL_AMOUNT = re.compile(r"-?[0-9]{1,9}")
_INTERVAL_SPANS = {
    ("YEAR", "MONTH"): re.compile(r"-?[0-9]{1,9}-[0-9]{1,2}"),
    ("DAY", "HOUR"): re.compile(r"-?[0-9]{1,9} [0-9]{1,2}"),
    ("DAY", "MINUTE"): re.compile(r"-?[0-9]{1,9} [0-9]{1,2}:[0-9]{1,2}"),
    ("DAY", "SECOND"): re.compile(r"-?[0-9]{1,9} [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]{1,6})?"),
    ("HOUR", "MINUTE"): re.compile(r"-?[0-9]{1,9}:[0-9]{1,2}"),
    ("HOUR", "SECOND"): re.compile(r"-?[0-9]{1,9}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]{1,6})?"),
    ("MINUTE", "SECOND"): re.compile(r"-?[0-9]{1,9}:[0-9]{1,2}(\.[0-9]{1,6})?"),
}


@checks_expression(exp.Literal)
def literal(node: exp.Literal, ctx: Context) -> Value:
    """A number or a string."""
    allow_only(node, "this", "is_string")
    text = str(node.this)
    if node.args["is_string"]:
        return _string(text)
    if text.isdecimal() and len(text) < 6:
        number = float(text)
        return Value(text, "integer", scale=max(1.0, number), constant=number)
    if not _NUMBER.fullmatch(text):
        raise Refusal("LiteralNotAllowed", f"{strip_invisible(text)[:40]!r} is not an allowed number", position_of(node))
    number = float(text)
    scientific = "e" in text.lower()
    degree = 0 if number <= LARGEST_FACTOR and len(text) <= _EXACT_DIGITS and not scientific else None
    kind = "number" if scientific else "decimal" if "." in text else "integer" if int(text) < 2**31 else "long"
    return Value(text, kind, scale=scale_of(number), degree=degree, constant=number)


def _string(text: str) -> Value:
    return Value(text_literal(text), "string", scale=math.inf)


@checks_expression(exp.RawString)
def raw_string(node: exp.Expr, ctx: Context) -> Value:
    """``r'...'``, rendered as an ordinary string."""
    allow_only(node, "this")
    return _string(str(node.this))


@checks_expression(exp.Concat)
def adjacent_strings(node: exp.Expr, ctx: Context) -> Value:
    """Several string literals in a row, which form one string."""
    parts = node.args.get("expressions") or []
    if not all(isinstance(part, exp.Literal) and part.is_string for part in parts):
        raise Refusal("FunctionNotAllowed", "this form of concatenation is not allowed", position_of(node))
    return _string("".join(str(part.this) for part in parts))


@checks_expression(exp.Boolean)
def boolean(node: exp.Expr, ctx: Context) -> Value:
    """TRUE or FALSE."""
    allow_only(node, "this")
    return Value("TRUE" if node.this else "FALSE", "boolean")


@checks_expression(exp.Null)
def null(node: exp.Expr, ctx: Context) -> Value:
    """Check ``NULL``, which has no type."""
    return Value("NULL", "null")


@checks_expression(exp.CurrentDate)
def current_date(node: exp.Expr, ctx: Context) -> Value:
    """CURRENT_DATE without parentheses."""
    allow_only(node)
    return Value("CURRENT_DATE()", "date")


@checks_expression(exp.CurrentTimestamp)
def current_timestamp(node: exp.Expr, ctx: Context) -> Value:
    """CURRENT_TIMESTAMP without parentheses."""
    allow_only(node)
    return Value("CURRENT_TIMESTAMP()", "timestamp")


@checks_expression(exp.Interval)
def interval(node: exp.Expr, ctx: Context) -> Value:
    """``INTERVAL '3' MONTH`` or ``INTERVAL '1 02:30:00' DAY TO SECOND``."""
    allow_only(node, "this", "unit")
    unit, amount = node.args.get("unit"), node.this
    negative = False
    if isinstance(amount, exp.Neg):
        negative, amount = True, amount.this
    text = str(amount.this).strip() if isinstance(amount, exp.Literal) else ""
    if isinstance(unit, exp.IntervalSpan):
        allow_only(unit, "this", "expression")
        span = unit.this.name.upper(), unit.args["expression"].name.upper()
        if not negative and span in _INTERVAL_SPANS and _INTERVAL_SPANS[span].fullmatch(text):
            return Value(f"INTERVAL '{text}' {span[0]} TO {span[1]}", "interval")
    else:
        name = unit.name.upper().rstrip("S") if isinstance(unit, exp.Var) else ""
        if name in _INTERVAL_UNITS and _INTERVAL_AMOUNT.fullmatch(text):
            number = -int(text) if negative else int(text)
            if name == "QUARTER":  # Spark has no such unit in a literal
                number, name = number * 3, "MONTH"
            return Value(f"INTERVAL '{number}' {name}", "interval")
    raise Refusal(
        "LiteralNotAllowed",
        "write an interval as INTERVAL '<whole number>' <unit>, or with one span as INTERVAL '1 02:30:00' DAY TO SECOND; "
        "add several intervals up",
        position_of(node),
    )


_TYPE_PARTS = ("this", "expressions", "nested")


@checks_expression(exp.Anonymous)
def call(node: exp.Anonymous, ctx: Context) -> Value:
    """A call of a function of the vocabulary, or a cast, whose name the lexer has marked."""
    allow_only(node, "this", "expressions")
    name = marked_name(node)
    if not name:
        raise not_listed(node)
    if name in CASTS:
        return _marked_cast(node, name, ctx)
    function = FUNCTIONS[name]
    args = node.expressions
    if not function.least <= len(args) <= function.most and not (len(args) == 1 and isinstance(args[0], exp.Distinct)):
        raise Refusal("WrongArguments", f"{name} does not take {len(args)} arguments", position_of(node))
    if function.kind == "aggregate":
        return aggregate(node, name, ctx)
    if function.kind == "window" and not ctx.in_window:
        raise Refusal("FunctionNotAllowed", f"{name} needs OVER (…)", position_of(node))
    if function.kind == "generator":
        raise Refusal("FunctionNotAllowed", f"{name} is allowed only as LATERAL VIEW {name.lower()}(…)", position_of(node))
    if function.form == "unit" and len(args) == 3:
        return _with_unit(node, name, function, ctx)
    return _scalar(node, name, function, ctx)


def _scalar(node: exp.Anonymous, name: str, function: Function, ctx: Context) -> Value:
    args = values_of(node.expressions, ctx)
    sql = f"{name}({', '.join([arg.sql for arg in args])})"
    if function.form == "conditional":
        return conditional(sql, args[:1], args[1:], node, ctx)
    degree, scale = polynomials.call(function, args)
    normalised = function.normalises_identity and all(arg.degree == 0 for arg in args[1:])
    kind = result_type(function, [arg.type for arg in args])
    out = combine(sql, kind, ATOM, args, node, degree=degree, identity=normalised, scale=scale)
    out.joinable = normalised and args[0].joinable and args[0].type == "string"  # the text of a number is another value
    out.transformed = out.transformed or (function.degree_rule == "transforms" and out.degree == 1)
    out.filled = out.filled or (function.degree_rule == "first_argument" and out.degree == 1)
    return out


def _with_unit(node: exp.Anonymous, name: str, function: Function, ctx: Context) -> Value:
    """``DATEDIFF(DAY, a, b)`` and other functions whose first argument is a unit keyword."""
    keyword = node.expressions[0]
    unit = keyword.name.upper() if isinstance(keyword, exp.Column | exp.Var) and not keyword.args.get("table") else ""
    if unit not in UNITS:
        raise Refusal("LiteralNotAllowed", f"{name} takes a unit of {', '.join(sorted(UNITS))}", position_of(node))
    for part in node.expressions[1:]:
        check_operand(part, node)
    parts = values_of(node.expressions[1:], ctx)
    kind = "long" if function.result == "integer" else function.result
    return combine(f"{name}({unit}, {parenthesised(parts[0], SUM)}, {parenthesised(parts[1], SUM)})", kind, ATOM, parts, node)


# -- casts ------------------------------------------------------------------------------------------------------------


@checks_expression(exp.Cast, exp.TryCast)
def cast(node: exp.Expr, ctx: Context) -> Value:
    """``x::type``, and casts that the lexer did not mark."""
    allow_only(node, "this", "to", "safe")
    to = node.args["to"]
    known = TYPES.get(to.this.name if isinstance(to, exp.DataType) and hasattr(to.this, "name") else "")
    if known is None or to.args.get("nested") or any(part and name not in _TYPE_PARTS for name, part in to.args.items()):
        raise Refusal("TypeNotAllowed", "a cast to this type is not allowed", position_of(node))
    sizes = [str(part.this.this) for part in to.expressions if isinstance(part, exp.DataTypeParam) and isinstance(part.this, exp.Literal)]
    if any(not size.isdecimal() for size in sizes) or len(sizes) != len(to.expressions):
        raise Refusal("TypeNotAllowed", "a cast to this type is not allowed", position_of(node))
    name, kind = known
    if name != "DECIMAL":
        sizes = []
    word = "TRY_CAST" if isinstance(node, exp.TryCast) and node.args.get("safe") else "CAST"
    return _cast(word, node.this, name, kind, sizes, node, ctx)


def _marked_cast(node: exp.Anonymous, word: str, ctx: Context) -> Value:
    """``CAST(x AS type)``, which the lexer turned into a call with the type as its second argument."""
    if len(node.expressions) != 2 or not isinstance(node.expressions[1], exp.Literal):
        raise Refusal("WrongArguments", f"{word} takes one value AS a type", position_of(node))
    written, _, inside = str(node.expressions[1].this).partition("(")
    name, kind = TYPES[written]
    sizes = inside.rstrip(")").split(", ") if inside and name == "DECIMAL" else []
    return _cast(word, node.expressions[0], name, kind, sizes, node, ctx)


def _cast(word: str, operand: exp.Expr, name: str, kind: str, sizes: list[str], node: exp.Expr, ctx: Context) -> Value:
    part = value_of(operand, ctx)
    exact = polynomials.keeps_value(word, part.type, kind, sizes)
    spark_type = f"{name}({', '.join(sizes)})" if sizes else name
    return combine(
        f"{word}({part.sql} AS {spark_type})",
        kind,
        ATOM,
        [part],
        node,
        degree=part.degree if exact else None,
        identity=kind == "string",
        scale=part.scale if exact else math.inf,
    )


# -- forms with keywords ----------------------------------------------------------------------------------------------


@checks_expression(exp.Extract)
def extract(node: exp.Expr, ctx: Context) -> Value:
    """``EXTRACT(field FROM x)``."""
    allow_only(node, "this", "expression")
    field = str(node.this.name if isinstance(node.this, exp.Expr) else node.this).upper()
    if field not in EXTRACT_FIELDS:
        raise Refusal("LiteralNotAllowed", f"EXTRACT takes a field of {', '.join(sorted(EXTRACT_FIELDS))}", position_of(node))
    part = value_of(node.args["expression"], ctx)
    return combine(f"EXTRACT({field} FROM {parenthesised(part, SUM)})", "decimal" if field == "SECOND" else "integer", ATOM, [part], node)


@checks_expression(exp.Substring)
def substring(node: exp.Expr, ctx: Context) -> Value:
    """``SUBSTRING(x FROM 1 FOR 2)``, rendered as an ordinary call."""
    return _call_of_parts("SUBSTRING", "string", node, ("this", "start", "length"), ctx)


@checks_expression(exp.Overlay)
def overlay(node: exp.Expr, ctx: Context) -> Value:
    """``OVERLAY(x PLACING y FROM 1 FOR 2)``, rendered as an ordinary call."""
    return _call_of_parts("OVERLAY", "string", node, ("this", "expression", "from_", "for_"), ctx)


@checks_expression(exp.StrPosition)
def position_in(node: exp.Expr, ctx: Context) -> Value:
    """``POSITION('a' IN x)``, rendered as ``LOCATE('a', x)``."""
    return _call_of_parts("LOCATE", "integer", node, ("substr", "this"), ctx)


def _call_of_parts(name: str, kind: str, node: exp.Expr, names: tuple[str, ...], ctx: Context) -> Value:
    allow_only(node, *names)
    parts = values_of([node.args[part] for part in names if node.args.get(part) is not None], ctx)
    return combine(f"{name}({', '.join(part.sql for part in parts)})", kind, ATOM, parts, node)


@checks_expression(exp.Trim)
def trim(node: exp.Expr, ctx: Context) -> Value:
    """``TRIM(BOTH y FROM x)``."""
    allow_only(node, "this", "expression", "position")
    side = str(node.args.get("position") or "BOTH").upper()
    text, characters = values_of((node.this, node.args["expression"]), ctx)
    if side not in ("BOTH", "LEADING", "TRAILING"):
        raise Refusal("ClauseNotAllowed", "TRIM takes BOTH, LEADING or TRAILING", position_of(node))
    return combine(
        f"TRIM({side} {parenthesised(characters, SUM)} FROM {parenthesised(text, SUM)})", "string", ATOM, [text, characters], node
    )


@checks_expression(exp.Bracket)
def element(node: exp.Expr, ctx: Context) -> Value:
    """``SPLIT(text, sign)[0]`` and ``ELEMENT_AT(SPLIT(text, sign), 1)``: the type of an element of other arrays is not known."""
    allow_only(node, "this", "expressions", "offset", "safe")
    array, offset, safe = node.this, node.args.get("offset"), node.args.get("safe")
    index = node.expressions[0] if len(node.expressions) == 1 else None
    if marked_name(array) != "SPLIT" or not isinstance(index, exp.Literal | exp.Neg):
        raise Refusal("ExpressionNotAllowed", "[…] and element_at take split(…) and a whole number", position_of(node))
    parts = values_of((array, index), ctx)
    if parts[1].type != "integer":
        raise Refusal("TypeNotAllowed", "the index of an element is a whole number", position_of(node))
    if offset == 1:
        text = f"{'TRY_' if safe else ''}ELEMENT_AT({parts[0].sql}, {parts[1].sql})"
    elif offset in (None, 0) and not safe:
        text = f"{parts[0].sql}[{parts[1].sql}]"
    else:
        raise Refusal("ExpressionNotAllowed", "this form of element access is not allowed", position_of(node))
    return combine(text, "string", ATOM, parts, node)
