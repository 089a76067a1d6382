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
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.text.marking import mark_functions
from cleanroom.sql.text.tokens import DIALECT, ENDS, token_position, tokens_of
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
    TokenType.JOIN, TokenType.UNION, TokenType.WINDOW, TokenType.FOR, TokenType.XOR,
}  # fmt: skip
_BETWEEN_OPERANDS = _COMPARISONS | {
    TokenType.PLUS, TokenType.DASH, TokenType.STAR, TokenType.SLASH, TokenType.MOD, TokenType.DIV, TokenType.DPIPE, TokenType.AMP,
    TokenType.PIPE, TokenType.CARET, TokenType.TILDE, TokenType.LIKE, TokenType.ILIKE, TokenType.RLIKE, TokenType.BETWEEN, TokenType.FOR,
}  # fmt: skip
"""Operators after which no condition stands without parentheses."""
_BEFORE_OPERAND = _BETWEEN_OPERANDS | (_BOUNDARIES - {TokenType.ALIAS}) | {
    TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.NOT, TokenType.CASE, TokenType.DISTINCT, TokenType.INTERVAL, TokenType.LIMIT,
    TokenType.OFFSET, TokenType.PARTITION_BY, TokenType.IN,
}  # fmt: skip
"""Tokens after which an expression begins."""
_PREFIXES = {TokenType.PLUS, TokenType.NOT, TokenType.EXISTS, TokenType.ISNULL, TokenType.NOTNULL, TokenType.UNKNOWN}
_MISPLACED: dict[TokenType, set[TokenType]] = {
    TokenType.COMMA: _BEFORE_OPERAND - {TokenType.STAR},
    TokenType.ALIAS: (_BEFORE_OPERAND - {TokenType.STAR}) | {TokenType.WITH, TokenType.ALIAS},
    TokenType.DOT: _BEFORE_OPERAND - {TokenType.STAR},
    TokenType.NUMBER: {TokenType.ALIAS},
    TokenType.STRING: {
        TokenType.ALIAS, TokenType.VAR, TokenType.IDENTIFIER, TokenType.NUMBER, TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END,
        TokenType.NULL, TokenType.TRUE, TokenType.FALSE,
    },
}  # fmt: skip
"""Tokens that cannot follow certain others in Spark. The parser skips over what is missing."""
_KEYWORDS_BEFORE_VALUE = {"PLACING", "BOTH", "LEADING", "TRAILING", "ESCAPE", "SEPARATOR"}
_CLAUSES = {TokenType.WHERE, TokenType.HAVING, TokenType.QUALIFY}
_MISSING = {
    TokenType.FILTER: ([TokenType.L_PAREN], [TokenType.WHERE], "WHERE"), TokenType.USING: ([], [TokenType.L_PAREN], "("),
    TokenType.WINDOW: ([TokenType.VAR], [TokenType.ALIAS], "AS"),
}  # fmt: skip
"""What follows a word, what must follow then, and its text."""
_STRUCTURE = _OPENING | _CLOSING | _PREDICATES | _COMPARISONS | _BOUNDARIES | _PREFIXES | _MISSING.keys() | _CLAUSES
_JOINS_OPERANDS = {TokenType.DOT, TokenType.DCOLON, TokenType.L_PAREN, TokenType.R_PAREN, TokenType.L_BRACKET, TokenType.R_BRACKET}

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
    if not rereading:  # a rendering of the gate has none of these forms: it would not render to itself
        _check_operators(tokens, kinds)
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
    return statements[0]


def _check_operators(tokens: list[Token], kinds: list[TokenType]) -> None:
    """Refuse forms of conditions that the parser reads and Spark does not, and those that the two read differently."""
    for at in [index for index, kind in enumerate(kinds) if kind in _MISPLACED]:
        _check_preceding(tokens, kinds, at)
    seen, start, frame, selects, stack = False, -1, False, False, []
    for at in [index for index, kind in enumerate(kinds) if kind in _STRUCTURE]:
        kind = kinds[at]
        before = kinds[at - 1] if at else TokenType.SELECT
        if kind in _MISSING:
            _check_following(tokens, kinds, at)
        if kind in _CLAUSES and kinds[at + 1 : at + 2] == [TokenType.L_PAREN]:
            _check_clause(tokens, kinds, at)
        if kind in _OPENING:
            stack.append((seen, start, selects))
            seen, start, selects = False, -1, False
        elif kind in _CLOSING:
            _check_between(tokens[start], start)
            seen, start, selects = stack.pop() if stack else (False, -1, False)
        elif kind in _PREFIXES:
            _check_prefix(tokens, kinds, at, before, start)
        elif kind in _PREDICATES or kind in _COMPARISONS:
            if seen and before is not TokenType.L_PAREN:
                raise _parentheses(tokens[at], "after another condition: write (…) around the first condition")
            frame = kind is TokenType.BETWEEN and tokens[at - 1].text.upper() in ("ROWS", "RANGE")
            seen, start = True, at if kind is TokenType.BETWEEN and not frame else -1
        elif kind is TokenType.AND and start >= 0:
            _check_low(tokens[start + 1 : at])
            start = -1
        elif kind in _BOUNDARIES and (kind is not TokenType.FROM or before is not TokenType.DISTINCT):
            _check_between(tokens[start], start)
            if kinds[at + 2 : at + 3] == [TokenType.STAR] and (kind is TokenType.JOIN or (kind is TokenType.FROM and selects)):
                raise Refusal("Unparsable", f"'*' cannot follow {tokens[at + 1].text!r}", token_position(tokens[at + 2]))
            selects = kind is TokenType.SELECT or (selects and kind is not TokenType.FROM)
            if kind is TokenType.AND and not frame and tokens[at - 1].text.upper() in ("PRECEDING", "FOLLOWING"):
                raise Refusal("Unparsable", f"BETWEEN is missing before {tokens[at - 1].text} AND", token_position(tokens[at]))
            seen, start, frame = False, -1, False
    _check_between(tokens[start], start)
    if kinds.count(TokenType.WHEN) != kinds.count(TokenType.THEN):
        word = TokenType.WHEN if TokenType.WHEN in kinds else TokenType.THEN
        raise Refusal("Unparsable", "each WHEN needs a THEN", token_position(tokens[kinds.index(word)]))


