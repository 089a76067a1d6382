"""From an author's text to one parsed statement: what the reader sees must be what the parser sees.

Two walls before the parser. The *characters*: no control, bidirectional, zero-width or otherwise invisible code points, and
nothing outside ASCII except inside string literals and comments, so that a name cannot look like another. The *tokens*: no
hints, parameters, variables, statement separators, and no nesting deep enough to exhaust a stack.

Functions that the vocabulary knows reach the parser under a marked name, so that it returns them as they were written and
not as its own dialect-neutral rewriting; what is not in the vocabulary stays as it is and is refused later, by name.
"""

from __future__ import annotations

import logging
import re

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.verdict import Position, Reason
from cleanroom.sql.vocabulary import FUNCTIONS, SYNONYMS

MAX_TEXT = 256 * 1024
MAX_TOKENS = 30_000
MAX_DEPTH = 64
MARK = "__f_"

# Its warnings quote the author's text, which must not reach a log or a terminal unfiltered (T20).
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_DIALECT = Dialect.get_or_raise("spark")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_STRINGS = {TokenType.STRING, TokenType.RAW_STRING, TokenType.NATIONAL_STRING, TokenType.HEREDOC_STRING, TokenType.UNICODE_STRING}
_OPENERS = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}
_CLOSERS = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}
_PREFIXES = {TokenType.DASH, TokenType.PLUS, TokenType.NOT, TokenType.TILDE}
_BANNED = {
    TokenType.HINT: ("HintNotAllowed", "hints (/*+ … */) are not allowed: they change how, and sometimes what, the engine executes"),
    TokenType.PARAMETER: ("ParameterNotAllowed", "variables are not allowed in a query"),
    TokenType.PLACEHOLDER: ("ParameterNotAllowed", "parameter markers are not allowed in a query"),
    TokenType.SESSION_PARAMETER: ("ParameterNotAllowed", "session parameters are not allowed in a query"),
    TokenType.COLON: ("ParameterNotAllowed", "parameter markers and path extraction (:) are not allowed in a query"),
    TokenType.L_BRACE: ("EscapeNotAllowed", "braces are not allowed in a query"),
    TokenType.R_BRACE: ("EscapeNotAllowed", "braces are not allowed in a query"),
    TokenType.DOLLAR: ("ParameterNotAllowed", "variables are not allowed in a query"),
    TokenType.COMMAND: ("StatementNotAllowed", "commands are not allowed; only SELECT and CREATE OR REPLACE TEMP VIEW … AS SELECT"),
    TokenType.HEREDOC_STRING: ("EscapeNotAllowed", "dollar-quoted text is not allowed in a query"),
    TokenType.PIPE_GT: ("ClauseNotAllowed", "pipe syntax (|>) is not allowed; write the query with SELECT … FROM"),
}
_UNFINISHED = {TokenType.COMMA, TokenType.ON, TokenType.USING, TokenType.OVER, TokenType.ALIAS}
_ENDS = {
    TokenType.COMMA,
    TokenType.FROM,
    TokenType.WHERE,
    TokenType.GROUP_BY,
    TokenType.HAVING,
    TokenType.QUALIFY,
    TokenType.WINDOW,
    TokenType.ORDER_BY,
    TokenType.LIMIT,
    TokenType.OFFSET,
    TokenType.UNION,
    TokenType.INTERSECT,
    TokenType.EXCEPT,
    TokenType.JOIN,
    TokenType.R_PAREN,
    TokenType.SEMICOLON,
}
"""What cannot follow a word of ``_UNFINISHED``; the parser forgives it and Spark does not."""
_OPENER, _CLOSER, _REFUSED, _PREFIX, _STRING, _DANGLING, _END = (1 << bit for bit in range(7))
_ROLES: dict[TokenType, int] = {}
for _bit, _kinds in enumerate((_OPENERS, _CLOSERS, _BANNED, _PREFIXES, _STRINGS, _UNFINISHED, _ENDS)):
    for _kind in _kinds:
        _ROLES[_kind] = _ROLES.get(_kind, 0) | 1 << _bit
