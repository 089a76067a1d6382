"""From text to syntax trees."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sqlglot import exp
from sqlglot.errors import ParseError
from sqlglot.tokenizer_core import TokenType

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.characters import strip_invisible, token_position
from cleanroom.sql.text.language import check_language
from cleanroom.sql.text.marking import mark_functions
from cleanroom.sql.text.tokens import DIALECT, tokens_of
from cleanroom.sql.text.words import check_words
from cleanroom.sql.verdict import Position

NODES_PER_TOKEN = 3
"""Nodes that the parser may create per token, counting again what it reads again. An honest statement creates less than one."""
_LONG_STATEMENT = 4_000
"""Tokens from which a statement needs a larger stack."""
_LARGE_STACK = 64 * 1024 * 1024
"""Stack of a long statement, in bytes. The parser uses up to 550 bytes per token; a thread has 8 MiB by default."""

# The parser's warnings quote the author's text, which must not reach a log or a terminal unfiltered.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

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
    tokens = mark_functions(tokens, kinds)
    parser = DIALECT.parser(max_nodes=NODES_PER_TOKEN * len(tokens) + 500)
    parse = partial(parser.parse, tokens, text)
    try:
        statements = parse() if len(tokens) <= _LONG_STATEMENT else _on_large_stack(parse)
    except Exception as error:  # whatever the parser raises because of a text is a refusal
        if isinstance(error, RecursionError) or "Maximum number of AST nodes" in str(error):
            why = "the text is ambiguous in too many places: give each JOIN its ON, and nest less"
            raise Refusal("QueryTooComplex", why, _position_of(error)) from error
        raise Refusal("Unparsable", f"the text is not valid Spark SQL{_near(error)}", _position_of(error)) from error
    if len(statements) != 1 or statements[0] is None:
        raise Refusal("MultipleStatements", "a segment contains exactly one statement")
    words = check_language(statements[0], text)
    if not rereading:  # a rendering with other words than its tree does not render to itself
        check_words(statements[0], words, text, tokens)
    return statements[0]


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


def _near(error: BaseException) -> str:
    """The author's word at which the parser stops."""
    details = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    word = strip_invisible(str(details.get("highlight") or ""))[:60]
    return f": {word!r} does not fit here, or something before it is missing" if word else ""


def _position_of(error: BaseException) -> Position | None:
    details = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    line, column, highlighted = details.get("line"), details.get("col"), details.get("highlight")
    return Position(line=line, column=max(1, column - len(highlighted or "") + 1)) if line and column else None
