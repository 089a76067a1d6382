"""Constants: texts, numbers, dates, intervals, TRUE, FALSE and NULL."""

from __future__ import annotations

import datetime
import re

from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import text_literal
from cleanroom.sql.text.remedies import CONSTRUCTS, outside_language
from cleanroom.sql.text.tokens import NUMBER, TEXT

_NUMBER = re.compile(r"[0-9]{1,38}(\.[0-9]{0,38})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,38}([eE][+-]?[0-9]{1,3})?")
_INTERVAL_UNITS = ("YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND")
CONSTANTS = {
    "NULL": ("NULL", "null"), "TRUE": ("TRUE", "boolean"), "FALSE": ("FALSE", "boolean"), "CURRENT_DATE": ("CURRENT_DATE()", "date"),
    "CURRENT_TIMESTAMP": ("CURRENT_TIMESTAMP()", "timestamp"),
}  # fmt: skip
_DAY = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")
_MOMENT = re.compile(
    _DAY.pattern + r"(?:[ T]([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2})(?:\.[0-9]{1,9})?)?(?: ?(?:Z|UTC|[+-][0-9]{2}:[0-9]{2}))?)?"
)
_DATES = {"DATE": (_DAY, "YYYY-MM-DD"), "TIMESTAMP": (_MOMENT, "YYYY-MM-DD HH:MM:SS")}


def string(ctx: Context) -> Value:
    """A text in quotes."""
    return Value(text_literal(ctx.text.string()), "string")


def raw(ctx: Context) -> None:
    """Refuse ``r'…'``."""
    if ctx.text.kinds[ctx.text.at + 1] == TEXT:
        raise outside_language("ExpressionNotAllowed: r'…'; write \\\\ for each backslash", ctx.text.position())


def number(ctx: Context) -> Value:
    """A number without a sign."""
    text = ctx.text.values[ctx.text.at]
    if text.isdecimal() and len(text) < 6:
        ctx.text.at += 1
        number = float(text)
        return Value(text, "integer", constant=number)
    if not _NUMBER.fullmatch(text):
        if text[-1].isalpha():
            raise outside_language(CONSTRUCTS["::"], ctx.text.position())
        raise Refusal("LiteralNotAllowed", f"{text[:40]!r} is not an allowed number")
    ctx.text.at += 1
    number = float(text)
    text = f"0{text}" if text.startswith(".") else text
    kind = "number" if "e" in text.lower() else "decimal" if "." in text else "integer" if int(text) < 2**31 else "long"
    return Value(text, kind, constant=number)


def constant(ctx: Context) -> Value | None:
    """TRUE, FALSE, NULL, CURRENT_DATE and CURRENT_TIMESTAMP."""
    text = ctx.text
    if text.kinds[text.at + 1] == "(":
        return None
    text.at += 1
    return Value(*CONSTANTS[text.kinds[text.at - 1]])


def date(ctx: Context) -> Value | None:
    """``DATE '2024-01-31'`` and ``TIMESTAMP '2024-01-31 10:00:00'``."""
    text = ctx.text
    if text.kinds[text.at + 1] not in (TEXT, NUMBER):
        return None
    name = text.kinds[text.at]
    pattern, form = _DATES[name]
    text.at += 1
    written = text.string() if text.kinds[text.at] == TEXT else ""
    found = pattern.fullmatch(written) if text.kinds[text.at] != TEXT else None
    try:
        datetime.datetime(*(int(part) for part in (found.groups() if found else ()) if part))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise Refusal("LiteralNotAllowed", f"{name} takes one text of the form '{form}'") from None
    return Value(f"CAST({text_literal(written)} AS {name})", name.lower())


def interval(ctx: Context) -> Value | None:
    """``INTERVAL 3 DAYS`` and ``INTERVAL '3' MONTH``."""
    text = ctx.text
    if text.kinds[text.at + 1] not in (TEXT, NUMBER, "(", "-", "+"):
        return None
    text.at += 1
    if "TO" in text.kinds[text.at + 1 : text.at + 3]:
        raise outside_language("ExpressionNotAllowed: an interval of several units; write their sum", text.position())
    words = (text.string() if text.kinds[text.at] == TEXT else text.values[text.at]).split()
    if text.kinds[text.at] == NUMBER:
        text.at += 1
    if len(words) == 1:
        words.append(text.values[text.at])
        text.at += 1
    name = words[1].upper().rstrip("S") if len(words) == 2 else ""
    if name not in _INTERVAL_UNITS or not re.fullmatch("-?[0-9]{1,9}", words[0]):
        how = f"write an interval as INTERVAL '<whole number>' <unit>, with one of the units {', '.join(_INTERVAL_UNITS)}; add several up"
        raise Refusal("LiteralNotAllowed", how)
    return Value(f"INTERVAL '{int(words[0])}' {name}", "interval")
