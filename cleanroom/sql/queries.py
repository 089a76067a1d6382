"""Queries: WITH, and which kind of query a node is."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.sets import SET_OPERATIONS, SetOperations
from cleanroom.sql.values import OutField, Result, Scope, indent, quote


class Queries(SetOperations):
    """Mixin of the checker: ``query(node, parent, hidden=…)``."""

    def query(self, node: exp.Expr, scope: Scope | None, *, hidden: bool) -> Result:
        """A checked query. ``hidden``: append the identity columns of protected rows, so that an enclosing query can count them."""
        if isinstance(node, exp.Subquery):
            only(node, "this")
            return self.query(node.this, scope, hidden=hidden)
        names: list[str] = []
        saved = self.context, self.aggregate, self.in_window, self.allow_aggregate, self.in_qualify
        self.aggregate, self.in_window, self.allow_aggregate, self.in_qualify = "", False, False, False
        try:
            text = self._with(node, names)
            if isinstance(node, exp.Select):
                result = self._select(node, scope, hidden)
            elif type(node) in SET_OPERATIONS:
                result = self._set_operation(node, scope, hidden)
            else:
                raise Refusal("StatementNotAllowed", f"a {type(node).__name__} is not a query that is allowed here", position_of(node))
        finally:
            for name in names:
                del self.named[name]
            self.context, self.aggregate, self.in_window, self.allow_aggregate, self.in_qualify = saved
        result.sql = text + result.sql
        return result

    def _with(self, node: exp.Expr, names: list[str]) -> str:
        clause = node.args.get("with_")
        if clause is None:
            return ""
        only(clause, "expressions")
        parts = []
        for table in clause.expressions:
            only(table, "this", "alias")
            name = table.alias
            self.claim_name(name, table)
            columns = self._alias_columns(table)
            result = self.query(table.this, None, hidden=True)
            if columns:
                result = self.renamed(result, columns, table)
            self.check_unique(result, f"the table expression {name}", table)
            self.named[name.lower()] = result
            names.append(name.lower())
            parts.append(f"{quote(name)} AS (\n  {indent(result.sql)}\n)")
        return f"WITH {', '.join(parts)}\n"

    def claim_name(self, name: str, node: exp.Expr) -> None:
        """Refuses a name that an input view or an earlier relation of the query has already: a reader must know what it means."""
        self.check_relation_name(name, node)
        if self.catalog.view(name) is not None or name.lower() in self.named:
            raise Refusal("NameShadowsView", f"{name} is the name of another relation already; choose another", position_of(node))

    def renamed(self, result: Result, columns: list[str], node: exp.Expr) -> Result:
        """``result`` with other column names."""
        for name in columns:
            self.check_column_name(name, node)
        if len(columns) != len(result.fields):
            raise Refusal("ClauseNotAllowed", f"{len(columns)} column names for {len(result.fields)} columns", position_of(node))
        self.check_unique(result, "the query", node)
        items = [f"{quote(field.name)} AS {quote(name)}" for field, name in zip(result.fields, columns, strict=True)]
        items += [quote(slot.ref) for slot in result.slots]
        qualified = [f"`renamed`.{item}" for item in items]
        qualified = [item if " AS " in item else f"{item} AS {item.rsplit('.', 1)[1]}" for item in qualified]
        sql = "SELECT\n  " + ",\n  ".join(qualified) + f"\nFROM (\n  {indent(result.sql)}\n) AS `renamed`"
        fields = [
            OutField(name, field.type, field.origins, field.exposed, field.degree, field.raw, field.identity, field.weight)
            for field, name in zip(result.fields, columns, strict=True)
        ]
        return Result(sql, fields, result.slots, result.releases, result.views, result.multiplied)
