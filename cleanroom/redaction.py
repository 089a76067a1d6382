"""The last guard before a text leaves the process in an error: length cap, and removal of what looks like a credential.

It is a guard, not a licence: errors are written without secrets in the first place (:mod:`cleanroom.errors`). It exists for upstream
texts, which quote URLs with signatures and headers with tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_TEXT = 8000
_REMOVED = "[removed]"
# Every pattern starts where a word starts and is bounded or scans a class once: hostile text costs linear time.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S), _REMOVED),
    # JWS and JWE
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){1,4}"), _REMOVED),
    (re.compile(r"(?i)\b(bearer|basic|sharedkey|negotiate)\s{1,4}[A-Za-z0-9+/=._~:-]{8,}"), rf"\1 {_REMOVED}"),
    # user:password@host
    (re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{1,20}://)[^/\s@:]{1,200}:[^/\s@]{1,500}@"), rf"\1{_REMOVED}@"),
)
_ASSIGNMENT = re.compile(r"(?<![\w.-])([\w-]{1,64})([\"']?\s{0,3}[=:]\s{0,3}[\"']?)([^\s\"'&,;}]{4,})")
"""name=value, name: value, "name": "value"; the name decides."""
_SECRET_ASSIGNMENT = re.compile(
    r"(?i)secret|password|passwd|pwd|accountkey|sharedaccess(?:key|signature)|api[_-]?key|access[_-]?key|private[_-]?key|client[_-]?assertion|"
    r"(?:access|refresh|id|session|security)[_-]?token|connectionstring|x-amz-(?:signature|credential)|\A(?:sig|kek|dek)\Z"
)
_SECRET_NAME = re.compile(
    r"(?:^|[_-]|(?<=[a-z0-9])(?=[A-Z]))"
    r"(?i:secret|password|passwd|pwd|token|assertion|credentials?|dek|kek|private_?key|account_?key|connection_?string)$"
)
"""Names of values, in snake_case, kebab-case or camelCase, that are not told."""


def redact(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` without anything that looks like a credential, at most ``limit`` characters."""
    # Cut first: the patterns then run on a bounded text. Twice the limit, so that what is cut off cannot expose half of a match.
    text = text[: 2 * limit]
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    text = _ASSIGNMENT.sub(lambda match: f"{match[1]}{match[2]}{_REMOVED}" if _SECRET_ASSIGNMENT.search(match[1]) else match[0], text)
    return text if len(text) <= limit else text[: limit - 14] + "… [truncated]"


def redact_details(value: Any, depth: int = 6) -> Any:
    """A JSON-able copy of ``value``: texts redacted, values under secret names removed, everything bounded in depth and size."""
    if depth == 0:
        return "…"
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            str(key)[:200]: _REMOVED if _SECRET_NAME.search(str(key)) and isinstance(item, str | bytes) else redact_details(item, depth - 1)
            for key, item in list(value.items())[:200]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_details(item, depth - 1) for item in list(value)[:200]]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return redact(str(value))
