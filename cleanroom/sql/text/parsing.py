"""From text to syntax trees."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.marking import mark_functions
from cleanroom.sql.text.tokens import DIALECT, first_line, token_position, tokens_of
from cleanroom.sql.verdict import Position

NODES_PER_TOKEN = 3
"""Nodes that the parser may create per token, counting again what it reads again. An honest statement creates less than one."""
_LONG_STATEMENT = 4_000
"""Tokens from which a statement needs a larger stack."""
_LARGE_STACK = 64 * 1024 * 1024
"""Stack of a long statement, in bytes. The parser uses up to 550 bytes per token; a thread has 8 MiB by default."""

# The parser's warnings quote the author's text, which must not reach a log or a terminal unfiltered.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_OPENING = {TokenType.L_PAREN, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.END}
_PREDICATES = {TokenType.IS, TokenType.IN, TokenType.BETWEEN, TokenType.LIKE, TokenType.ILIKE, TokenType.RLIKE}
_COMPARISONS = {
    TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.LTE, TokenType.GT, TokenType.GTE, TokenType.NULLSAFE_EQ,
}  # fmt: skip
_BOUNDARIES = {
    TokenType.AND, TokenType.OR, TokenType.COMMA, TokenType.WHEN, TokenType.THEN, TokenType.ELSE, TokenType.SELECT, TokenType.FROM,
    TokenType.WHERE, TokenType.HAVING, TokenType.ON, TokenType.QUALIFY, TokenType.GROUP_BY, TokenType.ORDER_BY, TokenType.ALIAS,
    TokenType.JOIN, TokenType.UNION, TokenType.WINDOW, TokenType.FOR,
}  # fmt: skip
_STRUCTURE = _OPENING | _CLOSING | _PREDICATES | _COMPARISONS | _BOUNDARIES

_stack_size = threading.Lock()


def parse_statement(text: str, *, rereading: bool = False) -> exp.Expr:
    """Parse the one statement in ``text``, with known functions and casts marked.

    Raises:
        Refusal: ``Unparsable``, ``MultipleStatements``, ``EmptySegment``, ``QueryTooComplex``, and those of
            :func:`~cleanroom.sql.text.tokens.tokens_of`.
    """
    tokens = tokens_of(text, rereading=rereading)
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        raise Refusal("EmptySegment", "the segment contains no statement")
    kinds = [token.token_type for token in tokens]
    if TokenType.SEMICOLON in kinds:
        position = token_position(tokens[kinds.index(TokenType.SEMICOLON)])
        raise Refusal("MultipleStatements", "a segment contains exactly one statement; put each into its own segment", position)
    _check_predicates(tokens, kinds)
    tokens = mark_functions(tokens, kinds)
    parser = DIALECT.parser(max_nodes=NODES_PER_TOKEN * len(tokens) + 500)
    parse = partial(parser.parse, tokens, text)
    try:
        statements = parse() if len(tokens) <= _LONG_STATEMENT else _on_large_stack(parse)
    except (SqlglotError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, RecursionError) or "Maximum number of AST nodes" in str(error):
            why = "the text is ambiguous in too many places: give each JOIN its ON, and nest less"
            raise Refusal("QueryTooComplex", why, _position_of(error)) from error
        raise Refusal("Unparsable", f"the text is not valid Spark SQL: {first_line(error)}", _position_of(error)) from error
    if len(statements) != 1 or statements[0] is None:
        raise Refusal("MultipleStatements", "a segment contains exactly one statement")
    return statements[0]


def _check_predicates(tokens: list[Token], kinds: list[TokenType]) -> None:
    """Refuse a second predicate or a comparison after IS, IN, BETWEEN or LIKE, which Spark does not accept and the parser does."""
    seen, bound, stack = False, False, []
    for at in [index for index, kind in enumerate(kinds) if kind in _STRUCTURE]:
        kind = kinds[at]
        if kind in _OPENING:
            stack.append((seen, bound))
            seen = bound = False
        elif kind in _CLOSING:
            seen, bound = stack.pop() if stack else (False, False)
        elif kind in _PREDICATES or kind in _COMPARISONS:
            if seen and kinds[at - 1] is not TokenType.L_PAREN:
                raise Refusal(
                    "ParenthesesNeeded",
                    f"{tokens[at].text} after IS, IN, BETWEEN or LIKE: write (…) around the first condition",
                    token_position(tokens[at]),
                )
            seen, bound = kind in _PREDICATES, kind is TokenType.BETWEEN
        elif kind is TokenType.AND and bound:
            bound = False
        elif kind is not TokenType.FROM or TokenType.DISTINCT not in kinds[at - 1 : at]:
            seen = bound = False


def split_statements(text: str) -> list[str]:
    """Split a file into its ``;``-separated statements, each as written. Empty ones are omitted.

    Raises:
        Refusal: Those of :func:`~cleanroom.sql.text.tokens.tokens_of`.
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


def _on_large_stack(parse: Callable[[], list[exp.Expr | None]]) -> list[exp.Expr | None]:
    """Run ``parse`` in a thread with a large stack: the parser is compiled, and overflowing the stack would crash the process."""
    with _stack_size:
        before = threading.stack_size(_LARGE_STACK)
        try:
            pool = ThreadPoolExecutor(1, "parser")
            future = pool.submit(parse)
        finally:
            threading.stack_size(before)
    with pool:
        return future.result()


def _position_of(error: BaseException) -> Position | None:
    details = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    line, column, highlighted = details.get("line"), details.get("col"), details.get("highlight")
    return Position(line=line, column=max(1, column - len(highlighted or "") + 1)) if line and column else None
