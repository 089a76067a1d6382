"""Scalar expressions: every node that may appear has a method here, and each method names every part that the node may have.

Default is refusal: a node class without a method, or a part that its method does not name, is refused. The text of a checked
expression is written here and never taken from the author; operands are put into parentheses wherever precedence is not the
same in every SQL dialect, so that Spark cannot read another tree than the one that was checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlglot import exp

from cleanroom.sql.lexical import MARK, Refusal, strip_invisible
from cleanroom.sql.values import AND, ATOM, NO_COLUMNS, NOTHING, OR, PREDICATE, PRODUCT, SIGN, SUM, Scope, Value, text_literal, widest, wrap
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, IDENTITY_NORMALISERS, TYPES, UNIT_FUNCTIONS, UNITS, Function

MAX_DEGREE = 3
"""Sums of products of up to three columns (``price * (1 - discount) * (1 + tax)``): moments, not indicators of single rows."""
LARGEST_FACTOR = 1_000_000
"""Constants above this in an aggregate over protected rows could hide or single out rows by rounding or overflow."""

_NUMBER = re.compile(r"[0-9]{1,38}(\.[0-9]{0,38})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,38}([eE][+-]?[0-9]{1,3})?")
_CONSTANT_NAMES = {"CURRENT_DATE": ("CURRENT_DATE()", "date"), "CURRENT_TIMESTAMP": ("CURRENT_TIMESTAMP()", "timestamp")}

Handler = Callable[[Any, exp.Expression, Scope], Value]


def position_of(node: exp.Expression | None) -> Position | None:
    """Position of the first token below ``node`` that kept one."""
    if node is None:
        return None
    for child in node.walk():
        meta = child._meta
        if meta and "line" in meta:
            return Position(line=meta["line"], column=max(1, meta["col"] - (meta["end"] - meta["start"])))
    return None


def only(node: exp.Expression, *names: str) -> None:
    """Refuses any part of ``node`` that is not named; absent and empty parts are no parts."""
    for name, part in node.args.items():
        if part is None or part is False or part == [] or name in names:
            continue
        what = name.strip("_").replace("_", " ").upper()
        raise Refusal("ClauseNotAllowed", f"{describe(node)} with {what} is not allowed", position_of(node))


def describe(node: exp.Expression) -> str:
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

    def value(self, node: exp.Expression, scope: Scope) -> Value:
        """The checked form of ``node``.

        Raises:
            Refusal: The node, or a part of it, is not on the allow-list.
        """
        handler = _HANDLERS.get(type(node))
        if handler is None:
            if isinstance(node, exp.Func):
                raise Refusal("FunctionNotAllowed", f"{describe(node)} is not on the list of allowed functions", position_of(node))
            if isinstance(node, exp.Query):
                raise Refusal("ClauseNotAllowed", "a query is not allowed here", position_of(node))
            raise Refusal("ExpressionNotAllowed", f"an expression of kind {describe(node)} is not allowed", position_of(node))
        value = handler(self, node, scope)
        if value.free and scope.group_keys is not None and value.sql in scope.group_keys:
            value.free = False
        return value

    # Overridden by the relation and query parts of the checker.
    def column(self, node: exp.Expression, scope: Scope) -> Value:
        raise NotImplementedError

    def subquery_value(self, node: exp.Expression, scope: Scope) -> Value:
        raise NotImplementedError

    def aggregate_value(self, node: exp.Anonymous, name: str, scope: Scope) -> Value:
        raise NotImplementedError

    def window_value(self, node: exp.Expression, scope: Scope) -> Value:
        raise NotImplementedError

    def branches(self, conditions: Sequence[Value], node: exp.Expression, scope: Scope) -> bool:
        raise NotImplementedError

    # -- helpers --------------------------------------------------------------------------------------------------

    def combine(
        self,
        sql: str,
        kind: str,
        level: int,
        parts: Iterable[Value],
        node: exp.Expression,
        *,
        degree: int | None = None,
        identity: bool = False,
    ) -> Value:
        """A value computed from ``parts``. ``identity``: identities may take part (and mark the result)."""
        out = Value(sql, kind, level)
        constant = True
        for part in parts:
            if part.identity:
                if not identity:
                    raise Refusal(
                        "IdentityUse",
                        f"{part.name or 'an identity column'} identifies persons: it may only be joined on, counted (COUNT, COUNT DISTINCT) "
                        "or tested for NULL",
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
            out.origins = frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in out.origins])
        return out

    def all(self, nodes: Iterable[exp.Expression], scope: Scope) -> list[Value]:
        return [self.value(node, scope) for node in nodes]

    # -- leaves ---------------------------------------------------------------------------------------------------

    def _literal(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this", "is_string")
        text = str(node.this)
        if node.args.get("is_string"):
            return Value(text_literal(text), "string")
        if not _NUMBER.fullmatch(text):
            raise Refusal("LiteralNotAllowed", f"{strip_invisible(text)[:40]!r} is not a number that is allowed here", position_of(node))
        degree = 0 if float(text) <= LARGEST_FACTOR and len(text) <= 16 and "e" not in text.lower() else None
        kind = "number" if "e" in text.lower() else "decimal" if "." in text else "integer" if int(text) < 2**31 else "long"
        return Value(text, kind, degree=degree)

    def _raw_string(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        return Value(text_literal(str(node.this)), "string")

    def _adjacent_strings(self, node: exp.Expression, scope: Scope) -> Value:
        parts = node.args.get("expressions") or []
        if not all(isinstance(part, exp.Literal) and part.is_string for part in parts):
            raise Refusal("FunctionNotAllowed", "this form of concatenation is not allowed", position_of(node))
        return Value(text_literal("".join(str(part.this) for part in parts)), "string")

    def _boolean(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        return Value("TRUE" if node.this else "FALSE", "boolean")

    def _null(self, node: exp.Expression, scope: Scope) -> Value:
        return Value("NULL", "null")

    def _constant(self, node: exp.Expression, scope: Scope) -> Value:
        only(node)
        sql, kind = _CONSTANT_NAMES[node.sql_name()]
        return Value(sql, kind)

    def _interval(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this", "unit")
        unit, amount = node.args.get("unit"), node.this
        if isinstance(amount, exp.Neg):
            only(amount, "this")
            sign, amount = "-", amount.this
        else:
            sign = ""
        if not (isinstance(unit, exp.Var) and unit.name.upper().rstrip("S") in UNITS and isinstance(amount, exp.Literal)):
            raise Refusal("LiteralNotAllowed", "an interval is INTERVAL '<whole number>' <unit>", position_of(node))
        text = str(amount.this).strip()
        if not re.fullmatch(r"-?[0-9]{1,9}", text):
            raise Refusal("LiteralNotAllowed", "an interval is INTERVAL '<whole number>' <unit>", position_of(node))
        return Value(f"INTERVAL '{sign}{text}' {unit.name.upper().rstrip('S')}", "interval")

    # -- operators ------------------------------------------------------------------------------------------------

    def _paren(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        return self.value(node.this, scope)

    def _logical(self, node: exp.Expression, scope: Scope) -> Value:
        kind = type(node)
        word, level = ("AND", AND) if kind is exp.And else ("OR", OR)
        parts = [self.value(part, scope) for part in flatten(node, kind)]
        texts = [part.sql if part.level >= PREDICATE else f"({part.sql})" for part in parts]
        return self.combine(f" {word} ".join(texts), "boolean", level, parts, node)

    def _not(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        inner = node.this
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if isinstance(inner, exp.In):
            return self._in(inner, scope, negated=True)
        if isinstance(inner, exp.Is):
            return self._is(inner, scope, negated=True)
        if isinstance(inner, exp.Between):
            return self._between(inner, scope, negated=True)
        if isinstance(inner, exp.Like | exp.ILike | exp.RegexpLike):
            return self._like(inner, scope, negated=True)
        part = self.value(inner, scope)
        return self.combine(f"NOT {wrap(part, ATOM)}", "boolean", PREDICATE, [part], node)

    def _comparison(self, node: exp.Expression, scope: Scope) -> Value:
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

    def _is(self, node: exp.Expression, scope: Scope, negated: bool = False) -> Value:
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

    def _between(self, node: exp.Expression, scope: Scope, negated: bool = False) -> Value:
        only(node, "this", "low", "high")
        parts = self.all((node.this, node.args["low"], node.args["high"]), scope)
        what, low, high = (wrap(part, SUM) for part in parts)
        return self.combine(f"{what} {'NOT ' if negated else ''}BETWEEN {low} AND {high}", "boolean", PREDICATE, parts, node)

    def _in(self, node: exp.Expression, scope: Scope, negated: bool = False) -> Value:
        if node.args.get("query") is not None:
            return self.in_subquery(node, scope, negated)
        only(node, "this", "expressions")
        what = self.value(node.this, scope)
        items = self.all(node.expressions, scope)
        text = f"{wrap(what, SUM)} {'NOT ' if negated else ''}IN ({', '.join(item.sql for item in items)})"
        return self.combine(text, "boolean", PREDICATE, [what, *items], node)

    def in_subquery(self, node: exp.Expression, scope: Scope, negated: bool) -> Value:
        raise NotImplementedError

    def exists_value(self, node: exp.Expression, scope: Scope) -> Value:
        raise NotImplementedError

    def _like(self, node: exp.Expression, scope: Scope, negated: bool = False) -> Value:
        only(node, "this", "expression", "negate")
        if node.args.get("negate"):
            negated = not negated
        parts = self.all((node.this, node.args["expression"]), scope)
        left, right = (wrap(part, SUM) for part in parts)
        return self.combine(f"{left} {'NOT ' if negated else ''}{_LIKES[type(node)]} {right}", "boolean", PREDICATE, parts, node)

    def _arithmetic(self, node: exp.Expression, scope: Scope) -> Value:
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
            left = self.combine(text, _arithmetic_type(kind, left, right), level, [left, right], node, degree=_degree(kind, left, right))
            left.name = word
        left.name = ""
        return left

    def _concat(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this", "expression", "safe")
        parts = [self.value(part, scope) for part in flatten(node, exp.DPipe)]
        return self.combine(" || ".join(wrap(part, ATOM) for part in parts), "string", SUM, parts, node)

    def _negative(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        part = self.value(node.this, scope)
        return self.combine(f"-{wrap(part, ATOM)}", part.type, SIGN, [part], node, degree=part.degree)

    # -- conditionals, casts, functions ---------------------------------------------------------------------------

    def _case(self, node: exp.Expression, scope: Scope) -> Value:
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

    def _if(self, node: exp.Expression, args: list[Value], scope: Scope) -> Value:
        return self._conditional(f"IF({', '.join(arg.sql for arg in args)})", args[:1], args[1:], node, scope)

    def _conditional(self, sql: str, conditions: list[Value], results: list[Value], node: exp.Expression, scope: Scope) -> Value:
        degree = None
        divides = self.branches(conditions, node, scope)
        if divides and all(result.degree is not None for result in results):
            degree = max(result.degree or 0 for result in results)
        for condition in conditions:
            if condition.identity:
                self.combine("", "boolean", ATOM, [condition], node)
        out = self.combine(
            sql, widest([result.type for result in results]), ATOM, [*conditions, *results], node, degree=degree, identity=divides
        )
        if out.degree == 0 and any(condition.degree != 0 for condition in conditions):
            out.degree = degree
        # COUNT(DISTINCT CASE WHEN … THEN column END): plain values of the rows of one branch.
        out.raw = divides and any(result.raw for result in results) and all(result.raw or result.type == "null" for result in results)
        return out

    def _cast(self, node: exp.Expression, scope: Scope) -> Value:
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
        part = self.value(node.this, scope)
        word = "TRY_CAST" if isinstance(node, exp.TryCast) and node.args.get("safe") else "CAST"
        numeric = kind in ("number", "decimal", "long") and part.type in ("number", "decimal", "long", "integer")
        exact = numeric and not (kind in ("long", "decimal") and part.type in ("number", "decimal"))
        return self.combine(
            f"{word}({part.sql} AS {name})", kind, ATOM, [part], node, degree=part.degree if exact else None, identity=kind == "string"
        )

    def _extract(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this", "expression")
        unit = str(node.this.name if isinstance(node.this, exp.Expression) else node.this).upper()
        if unit not in EXTRACT_FIELDS:
            raise Refusal("LiteralNotAllowed", f"EXTRACT knows {', '.join(sorted(EXTRACT_FIELDS))}", position_of(node))
        part = self.value(node.args["expression"], scope)
        return self.combine(f"EXTRACT({unit} FROM {part.sql})", "integer", ATOM, [part], node)

    def _standard(self, node: exp.Expression, scope: Scope) -> Value:
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

    def _function(self, node: exp.Anonymous, scope: Scope) -> Value:
        only(node, "this", "expressions")
        marked = node.this
        if not isinstance(marked, str) or not marked.startswith(MARK):
            raise Refusal("FunctionNotAllowed", f"{describe(node)} is not on the list of allowed functions", position_of(node))
        name = marked[len(MARK) :]
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
            return self.combine(f"{name}({unit}, {parts[0].sql}, {parts[1].sql})", function.result, ATOM, parts, node)
        args = self.all(nodes, scope)
        if name == "IF":
            return self._if(node, args, scope)
        degree = None
        if name in ("COALESCE", "NVL", "IFNULL") and all(arg.degree == 0 for arg in args[1:]):
            degree = args[0].degree
        normal = name in IDENTITY_NORMALISERS and all(arg.degree == 0 for arg in args[1:])
        sql = f"{name}({', '.join(arg.sql for arg in args)})"
        out = self.combine(sql, result_type(function, args), ATOM, args, node, degree=degree, identity=normal)
        out.joinable = normal and args[0].joinable
        return out


def flatten(node: exp.Expression, kind: type[exp.Expression]) -> list[exp.Expression]:
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
        case "sum":
            return {"integer": "long", "long": "long", "decimal": "decimal"}.get(kinds[0], "number")
    return function.result


def _same(left: Value, word: str) -> bool:
    return left.name == word


def _degree(kind: type[exp.Expression], left: Value, right: Value) -> int | None:
    if left.degree is None or right.degree is None:
        return None
    if kind in (exp.Add, exp.Sub):
        degree = max(left.degree, right.degree)
    elif kind is exp.Mul:
        degree = left.degree + right.degree
    elif kind is exp.Div and right.degree == 0:
        degree = left.degree
    else:
        return None
    return degree if degree <= MAX_DEGREE else None


def _arithmetic_type(kind: type[exp.Expression], left: Value, right: Value) -> str:
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


_COMPARISONS: dict[type[exp.Expression], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.NullSafeEQ: "<=>",
    exp.NullSafeNEQ: "<=>",
}
_LIKES: dict[type[exp.Expression], str] = {exp.Like: "LIKE", exp.ILike: "ILIKE", exp.RegexpLike: "RLIKE"}
_ARITHMETIC: dict[type[exp.Expression], tuple[str, int]] = {
    exp.Add: ("+", SUM),
    exp.Sub: ("-", SUM),
    exp.Mul: ("*", PRODUCT),
    exp.Div: ("/", PRODUCT),
    exp.Mod: ("%", PRODUCT),
    exp.IntDiv: ("DIV", PRODUCT),
}

_HANDLERS: dict[type[exp.Expression], Handler] = {
    exp.Column: lambda self, node, scope: self.column(node, scope),
    exp.Literal: Expressions._literal,
    exp.RawString: Expressions._raw_string,
    exp.Concat: Expressions._adjacent_strings,
    exp.Boolean: Expressions._boolean,
    exp.Null: Expressions._null,
    exp.CurrentDate: Expressions._constant,
    exp.CurrentTimestamp: Expressions._constant,
    exp.Interval: Expressions._interval,
    exp.Paren: Expressions._paren,
    exp.And: Expressions._logical,
    exp.Or: Expressions._logical,
    exp.Not: Expressions._not,
    **dict.fromkeys(_COMPARISONS, Expressions._comparison),
    exp.Is: Expressions._is,
    exp.Between: Expressions._between,
    exp.In: Expressions._in,
    **dict.fromkeys(_LIKES, Expressions._like),
    **dict.fromkeys(_ARITHMETIC, Expressions._arithmetic),
    exp.DPipe: Expressions._concat,
    exp.Neg: Expressions._negative,
    exp.Case: Expressions._case,
    exp.Cast: Expressions._cast,
    exp.TryCast: Expressions._cast,
    exp.Extract: Expressions._extract,
    exp.Substring: Expressions._standard,
    exp.StrPosition: Expressions._standard,
    exp.Trim: Expressions._standard,
    exp.Anonymous: Expressions._function,
    exp.Exists: lambda self, node, scope: self.exists_value(node, scope),
    exp.Subquery: lambda self, node, scope: self.subquery_value(node, scope),
    exp.Window: lambda self, node, scope: self.window_value(node, scope),
    exp.Filter: lambda self, node, scope: self.aggregate_filter(node, scope),
}
_ = (NOTHING, NO_COLUMNS)
