"""Scalar expressions: every node that may appear has a method here, and each method names every part that the node may have.

Default is refusal: a node class without a method, or a part that its method does not name, is refused. The text of a checked
expression is written here and never taken from the author; operands are put into parentheses wherever precedence is not the
same in every SQL dialect, so that Spark cannot read another tree than the one that was checked.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import lru_cache

from sqlglot import exp

from cleanroom.sql.lexical import Refusal, strip_invisible
from cleanroom.sql.marking import MARK
from cleanroom.sql.polynomials import LARGEST_FACTOR, polynomial, weight_of
from cleanroom.sql.values import AND, ATOM, OR, PREDICATE, PRODUCT, SIGN, SUM, Origin, Scope, Value, text_literal, widest, wrap
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

_NUMBER = re.compile(r"[0-9]{1,38}(\.[0-9]{0,38})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,38}([eE][+-]?[0-9]{1,3})?")


_REMEDIES = {
    "sort": "; use ORDER BY",
    "cluster": "; use ORDER BY",
    "distribute": "; leave it out",
    "sample": ": each run would give another answer; use WHERE",
    "pivots": "; pivot a subquery with an alias",
    "hint": "; leave it out",
}
"""By the parser's name for a clause: what to write instead."""


def position_of(node: exp.Expr | None) -> Position | None:
    """Position of the first token below ``node`` that kept one."""
    if node is None:
        return None
    for child in node.walk():
        meta = child._meta
        if meta and "line" in meta:
            return Position(line=meta["line"], column=max(1, meta["col"] - (meta["end"] - meta["start"])))
    return None


def only(node: exp.Expr, *names: str) -> None:
    """Refuses any part of ``node`` that is not named; absent and empty parts are no parts."""
    args = node.args
    for name in args:
        if name in names or not args[name]:
            continue
        what = name.strip("_").replace("_", " ").upper()
        remedy = _REMEDIES.get(name.strip("_"), "")
        raise Refusal("ClauseNotAllowed", f"{describe(node)} with {what} is not allowed{remedy}", position_of(node))


def not_listed(node: exp.Expr) -> Refusal:
    """The refusal of a function that the vocabulary does not have."""
    name = node.name if isinstance(node, exp.Anonymous) else ""
    close = difflib.get_close_matches(name.upper(), FUNCTIONS, 1, 0.8) if len(name) > 3 else []
    hint = f"; did you mean {close[0].lower()}?" if close else ""
    return Refusal("FunctionNotAllowed", f"{describe(node)} is not on the list of allowed functions{hint}", position_of(node))


def describe(node: exp.Expr) -> str:
    """What a person would call ``node``."""
    if isinstance(node, exp.Anonymous):
        name = node.this if isinstance(node.this, str) else getattr(node.this, "name", "")
        return f"the function {strip_invisible(str(name).removeprefix(MARK))[:80]}"
    if isinstance(node, exp.Func):
        return f"the function {node.sql_name().lower()}"
    return type(node).__name__