"""All of the above in one look."""
_QUOTED = {TokenType.IDENTIFIER, *_STRINGS}
_STANDARD_FORM = {
    "SUBSTRING": TokenType.FROM,
    "SUBSTR": TokenType.FROM,
    "TRIM": TokenType.FROM,
    "POSITION": TokenType.IN,
    "OVERLAY": TokenType.FROM,
}
_BEFORE_QUANTIFIER = {TokenType.LIKE, TokenType.ILIKE, TokenType.RLIKE, TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.GT}


class Refusal(Exception):
    """Carries one :class:`Reason` out of the checker; never leaves this package."""

    def __init__(self, code: str, message: str, position: Position | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.position = position

    def reason(self, segment: int | None) -> Reason:
        return Reason(code=self.code, message=self.message, segment=segment, position=self.position)


def strip_invisible(text: str) -> str:
    """``text`` without control, bidirectional, zero-width and other invisible characters; tabs and newlines become spaces (T20)."""
    return _INVISIBLE.sub("", text.replace("\t", " ").replace("\r", " ").replace("\n", " "))


def tokens_of(text: str, *, trusted: bool = False) -> list[Token]:
    """Tokens of ``text``, after both walls.

    ``trusted``: the text is the gate's own rendering, which may use the gate's reserved names.

    Raises:
        Refusal: The first thing that is not allowed, with its position.
    """
    if len(text) > MAX_TEXT:
        raise Refusal("QueryTooLarge", f"the segment has {len(text)} characters; the limit is {MAX_TEXT}")
    if found := _INVISIBLE.search(text):
        raise Refusal(
            "InvisibleCharacter",
            f"the text holds the invisible or control character U+{ord(found.group()):04X}; remove it",
            _position_of(text, found.start()),
        )
    if "${" in text:
        raise Refusal(
            "ParameterNotAllowed", "${…} is a variable that Spark would substitute; remove it", _position_of(text, text.index("${"))
        )
    try:
        tokens = _DIALECT.tokenize(text)
    except (SqlglotError, ValueError, RecursionError) as error:
        raise Refusal("Unparsable", f"the text cannot be read as Spark SQL: {_first_line(error)}") from error
    if len(tokens) > MAX_TOKENS:
        raise Refusal("QueryTooLarge", f"the segment has {len(tokens)} tokens; the limit is {MAX_TOKENS}")
    _check_tokens(text, tokens, trusted)
    return _join_doubled_quotes(text, tokens)


def _join_doubled_quotes(text: str, tokens: list[Token]) -> list[Token]:
    """``'it''s'`` is one string with a quote in it (Spark 4), not two strings side by side."""
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


def _check_tokens(text: str, tokens: list[Token], trusted: bool) -> None:
    depth = prefixes = 0
    plain = text.isascii()
    if "/*+" in text:
        _check_hints(text, tokens)
    dangling: Token | None = None
    reserved = not trusted and "__" in text
    for token in tokens:
        roles = _ROLES.get(token.token_type, 0)
        if dangling is not None:
            if roles & _END:
                raise Refusal("Unparsable", f"nothing stands between {dangling.text!r} and {token.text!r}", position(dangling))
            dangling = None
        if roles & _PREFIX:
            prefixes += 1
            if prefixes > 8:
                raise Refusal("QueryTooComplex", "too many prefix operators in a row", position(token))
        else:
            prefixes = 0
        if roles & _OPENER:
            depth += 1
            if depth > MAX_DEPTH:
                raise Refusal("QueryTooComplex", f"expressions are nested more than {MAX_DEPTH} deep", position(token))
        elif roles & _CLOSER:
            depth = max(0, depth - 1)
        elif roles & _REFUSED:
            code, message = _BANNED[token.token_type]
            raise Refusal(code, message, position(token))
        elif roles & _DANGLING:
            dangling = token
        if roles & _STRING:
            continue
        if not plain and not token.text.isascii():
            raise Refusal(
                "NonAsciiName", f"{strip_invisible(token.text)!r}: names must be ASCII, so that they cannot look alike", position(token)
            )
        if reserved and token.text.lower().startswith(("__cr_", MARK)):
            raise Refusal("ReservedName", f"{token.text!r}: names that begin with __cr_ or {MARK} are reserved", position(token))
    if dangling is not None:
        raise Refusal("Unparsable", f"nothing follows {dangling.text!r}", position(dangling))


def _check_hints(text: str, tokens: list[Token]) -> None:
    """Hints where the tokeniser takes them for comments."""
    at = text.find("/*+")
    while at >= 0:
        if not any(token.start <= at <= token.end for token in tokens):
            code, message = _BANNED[TokenType.HINT]
            raise Refusal(code, message, _position_of(text, at))
        at = text.find("/*+", at + 1)


def parse_statement(text: str, *, trusted: bool = False) -> exp.Expr:
    """The one statement in ``text``, with known functions marked (:data:`MARK`).

    Raises:
        Refusal: ``Unparsable``, ``MultipleStatements`` and what :func:`tokens_of` raises.
    """
    tokens = tokens_of(text, trusted=trusted)
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        raise Refusal("EmptySegment", "the segment holds no statement")
    kinds = [token.token_type for token in tokens]
    if TokenType.SEMICOLON in kinds:
        at = position(tokens[kinds.index(TokenType.SEMICOLON)])
        raise Refusal("MultipleStatements", "a segment holds exactly one statement; put each into its own segment", at)
    _mark_functions(tokens, kinds)
    try:
        statements = _DIALECT.parser().parse(tokens, text)
    except (SqlglotError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Refusal("Unparsable", f"the text cannot be read as Spark SQL: {_first_line(error)}", _place(error)) from error
    if len(statements) != 1 or statements[0] is None:
        raise Refusal("MultipleStatements", "a segment holds exactly one statement")
    return statements[0]


def split_statements(text: str) -> list[str]:
    """The ``;``-separated statements of a file, each as written, empty ones left out.

    Raises:
        Refusal: What :func:`tokens_of` raises.
    """
    statements, start, last = [], None, 0
    for token in tokens_of(text):
        if token.token_type is TokenType.SEMICOLON:
            if start is not None:
                statements.append(text[start : last + 1])
            start = None
            continue
        if start is None:
            start = token.start
        last = token.end
    if start is not None:
        statements.append(text[start : last + 1])
    return statements


def position(token: Token) -> Position:
    return Position(line=token.line, column=max(1, token.col - (token.end - token.start)))


def _mark_functions(tokens: list[Token], kinds: list[TokenType]) -> None:
    """Mark the known functions in ``tokens``, whose types are ``kinds``."""
    opening = TokenType.L_PAREN
    for index, kind in enumerate(kinds[1:]):
        if kind is not opening:
            continue
        token = tokens[index]
        name = token.text.upper()
        if name in SYNONYMS and not (index and kinds[index - 1] in _BEFORE_QUANTIFIER):
            name = SYNONYMS[name]
        if name not in FUNCTIONS or kinds[index] in _QUOTED:
            continue
        if index and kinds[index - 1] is TokenType.DOT:
            continue
        if name in _STANDARD_FORM and _has_inside(tokens, index + 1, _STANDARD_FORM[name]):
            continue
        tokens[index] = Token(TokenType.VAR, MARK + name, token.line, token.col, token.start, token.end)


def _has_inside(tokens: list[Token], opening: int, wanted: TokenType) -> bool:
    depth = 0
    for token in tokens[opening:]:
        if token.token_type is TokenType.L_PAREN:
            depth += 1
        elif token.token_type is TokenType.R_PAREN:
            depth -= 1
            if depth == 0:
                return False
        elif depth == 1 and token.token_type is wanted:
            return True
    return False


def _position_of(text: str, offset: int) -> Position:
    line = text.count("\n", 0, offset) + 1
    return Position(line=line, column=offset - (text.rfind("\n", 0, offset) + 1) + 1)


def _place(error: BaseException) -> Position | None:
    details = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    line, column, what = details.get("line"), details.get("col"), details.get("highlight")
    return Position(line=line, column=max(1, column - len(what or "") + 1)) if line and column else None


def _first_line(error: BaseException) -> str:
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip().split("\n", 1)[0]
    return strip_invisible(text)[:200] or type(error).__name__
