"""Base64url and JSON: strict for signed content, tolerant where services disagree."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Any, NoReturn

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


def b64url(data: bytes) -> str:
    """Encode as unpadded base64url (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_strict(text: str) -> bytes:
    """Decode canonical unpadded base64url, of which every byte string has exactly one.

    The standard library drops foreign characters and ignores the unused bits of the last character, so several texts decode to the same
    signature. A signed text must not be malleable.

    Raises:
        ValueError: The text has padding, foreign characters or non-zero unused bits.
    """
    if not _BASE64URL.match(text):
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if b64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def b64_any(text: str) -> bytes:
    """Decode base64 or base64url, padded or not: Azure's SDKs and scripts differ.

    Raises:
        ValueError: The text is neither.
    """
    stripped = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    if not _BASE64URL.match(stripped):
        raise ValueError("neither base64 nor base64url")
    try:
        return base64.urlsafe_b64decode(stripped + "=" * (-len(stripped) % 4))
    except binascii.Error as error:
        raise ValueError("neither base64 nor base64url") from error


def b64uint(value: int) -> str:
    """Encode a non-negative integer as base64url of its big-endian bytes (RFC 7518 section 2)."""
    return b64url(value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def strict_json(data: bytes | str) -> Any:
    """Parse JSON, and reject forms that parsers interpret differently: duplicate members, non-finite numbers, lone surrogates.

    Raises:
        ValueError: The JSON is malformed, ambiguous or nested too deeply.
    """

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(members)
        if len(result) != len(members):
            raise ValueError("duplicate member names")
        return result

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is out of range")
        return value

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
        compact_json(value)
    except (UnicodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
    return value


def compact_json(value: Any) -> bytes:
    """Encode as JSON without white space, with members in the given order, as UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
