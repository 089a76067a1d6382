"""What an aggregate over protected rows may compute: polynomials of columns with constants of ordinary size.

A sum of columns and their products is a moment of a group. A huge constant would make it more than that: ``(x + 1e16) - 1e16`` rounds,
and differences of roundings pick out single rows. So each expression carries its degree and its *weight*, the largest factor
(or inverse of one) by which its constants scale a column.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from sqlglot import exp

from cleanroom.sql.values import Value

MAX_DEGREE = 3
"""Sums of products of up to three columns (``price * (1 - discount) * (1 + tax)``): moments, not indicators of single rows."""
LARGEST_FACTOR = 1_000_000
"""Constants above this in an aggregate over protected rows could hide or single out rows by rounding or overflow."""

_FOLD: dict[type[exp.Expr], Callable[[float, float], float]] = {
    exp.Add: operator.add,
    exp.Sub: operator.sub,
    exp.Mul: operator.mul,
    exp.Div: operator.truediv,
}


def weight_of(number: float) -> float:
    """The weight of a constant: the larger of it and its inverse."""
    return max(abs(number), 1 / abs(number)) if number else 1.0


def polynomial(kind: type[exp.Expr], left: Value, right: Value) -> tuple[int | None, float, float | None]:
    """Degree, weight and (of a constant) number of ``left kind right``; no degree where it is none or a constant is extreme."""
    if left.number is not None and right.number is not None and kind in _FOLD and (kind is not exp.Div or right.number):
        try:
            number = _FOLD[kind](left.number, right.number)
            weight = weight_of(number)
        except OverflowError:
            return None, math.inf, None
        return 0 if weight <= LARGEST_FACTOR else None, weight, number
    if left.degree is None or right.degree is None:
        return None, math.inf, None
    if kind in (exp.Add, exp.Sub):
        degree, weight = max(left.degree, right.degree), max(left.weight, right.weight)
    elif kind is exp.Mul:
        degree, weight = left.degree + right.degree, left.weight * right.weight
    elif kind is exp.Div and right.number:
        degree, weight = left.degree, left.weight * right.weight
    else:
        return None, math.inf, None
    return (degree if degree <= MAX_DEGREE and weight <= LARGEST_FACTOR else None), weight, None