class Expressions:
    """Mixin of the checker: ``value(node, scope)`` and the handlers behind it."""

    context: str
    aggregate: str
    in_window: bool
    equal_sides: tuple[Value, Value]
    """Both sides of the comparison that was checked last."""

    def value(self, node: exp.Expr, scope: Scope) -> Value:
        """The checked form of ``node``.

        Raises:
            Refusal: The node, or a part of it, is not on the allow-list.
        """
        name = _HANDLERS.get(type(node))
        if name is None:
            if isinstance(node, exp.Func):
                raise not_listed(node)
            if isinstance(node, exp.Query):
                raise Refusal("ClauseNotAllowed", "a query is not allowed here", position_of(node))
            raise Refusal("ExpressionNotAllowed", f"an expression of kind {describe(node)} is not allowed", position_of(node))
        value: Value = getattr(self, name)(node, scope)
        if value.free and scope.group_keys is not None and value.sql in scope.group_keys:
            value.free = False
        return value

    def alias_target(self, node: exp.Expr, scope: Scope) -> exp.Expr | None:
        """What ``node`` stands for where it is an earlier alias of the same SELECT; the part of the checker that knows names has it."""
        raise NotImplementedError

    def without_alias(self, node: exp.Expr, scope: Scope) -> AbstractContextManager[exp.Expr]:
        raise NotImplementedError

    def in_subquery(self, node: exp.Expr, scope: Scope, negated: bool) -> Value:
        """``x IN (SELECT …)``; the part of the checker that knows queries has it."""
        raise NotImplementedError

    def tuple_membership(self, node: exp.Expr, scope: Scope, negated: bool) -> Value:
        raise NotImplementedError

    def like(self, node: exp.Expr, scope: Scope, negated: bool = False) -> Value:
        raise NotImplementedError

    # -- helpers --------------------------------------------------------------------------------------------------

    def combine(
        self,
        sql: str,
        kind: str,
        level: int,
        parts: Iterable[Value],
        node: exp.Expr,
        *,
        degree: int | None = None,
        identity: bool = False,
        weight: float = math.inf,
    ) -> Value:
        """A value computed from ``parts``. ``identity``: identities may take part (and mark the result)."""
        out = Value(sql, kind, level, weight=weight)
        constant = True
        for part in parts:
            if part.identity:
                if not identity:
                    raise Refusal(
                        "IdentityUse",
                        f"{part.name or 'an identity column'} identifies persons: it may only be joined on, counted "
                        "(COUNT, COUNT DISTINCT) or tested for NULL",
                        position_of(node),
                    )
                out.identity = True
            constant = constant and part.degree == 0
            if part.origins:
                out.origins = out.origins | part.origins if out.origins else part.origins
            if part.exposed:
                out.exposed = out.exposed | part.exposed if out.exposed else part.exposed
            if part.sources:
                out.sources = out.sources | part.sources if out.sources else part.sources
            if part.matched:
                out.matched = out.matched | part.matched
            out.free = out.free or part.free
            out.aggregated = out.aggregated or part.aggregated
            out.windowed = out.windowed or part.windowed
        out.degree = 0 if constant else degree
        if out.origins:
            out.origins = computed(out.origins)
        return out

    def all(self, nodes: Iterable[exp.Expr], scope: Scope) -> list[Value]:
        return [self.value(node, scope) for node in nodes]

    # -- leaves ---------------------------------------------------------------------------------------------------

    def literal(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "is_string")
        text = str(node.this)
        if node.args["is_string"]:
            return Value(text_literal(text), "string", weight=math.inf)
        if text.isdecimal() and len(text) < 6:
            value = Value(text, "integer", weight=max(1.0, float(text)))
            value.number = float(text)
            return value
        if not _NUMBER.fullmatch(text):
            raise Refusal("LiteralNotAllowed", f"{strip_invisible(text)[:40]!r} is not a number that is allowed here", position_of(node))
        number = float(text)
        degree = 0 if number <= LARGEST_FACTOR and len(text) <= 16 and "e" not in text.lower() else None
        kind = "number" if "e" in text.lower() else "decimal" if "." in text else "integer" if int(text) < 2**31 else "long"
        value = Value(text, kind, degree=degree, weight=weight_of(number))
        value.number = number
        return value

    def raw_string(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        return Value(text_literal(str(node.this)), "string", weight=math.inf)

    def adjacent_strings(self, node: exp.Expr, scope: Scope) -> Value:
        parts = node.args.get("expressions") or []
        if not all(isinstance(part, exp.Literal) and part.is_string for part in parts):
            raise Refusal("FunctionNotAllowed", "this form of concatenation is not allowed", position_of(node))
        return Value(text_literal("".join(str(part.this) for part in parts)), "string", weight=math.inf)

    def boolean(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        return Value("TRUE" if node.this else "FALSE", "boolean")

    def null(self, node: exp.Expr, scope: Scope) -> Value:
        return Value("NULL", "null")

    def constant(self, node: exp.Expr, scope: Scope) -> Value:
        only(node)
        return Value("CURRENT_DATE()", "date") if isinstance(node, exp.CurrentDate) else Value("CURRENT_TIMESTAMP()", "timestamp")

    # -- operators ------------------------------------------------------------------------------------------------

    def paren(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        return self.value(node.this, scope)

    def logical(self, node: exp.Expr, scope: Scope) -> Value:
        kind = type(node)
        word, level = ("AND", AND) if kind is exp.And else ("OR", OR)
        parts = [self.value(part, scope) for part in flatten(node, kind)]
        texts = [part.sql if part.level >= PREDICATE or part.chain == word else f"({part.sql})" for part in parts]
        out = self.combine(f" {word} ".join(texts), "boolean", level, parts, node)
        out.chain = word
        return out

    def negation(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        return self._negated(node.this, node, scope)

    def _negated(self, inner: exp.Expr, node: exp.Expr, scope: Scope) -> Value:
        while isinstance(inner, exp.Paren):
            inner = inner.this
        target = self.alias_target(inner, scope)
        if target is not None:  # NOT of an alias is written as NOT of what it stands for, which is how it will be read
            with self.without_alias(inner, scope):
                return self._negated(target, node, scope)
        if isinstance(inner, exp.In):
            return self.membership(inner, scope, negated=True)
        if isinstance(inner, exp.Is):
            return self.is_test(inner, scope, negated=True)
        if isinstance(inner, exp.Between):
            return self.between(inner, scope, negated=True)
        if isinstance(inner, exp.Like | exp.ILike | exp.RegexpLike):
            return self.like(inner, scope, negated=True)
        part = self.value(inner, scope)
        return self.combine(f"NOT {wrap(part, ATOM)}", "boolean", PREDICATE, [part], node)

    def comparison(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression")
        kind = type(node)
        left, right = self.value(node.this, scope), self.value(node.args["expression"], scope)
        # An identity may be compared for equality with a column of another relation (a join), never with anything else.
        join = kind is exp.EQ and bool(left.origins) and bool(right.origins) and not (left.sources & right.sources)
        text = f"{wrap(left, SUM)} {_COMPARISONS[kind]} {wrap(right, SUM)}"
        out = self.combine(text, "boolean", PREDICATE, [left, right], node, identity=join)
        out.identity = False
        if kind is exp.NullSafeNEQ:
            out.sql = f"NOT ({out.sql})"
        self.equal_sides = (left, right)
        return out

    def is_test(self, node: exp.Expr, scope: Scope, negated: bool = False) -> Value:
        only(node, "this", "expression")
        test = node.args["expression"]
        if isinstance(test, exp.Null):
            word = "NULL"
        elif isinstance(test, exp.Boolean):
            word = "TRUE" if test.this else "FALSE"
        else:
            raise Refusal("ExpressionNotAllowed", "IS is allowed with NULL, TRUE and FALSE", position_of(node))
        part = self.value(node.this, scope)
        text = f"{wrap(part, SUM)} IS {'NOT ' if negated else ''}{word}"
        out = self.combine(text, "boolean", PREDICATE, [part], node, identity=word == "NULL" and part.raw)
        out.identity = False
        return out

    def between(self, node: exp.Expr, scope: Scope, negated: bool = False) -> Value:
        only(node, "this", "low", "high")
        parts = self.all((node.this, node.args["low"], node.args["high"]), scope)
        what, low, high = (wrap(part, SUM) for part in parts)
        return self.combine(f"{what} {'NOT ' if negated else ''}BETWEEN {low} AND {high}", "boolean", PREDICATE, parts, node)

    def membership(self, node: exp.Expr, scope: Scope, negated: bool = False) -> Value:
        if node.args.get("query") is not None:
            return self.in_subquery(node, scope, negated)
        only(node, "this", "expressions")
        if not node.expressions:
            raise Refusal("Unparsable", "IN needs at least one value", position_of(node))
        if isinstance(node.this, exp.Tuple):
            return self.tuple_membership(node, scope, negated)
        what = self.value(node.this, scope)
        items = self.all(node.expressions, scope)
        text = f"{wrap(what, SUM)} {'NOT ' if negated else ''}IN ({', '.join(item.sql for item in items)})"
        return self.combine(text, "boolean", PREDICATE, [what, *items], node)

    def arithmetic(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression", "typed", "safe")
        kind = type(node)
        word, level = _ARITHMETIC[kind]
        spine = [node.args["expression"]]
        first = node.this
        while type(first) is kind:
            only(first, "this", "expression", "typed", "safe")
            spine.append(first.args["expression"])
            first = first.this
        left = self.value(first, scope)
        for part in reversed(spine):
            right = self.value(part, scope)
            text = f"{wrap(left, level if left.level != level or _same(left, word) else level + 1)} {word} {wrap(right, level + 1)}"
            degree, weight, number = polynomial(kind, left, right)
            left = self.combine(text, _arithmetic_type(kind, left, right), level, [left, right], node, degree=degree, weight=weight)
            left.name, left.number = word, number
        left.name = ""
        return left

    def concatenation(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression", "safe")
        parts = [self.value(part, scope) for part in flatten(node, exp.DPipe)]
        texts = [part.sql if part.chain == "||" else wrap(part, ATOM) for part in parts]
        out = self.combine(" || ".join(texts), "string", SUM, parts, node)
        out.chain = "||"
        return out

    def minus(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        part = self.value(node.this, scope)
        out = self.combine(f"-{wrap(part, ATOM)}", part.type, SIGN, [part], node, degree=part.degree, weight=part.weight)
        out.number = None if part.number is None else -part.number
        return out


@lru_cache(maxsize=4096)
def computed(origins: frozenset[Origin]) -> frozenset[Origin]:
    """``origins`` of something computed from what has these."""
    return frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in origins])


def flatten(node: exp.Expr, kind: type[exp.Expr]) -> list[exp.Expr]:
    """Operands of a chain of one associative operator, without recursion; parentheses inside the chain do not matter."""
    out, stack = [], [node]
    while stack:
        part = stack.pop()
        inner = part
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if type(inner) is kind:
            only(inner, "this", "expression", "safe")
            stack.extend((inner.args["expression"], inner.this))
        else:
            out.append(inner)
    return out


def _same(left: Value, word: str) -> bool:
    return left.name == word


def _arithmetic_type(kind: type[exp.Expr], left: Value, right: Value) -> str:
    kinds = {left.type, right.type}
    if kind is exp.IntDiv:
        return "long"
    if kinds & {"date", "timestamp"}:
        if kind is exp.Sub and len(kinds & {"date", "timestamp"}) == 1 and len(kinds) == 1:
            return "interval"
        return "timestamp" if "timestamp" in kinds else "date"
    if "interval" in kinds:
        return "interval"
    if kind is exp.Div:
        return "decimal" if "decimal" in kinds and "number" not in kinds and "string" not in kinds else "number"
    out = widest([left.type, right.type])
    return "number" if out in ("string", "null", "unknown") else out


_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.NullSafeEQ: "<=>",
    exp.NullSafeNEQ: "<=>",
}
_ARITHMETIC: dict[type[exp.Expr], tuple[str, int]] = {
    exp.Add: ("+", SUM),
    exp.Sub: ("-", SUM),
    exp.Mul: ("*", PRODUCT),
    exp.Div: ("/", PRODUCT),
    exp.Mod: ("%", PRODUCT),
    exp.IntDiv: ("DIV", PRODUCT),
}

_HANDLERS: dict[type[exp.Expr], str] = {
    exp.Column: "column",
    exp.Literal: "literal",
    exp.RawString: "raw_string",
    exp.Concat: "adjacent_strings",
    exp.Boolean: "boolean",
    exp.Null: "null",
    exp.CurrentDate: "constant",
    exp.CurrentTimestamp: "constant",
    exp.Interval: "interval",
    exp.Paren: "paren",
    exp.And: "logical",
    exp.Or: "logical",
    exp.Not: "negation",
    **dict.fromkeys(_COMPARISONS, "comparison"),
    exp.Is: "is_test",
    exp.Between: "between",
    exp.In: "membership",
    **dict.fromkeys((exp.Like, exp.ILike, exp.RegexpLike), "like"),
    exp.Escape: "escape",
    **dict.fromkeys(_ARITHMETIC, "arithmetic"),
    exp.DPipe: "concatenation",
    exp.BitwiseAnd: "bits",
    exp.BitwiseOr: "bits",
    exp.BitwiseXor: "bits",
    exp.BitwiseNot: "bits",
    exp.Bracket: "element",
    exp.Neg: "minus",
    exp.Case: "case",
    exp.Cast: "cast",
    exp.TryCast: "cast",
    exp.Extract: "extract",
    exp.Substring: "standard_form",
    exp.StrPosition: "standard_form",
    exp.Trim: "standard_form",
    exp.Overlay: "overlay",
    exp.Anonymous: "function",
    exp.Exists: "exists_value",
    exp.Subquery: "subquery_value",
    exp.Window: "window_value",
    exp.Filter: "aggregate_filter",
    exp.WithinGroup: "within_group",
    exp.IgnoreNulls: "nulls_treatment",
    exp.RespectNulls: "nulls_treatment",
}
"""Every expression that may appear, and the method of the checker that checks it."""
