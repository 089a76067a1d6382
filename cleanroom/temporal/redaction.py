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
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), _REMOVED),
    # JWS, JWE and bearer tokens
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]+){1,4}"), _REMOVED),
    (re.compile(r"(?i)\b(bearer|basic|sharedkey|negotiate)\s+[A-Za-z0-9+/=._~:-]{8,}"), rf"\1 {_REMOVED}"),
    # user:password@host
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@:]+:[^/\s@]+@"), rf"\1{_REMOVED}@"),
    # name=value, name: value, "name": "value"
    (
        re.compile(
            r"(?i)\b((?:[a-z0-9_-]*(?:secret|password|passwd|pwd|accountkey|sharedaccess(?:key|signature)|api[_-]?key|access[_-]?key|private[_-]?key|"
            r"client[_-]?assertion|access[_-]?token|refresh[_-]?token|id[_-]?token|session[_-]?token|connectionstring)[a-z0-9_-]*|sig|"
            r"x-amz-(?:signature|credential|security-token)|kek|dek)[\"']?\s*[=:]\s*[\"']?)([^\s\"'&,;}]{4,})"
        ),
        rf"\1{_REMOVED}",
    ),
)
_SECRET_NAME = re.compile(
    r"(?i)(^|[_-])(secret|password|passwd|pwd|token|assertion|credential|credentials|dek|kek|private_?key|account_?key|connection_?string)$"
)


def redact(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` without anything that looks like a credential, at most ``limit`` characters."""
    # Cut first: the patterns then run on a bounded text. Twice the limit, so that what is cut off cannot expose half of a match.
    text = text[: 2 * limit]
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
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
