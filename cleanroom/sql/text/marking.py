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
from cleanroom.sql.text.tokens import token_position
from cleanroom.sql.vocabulary import FUNCTIONS, TYPES

MARK = "__f_"
"""Prefix of marked names."""
LITERAL = "\0"
"""Stands before and after the type in the text of a date or a timestamp. No text of an author contains that character."""
CASTS = ("CAST", "TRY_CAST")
"""Casts that are marked."""

_QUOTED = {
    TokenType.IDENTIFIER, TokenType.STRING, TokenType.RAW_STRING, TokenType.NATIONAL_STRING, TokenType.HEREDOC_STRING,
    TokenType.UNICODE_STRING,
}  # fmt: skip
_TYPES = {TokenType[name]: name for name in TYPES if name in TokenType.__members__}
_SIZED = {TokenType.DECIMAL, TokenType.VARCHAR}
_DAY = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")
_MOMENT = re.compile(
    _DAY.pattern + r"(?:[ T]([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2})(?:\.[0-9]{1,9})?)?(?: ?(?:Z|UTC|[+-][0-9]{2}:[0-9]{2}))?)?"
)
_LITERALS = {
    TokenType.DATE: ("DATE", _DAY, "YYYY-MM-DD"),
    **dict.fromkeys((TokenType.TIMESTAMP, TokenType.TIMESTAMPTZ), ("TIMESTAMP", _MOMENT, "YYYY-MM-DD HH:MM:SS")),
}
_RELEVANT = {TokenType.L_PAREN, TokenType.R_PAREN, *_LITERALS}


def mark_functions(tokens: list[Token], kinds: list[TokenType]) -> list[Token]:
    """``tokens``, whose types are ``kinds``, with known functions, casts and date literals marked."""
    marked: list[Token | None] = [*tokens]
    stack: list[int] = []  # for each open parenthesis, the index of the cast before it, or -1
    for at in [index for index, kind in enumerate(kinds) if kind in _RELEVANT]:
        kind, before = kinds[at], kinds[at - 1] if at else None
        if kind is TokenType.L_PAREN:
            name = tokens[at - 1].text.upper() if at else ""
            plain = before is not None and before not in _QUOTED and (at == 1 or kinds[at - 2] is not TokenType.DOT)
            stack.append(at - 1 if plain and name in CASTS else -1)
            if plain and name in FUNCTIONS and not (name in ("SUBSTRING", "SUBSTR", "TRIM") and _has_from(kinds, at)):
                marked[at - 1] = _like(tokens[at - 1], TokenType.VAR, MARK + name)
        elif kind is TokenType.R_PAREN:
            if stack and (word := stack.pop()) >= 0:
                _mark_cast(marked, tokens, kinds, word, at)
        elif kinds[at + 1 : at + 2] in ([TokenType.STRING], [TokenType.NUMBER]) and before not in (TokenType.DOT, TokenType.ALIAS):
            marked[at], marked[at + 1] = None, _literal(tokens, kinds, at)
    return [token for token in marked if token is not None]


def _literal(tokens: list[Token], kinds: list[TokenType], at: int) -> Token:
    """One text for ``DATE '2024-01-31'``."""
    name, pattern, form = _LITERALS[kinds[at]]
    found = pattern.fullmatch(tokens[at + 1].text) if kinds[at + 2 : at + 3] != [TokenType.STRING] else None
    try:
        datetime.datetime(*(int(part) for part in (found.groups() if found else ()) if part))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        why = f"{tokens[at].text} takes one text of the form '{form}'"
        raise Refusal("LiteralNotAllowed", why, token_position(tokens[at])) from None
    return _like(tokens[at + 1], TokenType.STRING, f"{LITERAL}{name}{LITERAL}{tokens[at + 1].text}")


def _mark_cast(marked: list[Token | None], tokens: list[Token], kinds: list[TokenType], word: int, closing: int) -> None:
    """``CAST(x AS DECIMAL(9, 2))`` becomes ``__f_CAST(x, 'DECIMAL(9, 2)')``."""
    at, sizes, number = closing - 2, "", TokenType.NUMBER
    if kinds[closing - 1] is TokenType.R_PAREN:
        if kinds[closing - 3 : closing] == [TokenType.L_PAREN, number, TokenType.R_PAREN]:
            at, texts = closing - 5, [tokens[closing - 2].text]
        elif kinds[closing - 5 : closing] == [TokenType.L_PAREN, number, TokenType.COMMA, number, TokenType.R_PAREN]:
            at, texts = closing - 7, [tokens[closing - 4].text, tokens[closing - 2].text]
        else:
            return
        if at < 0 or kinds[at + 1] not in _SIZED or not all(text.isdecimal() for text in texts):
            return
        sizes = f"({', '.join(texts)})"
    if at > word and kinds[at] is TokenType.ALIAS and kinds[at + 1] in _TYPES:
        marked[word] = _like(tokens[word], TokenType.VAR, MARK + tokens[word].text.upper())
        marked[at] = _like(tokens[at], TokenType.COMMA, ",")
        marked[at + 1 : closing] = [_like(tokens[at + 1], TokenType.STRING, _TYPES[kinds[at + 1]] + sizes), *[None] * (closing - at - 2)]


def _has_from(kinds: list[TokenType], opening: int) -> bool:
    """Whether the parentheses contain FROM, as in ``SUBSTRING(x FROM 1)``."""
    depth = 0
    for kind in kinds[opening:]:
        depth += (kind is TokenType.L_PAREN) - (kind is TokenType.R_PAREN)
        if not depth:
            return False
        if depth == 1 and kind is TokenType.FROM:
            return True
    return False


def _like(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end)
