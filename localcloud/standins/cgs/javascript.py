"""What the governance application's JavaScript does where Python differs: ``undefined``, truthiness, member access, JSON."""

from __future__ import annotations

import json
from typing import Any


class Crash(Exception):
    """What the original does not guard against: its JavaScript throws and CCF answers 500 ``InternalError``."""


class _Missing:
    """JavaScript's ``undefined``: falsy, and left out of JSON."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Missing()


def member(value: Any, name: str) -> Any:
    """``value.name`` as JavaScript reads it: ``null`` and ``undefined`` throw, other non-objects have no such member."""
    if value is None or value is UNDEFINED:
        raise Crash(f"cannot read {name} of {value}")
    return value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED


def truthy(value: Any) -> bool:
    """JavaScript truthiness: empty objects and arrays are true; ``NaN`` cannot occur in JSON."""
    return True if isinstance(value, dict | list) else bool(value)


def omit_undefined(**members: Any) -> dict[str, Any]:
    """A JSON object without its undefined members, in the order given."""
    return {name: value for name, value in members.items() if value is not UNDEFINED}


MAX_NESTING = 200
"""Levels of arrays and objects. What is stored is read again from deeper in the stack, so the interpreter's own limit would be too late."""


def parse_json(raw: bytes | str) -> Any:
    """Strict JSON (no NaN, at most :data:`MAX_NESTING` levels); anything else is a :class:`Crash`."""

    def refuse(token: str) -> Any:
        raise ValueError(token)

    try:
        value = json.loads(raw, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Crash("the body is not JSON") from error
    opening = raw.count(b"[") + raw.count(b"{") if isinstance(raw, bytes) else raw.count("[") + raw.count("{")
    if opening > MAX_NESTING and _levels(value) > MAX_NESTING:
        raise Crash("the body is nested too deeply")
    return value


def _levels(value: Any) -> int:
    level, inside = 0, [value]
    while inside := [
        item for holder in inside if isinstance(holder, dict | list) for item in (holder.values() if isinstance(holder, dict) else holder)
    ]:
        level += 1
    return level
