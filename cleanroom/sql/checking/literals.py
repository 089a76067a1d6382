"""Constants: numbers, strings, NULL, dates and intervals."""

from __future__ import annotations

import math
import re

from sqlglot import exp

from cleanroom.sql.checking.dispatch import checks_expression
from cleanroom.sql.checking.nodes import allow_only, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.privacy.polynomials import LARGEST_FACTOR, scale_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import text_literal
from cleanroom.sql.text.characters import strip_invisible

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
