"""Makes one text out of several parts, so that different parts never give the same text.

``f"{a}-{b}"`` gives one text for ("flights-eu", "prices") and for ("flights", "eu-prices"), and a text that is truncated loses
what distinguishes it. Every name that this project derives from several parts is therefore made here.
"""

from __future__ import annotations

import base64
import hashlib
import re

import rfc8785

from cleanroom.errors import InvalidInput

DIGEST_CHARACTERS = 26
"""Base32 characters in a :func:`hashed` name: 130 bits, so that a search cannot find two sets of parts with one name."""


def joined(separator: str, *parts: str) -> str:
    """Return the parts with ``separator`` between them. The result shows its parts, which it also determines.

    Raises:
        InvalidInput: ``InvalidName`` if a part is empty or contains the separator, because the result would be ambiguous.
    """
    for part in parts:
        if not part or separator in part:
            raise InvalidInput(
                "InvalidName",
                f"name: {part!r} cannot be a part of a name whose parts are separated by {separator!r}.",
                hint=f"A part has at least one character and does not contain {separator!r}.",
            )
    return separator.join(parts)


def parts_digest(kind: str, *parts: str) -> bytes:
    """Return the SHA-256 of ``kind`` and the parts in canonical JSON (RFC 8785)."""
    return hashlib.sha256(rfc8785.dumps([kind, *parts])).digest()


def hashed(kind: str, *parts: str, prefix: str, max_length: int, readable: str = "") -> str:
    """Return ``<prefix>-<readable>-<digest>`` of lower-case letters, digits and single dashes, for systems that restrict names.

    Args:
        kind: What the name is for. Names of different kinds differ, also for the same parts.
        parts: What the name is derived from. The digest covers all of them, in order.
        prefix: Start of the name, a letter and then lower-case letters or digits.
        max_length: Longest name that the system accepts.
        readable: Text for people. It is shortened as needed, because the digest alone identifies the parts.
    """
    digest = base64.b32encode(parts_digest(kind, *parts)).decode("ascii").lower()[:DIGEST_CHARACTERS]
    room = max_length - len(prefix) - len(digest) - 2
    return "-".join(part for part in (prefix, slug(readable, max(room, 0)), digest) if part)


def slug(text: str, max_length: int) -> str:
    """Return a text for people as lower-case letters, digits and single dashes. It may be empty, and does not identify the text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:max_length].strip("-")