def _check_preceding(tokens: list[Token], kinds: list[TokenType], at: int) -> None:
    """Check what stands before a sign that the parser also accepts in other places."""
    if (kinds[at - 1] if at else TokenType.SELECT) not in _MISPLACED[kinds[at]]:
        return
    token, last, number = tokens[at], tokens[at - 1], kinds[at] is TokenType.DOT and kinds[at + 1 : at + 2] == [TokenType.NUMBER]
    if not number and last.text.upper() not in _KEYWORDS_BEFORE_VALUE:
        text = "a text in quotes" if kinds[at] is TokenType.STRING else repr(token.text)
        why = f"{text} cannot follow {last.text!r}" if at else f"a query cannot begin with {text}"
        raise Refusal("Unparsable", why, token_position(token))


def _check_following(tokens: list[Token], kinds: list[TokenType], at: int) -> None:
    """Check what stands after a word that needs another one."""
    between, needed, text = _MISSING[kinds[at]]
    end = at + 1 + len(between)
    if kinds[at + 1 : end] == between and kinds[end : end + 1] != needed:
        raise Refusal("Unparsable", f"{text} is missing after {tokens[at].text}", token_position(tokens[at]))


def _check_clause(tokens: list[Token], kinds: list[TokenType], at: int) -> None:
    """Refuse ``WHERE (a)``, which Spark reads as the alias ``WHERE`` of a relation with the column ``a``."""
    end = at + 3
    while kinds[end : end + 1] == [TokenType.COMMA]:
        end += 2
    if kinds[end : end + 1] == [TokenType.R_PAREN] and (end + 1 == len(kinds) or kinds[end + 1] in ENDS):
        raise Refusal("ParenthesesNeeded", f"{tokens[at].text} (…) around a name: leave the parentheses out", token_position(tokens[at]))


def _check_between(token: Token, start: int) -> None:
    if start >= 0:
        raise Refusal("Unparsable", "BETWEEN needs two values with AND between them", token_position(token))


def _check_prefix(tokens: list[Token], kinds: list[TokenType], at: int, before: TokenType, start: int) -> None:
    """Check a sign or word that the parser also accepts where Spark does not."""
    kind, token, after = kinds[at], tokens[at], kinds[at + 1 : at + 2]
    if kind is TokenType.PLUS:
        if before in _BEFORE_OPERAND or tokens[at - 1].text.upper() in _KEYWORDS_BEFORE_VALUE:
            raise Refusal("ExpressionNotAllowed", "a sign + before a value: leave it out", token_position(token))
    elif kind is TokenType.UNKNOWN:
        if before is TokenType.IS or kinds[max(at - 2, 0) : at] == [TokenType.IS, TokenType.NOT]:
            raise Refusal("ExpressionNotAllowed", "IS UNKNOWN: write IS NULL", token_position(token))
    elif kind in (TokenType.ISNULL, TokenType.NOTNULL) or (kind is TokenType.NOT and after == [TokenType.NULL]):
        if before not in _BEFORE_OPERAND and before is not TokenType.IS and after != [TokenType.L_PAREN]:
            raise Refusal("ExpressionNotAllowed", f"{token.text} after a value: write IS NULL or IS NOT NULL", token_position(token))
    elif (
        before in _BETWEEN_OPERANDS
        or (start >= 0 and before is TokenType.AND)
        or kinds[at - 2 : at] == [TokenType.DISTINCT, TokenType.FROM]
    ):
        raise _parentheses(token, "after another operator: write (…) around the condition")


def _check_low(tokens: list[Token]) -> None:
    """Check the tokens between BETWEEN and AND: the parser skips over an AND that is missing."""
    depth, operand = 0, False
    for index, token in enumerate(tokens):
        kind = token.token_type
        depth += (kind in _OPENING) - (kind in _CLOSING)
        if depth or kind in _CLOSING or kind in _JOINS_OPERANDS:
            operand = depth == 0 and kind not in (TokenType.DOT, TokenType.DCOLON)
        elif kind in _BETWEEN_OPERANDS and kind is not TokenType.TILDE:
            operand = False
        elif operand and not _continues(tokens[max(0, index - 2) : index + 1]):
            raise Refusal("Unparsable", f"AND is missing between BETWEEN and {token.text}", token_position(token))
        else:
            operand = True


def _continues(tokens: list[Token]) -> bool:
    """Whether the last of ``tokens`` belongs to the literal that begins before it."""
    kinds = [token.token_type for token in tokens]
    return (
        kinds[0] is TokenType.INTERVAL
        or kinds[-2:] == [TokenType.STRING] * 2
        or (kinds[-1] is TokenType.STRING and tokens[-2].text.upper() in ("DATE", "TIMESTAMP", "R"))
        or (kinds[-2] is TokenType.INTERVAL)
    )


def _parentheses(token: Token, why: str) -> Refusal:
    return Refusal("ParenthesesNeeded", f"{token.text} {why}", token_position(token))


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
