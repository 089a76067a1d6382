"""Characters of a query's text: no invisible ones, and positions by line and column."""

from __future__ import annotations

import re

from sqlglot.tokenizer_core import Token

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.verdict import Position

MAX_TEXT = 256 * 1024
"""Characters of one segment."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def strip_invisible(text: str) -> str:
    """``text`` without control, bidirectional, zero-width and other invisible characters. Tabs and newlines become spaces."""
    return _INVISIBLE.sub("", text.replace("\t", " ").replace("\r", " ").replace("\n", " "))


def check_characters(text: str) -> None:
    """Refuse text that is too long, contains invisible characters, or contains a variable of Spark (``${...}``)."""
    if len(text) > MAX_TEXT:
        raise Refusal("QueryTooLarge", f"the segment has {len(text)} characters; the limit is {MAX_TEXT}")
    if found := _INVISIBLE.search(text):
        raise Refusal(
            "InvisibleCharacter",
            f"the text contains the invisible or control character U+{ord(found.group()):04X}; remove it",
            position_at(text, found.start()),
        )
    if "${" in text:
        raise Refusal(
            "ParameterNotAllowed", "${…} is a variable that Spark would substitute; remove it", position_at(text, text.index("${"))
        )


def position_at(text: str, offset: int) -> Position:
    """Position of the character at ``offset``."""
    line = text.count("\n", 0, offset) + 1
    return Position(line=line, column=offset - (text.rfind("\n", 0, offset) + 1) + 1)


def token_position(token: Token) -> Position:
    """Position of the first character of ``token``."""
    return Position(line=token.line, column=max(1, token.col - (token.end - token.start)))
