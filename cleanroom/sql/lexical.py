"""From an author's text to one parsed statement: what the reader sees must be what the parser sees.

Two walls before the parser. The *characters*: no control, bidirectional, zero-width or otherwise invisible code points, and
nothing outside ASCII except inside string literals and comments, so that a name cannot look like another. The *tokens*: no
hints, parameters, variables, statement separators, and nothing that would exhaust the parser's stack or its time: it recurses
without looking (a thousand times FROM ends the process), and where it guesses it reads again, twice as often at each level.
"""

from __future__ import annotations

import logging
import re
import threading
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.parsers.spark import SparkParser
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.marking import MARK, mark_functions
from cleanroom.sql.verdict import Position, Reason
from cleanroom.sql.vocabulary import FUNCTIONS

MAX_TEXT = 256 * 1024
MAX_TOKENS = 30_000
MAX_DEPTH = 64
MAX_RUN = 8
"""How often one word or sign may stand beside itself, and how many prefix operators in a row."""
MAX_TYPES = 8
"""How many types with something in parentheses or brackets, other than sizes; the parser reads what is inside twice."""
LONG = 4_000
STACK = 64 * 1024 * 1024
"""Bytes of stack for a statement of more than ``LONG`` tokens: the parser uses up to 550 a token, and a thread has 8 MiB for everything."""
NODES_PER_TOKEN = 3
"""An honest statement makes less than one node of the tree a token; what the parser reads again counts again."""

# Its warnings quote the author's text, which must not reach a log or a terminal unfiltered (T20).
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_stack = threading.Lock()
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
_TYPES = set(SparkParser.TYPE_TOKENS) - {TokenType.NULL, TokenType.INTERVAL}
_OPENER, _CLOSER, _REFUSED, _PREFIX, _TYPE, _DANGLING, _END = (1 << bit for bit in range(7))
_ROLES: dict[TokenType, int] = {}
for _bit, _kinds in enumerate((_OPENERS, _CLOSERS, _BANNED, _PREFIXES, _TYPES, _UNFINISHED, _ENDS)):
    for _kind in _kinds:
        _ROLES[_kind] = _ROLES.get(_kind, 0) | 1 << _bit
"""All of the above in one look."""
_REPEATABLE = {
    TokenType.STRING, TokenType.NUMBER, TokenType.VAR, TokenType.IDENTIFIER, TokenType.SEMICOLON, TokenType.L_PAREN, TokenType.R_PAREN,
    TokenType.R_BRACKET, TokenType.END,
}  # fmt: skip
"""What may stand beside itself: bounded by depth, or read without recursion."""
_OPENINGS = (TokenType.L_PAREN, TokenType.L_BRACKET)
_QUERIES = {TokenType.SELECT, TokenType.WITH, TokenType.FROM, TokenType.VALUES, TokenType.TABLE, TokenType.L_PAREN}


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
    kinds = [token.token_type for token in tokens]
    _check_names(text, tokens, kinds, trusted)
    if "/*+" in text:
        _check_hints(text, tokens)
    roles_of = _ROLES.get
    depth = prefixes = run = types = 0
    prefix_at, before = -2, None
    for index, kind in enumerate(kinds):
        if kind is before:
            run += 1
            if run > MAX_RUN and kind not in _REPEATABLE:
                raise Refusal("QueryTooComplex", f"{tokens[index].text[:40]!r} stands too often in a row", position(tokens[index]))
        else:
            before, run = kind, 1
        roles = roles_of(kind)
        if roles is None:
            continue
        if roles & _OPENER:
            depth += 1
            if depth > MAX_DEPTH:
                raise Refusal("QueryTooComplex", f"expressions are nested more than {MAX_DEPTH} deep", position(tokens[index]))
        elif roles & _CLOSER:
            depth = max(0, depth - 1)
        elif roles & _REFUSED:
            code, message = _BANNED[kind]
            raise Refusal(code, message, position(tokens[index]))
        if roles & _PREFIX:
            prefixes = prefixes + 1 if prefix_at == index - 1 else 1
            prefix_at = index
            if prefixes > MAX_RUN:
                raise Refusal("QueryTooComplex", "too many prefix operators in a row", position(tokens[index]))
        if roles & _TYPE and _holds_types(tokens, kinds, index):
            types += 1
            if types > MAX_TYPES:
                raise Refusal("QueryTooComplex", "too many types with types inside of them", position(tokens[index]))
        if roles & _DANGLING:
            following = tokens[index + 1] if index + 1 < len(tokens) else None
            if following is None:
                raise Refusal("Unparsable", f"nothing follows {tokens[index].text!r}", position(tokens[index]))
            if roles_of(following.token_type, 0) & _END:
                text_of = f"nothing stands between {tokens[index].text!r} and {following.text!r}"
                raise Refusal("Unparsable", text_of, position(tokens[index]))


def _check_names(text: str, tokens: list[Token], kinds: list[TokenType], trusted: bool) -> None:
    """Everything but strings is ASCII, and no name is one of ours."""
    reserved = not trusted and "__" in text
    if text.isascii() and not reserved:
        return
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in _STRINGS:
            continue
        if not token.text.isascii():
            raise Refusal(
                "NonAsciiName", f"{strip_invisible(token.text)!r}: names must be ASCII, so that they cannot look alike", position(token)
            )
        if reserved and token.text.lower().startswith(("__cr_", MARK)):
            raise Refusal("ReservedName", f"{token.text!r}: names that begin with __cr_ or {MARK} are reserved", position(token))


def _holds_types(tokens: list[Token], kinds: list[TokenType], index: int) -> bool:
    """Whether the parser will look for types inside of what follows the type at ``index``."""
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
    """Hints where the tokeniser takes them for comments."""
    starts = [token.start for token in tokens]
    at = text.find("/*+")
    while at >= 0:
        token = tokens[max(0, bisect_right(starts, at) - 1)] if tokens else None
        if token is None or not token.start <= at <= token.end:
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
    tokens = mark_functions(tokens, kinds)
    parser = _DIALECT.parser(max_nodes=NODES_PER_TOKEN * len(tokens) + 500)
    try:
        statements = parser.parse(tokens, text) if len(tokens) <= LONG else _on_a_deep_stack(partial(parser.parse, tokens, text))
    except (SqlglotError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, RecursionError) or "Maximum number of AST nodes" in str(error):
            why = "the text can be read in too many ways: give each JOIN its ON, and nest less"
            raise Refusal("QueryTooComplex", why, _place(error)) from error
        raise Refusal("Unparsable", f"the text cannot be read as Spark SQL: {_first_line(error)}", _place(error)) from error
    if len(statements) != 1 or statements[0] is None:
        raise Refusal("MultipleStatements", "a segment holds exactly one statement")
    return statements[0]


def _on_a_deep_stack(parse: Callable[[], list[exp.Expr | None]]) -> list[exp.Expr | None]:
    """``parse`` in a thread of its own: the parser is compiled, and where its recursion meets the end of the stack, the process ends."""
    with _stack:
        before = threading.stack_size(STACK)
        try:
            pool = ThreadPoolExecutor(1, "parser")
            future = pool.submit(parse)
        finally:
            threading.stack_size(before)
    with pool:
        return future.result()


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
