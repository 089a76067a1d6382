"""Rarer forms of scalar expressions: bits, tuples, elements of arrays, quantified LIKE, intervals."""

from __future__ import annotations

import re

from sqlglot import exp

from cleanroom.sql.expressions import Expressions, only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.marking import MARK
from cleanroom.sql.values import ATOM, PREDICATE, SUM, Scope, Value, text_literal, widest, wrap

INTERVAL_UNITS = frozenset({"YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "MICROSECOND"})
_SPANS = {
    ("YEAR", "MONTH"): r"-?[0-9]{1,9}-[0-9]{1,2}",
    ("DAY", "HOUR"): r"-?[0-9]{1,9} [0-9]{1,2}",
    ("DAY", "MINUTE"): r"-?[0-9]{1,9} [0-9]{1,2}:[0-9]{1,2}",
    ("DAY", "SECOND"): r"-?[0-9]{1,9} [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]{1,6})?",
    ("HOUR", "MINUTE"): r"-?[0-9]{1,9}:[0-9]{1,2}",
    ("HOUR", "SECOND"): r"-?[0-9]{1,9}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]{1,6})?",
    ("MINUTE", "SECOND"): r"-?[0-9]{1,9}:[0-9]{1,2}(\.[0-9]{1,6})?",
}
_BITS: dict[type[exp.Expr], str] = {exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^"}
_LIKES: dict[type[exp.Expr], str] = {exp.Like: "LIKE", exp.ILike: "ILIKE", exp.RegexpLike: "RLIKE"}
_WHOLE = ("integer", "long", "smallint", "tinyint", "null")


class Forms(Expressions):
    """Mixin of the checker: the handlers of these forms."""

    def interval(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "unit")
        unit, amount = node.args.get("unit"), node.this
        sign = ""
        while isinstance(amount, exp.Paren | exp.Neg):
            only(amount, "this")
            sign = sign if isinstance(amount, exp.Paren) else "-" if not sign else ""
            amount = amount.this
        refusal = Refusal(
            "LiteralNotAllowed",
            "an interval is INTERVAL '<whole number>' <unit>, or with one span as INTERVAL '1 02:30:00' DAY TO SECOND; add several up",
            position_of(node),
        )
        if not isinstance(amount, exp.Literal):
            raise refusal
        text = str(amount.this).strip()
        if isinstance(unit, exp.IntervalSpan):
            only(unit, "this", "expression")
            span = unit.this.name.upper(), unit.args["expression"].name.upper()
            if sign or not re.fullmatch(_SPANS.get(span, "(?!)"), text):
                raise refusal
            return Value(f"INTERVAL '{text}' {span[0]} TO {span[1]}", "interval")
        name = unit.name.upper().rstrip("S") if isinstance(unit, exp.Var) else ""
        if name not in (*INTERVAL_UNITS, "QUARTER") or not re.fullmatch(r"-?[0-9]{1,9}", text):
            raise refusal
        number = -int(text) if sign else int(text)
        if name == "QUARTER":  # Spark has no such unit in a literal
            number, name = number * 3, "MONTH"
        return Value(f"INTERVAL '{number}' {name}", "interval")

    def bits(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression")
        parts = [self.value(node.this, scope)]
        if isinstance(node, exp.BitwiseNot):
            text = f"~{wrap(parts[0], ATOM)}"
        else:
            parts.append(self.value(node.args["expression"], scope))
            text = f"{wrap(parts[0], ATOM)} {_BITS[type(node)]} {wrap(parts[1], ATOM)}"
        if any(part.type not in _WHOLE for part in parts):
            raise Refusal("TypeNotAllowed", "bits are of whole numbers", position_of(node))
        return self.combine(text, widest([part.type for part in parts]), PREDICATE, parts, node)

    def element(self, node: exp.Expr, scope: Scope) -> Value:
        """``SPLIT(text, sign)[0]`` and ``ELEMENT_AT(SPLIT(text, sign), 1)``: the only arrays of which the type of an element is known."""
        only(node, "this", "expressions", "offset", "safe")
        array, offset, safe = node.this, node.args.get("offset"), node.args.get("safe")
        index = node.expressions[0] if len(node.expressions) == 1 else None
        if not (isinstance(array, exp.Anonymous) and array.this == MARK + "SPLIT" and isinstance(index, exp.Literal | exp.Neg)):
            raise Refusal("ExpressionNotAllowed", "[…] and element_at take split(…) and a whole number", position_of(node))
        parts = self.all((array, index), scope)
        if parts[1].type != "integer":
            raise Refusal("TypeNotAllowed", "the place of an element is a whole number", position_of(node))
        if offset == 1:
            text = f"{'TRY_' if safe else ''}ELEMENT_AT({parts[0].sql}, {parts[1].sql})"
        elif offset in (None, 0) and not safe:
            text = f"{parts[0].sql}[{parts[1].sql}]"
        else:
            raise Refusal("ExpressionNotAllowed", "this form of element access is not allowed", position_of(node))
        return self.combine(text, "string", ATOM, parts, node)

    def like(self, node: exp.Expr, scope: Scope, negated: bool = False) -> Value:
        only(node, "this", "expression", "negate")
        if node.args.get("negate"):
            negated = not negated
        if isinstance(node.args["expression"], exp.Any | exp.All):
            return self.quantified_like(node, _LIKES[type(node)], negated, scope)
        parts = self.all((node.this, node.args["expression"]), scope)
        left, right = (wrap(part, SUM) for part in parts)
        return self.combine(f"{left} {'NOT ' if negated else ''}{_LIKES[type(node)]} {right}", "boolean", PREDICATE, parts, node)

    def escape(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression")
        sign = node.args["expression"]
        pattern = node.this.args.get("expression") if isinstance(node.this, exp.Like | exp.ILike) else None
        if pattern is None or isinstance(pattern, exp.Any | exp.All) or not isinstance(sign, exp.Literal) or len(str(sign.this)) != 1:
            raise Refusal("LiteralNotAllowed", "LIKE … ESCAPE takes one pattern and one character", position_of(node))
        out = self.value(node.this, scope)
        out.sql += f" ESCAPE {text_literal(str(sign.this))}"
        return out

    def quantified_like(self, node: exp.Expr, word: str, negated: bool, scope: Scope) -> Value:
        """``x LIKE ANY ('a%', 'b%')``."""
        group = node.args["expression"]
        only(group, "this")
        inner = group.this
        patterns = inner.expressions if isinstance(inner, exp.Tuple) else [inner.this] if isinstance(inner, exp.Paren) else []
        if word == "RLIKE" or not patterns:
            raise Refusal("ExpressionNotAllowed", "LIKE ANY and LIKE ALL take a list of patterns", position_of(node))
        parts = self.all((node.this, *patterns), scope)
        quantifier = "ALL" if isinstance(group, exp.All) else "ANY"
        texts = ", ".join(part.sql for part in parts[1:])
        text = f"{wrap(parts[0], SUM)} {'NOT ' if negated else ''}{word} {quantifier} ({texts})"
        return self.combine(text, "boolean", PREDICATE, parts, node)

    def tuple_membership(self, node: exp.Expr, scope: Scope, negated: bool) -> Value:
        """``(a, b) IN ((1, 2), …)``."""
        whats = self.all(node.this.expressions, scope)
        rows = []
        for row in node.expressions:
            if not isinstance(row, exp.Tuple) or len(row.expressions) != len(whats):
                raise Refusal("WrongArguments", f"(…) IN takes lists of {len(whats)} values", position_of(node))
            rows.append(self.all(row.expressions, scope))
        items = ", ".join(f"({', '.join(part.sql for part in row)})" for row in rows)
        text = f"({', '.join(part.sql for part in whats)}) {'NOT ' if negated else ''}IN ({items})"
        return self.combine(text, "boolean", PREDICATE, [*whats, *(part for row in rows for part in row)], node)

    def overlay(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression", "from_", "for_")
        parts = self.all([node.args[name] for name in ("this", "expression", "from_", "for_") if node.args.get(name) is not None], scope)
        return self.combine(f"OVERLAY({', '.join(part.sql for part in parts)})", "string", ATOM, parts, node)
