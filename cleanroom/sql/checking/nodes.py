"""Access to nodes of the syntax tree: positions, names, and parts that are not allowed."""

from __future__ import annotations

import difflib
from types import TracebackType

from sqlglot import exp

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.text.marking import MARK
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

_WRITTEN = {"json_extract_scalar": "get_json_object", "json_extract": "get_json_object", "var_map": "map", "chr": "char"}
"""Names of Spark's functions for which the parser has other names."""
_REMEDIES = {
    "sort": "; use ORDER BY",
    "cluster": "; use ORDER BY",
    "distribute": "; omit it",
    "sample": ": each run would give a different result; use WHERE",
    "pivots": "; pivot a subquery with an alias",
    "hint": "; omit it",
}
"""What to write instead of a clause, by the parser's name for it."""


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
        raise Refusal(
            "ClauseNotAllowed",
            f"{describe(node)} with {clause.replace('_', ' ').upper()} is not allowed{_REMEDIES.get(clause, '')}",
            position_of(node),
        )


def describe(node: exp.Expr) -> str:
    """Name of ``node`` for messages."""
    if isinstance(node, exp.Anonymous):
        name = node.this if isinstance(node.this, str) else getattr(node.this, "name", "")
        return f"the function {strip_invisible(str(name).removeprefix(MARK))[:80]}"
    if isinstance(node, exp.Func):
        name = node.sql_name().lower()
        return f"the function {_WRITTEN.get(name, name)}"
    return type(node).__name__


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
