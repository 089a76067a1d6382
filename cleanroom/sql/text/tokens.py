"""Characters and tokens of a query: no invisible characters, no hints, and nothing that would exhaust the parser.

The parser's recursion is unbounded (1,000 nested FROMs crash the process). Where the grammar is ambiguous it backtracks, and each level
of nesting doubles the time. The limits of this module keep both within bounds.
"""

from __future__ import annotations

import re

from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.parsers.spark import SparkParser
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.catalog import RESERVED_PREFIXES
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

MAX_TEXT = 256 * 1024
"""Characters of one segment."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)

MAX_TOKENS = 30_000
"""Tokens of one segment."""
MAX_DEPTH = 64
"""Nesting of parentheses, brackets and CASE."""
MAX_RUN = 8
"""How often the same word or sign may occur in a row, and how many prefix operators."""
DIALECT = Dialect.get_or_raise("spark")
"""The dialect of every text."""

_STRINGS = {TokenType.STRING, TokenType.RAW_STRING, TokenType.NATIONAL_STRING, TokenType.HEREDOC_STRING, TokenType.UNICODE_STRING}
_OPENERS = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}
_CLOSERS = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}
_PREFIXES = {TokenType.DASH, TokenType.PLUS, TokenType.NOT, TokenType.TILDE}
_TYPES = set(SparkParser.TYPE_TOKENS) - {TokenType.NULL, TokenType.INTERVAL}
_OPENER, _CLOSER, _PREFIX, _TYPE = (1 << bit for bit in range(4))
_ROLES: dict[TokenType, int] = {}
"""For each kind of token, the sets above that it is in."""
for _bit, _kinds in enumerate((_OPENERS, _CLOSERS, _PREFIXES, _TYPES)):
    for _kind in _kinds:
        _ROLES[_kind] = _ROLES.get(_kind, 0) | 1 << _bit
_REPEATABLE = {
    TokenType.STRING, TokenType.NUMBER, TokenType.VAR, TokenType.IDENTIFIER, TokenType.SEMICOLON, TokenType.L_PAREN, TokenType.R_PAREN,
    TokenType.R_BRACKET, TokenType.END,
}  # fmt: skip
"""Tokens that may occur in a row: their number is limited by the depth, or the parser reads them without recursion."""
_OPENINGS = (TokenType.L_PAREN, TokenType.L_BRACKET)


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


def tokens_of(text: str, *, rereading: bool = False) -> list[Token]:
    """Tokens of one or more statements, checked. The gate's own rendering, ``rereading``, may use reserved names."""
    check_characters(text)
    try:
        tokens = DIALECT.tokenize(text)
    except (SqlglotError, ValueError, RecursionError) as error:
        raise Refusal("Unparsable", "a text in quotes, a name in backticks or a comment is not closed") from error
    if len(tokens) > MAX_TOKENS:
        raise Refusal("QueryTooLarge", f"the segment has {len(tokens)} tokens; the limit is {MAX_TOKENS}")
    kinds = [token.token_type for token in tokens]
    _check_names(text, tokens, kinds, rereading)
    if "/*+" in text and text.count("/*+") > sum(text.count("/*+", token.start, token.end + 1) for token in tokens):
        raise Refusal("HintNotAllowed", "a hint (/*+ … */) is not allowed; leave it out", position_at(text, text.index("/*+")))
    _check_bounds(tokens, kinds)
    return _join_doubled_quotes(text, tokens)


def _join_doubled_quotes(text: str, tokens: list[Token]) -> list[Token]:
    """``'it''s'`` is one string with a quote in it (since Spark 4), not two adjacent strings."""
    if "''" not in text and '""' not in text:
        return tokens
    joined: list[Token] = []
    for token in tokens:
        last = joined[-1] if joined else None
        both = last is not None and last.token_type is TokenType.STRING and token.token_type is TokenType.STRING
        if last is not None and both and last.end + 1 == token.start and text[last.end] == text[token.start]:
            joined[-1] = Token(TokenType.STRING, last.text + text[token.start] + token.text, last.line, last.col, last.start, token.end)
        else:
            joined.append(token)
    return joined


def _check_bounds(tokens: list[Token], kinds: list[TokenType]) -> None:
    """Refuse tokens that would exhaust the parser."""
    depth = run = prefixes = 0
    before, role_of, problem = None, _ROLES.get, ""
    for index, kind in enumerate(kinds):
        run = run + 1 if kind is before else 1
        before, role = kind, role_of(kind)
        if role is None:
            prefixes = 0
            if run > MAX_RUN and kind not in _REPEATABLE:
                problem = f"{tokens[index].text[:40]!r} occurs too often in a row"
        else:
            depth = depth + 1 if role & _OPENER else depth - 1 if role & _CLOSER and depth else depth
            prefixes = prefixes + 1 if role & _PREFIX else 0
            if depth > MAX_DEPTH:
                problem = f"expressions are nested more than {MAX_DEPTH} deep"
            elif prefixes > MAX_RUN or (run > MAX_RUN and kind not in _REPEATABLE):
                problem = f"{tokens[index].text[:40]!r} occurs too often in a row"
            elif role & _TYPE and _contains_types(tokens, kinds, index):
                problem = f"{tokens[index].text} (…) is neither an allowed function nor a type; the parser reads its parts twice"
        if problem:
            raise Refusal("QueryTooComplex", problem, token_position(tokens[index]))
    if depth:
        raise Refusal("Unparsable", "a parenthesis, a bracket or a CASE is not closed")


def _check_names(text: str, tokens: list[Token], kinds: list[TokenType], rereading: bool) -> None:
    """Everything except strings is ASCII, so that a name cannot look like another, and no name is reserved."""
    reserved = not rereading and "__" in text
    if text.isascii() and not reserved:
        return
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in _STRINGS:
            continue
        if not token.text.isascii():
            raise Refusal(
                "NonAsciiName",
                f"{strip_invisible(token.text)!r}: names must be ASCII, so that they cannot look alike",
                token_position(token),
            )
        if reserved and token.text.lower().startswith(RESERVED_PREFIXES):
            names = " or ".join(RESERVED_PREFIXES)
            raise Refusal("ReservedName", f"{token.text!r}: names that begin with {names} are reserved", token_position(token))


def _contains_types(tokens: list[Token], kinds: list[TokenType], index: int) -> bool:
    """Whether the parser looks for types inside of what follows the type at ``index``."""
    after, number = kinds[index + 1 : index + 6], TokenType.NUMBER
    if not after or after[0] not in _OPENINGS:
        return False
    sizes = after[1:3] == [number, TokenType.R_PAREN] or after[1:] == [number, TokenType.COMMA, number, TokenType.R_PAREN]
    function = tokens[index].text.upper() in FUNCTIONS and after[0] is TokenType.L_PAREN
    return not (sizes or function or kinds[index] is TokenType.UNION)
