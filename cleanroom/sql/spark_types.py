"""Types of expressions, as verdicts name them.

The names are those of dataset documents (``string integer number boolean date long timestamp``; ``number`` is a double) and
``float decimal smallint tinyint array interval null unknown``. They describe results to readers and decide which functions take
an argument; they never decide a value.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.sql.vocabulary import Function

NUMERIC = ("number", "float", "decimal", "long", "integer", "smallint", "tinyint")
"""Types of numbers, the widest first."""
WHOLE = ("integer", "long", "smallint", "tinyint", "null")
"""Types that bitwise operators accept."""
_TIMES = frozenset({"date", "timestamp"})


def widest(types: Sequence[str]) -> str:
    """The common type of several expressions, following Spark's coercion rules approximately."""
    known = [kind for kind in types if kind not in ("null", "unknown")]
    if not known:
        return types[0] if types else "null"
    if len(set(known)) == 1:
        return known[0]
    for kind in NUMERIC:
        if kind in known and all(other in NUMERIC for other in known):
            return "number" if kind == "float" and "decimal" in known else kind
    if set(known) <= _TIMES:
        return "timestamp"
    return "string" if "string" in known else known[0]


def arithmetic_type(operator: str, left: str, right: str) -> str:
    """Type of ``left operator right``, for the operators ``+ - * / % DIV``."""
    if operator == "DIV":
        return "long"
    types = {left, right}
    if types & _TIMES:
        if operator == "-" and len(types) == 1:
            return "interval"
        return "timestamp" if "timestamp" in types else "date"
    if "interval" in types:
        return "interval"
    if operator == "/":
        return "decimal" if "decimal" in types and "number" not in types and "string" not in types else "number"
    out = widest([left, right])
    return "number" if out in ("string", "null", "unknown") else out


def result_type(function: Function, types: Sequence[str]) -> str:
    """Type of a call of ``function`` with arguments of ``types``."""
    match function.result:
        case "first":
            return types[0] if types else "unknown"
        case "all":
            return widest(types)
        case "rest":
            return widest(types[1:])
        case "decode":
            return widest([*types[2::2], *(types[-1:] if len(types) % 2 == 0 else [])])
        case "sum":
            first = types[0]
            return {"decimal": "decimal", "number": "number", "float": "number"}.get(first, "long" if first in NUMERIC else "number")
    return function.result
