"""Subqueries inside expressions: scalar, EXISTS and IN, and when they act as a join with protected rows."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.aggregates import Aggregates
from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.values import ATOM, PREDICATE, ROWS, SUM, Result, Scope, Slot, Value, indent, wrap


class Subqueries(Aggregates):
    """Mixin of the checker: queries as values and conditions."""

    def _inner(self, node: exp.Expr, scope: Scope) -> tuple[Result, list[Value]]:
        if self.aggregate:
            raise Refusal("ClauseNotAllowed", "a subquery inside an aggregate is not allowed", position_of(node))
        box = Scope(scope)
        result = self.query(node, box, hidden=False)
        if result.releases:
            if box.outer_reads:
                raise Refusal(
                    "DifferencingRisk", "an aggregate under a privacy floor may not depend on the rows around it", position_of(node)
                )
            scope.releases |= result.releases
        scope.views |= result.views
        return result, box.outer_reads

    def _no_rows(self, result: Result, node: exp.Expr) -> None:
        if result.slots:
            raise Refusal(
                "SubqueryOverFloor",
                f"rows of {', '.join(sorted({slot.view for slot in result.slots}))} are under a privacy floor: here only "
                "<column> IN (SELECT <identity column> …) and EXISTS with the same equality are allowed, joined by AND",
                position_of(node),
            )

    def subquery_value(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        result, reads = self._inner(node.this, scope)
        self._no_rows(result, node)
        if len(result.fields) != 1:
            raise Refusal("WrongArguments", "a subquery in an expression has exactly one column", position_of(node))
        field = result.fields[0]
        inner = Value("", field.type, origins=field.origins, exposed=field.exposed, degree=None)
        return self.combine(f"(\n  {indent(result.sql)}\n)", field.type, ATOM, [inner, *reads], node, identity=True)

    def exists_value(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        result, reads = self._inner(node.this, scope)
        self._no_rows(result, node)
        return self._exists(result, reads, node)

    def _exists(self, result: Result, reads: list[Value], node: exp.Expr) -> Value:
        rows = Value("", "boolean", origins=frozenset((view, ROWS, "exists") for view in result.views), degree=None)
        out = self.combine(f"EXISTS(\n  {indent(result.sql)}\n)", "boolean", PREDICATE, [rows, *reads], node, identity=True)
        out.identity, out.degree = False, None
        return out

    def in_subquery(self, node: exp.Expr, scope: Scope, negated: bool) -> Value:
        what, result, reads = self._in_parts(node, scope)
        self._no_rows(result, node)
        return self._in_text(node, what, result, reads, negated)

    def _in_parts(self, node: exp.Expr, scope: Scope) -> tuple[Value, Result, list[Value]]:
        only(node, "this", "query")
        what = self._tuple(node.this, scope) if isinstance(node.this, exp.Tuple) else self.value(node.this, scope)
        width = len(node.this.expressions) if isinstance(node.this, exp.Tuple) else 1
        query = node.args["query"]
        while isinstance(query, exp.Subquery):
            only(query, "this")
            query = query.this
        result, reads = self._inner(query, scope)
        if len(result.fields) != width:
            raise Refusal("WrongArguments", f"IN (SELECT …) has {len(result.fields)} columns and {width} to compare", position_of(node))
        return what, result, reads

    def _tuple(self, node: exp.Expr, scope: Scope) -> Value:
        """``(a, b)`` before IN (SELECT …): columns that are no identities, for an identity is compared alone."""
        parts = self.all(node.expressions, scope)
        return self.combine(f"({', '.join(part.sql for part in parts)})", "unknown", ATOM, parts, node)

    def _in_text(self, node: exp.Expr, what: Value, result: Result, reads: list[Value], negated: bool) -> Value:
        text = f"{wrap(what, SUM)} {'NOT ' if negated else ''}IN (\n  {indent(result.sql)}\n)"
        join = bool(result.fields[0].origins) and bool(what.origins)
        shown = Value(
            "", "unknown", degree=None,
            origins=frozenset(origin for field in result.fields for origin in field.origins),
            exposed=frozenset(pair for field in result.fields for pair in field.exposed),
        )  # fmt: skip
        out = self.combine(text, "boolean", PREDICATE, [what, shown, *reads], node, identity=join or not what.identity)
        out.identity, out.degree = False, None
        return out

    def semi_join(self, node: exp.Expr, scope: Scope) -> Value | None:
        """``x IN (SELECT identity …)`` and ``EXISTS (… WHERE identity = x)`` as conditions that every row must meet."""
        if isinstance(node, exp.In) and node.args.get("query") is not None:
            what, result, reads = self._in_parts(node, scope)
            for slot in result.slots:
                if slot.column != 0 or not what.raw or not what.origins:
                    self._no_rows(result, node)
                scope.slots.append(Slot(slot.view, slot.identity, what.sql))
            if self.withheld and what.raw:
                scope.ties.append((what, Value("", what.type, exposed=result.fields[0].exposed)))
            return self._in_text(node, what, result, reads, False)
        if isinstance(node, exp.Exists):
            only(node, "this")
            result, reads = self._inner(node.this, scope)
            for slot in result.slots:
                if slot.outer is None or not slot.outer.raw or not any(slot.outer.sources <= {s.alias} for s in scope.sources.values()):
                    self._no_rows(result, node)
                    break
                scope.slots.append(Slot(slot.view, slot.identity, slot.outer.sql))
            return self._exists(result, reads, node)
        return None
