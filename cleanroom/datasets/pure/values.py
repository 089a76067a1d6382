"""Values of a dataset's types, from their text."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from typing import Any, Final

from cleanroom.documents.dataset import FieldType

_INTEGER: Final = re.compile(r"-?[0-9]+", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_NOT_FINITE: Final = re.compile(r"-?(?:nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)(Z|[+-][0-9]{2}:?[0-9]{2})?", re.ASCII
)
_BOOLEANS: Final = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False, "1": True, "0": False}
INTEGER_LIMITS: Final = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        # Python converts no longer text, and no number of 64 bits has as many digits.
        if not _INTEGER.fullmatch(text) or len(text) > 4000 or not low <= (value := int(text)) <= high:
            raise ValueError
        return value

    return read


def _number(text: str) -> float:
    if _NOT_FINITE.fullmatch(text):
        return float(text)
    if not _NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[text]


def _date(text: str) -> dt.date:
    if not _DAY.fullmatch(text):
        raise ValueError
    return dt.date.fromisoformat(text)


def _timestamp(text: str) -> dt.datetime:
    if _DAY.fullmatch(text):
        day = dt.date.fromisoformat(text)
        return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError
    date, time, zone = found.groups()
    whole, _, fraction = time.partition(".")
    try:
        parsed = dt.datetime.fromisoformat(f"{date}T{whole}" + (f".{fraction:0<6}" if fraction else "") + (zone or "Z"))
        return parsed.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError from error


READERS: Final[dict[FieldType, Callable[[str], Any]]] = {
    "string": str,
    "integer": _integer(*INTEGER_LIMITS["integer"]),
    "long": _integer(*INTEGER_LIMITS["long"]),
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
}
"""By type, the function that returns the value of a text, or raises ``ValueError``."""
