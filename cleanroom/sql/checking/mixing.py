"""Operators that an author may combine without parentheses.

The parser's precedence is not Spark's everywhere: Spark reads ``&`` before ``|``, ``||`` like ``+``, and comparisons from left to right.
Where the two differ, the author must write parentheses.
"""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.nodes import position_of
from cleanroom.sql.refusal import Refusal

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
