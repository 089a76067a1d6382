"""From text to syntax trees."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sqlglot import exp
from sqlglot.errors import ParseError
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.language import check_language
from cleanroom.sql.text.marking import mark_functions
from cleanroom.sql.text.tokens import DIALECT, strip_invisible, token_position, tokens_of
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
    """Parse the one statement in ``text``, with known functions and casts marked, and check that it is in the language."""
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
        raise _syntax_error(error) from error
    if len(statements) != 1 or statements[0] is None:
        raise Refusal("MultipleStatements", "a segment contains exactly one statement")
    if not rereading:  # a rendering with anything else in it does not render to itself
        check_words(statements[0], check_language(statements[0], text), text, tokens)
    return statements[0]


def split_statements(text: str) -> list[str]:
    """Split a file into its ``;``-separated statements, each as written. Empty ones are omitted.

    Raises:
        Refusal: The text has characters or tokens that are not allowed.
    """
    groups: list[list[Token]] = [[]]
    for token in tokens_of(text):
        if token.token_type is TokenType.SEMICOLON:
            groups.append([])
        else:
            groups[-1].append(token)
    return [text[group[0].start : group[-1].end + 1] for group in groups if group]


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


def _syntax_error(error: BaseException) -> Refusal:
    """The refusal of a text that the parser does not read, with the author's word at which it stops."""
    details = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    line, column, word = details.get("line"), details.get("col"), str(details.get("highlight") or "")
    position = Position(line=line, column=max(1, column - len(word) + 1)) if line and column else None
    if isinstance(error, RecursionError) or "Maximum number of AST nodes" in str(error):
        return Refusal("QueryTooComplex", "the text is ambiguous in too many places: give each JOIN its ON, and nest less", position)
    near = f": {strip_invisible(word)[:60]!r} does not fit here, or something before it is missing" if word else ""
    return Refusal("Unparsable", f"the text is not valid Spark SQL{near}", position)
