"""Access to nodes of the syntax tree: positions, allowed parts, the tables of allowed nodes, and values of several parts."""

from __future__ import annotations

import difflib
import math
import re
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
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.text.marking import MARK
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

_WRITTEN = {"json_extract_scalar": "get_json_object", "json_extract": "get_json_object", "var_map": "map", "chr": "char"}
"""Names of Spark's functions for which the parser has other names."""
_PARTS = {
    "sort": "SORT BY is not allowed; use ORDER BY", "cluster": "CLUSTER BY is not allowed; use ORDER BY", "distribute": "DISTRIBUTE BY is "
    "not allowed; omit it", "sample": "TABLESAMPLE is not allowed: each run would give a different result; use WHERE", "pivots": "PIVOT is "
    "not allowed here; pivot a subquery with an alias", "hint": "a hint is not allowed; omit it", "db": "a name has one part, or two as in "
    "relation.column", "recursive": "WITH RECURSIVE is not allowed", "version": "VERSION AS OF and TIMESTAMP AS OF are not allowed", "when":
    "VERSION AS OF and TIMESTAMP AS OF are not allowed", "symmetric": "SYMMETRIC is not allowed; order the two values", "field": "IN takes "
    "values in parentheses", "unnest": "IN takes values in parentheses", "fraction_in_string": "an interval takes a whole number", "on":
    "DISTINCT ON is not allowed; use GROUP BY", "laterals": "LATERAL VIEW is not allowed here", "locks": "FOR UPDATE is not allowed",
}  # fmt: skip
"""The refusal of a part of a node, by the parser's name for the part."""
_KINDS = {
    "Tuple": "a list in parentheses", "Star": "*", "Dot": "a name with a dot", "HexString": "a binary literal (x'…')", "Alias": "AS",
    "Lambda": "a function of elements (x -> …)", "Placeholder": "a parameter", "Table": "a relation", "Select": "SELECT",
    "Subquery": "a subquery", "Values": "VALUES", "Column": "a name", "Paren": "a pair of parentheses", "Kwarg": "a named argument",
    "Collate": "COLLATE", "AtTimeZone": "AT TIME ZONE", "SimilarTo": "SIMILAR TO", "Distinct": "DISTINCT",
    "JSONExtract": "path extraction", "Ordered": "a sort key", "ArrayContainsAll": "@>", "ArrayContainedBy": "<@", "Var": "a keyword",
    "Cast": "a cast",
}  # fmt: skip
"""What an author calls a node, by the parser's name for it."""


def position_of(node: exp.Expr | None) -> Position | None:
    """Position of the first token below ``node`` that has one."""
    if node is None:
        return None
    for child in node.walk():
        meta = child._meta
        if meta and "line" in meta:
            return Position(line=meta["line"], column=max(1, meta["col"] - (meta["end"] - meta["start"])))
    return None


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


def allow_only(node: exp.Expr, *names: str) -> None:
    """Refuse a node that has parts other than ``names``. Empty parts do not count."""
    args = node.args
    for name in args:
        if name in names or not args[name]:
            continue
        clause = name.strip("_")
        message = _PARTS.get(clause) or f"{describe(node)} with {clause.replace('_', ' ').upper()} is not allowed"
        raise Refusal("ClauseNotAllowed", message, position_of(node))


def describe(node: exp.Expr) -> str:
    """Name of ``node`` for messages."""
    if isinstance(node, exp.Anonymous):
        name = node.this if isinstance(node.this, str) else getattr(node.this, "name", "")
        return f"the function {strip_invisible(str(name).removeprefix(MARK))[:80]}"
    if isinstance(node, exp.Func):
        name = node.sql_name().lower()
        return f"the function {_WRITTEN.get(name, name)}"
    name = type(node).__name__
    return _KINDS.get(name) or re.sub("(?<=[a-z])(?=[A-Z])", " ", name).upper()


def not_listed(node: exp.Expr) -> Refusal:
    """The refusal of a function that is not in the vocabulary."""
    name = node.name if isinstance(node, exp.Anonymous) else ""
    close = difflib.get_close_matches(name.upper(), FUNCTIONS, 1, 0.8) if len(name) > 3 else []
    hint = f"; did you mean {close[0].lower()}?" if close else ""
    return Refusal("FunctionNotAllowed", f"{describe(node)} is not on the list of allowed functions{hint}", position_of(node))


def marked_name(node: object) -> str:
    """Name of the function or cast that ``node`` calls, if the lexer recognised it; otherwise empty."""
    if not isinstance(node, exp.Anonymous):
        return ""
    name = node.this
    return name[len(MARK) :] if isinstance(name, str) and name.startswith(MARK) else ""


def called_function(node: object) -> str:
    """Name of the function of the vocabulary that ``node`` calls; otherwise empty."""
    name = marked_name(node)
    return name if name in FUNCTIONS else ""


