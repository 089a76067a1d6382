"""Changes to the tokens before the parser receives them.

The parser translates functions that it knows into other nodes, which no longer say what the author wrote. Functions of the
vocabulary therefore get a marked name, which the parser leaves alone. Other functions keep their names and are refused later. Casts to
allowed types are marked as well, as calls with the type as second argument, because the parser needs 50 µs to read a type.
"""

from __future__ import annotations

import datetime
import re

from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.characters import token_position
from cleanroom.sql.vocabulary import FUNCTIONS, TYPES

MARK = "__f_"
"""Prefix of marked names."""
CASTS = ("CAST", "TRY_CAST")
"""Casts that are marked."""

_QUOTED = {
    TokenType.IDENTIFIER,
    TokenType.STRING,
    TokenType.RAW_STRING,
    TokenType.NATIONAL_STRING,
    TokenType.HEREDOC_STRING,
    TokenType.UNICODE_STRING,
}
_TYPES = {TokenType[name]: name for name in TYPES if name in TokenType.__members__}
_SIZED = {TokenType.DECIMAL, TokenType.VARCHAR}
_LITERAL = {TokenType.DATE, TokenType.TIMESTAMP, TokenType.TIMESTAMPTZ}
_DAY = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")
_MOMENT = re.compile(
    _DAY.pattern + r"(?:[ T]([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2})(?:\.[0-9]{1,9})?)?(?: ?(?:Z|UTC|[+-][0-9]{2}:[0-9]{2}))?)?"
)
_RELEVANT = {TokenType.L_PAREN, TokenType.R_PAREN} | _LITERAL

Edit = tuple[int, int, list[Token]]
"""Index of the first token to replace, index after the last, and the new tokens."""


def mark_functions(tokens: list[Token], kinds: list[TokenType]) -> list[Token]:
    """``tokens``, whose types are ``kinds``, with known functions, casts and date literals marked."""
    opening, closing = TokenType.L_PAREN, TokenType.R_PAREN
    edits: list[Edit] = []
    stack: list[tuple[int, bool]] = []  # open parentheses: index, and whether a cast precedes them
    for at, kind in [(index, kind) for index, kind in enumerate(kinds) if kind in _RELEVANT]:
        if kind is closing:
            if stack and stack[-1][1]:
                edits += _cast_edits(tokens, kinds, stack[-1][0], at)
            del stack[-1:]
            continue
        if kind is not opening:
            if not at or kinds[at - 1] not in (TokenType.DOT, TokenType.ALIAS):
                edits += _literal_edits(tokens, kinds, at)
            continue
        name = tokens[at - 1].text.upper() if at else ""
        member = at > 1 and kinds[at - 2] is TokenType.DOT
        plain = at > 0 and not member and kinds[at - 1] not in _QUOTED
        stack.append((at, plain and name in CASTS))
        if plain and name in FUNCTIONS and not (name in ("SUBSTRING", "SUBSTR", "TRIM") and _has_from(tokens, at)):
            tokens[at - 1] = _like(tokens[at - 1], TokenType.VAR, MARK + name)
    if not edits:
        return tokens
    marked: list[Token] = []
    last = 0
    for start, stop, new in sorted(edits, key=lambda edit: edit[0]):
        marked += tokens[last:start]
        marked += new
        last = stop
    return marked + tokens[last:]


def _cast_edits(tokens: list[Token], kinds: list[TokenType], opening: int, closing: int) -> list[Edit]:
    """``CAST(x AS DECIMAL(9, 2))`` becomes ``__f_CAST(x, 'DECIMAL(9, 2)')``."""
    found = _type_before(tokens, kinds, closing)
    if found is None:
        return []
    at, name = found
    word = tokens[opening - 1]
    return [
        (opening - 1, opening, [_like(word, TokenType.VAR, MARK + word.text.upper())]),
        (at, closing, [_like(tokens[at], TokenType.COMMA, ","), _like(tokens[at + 1], TokenType.STRING, name)]),
    ]


def _literal_edits(tokens: list[Token], kinds: list[TokenType], at: int) -> list[Edit]:
    """``DATE '2024-01-31'`` becomes ``__f_CAST('2024-01-31', 'DATE')``."""
    after = kinds[at + 1 : at + 3]
    if after[:1] not in ([TokenType.STRING], [TokenType.NUMBER]):
        return []
    token, text = tokens[at], tokens[at + 1]
    name = _TYPES[kinds[at]]
    found = (_DAY if name == "DATE" else _MOMENT).fullmatch(text.text) if after != [TokenType.STRING, TokenType.STRING] else None
    try:
        datetime.datetime(*(int(part) for part in (found.groups() if found else ()) if part))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        form = "YYYY-MM-DD" if name == "DATE" else "YYYY-MM-DD HH:MM:SS"
        raise Refusal("LiteralNotAllowed", f"{token.text} takes one text of the form '{form}'", token_position(token)) from None
    new = [
        _like(token, TokenType.VAR, MARK + "CAST"), _like(token, TokenType.L_PAREN, "("), text, _like(text, TokenType.COMMA, ","),
        _like(text, TokenType.STRING, name), _like(text, TokenType.R_PAREN, ")"),
    ]  # fmt: skip
    return [(at, at + 2, new)]


def _type_before(tokens: list[Token], kinds: list[TokenType], closing: int) -> tuple[int, str] | None:
    """Index of AS and the type, if ``AS <allowed type>`` directly precedes ``closing``."""
    number = TokenType.NUMBER
    at, sizes = closing - 2, ""
    if kinds[closing - 1] is TokenType.R_PAREN:
        if kinds[closing - 3 : closing] == [TokenType.L_PAREN, number, TokenType.R_PAREN]:
            at, texts = closing - 5, [tokens[closing - 2].text]
        elif kinds[closing - 5 : closing] == [TokenType.L_PAREN, number, TokenType.COMMA, number, TokenType.R_PAREN]:
            at, texts = closing - 7, [tokens[closing - 4].text, tokens[closing - 2].text]
        else:
            return None
        if at < 0 or kinds[at + 1] not in _SIZED or not all(text.isdecimal() for text in texts):
            return None
        sizes = f"({', '.join(texts)})"
    if at < 0 or kinds[at] is not TokenType.ALIAS or kinds[at + 1] not in _TYPES:
        return None
    return at, _TYPES[kinds[at + 1]] + sizes


def _has_from(tokens: list[Token], opening: int) -> bool:
    """Whether the parentheses contain FROM, as in ``SUBSTRING(x FROM 1)``."""
    depth = 0
    for token in tokens[opening:]:
        if token.token_type is TokenType.L_PAREN:
            depth += 1
        elif token.token_type is TokenType.R_PAREN:
            depth -= 1
            if depth == 0:
                return False
        elif depth == 1 and token.token_type is TokenType.FROM:
            return True
    return False


def _like(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end)
