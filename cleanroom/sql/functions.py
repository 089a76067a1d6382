"""Conditionals, casts and functions, by the names of the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.expressions import not_listed, only, position_of
from cleanroom.sql.forms import Forms
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.marking import CASTS, MARK
from cleanroom.sql.values import ATOM, NUMERIC, PREDICATE, Scope, Value, widest, wrap
from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, IDENTITY_NORMALISERS, TYPES, UNIT_FUNCTIONS, UNITS, Function


class Functions(Forms):
    """Mixin of the checker: everything that looks like a call."""

    aggregate: str
    """Name of the aggregate whose arguments are being checked, or empty."""
    in_window: bool

    def aggregate_value(self, node: exp.Anonymous, name: str, scope: Scope) -> Value:
        """A call of an aggregate; the part of the checker that knows groups has it."""
        raise NotImplementedError

    def branches(self, conditions: Sequence[Value], node: exp.Expr, scope: Scope) -> bool:
        """Whether ``conditions`` divide protected rows inside an aggregate, which the floor then takes into account."""
        raise NotImplementedError

    def case(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "ifs", "default")
        subject = self.value(node.this, scope) if node.this is not None else None
        text = ["CASE" if subject is None else f"CASE {wrap(subject, ATOM)}"]
        conditions, results = [], []
        for branch in node.args["ifs"]:
            only(branch, "this", "true")
            condition, result = self.value(branch.this, scope), self.value(branch.args["true"], scope)
            text.append(f"WHEN {condition.sql} THEN {result.sql}")
            if subject is not None:
                condition = self.combine(
                    f"{wrap(subject, ATOM)} = {wrap(condition, ATOM)}", "boolean", PREDICATE, [subject, condition], node
                )
            conditions.append(condition)
            results.append(result)
        if node.args.get("default") is not None:
            results.append(self.value(node.args["default"], scope))
            text.append(f"ELSE {results[-1].sql}")
        return self._conditional(" ".join([*text, "END"]), conditions, results, node, scope)

    def _if(self, node: exp.Expr, args: list[Value], scope: Scope) -> Value:
        return self._conditional(f"IF({', '.join(arg.sql for arg in args)})", args[:1], args[1:], node, scope)

    def _conditional(self, sql: str, conditions: list[Value], results: list[Value], node: exp.Expr, scope: Scope) -> Value:
        degree = None
        divides = self.branches(conditions, node, scope)
        weight = max((result.weight for result in results), default=1.0)
        if divides and all(result.degree is not None for result in results):
            degree = max(result.degree or 0 for result in results)
        for condition in conditions:
            if condition.identity:
                self.combine("", "boolean", ATOM, [condition], node)
        out = self.combine(
            sql, widest([result.type for result in results]), ATOM, [*conditions, *results], node,
            degree=degree, identity=divides, weight=weight,
        )  # fmt: skip
        if out.degree == 0 and any(condition.degree != 0 for condition in conditions):
            out.degree = degree
        # COUNT(DISTINCT CASE WHEN … THEN column END): plain values of the rows of one branch.
        out.raw = divides and any(result.raw for result in results) and all(result.raw or result.type == "null" for result in results)
        return out

    def cast(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "to", "safe")
        to = node.args["to"]
        known = TYPES.get(to.this.name if isinstance(to, exp.DataType) and hasattr(to.this, "name") else "")
        if (
            known is None
            or any(name not in ("this", "expressions", "nested") and part for name, part in to.args.items())
            or to.args.get("nested")
        ):
            raise Refusal("TypeNotAllowed", "a cast to this type is not allowed", position_of(node))
        name, kind = known
        sizes = [
            str(part.this.this) for part in to.expressions if isinstance(part, exp.DataTypeParam) and isinstance(part.this, exp.Literal)
        ]
        if any(not size.isdecimal() for size in sizes) or len(sizes) != len(to.expressions):
            raise Refusal("TypeNotAllowed", "a cast to this type is not allowed", position_of(node))
        if name == "DECIMAL" and sizes:
            name = f"DECIMAL({', '.join(sizes)})"
        word = "TRY_CAST" if isinstance(node, exp.TryCast) and node.args.get("safe") else "CAST"
        return self._cast(word, node.this, name, kind, sizes, node, scope)

    def _marked_cast(self, node: exp.Anonymous, word: str, scope: Scope) -> Value:
        """``CAST(x AS type)`` as the tokens were marked: a call with the type as its second argument."""
        if len(node.expressions) != 2 or not isinstance(node.expressions[1], exp.Literal):
            raise Refusal("WrongArguments", f"{word} takes one value AS a type", position_of(node))
        written, _, inside = str(node.expressions[1].this).partition("(")
        name, kind = TYPES[written]
        sizes = inside.rstrip(")").split(", ") if inside and name == "DECIMAL" else []
        return self._cast(word, node.expressions[0], f"{name}({', '.join(sizes)})" if sizes else name, kind, sizes, node, scope)

    def _cast(self, word: str, what: exp.Expr, name: str, kind: str, sizes: list[str], node: exp.Expr, scope: Scope) -> Value:
        part = self.value(what, scope)
        # A cast that can fail (or, as TRY_CAST, give NULL) for some rows tells them from the others.
        numeric = kind in ("number", "decimal", "long") and part.type in ("number", "decimal", "long", "integer")
        digits = int(sizes[0]) - int((*sizes, "0")[1]) if sizes else 10
        narrow = kind == "decimal" and digits < (10 if part.type == "integer" else 19)
        exact = numeric and word == "CAST" and not narrow and not (kind in ("long", "decimal") and part.type in ("number", "decimal"))
        return self.combine(
            f"{word}({part.sql} AS {name})", kind, ATOM, [part], node,
            degree=part.degree if exact else None, identity=kind == "string", weight=part.weight if exact else math.inf,
        )  # fmt: skip

    def extract(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression")
        unit = str(node.this.name if isinstance(node.this, exp.Expr) else node.this).upper()
        if unit not in EXTRACT_FIELDS:
            raise Refusal("LiteralNotAllowed", f"EXTRACT knows {', '.join(sorted(EXTRACT_FIELDS))}", position_of(node))
        part = self.value(node.args["expression"], scope)
        kind = "decimal" if unit == "SECOND" else "integer"
        return self.combine(f"EXTRACT({unit} FROM {part.sql})", kind, ATOM, [part], node)

    def standard_form(self, node: exp.Expr, scope: Scope) -> Value:
        """``SUBSTRING(x FROM 1 FOR 2)``, ``POSITION('a' IN x)``, ``TRIM(x FROM y)``: written as ordinary calls where Spark has one."""
        if isinstance(node, exp.Substring):
            only(node, "this", "start", "length")
            parts = self.all([part for part in (node.this, node.args.get("start"), node.args.get("length")) if part is not None], scope)
            return self.combine(f"SUBSTRING({', '.join(part.sql for part in parts)})", "string", ATOM, parts, node)
        if isinstance(node, exp.StrPosition):
            only(node, "this", "substr")
            parts = self.all((node.args["substr"], node.this), scope)
            return self.combine(f"LOCATE({', '.join(part.sql for part in parts)})", "integer", ATOM, parts, node)
        only(node, "this", "expression", "position")
        side = str(node.args.get("position") or "BOTH").upper()
        parts = self.all((node.this, node.args["expression"]), scope)
        if side not in ("BOTH", "LEADING", "TRAILING"):
            raise Refusal("ClauseNotAllowed", "TRIM takes BOTH, LEADING or TRAILING", position_of(node))
        return self.combine(f"TRIM({side} {parts[1].sql} FROM {parts[0].sql})", "string", ATOM, parts, node)

    def function(self, node: exp.Anonymous, scope: Scope) -> Value:
        only(node, "this", "expressions")
        marked = node.this
        if not isinstance(marked, str) or not marked.startswith(MARK):
            raise not_listed(node)
        name = marked[len(MARK) :]
        if name in CASTS:
            return self._marked_cast(node, name, scope)
        function = FUNCTIONS[name]
        nodes = node.expressions
        if not function.least <= len(nodes) <= function.most and not (len(nodes) == 1 and isinstance(nodes[0], exp.Distinct)):
            raise Refusal("WrongArguments", f"{name} does not take {len(nodes)} arguments", position_of(node))
        if function.kind == "aggregate":
            return self.aggregate_value(node, name, scope)
        if function.kind == "window":
            if not self.in_window:
                raise Refusal("FunctionNotAllowed", f"{name} needs OVER (…)", position_of(node))
        elif function.kind == "generator":
            raise Refusal("FunctionNotAllowed", f"{name} is allowed only as LATERAL VIEW {name.lower()}(…)", position_of(node))
        if name in UNIT_FUNCTIONS and len(nodes) == 3:
            unit = nodes[0].name.upper() if isinstance(nodes[0], exp.Column | exp.Var) and not nodes[0].args.get("table") else ""
            if unit not in UNITS:
                raise Refusal("LiteralNotAllowed", f"{name} takes a unit of {', '.join(sorted(UNITS))}", position_of(node))
            parts = self.all(nodes[1:], scope)
            kind = "long" if function.result == "integer" else function.result
            return self.combine(f"{name}({unit}, {parts[0].sql}, {parts[1].sql})", kind, ATOM, parts, node)
        args = self.all(nodes, scope)
        if name == "IF":
            return self._if(node, args, scope)
        degree, weight = None, math.inf
        if name in ("COALESCE", "NVL", "IFNULL") and all(arg.degree == 0 for arg in args[1:]):
            degree, weight = args[0].degree, max(arg.weight for arg in args)
        if name in ("DATEDIFF", "DATE_DIFF") and all(arg.type == "date" and arg.degree is not None for arg in args):
            degree, weight = max(arg.degree or 0 for arg in args), 1.0
        normal = name in IDENTITY_NORMALISERS and all(arg.degree == 0 for arg in args[1:])
        sql = f"{name}({', '.join(arg.sql for arg in args)})"
        out = self.combine(sql, result_type(function, args), ATOM, args, node, degree=degree, identity=normal, weight=weight)
        out.joinable = normal and args[0].joinable
        return out


def result_type(function: Function, args: Sequence[Value]) -> str:
    """The type that a call of ``function`` with ``args`` has."""
    kinds = [arg.type for arg in args]
    match function.result:
        case "first":
            return kinds[0] if kinds else "unknown"
        case "all":
            return widest(kinds)
        case "rest":
            return widest(kinds[1:])
        case "decode":
            return widest([*kinds[2::2], *(kinds[-1:] if len(kinds) % 2 == 0 else [])])
        case "sum":
            return {"decimal": "decimal", "number": "number", "float": "number"}.get(kinds[0], "long" if kinds[0] in NUMERIC else "number")
    return function.result