def chain_operands(node: exp.Expr, kind: type[exp.Expr]) -> list[exp.Expr]:
    """Operands of a chain of one associative operator, without recursion. Parentheses inside the chain have no effect."""
    out, stack = [], [node]
    while stack:
        inner = without_parentheses(stack.pop())
        if type(inner) is kind:
            allow_only(inner, "this", "expression", "safe")
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


_CONDITIONS = (
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Between, exp.In, exp.Is, exp.Like, exp.ILike,
    exp.RegexpLike, exp.Escape,
)  # fmt: skip
_NOT_OPERANDS = frozenset({*_CONDITIONS, exp.Not, exp.And, exp.Or, exp.Exists})
"""Conditions, which are no operands of other operators without parentheses."""
_BITWISE = frozenset({exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor})
_SUMS = frozenset({exp.Add, exp.Sub})
_PRODUCTS = frozenset({exp.Mul, exp.Div, exp.Mod, exp.IntDiv})
_BINARY = _NOT_OPERANDS | _BITWISE | _SUMS | _PRODUCTS | {exp.DPipe}

_NeedsParentheses = frozenset[type[exp.Expr]]
LEFT: dict[type[exp.Expr], _NeedsParentheses] = {
    **dict.fromkeys(_CONDITIONS, _NOT_OPERANDS),
    exp.Escape: frozenset(),
    **{kind: _BINARY - {kind} for kind in _BITWISE},
    **dict.fromkeys(_SUMS, _NOT_OPERANDS | _BITWISE | {exp.DPipe}),
    **dict.fromkeys(_PRODUCTS, _BINARY - _PRODUCTS),
    exp.DPipe: _BINARY - _PRODUCTS - {exp.DPipe},
    exp.Neg: _BINARY | {exp.Cast, exp.TryCast},
    exp.BitwiseNot: _BINARY | {exp.Cast, exp.TryCast},
    exp.Cast: _BINARY | {exp.Neg, exp.BitwiseNot},
    exp.TryCast: _BINARY | {exp.Neg, exp.BitwiseNot},
    exp.Bracket: _BINARY | {exp.Neg, exp.BitwiseNot},
    **dict.fromkeys((exp.Extract, exp.Substring, exp.Overlay, exp.StrPosition, exp.Trim), _NOT_OPERANDS),
}
"""For each operator, the operators that need parentheses as its first operand."""
RIGHT: dict[type[exp.Expr], _NeedsParentheses] = {
    **LEFT,
    **dict.fromkeys(_BITWISE, _BINARY),
    **dict.fromkeys(_SUMS, LEFT[exp.Add] | _SUMS),
    **dict.fromkeys(_PRODUCTS, _BINARY),
}
"""The same for its other operands."""
_OTHERS: dict[type[exp.Expr], tuple[str, ...]] = {
    exp.Between: ("low", "high"), exp.Substring: ("start", "length"), exp.Overlay: ("expression", "from_", "for_"), exp.StrPosition:
    ("substr",),
}  # fmt: skip
"""The parser's names of the other operands, if there is not just one of them."""
_SYMBOLS: dict[type[exp.Expr], str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<=", exp.NullSafeEQ: "<=>", exp.NullSafeNEQ:
    "IS DISTINCT FROM", exp.RegexpLike: "RLIKE", exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^", exp.Add: "+", exp.Sub: "-",
    exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.IntDiv: "DIV", exp.DPipe: "||", exp.Neg: "-", exp.BitwiseNot: "~", exp.Cast: "::",
    exp.TryCast: "::", exp.Bracket: "[…]", exp.StrPosition: "POSITION",
}  # fmt: skip


def check_operands(node: exp.Expr, kind: type[exp.Expr]) -> None:
    """Refuse operators that the parser and Spark may read in different orders."""
    args = node.args
    operand: exp.Expr = args.get("this")  # type: ignore[assignment]
    if type(operand) in LEFT[kind]:
        raise _refusal(kind, operand)
    others = RIGHT[kind]
    for name in _OTHERS.get(kind, ("expression",)):
        operand = args.get(name)  # type: ignore[assignment]
        if type(operand) in others:
            raise _refusal(kind, operand)


def check_operand(operand: exp.Expr, node: exp.Expr) -> None:
    """Refuse a condition as an operand of a form with keywords, unless it is in parentheses."""
    if type(operand) in _NOT_OPERANDS:
        raise _refusal(type(node), operand)


def _refusal(kind: type[exp.Expr], operand: exp.Expr) -> Refusal:
    names = [_SYMBOLS.get(each, each.__name__.upper()) for each in (type(operand), kind)]
    return Refusal(
        "ParenthesesNeeded",
        f"{names[0]} next to {names[1]} without parentheses: their order is easy to misread; write (…) around one of the two",
        position_of(operand),
    )


