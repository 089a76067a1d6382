"""JavaScript semantics that the governance application relies on: ``undefined``, truthiness, member access, JSON."""

from __future__ import annotations

import json
import math
from typing import Any


class Crash(Exception):
    """An uncaught exception in the original's JavaScript; CCF answers 500 ``InternalError``, and nothing is written."""


class _Missing:
    """JavaScript's ``undefined``: falsy, and omitted from JSON."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Missing()


def member(value: Any, name: str) -> Any:
    """Return ``value.name``. ``null`` and ``undefined`` throw; other values that are not objects have no members."""
    if value is None or value is UNDEFINED:
        raise Crash(f"cannot read {name} of {value}")
    return value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED


def truthy(value: Any) -> bool:
    """Whether a JSON value is truthy in JavaScript: empty objects and arrays are."""
    return True if isinstance(value, dict | list) else bool(value)


def omit_undefined(**members: Any) -> dict[str, Any]:
    """Return a JSON object of the members that are defined, in the given order."""
    return {name: value for name, value in members.items() if value is not UNDEFINED}


MAX_NESTING = 200
"""Maximum nesting of arrays and objects. Stored values are parsed again deeper in the stack, so the interpreter's limit is too high."""


def parse_json(raw: bytes | str) -> Any:
    """Parse strict JSON: no NaN, at most :data:`MAX_NESTING` levels.

    Raises:
        Crash: The text is anything else.
    """

    def refuse(token: str) -> Any:
        raise ValueError(token)

    try:
        value = json.loads(raw, parse_constant=refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Crash("the body is not JSON") from error
    opening = raw.count(b"[") + raw.count(b"{") if isinstance(raw, bytes) else raw.count("[") + raw.count("{")
    if opening > MAX_NESTING and _levels(value) > MAX_NESTING:
        raise Crash("the body is nested too deeply")
    return value


def _finite(text: str) -> float | None:
    """Numbers beyond the range are infinite in JavaScript, and ``null`` when they are stored as JSON."""
    value = float(text)
    return value if math.isfinite(value) else None


def _levels(value: Any) -> int:
    level, inside = 0, [value]
    while inside := [
        item for holder in inside if isinstance(holder, dict | list) for item in (holder.values() if isinstance(holder, dict) else holder)
    ]:
        level += 1
    return level
