"""Access to nodes of the syntax tree: the tables of checks, positions of refusals, and values of several parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, TypeVar

from sqlglot import exp

from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery, Origin, Relation, Value
from cleanroom.sql.privacy.exposure import identity_misuse
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.language import describe, position_of
from cleanroom.sql.text.marking import MARK


class located_at:
    """Context manager that adds the position of ``node`` to a refusal that has none."""

    __slots__ = ("node",)

    def __init__(self, node: exp.Expr) -> None:
        self.node = node

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Refusal) and error.position is None:
            error.position = position_of(self.node)


def marked_name(node: object) -> str:
    """Name of the function or cast that ``node`` calls, if the lexer recognised it; otherwise empty."""
    if not isinstance(node, exp.Anonymous):
        return ""
    name = node.this
    return name[len(MARK) :] if isinstance(name, str) and name.startswith(MARK) else ""


def chain_operands(node: exp.Expr, kind: type[exp.Expr]) -> list[exp.Expr]:
    """Operands of a chain of one associative operator, without recursion. Parentheses inside the chain have no effect."""
    out, stack = [], [node]
    while stack:
        inner = without_parentheses(stack.pop())
        if type(inner) is kind:
            stack.extend((inner.args["expression"], inner.this))
        else:
            out.append(inner)
    return out


def without_parentheses(node: exp.Expr) -> exp.Expr:
    """The expression inside the parentheses around ``node``."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def whole_number(node: object) -> str:
    """The digits of a literal that is a whole number without a sign; otherwise empty."""
    if not isinstance(node, exp.Literal) or node.is_string:
        return ""
    text = str(node.this)
    return text if text.isdecimal() else ""


def direction(item: exp.Expr) -> str:
    """Sort direction of an ORDER BY item. It states where NULLs go, so that every engine sorts alike."""
    return f" {'DESC' if item.args.get('desc') else 'ASC'} NULLS {'FIRST' if item.args.get('nulls_first') else 'LAST'}"


def combine(
    sql: str,
    type: str,
    precedence: int,
    parts: Iterable[Value],
    *,
    degree: int | None = None,
    identity: bool = False,
    scale: float = math.inf,
) -> Value:
    """A value computed from ``parts``; ``degree`` is its degree unless all are constants.

    If ``identity``, identities may be operands, and the result is then an identity as well.
    """
    out = Value(sql, type, precedence, scale)
    constant = True
    for part in parts:
        if part.identity:
            if not identity:
                raise identity_misuse(part.name)
            out.identity = True
        constant = constant and part.degree == 0
        if part.origins:
            out.origins = out.origins | part.origins if out.origins else part.origins
        if part.exposed:
            out.exposed = out.exposed | part.exposed if out.exposed else part.exposed
        if part.sources:
            out.sources = out.sources | part.sources if out.sources else part.sources
        if part.outer_join_markers:
            out.outer_join_markers = out.outer_join_markers | part.outer_join_markers
        if part.ungrouped:
            out.ungrouped = True
        if part.aggregated:
            out.aggregated = True
        if part.windowed:
            out.windowed = True
        if part.transformed or part.mixed or part.filled or part.made_by_text or part.whole:
            for fact in ("transformed", "mixed", "filled", "made_by_text", "whole"):
                setattr(out, fact, getattr(out, fact) or getattr(part, fact))
    out.degree = 0 if constant else degree
    if out.origins:
        out.origins = _computed(out.origins)
    return out


@lru_cache(maxsize=4096)
def _computed(origins: frozenset[Origin]) -> frozenset[Origin]:
    return frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in origins])


Check = TypeVar("Check", bound=Callable[..., Any])

EXPRESSIONS: dict[type[exp.Expr], Callable[[Any, Context], Value]] = {}
"""Every expression that may appear in a query, and the function that checks it."""
RELATIONS: dict[type[exp.Expr], Callable[[Any, Context], tuple[Relation, str]]] = {}
"""Every relation that may appear in FROM, and the function that checks it."""
QUERIES: dict[type[exp.Expr], Callable[[Any, Context, Scope | None, bool], CheckedQuery]] = {}
"""Every kind of query, and the function that checks it."""


def _checks(table: dict[type[exp.Expr], Any], *kinds: type[exp.Expr]) -> Callable[[Check], Check]:
    """Register the decorated function in ``table`` for nodes of ``kinds``."""

    def register(check: Check) -> Check:
        table.update(dict.fromkeys(kinds, check))
        return check

    return register


checks_expression, checks_relation, checks_query = (partial(_checks, table) for table in (EXPRESSIONS, RELATIONS, QUERIES))


def value_of(node: exp.Expr, ctx: Context) -> Value:
    """Check an expression. A refusal without a position gets that of the innermost expression."""
    check = EXPRESSIONS.get(type(node))
    try:
        if check is None:
            what = "a query" if isinstance(node, exp.Query) else {"STAR": "*", "VAR": "a keyword"}.get(describe(node), describe(node))
            raise Refusal("ExpressionNotAllowed", f"{what} is not allowed here")
        value = check(node, ctx)
    except Refusal as refusal:
        refusal.position = refusal.position or position_of(node)
        raise
    if value.ungrouped:
        keys = ctx.scope.group_keys
        if keys is not None and value.sql in keys:
            value.ungrouped = False
    return value


def values_of(nodes: Iterable[exp.Expr], ctx: Context) -> list[Value]:
    """Check several expressions."""
    return [value_of(node, ctx) for node in nodes]


def relation_of(node: exp.Expr, ctx: Context) -> tuple[Relation, str]:
    """Check a relation of FROM, and add it to the scope. Returns the relation and its rendered text."""
    with located_at(node):
        check = RELATIONS.get(type(node))
        if check is None:
            what = "LATERAL" if isinstance(node, exp.Lateral) else describe(node)
            text = f"{what} is not allowed in FROM; a query in FROM stands in parentheses and has an alias, and LATERAL VIEW follows it"
            raise Refusal("RelationNotAllowed", text)
        return check(node, ctx)


def query_of(node: exp.Expr, ctx: Context, parent: Scope | None, *, hidden: bool) -> CheckedQuery:
    """Check a query, which may read columns of the scope ``parent`` if it is a correlated subquery.

    If ``hidden``, its output ends with the identity columns of protected rows, so that an enclosing query can count persons.
    """
    while isinstance(node, exp.Subquery) and not node.args.get("alias"):
        node = node.this
    with located_at(node):
        check = QUERIES.get(type(node))
        if check is None:
            raise Refusal("StatementNotAllowed", f"{describe(node)} is not an allowed query; write SELECT")
        return check(node, ctx, parent, hidden)
