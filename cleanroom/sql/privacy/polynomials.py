"""Which expressions an aggregate over protected rows may take: a column, a function of one, or a product of two.

Such a sum is a moment of a group. Constants could make it more than that: ``(x + 1e16) - 1e16`` rounds, and differences of roundings
single out rows. Sums and constant factors therefore stand outside of the aggregate. Each expression carries its *degree*, the number of
columns that it multiplies. It is 0 for a constant, and None for any other expression.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cleanroom.sql.model import Value
from cleanroom.sql.vocabulary import NUMERIC, Function

_COLUMN = re.compile("`[^`]*`([.]`[^`]*`)?|[a-z]+[.][a-z]+")


def product(left: Value, right: Value) -> int | None:
    """Degree of the product of two columns, or of products of columns."""
    if not left.degree or not right.degree or left.transformed or right.transformed or left.flag or right.flag:
        return None
    return left.degree + right.degree


def factors_of(value: Value) -> tuple[str, ...]:
    """What a product multiplies; a column is its own factor."""
    return value.factors or (() if value.degree == 0 else (value.sql,))


def highest_degree(values: Sequence[Value]) -> int | None:
    """The degree of an expression that takes one of ``values``."""
    if any(value.degree is None for value in values):
        return None
    return max((value.degree or 0 for value in values), default=None)


def call(function: Function, args: Sequence[Value]) -> int | None:
    """Degree of a call of a scalar function."""
    columns = [arg for arg in args if arg.degree != 0]
    others = [arg.constant for arg in args if arg.degree == 0]
    # Of a column only: LN(x - 30) would count the rows above 30.
    single = len(columns) == 1 and columns[0].degree == 1 and _COLUMN.fullmatch(columns[0].sql) is not None
    match function.degree_rule:
        case "first_argument":
            allowed = args[0].plain and all(number == 0 for number in others) and len(others) == len(args) - 1
        case "transforms":
            allowed = single and None not in others
        case "rounds":
            allowed = single and all(number is not None and number >= 0 for number in others)  # to tens, it would count rows
        case "days_between":
            allowed = all(arg.type == "date" and arg.degree is not None for arg in args)
        case _:
            allowed = False
    return highest_degree(args) if allowed else None


def keeps_value(word: str, source: str, target: str) -> bool:
    """Whether a cast between two types never fails and never gives NULL, which would tell some rows from the others."""
    return word == "CAST" and target == "number" and source in NUMERIC
