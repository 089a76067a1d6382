"""Tokens of a query: no hints, parameters or statement separators, and nothing that would exhaust the parser.

The parser's recursion is unbounded (1,000 nested FROMs crash the process). Where the grammar is ambiguous it backtracks, and each level
of nesting doubles the time. The limits of this module keep both within bounds.
"""

from __future__ import annotations

from bisect import bisect_right

from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.parsers.spark import SparkParser
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.catalog import RESERVED_PREFIXES
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.characters import check_characters, position_at, strip_invisible, token_position
from cleanroom.sql.vocabulary import FUNCTIONS

MAX_TOKENS = 30_000
"""Tokens of one segment."""
MAX_DEPTH = 64
"""Nesting of parentheses, brackets and CASE."""
MAX_RUN = 8
"""How often the same word or sign may occur in a row, and how many prefix operators."""
MAX_TYPES = 8
"""Types with anything but sizes in parentheses or brackets. The parser reads such a part twice."""

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
_QUERIES = {TokenType.SELECT, TokenType.WITH, TokenType.FROM, TokenType.VALUES, TokenType.TABLE, TokenType.L_PAREN}


def tokens_of(text: str, *, rereading: bool = False) -> list[Token]:
    """Tokens of ``text``, checked.

    Args:
        text: One or more statements.
        rereading: The text is the gate's own rendering, which may use reserved names.

    Raises:
        Refusal: The first character or token that is not allowed, with its position.
    """
    check_characters(text)
    try:
        tokens = DIALECT.tokenize(text)
    except (SqlglotError, ValueError, RecursionError) as error:
        raise Refusal("Unparsable", "a text in quotes, a name in backticks or a comment is not closed") from error
    if len(tokens) > MAX_TOKENS:
        raise Refusal("QueryTooLarge", f"the segment has {len(tokens)} tokens; the limit is {MAX_TOKENS}")
    kinds = [token.token_type for token in tokens]
    _check_names(text, tokens, kinds, rereading)
    if "/*+" in text:
        _check_hints(text, tokens)
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
    depth = run = prefixes = types = 0
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
            types += bool(role & _TYPE and _contains_types(tokens, kinds, index))
            if depth > MAX_DEPTH:
                problem = f"expressions are nested more than {MAX_DEPTH} deep"
            elif prefixes > MAX_RUN or (run > MAX_RUN and kind not in _REPEATABLE):
                problem = f"{tokens[index].text[:40]!r} occurs too often in a row"
            elif types > MAX_TYPES:
                problem = "too many nested types"
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
    after = kinds[index + 1 : index + 6]
    if not after or after[0] not in _OPENINGS:
        return False
    if after[0] is TokenType.L_BRACKET:
        return True
    number = TokenType.NUMBER
    sizes = after[1:3] == [number, TokenType.R_PAREN] or after[1:] == [number, TokenType.COMMA, number, TokenType.R_PAREN]
    marked = tokens[index].text.upper() in FUNCTIONS and (not index or kinds[index - 1] is not TokenType.DOT)
    query = kinds[index] is TokenType.UNION and after[1:2] and after[1] in _QUERIES
    return not (sizes or marked or query)


def _check_hints(text: str, tokens: list[Token]) -> None:
    """Refuse hints where the tokenizer reads them as comments."""
    starts = [token.start for token in tokens]
    at = text.find("/*+")
    while at >= 0:
        token = tokens[max(0, bisect_right(starts, at) - 1)] if tokens else None
        if token is None or not token.start <= at <= token.end:
            raise Refusal("HintNotAllowed", "a hint (/*+ … */) is not allowed; leave it out", position_at(text, at))
        at = text.find("/*+", at + 1)
