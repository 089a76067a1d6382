"""The last guard before an error's text leaves the process: removes what looks like a credential, and limits the length.

Errors are written without secrets in the first place (:mod:`cleanroom.errors`). This guard is for upstream texts, which quote URLs with
signatures and headers with tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_TEXT = 8000
"""Longest text in characters."""
_REMOVED = "[removed]"
# Every pattern is anchored at the start of a word, and is bounded or scans one character class, so that hostile text takes linear time.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S), _REMOVED),
    # JWS and JWE
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){1,4}"), _REMOVED),
    (re.compile(r"(?i)\b(bearer|basic|sharedkey|negotiate)\s{1,4}[A-Za-z0-9+/=._~:-]{8,}"), rf"\1 {_REMOVED}"),
    # user:password@host
    (re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{1,20}://)[^/\s@:]{1,200}:[^/\s@]{1,500}@"), rf"\1{_REMOVED}@"),
)
_ASSIGNMENT = re.compile(r"(?<![\w.-])([\w-]{1,64})([\"']?\s{0,3}[=:]\s{0,3}[\"']?)([^\s\"'&,;}]{4,})")
"""``name=value``, ``name: value`` and ``"name": "value"``. The name decides whether the value is removed."""
_SECRET_ASSIGNMENT = re.compile(
    r"(?i)secret|password|passwd|pwd|accountkey|sharedaccess(?:key|signature)|api[_-]?key|access[_-]?key|private[_-]?key|client[_-]?assertion|"
    r"(?:access|refresh|id|session|security)[_-]?token|connectionstring|x-amz-(?:signature|credential)|\A(?:sig|kek|dek)\Z"
)
_SECRET_NAME = re.compile(
    r"(?:^|[_-]|(?<=[a-z0-9])(?=[A-Z]))"
    r"(?i:secret|password|passwd|pwd|token|assertion|credentials?|dek|kek|private_?key|account_?key|connection_?string)$"
)
"""Names in snake_case, kebab-case or camelCase whose values are removed."""


def redact(text: str, limit: int = MAX_TEXT) -> str:
    """Return ``text`` without anything that looks like a credential, cut at ``limit`` characters."""
    # Cut first, so that the patterns run on bounded text. At twice the limit, so that half of a match is not exposed at the final cut.
    text = text[: 2 * limit]
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    text = _ASSIGNMENT.sub(lambda match: f"{match[1]}{match[2]}{_REMOVED}" if _SECRET_ASSIGNMENT.search(match[1]) else match[0], text)
    return text if len(text) <= limit else text[: limit - 14] + "… [truncated]"


def redact_details(value: Any, depth: int = 6) -> Any:
    """Return a JSON copy of ``value`` with redacted texts, without values of secret names, and with limited depth and size."""
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