def combine(
    sql: str,
    type: str,
    precedence: int,
    parts: Iterable[Value],
    node: exp.Expr,
    *,
    degree: int | None = None,
    identity: bool = False,
    scale: float = math.inf,
) -> Value:
    """A value computed from ``parts``.

    Args:
        sql: Rendered text.
        type: Type of the result.
        precedence: Precedence of the outermost operator.
        parts: Operands.
        node: The expression, for the position of a refusal.
        degree: Degree of the result, unless all parts are constants.
        identity: Identities may be operands; the result is then an identity as well.
        scale: Scale of the result.
    """
    out = Value(sql, type, precedence, scale)
    constant = True
    for part in parts:
        if part.identity:
            if not identity:
                refusal = identity_misuse(part.name)
                refusal.position = position_of(node)
                raise refusal
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
        if part.transformed or part.mixed or part.filled or part.made_by_text:
            for fact in ("transformed", "mixed", "filled", "made_by_text"):
                setattr(out, fact, getattr(out, fact) or getattr(part, fact))
    out.degree = 0 if constant else degree
    if out.origins:
        out.origins = _computed(out.origins)
    return out


@lru_cache(maxsize=4096)
def _computed(origins: frozenset[Origin]) -> frozenset[Origin]:
    return frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in origins])


Check = TypeVar("Check", bound=Callable[..., Any])
ExpressionCheck = Callable[[Any, Context], Value]
RelationCheck = Callable[[Any, Context], tuple[Relation, str]]
QueryCheck = Callable[[Any, Context, Scope | None, bool], CheckedQuery]

EXPRESSIONS: dict[type[exp.Expr], ExpressionCheck] = {}
"""Every expression that may appear in a query, and the function that checks it."""
RELATIONS: dict[type[exp.Expr], RelationCheck] = {}
"""Every relation that may appear in FROM, and the function that checks it."""
QUERIES: dict[type[exp.Expr], QueryCheck] = {}
"""Every kind of query, and the function that checks it; ``exp.Query`` stands for every other kind."""


def _checks(table: dict[type[exp.Expr], Any], *kinds: type[exp.Expr]) -> Callable[[Check], Check]:
    """Register the decorated function in ``table`` for nodes of ``kinds``."""

    def register(check: Check) -> Check:
        for kind in kinds:
            if kind in table:
                raise ValueError(f"two checks are registered for {kind.__name__}")
            table[kind] = check
        return check

    return register


checks_expression, checks_relation, checks_query = (partial(_checks, table) for table in (EXPRESSIONS, RELATIONS, QUERIES))


def value_of(node: exp.Expr, ctx: Context) -> Value:
    """Check an expression.

    Raises:
        Refusal: The expression, or a part of it, is not on the allowlist.
    """
    check = EXPRESSIONS.get(type(node))
    if check is None:
        if isinstance(node, exp.Func):
            raise not_listed(node)
        if isinstance(node, exp.Query):
            raise Refusal("ClauseNotAllowed", "a query is not allowed here", position_of(node))
        raise Refusal("ExpressionNotAllowed", f"{describe(node)} is not allowed here", position_of(node))
    if type(node) in LEFT:
        check_operands(node, type(node))
    value = check(node, ctx)
    if value.ungrouped:
        keys = ctx.scope.group_keys
        if keys is not None and value.sql in keys:
            value.ungrouped = False
    return value


def values_of(nodes: Iterable[exp.Expr], ctx: Context) -> list[Value]:
    """Check several expressions."""
    return [value_of(node, ctx) for node in nodes]


def relation_of(node: exp.Expr, ctx: Context) -> tuple[Relation, str]:
    """Check a relation of FROM, and add it to the scope.

    Returns:
        The relation and its rendered text.
    """
    check = RELATIONS.get(exp.Pivot if node.args.get("pivots") else type(node))
    if check is not None:
        return check(node, ctx)
    if isinstance(node, exp.Lateral):
        raise Refusal(
            "RelationNotAllowed", "LATERAL is not allowed; join a subquery that groups by the columns of the join", position_of(node)
        )
    if isinstance(node, exp.Func):
        raise Refusal("TableFunctionNotAllowed", "a table function is not allowed as a relation", position_of(node))
    raise Refusal(
        "RelationNotAllowed",
        f"{describe(node)} is not allowed in FROM; a query in FROM stands in parentheses and has an alias",
        position_of(node),
    )


def query_of(node: exp.Expr, ctx: Context, parent: Scope | None, *, hidden: bool) -> CheckedQuery:
    """Check a query.

    Args:
        node: The query.
        ctx: Context around it.
        parent: Scope whose columns the query may read, if it is a correlated subquery.
        hidden: Append the identity columns of protected rows to the output, so that an enclosing query can count persons.
    """
    check = QUERIES.get(type(node)) or QUERIES[exp.Query]
    return check(node, ctx, parent, hidden)
