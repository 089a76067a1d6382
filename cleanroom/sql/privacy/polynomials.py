"""Which expressions an aggregate over protected rows may take: polynomials of columns with constants of ordinary size.

A sum of columns and of products of columns is a moment of a group. A huge constant would make it more than that: ``(x + 1e16) - 1e16``
rounds, and differences of roundings single out rows. Each expression therefore carries its *degree*, the largest number of columns
that it multiplies, and its *scale*, the largest constant factor (or inverse of one) by which it scales a column. The degree is None
if the expression is not a polynomial or its scale is extreme.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence

from cleanroom.sql.model import Term, Value
from cleanroom.sql.vocabulary import Function

MAX_DEGREE = 3
"""Largest number of columns in a product (``price * (1 - discount) * (1 + tax)``)."""
LARGEST_FACTOR = 1_000_000
"""Largest scale. Larger constants could hide or single out rows by rounding or overflow."""

_CONSTANT_FOLDING: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_COLUMN = re.compile("`[^`]*`([.]`[^`]*`)?|[a-z]+[.][a-z]+")
WHOLE = ("integer", "long", "smallint", "tinyint")
"""Types of whole numbers."""
_INTEGER_DIGITS = 10
_LONG_DIGITS = 19


def scale_of(number: float) -> float:
    """The scale of a constant: the larger of its absolute value and the inverse of that."""
    return max(abs(number), 1 / abs(number)) if number else 1.0


def arithmetic(symbol: str, left: Value, right: Value) -> tuple[int | None, float, float | None]:
    """Degree, scale and (for a constant) numeric value of ``left symbol right``."""
    fold = _CONSTANT_FOLDING.get(symbol)
    if left.constant is not None and right.constant is not None and fold is not None and (symbol != "/" or right.constant):
        try:
            number = fold(left.constant, right.constant)
            scale = scale_of(number)
        except OverflowError:
            return None, math.inf, None
        return 0 if scale <= LARGEST_FACTOR else None, scale, number
    if left.degree is None or right.degree is None:
        return None, math.inf, None
    if symbol in ("+", "-"):
        degree, scale = max(left.degree, right.degree), max(left.scale, right.scale)
    elif symbol == "*" and (left.transformed or right.transformed or left.flag or right.flag) and left.degree and right.degree:
        return None, math.inf, None
    elif symbol == "*":
        degree, scale = left.degree + right.degree, left.scale * right.scale
    elif symbol == "/" and right.constant:
        degree, scale = left.degree, left.scale * right.scale
    else:
        return None, math.inf, None
    return (degree if degree <= MAX_DEGREE and scale <= LARGEST_FACTOR else None), scale, None


def terms_of(value: Value) -> frozenset[Term]:
    """The terms of a polynomial."""
    return value.terms or frozenset([() if value.degree == 0 else (value.sql,)])


def terms(symbol: str, left: Value, right: Value) -> frozenset[Term]:
    """The terms of ``left symbol right``, if that is a polynomial."""
    if symbol in ("+", "-"):
        return terms_of(left) | terms_of(right)
    return frozenset([tuple(sorted(one + two)) for one in terms_of(left) for two in (terms_of(right) if symbol == "*" else [()])])


def mixes(symbol: str, left: Value, right: Value) -> bool:
    """Whether ``left symbol right`` is a sum of several terms, which another aggregate could take apart."""
    return symbol in ("+", "-") and not (left.degree == 0 and right.degree == 0)


def may_overflow(symbol: str, type: str, degree: int | None) -> bool:
    """Whether ``left symbol right`` of a type fails if a column has a large value. A constant is too small to exceed a decimal."""
    return symbol in "+-*" and ((degree != 0 and type in WHOLE) or (type == "decimal" and degree != 0 and degree != 1))


def highest_degree(values: Sequence[Value]) -> int | None:
    """The degree of an expression that takes one of ``values``."""
    if any(value.degree is None for value in values):
        return None
    return max((value.degree or 0 for value in values), default=None)


def call(function: Function, args: Sequence[Value]) -> tuple[int | None, float]:
    """Degree and scale of a call of a scalar function."""
    if function.degree_rule == "first_argument" and all(arg.constant == 0 for arg in args[1:]) and args[0].plain:
        return args[0].degree, args[0].scale
    columns = [arg for arg in args if arg.degree != 0]
    # Of a column only: LN(x - 30) would count the rows above 30.
    single = len(columns) == 1 and columns[0].degree == 1 and not columns[0].mixed and _COLUMN.fullmatch(columns[0].sql) is not None
    if function.degree_rule == "transforms" and single and all(arg is columns[0] or arg.constant is not None for arg in args):
        return 1, columns[0].scale
    if function.degree_rule == "rounds" and single and all((arg.constant or 0) >= 0 for arg in args[1:]):  # to tens, it would count rows
        return 1, columns[0].scale
    if function.degree_rule == "days_between" and all(arg.type == "date" for arg in args):
        degree = highest_degree(args)
        if degree is not None:
            return degree, 1.0
    return None, math.inf


def keeps_value(word: str, source: str, target: str, sizes: Sequence[str]) -> bool:
    """Whether a cast (``CAST`` or ``TRY_CAST``) between two types is exact for every value.

    A cast that fails or gives NULL for some rows tells them from the others. ``sizes`` are precision and scale of a decimal result.
    """
    numeric = target in ("number", "decimal", "long") and source in ("number", "decimal", "long", "integer")
    digits = int(sizes[0]) - int((*sizes, "0")[1]) if sizes else _INTEGER_DIGITS
    narrow = target == "decimal" and digits < (_INTEGER_DIGITS if source == "integer" else _LONG_DIGITS)
    inexact = target in ("long", "decimal") and source in ("number", "decimal")
    return numeric and word == "CAST" and not narrow and not inexact
