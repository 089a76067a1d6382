"""PIVOT: columns of aggregates, one for each listed value of a column."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.marking import MARK
from cleanroom.sql.names import Names
from cleanroom.sql.values import ATOM, Scope, Source, Value, indent, quote

_FORMS = ("expressions", "fields", "alias", "columns", "pivot_column_naming")
_CONSTANTS = (exp.Literal, exp.Neg, exp.Boolean, exp.Cast)


class Pivots(Names):
    """Mixin of the checker: ``relation PIVOT (aggregates FOR column IN (values))``."""

    aggregate: str
    allow_aggregate: bool
    context: str

    def relation(self, node: exp.Expr, scope: Scope) -> tuple[Source, str]:
        raise NotImplementedError

    def pivot(self, node: exp.Expr, scope: Scope) -> tuple[Source, str]:
        """The pivoted relation. Its columns: those that neither an aggregate nor FOR names (they make the groups), then the values'."""
        clause = node.args["pivots"][0]
        if len(node.args["pivots"]) > 1 or clause.args.get("unpivot"):
            raise Refusal(
                "ClauseNotAllowed", "UNPIVOT and several PIVOTs are not allowed; write UNION ALL or several steps", position_of(node)
            )
        only(clause, *_FORMS)
        box = Scope(scope.parent)
        source, text = self.relation(type(node)(**{name: part for name, part in node.args.items() if name != "pivots"}), box)
        if box.slots:
            raise Refusal(
                "ClauseNotAllowed",
                "PIVOT of rows under a privacy floor is not allowed; write SUM(CASE WHEN … THEN … END) with GROUP BY",
                position_of(node),
            )
        if isinstance(node, exp.Table):  # what it groups by must not depend on columns that the query may not read
            columns = ",\n  ".join(f"{value.sql} AS {quote(value.name)}" for value in source.fields.values())
            rows = f"SELECT\n  {columns}\nFROM {text}"
            text = f"(\n  {indent(rows)}\n) AS {quote(source.alias)}"
        box.parent = None
        for value in source.fields.values():
            value.sql = quote(value.name)
        aggregates = self._pivoted(clause, box)
        key, values = self._spread(clause, box)
        used = {column.name.lower() for part in clause.expressions for column in part.find_all(exp.Column)} | {key.name.lower()}
        fields = [value for name, value in source.fields.items() if name not in used]
        names = [value.name for value in fields]
        self.context = "group"
        for value in fields:
            self.record(value)
        self.expand(len(values) * len(aggregates) * 16, clause)
        for label, _ in values:
            for name, value in aggregates:
                shown = Value(
                    "", value.type, origins=value.origins | frozenset((view, column, "computed") for view, column, _ in key.origins),
                    exposed=value.exposed | key.exposed, degree=None,
                )  # fmt: skip
                fields.append(shown)
                names.append(label if len(aggregates) == 1 else f"{label}_{name}")
        if len({name.lower() for name in names}) != len(names):
            raise Refusal(
                "DuplicateColumn", "two columns of the PIVOT have the same name; give its values other aliases", position_of(node)
            )
        written = self._alias(clause, scope, source.written)
        if clause.args.get("alias") is not None and clause.args["alias"].args.get("columns"):
            raise Refusal("ClauseNotAllowed", "column aliases on a PIVOT are not allowed; alias its values", position_of(node))
        out = Source(self._unique(written, scope), written, {})
        for name, value in zip(names, fields, strict=True):
            out.fields[name.lower()] = Value(
                f"{quote(out.alias)}.{quote(name)}", value.type, origins=value.origins, exposed=value.exposed, degree=None,
                raw=value.raw, joinable=value.raw, free=True, sources=frozenset([out.alias]), name=name,
            )  # fmt: skip
        scope.sources[written.lower()] = out
        scope.views |= box.views
        scope.releases |= box.releases
        scope.multiplied = True
        calls = ", ".join(value.sql + (f" AS {quote(name)}" if len(aggregates) > 1 else "") for name, value in aggregates)
        listed = ", ".join(f"{sql} AS {quote(label)}" for label, sql in values)
        return out, f"{text} PIVOT({calls} FOR {key.sql} IN ({listed})) AS {quote(out.alias)}"

    def _pivoted(self, clause: exp.Expr, box: Scope) -> list[tuple[str, Value]]:
        saved = self.context, self.aggregate, self.allow_aggregate
        self.context, self.aggregate, self.allow_aggregate = "output", "", True
        box.group_keys = set()
        out = []
        try:
            for item in clause.expressions:
                value = self.value(item.this if isinstance(item, exp.Alias) else item, box)
                if not value.aggregated or value.free or value.windowed or value.level != ATOM:
                    raise Refusal("ClauseNotAllowed", "PIVOT takes aggregates", position_of(item))
                if not isinstance(item, exp.Alias) and len(clause.expressions) > 1:
                    raise Refusal("ClauseNotAllowed", "several aggregates in one PIVOT need an alias each", position_of(item))
                if isinstance(item, exp.Alias):
                    self.check_column_name(item.alias, item)
                out.append((item.alias, value))
        finally:
            self.context, self.aggregate, self.allow_aggregate = saved
            box.group_keys = None
        return out

    def _spread(self, clause: exp.Expr, box: Scope) -> tuple[Value, list[tuple[str, str]]]:
        """The column of FOR, and name and text of each value."""
        fields = clause.args.get("fields") or []
        if len(fields) != 1 or not isinstance(fields[0], exp.In) or not isinstance(fields[0].this, exp.Column):
            raise Refusal("ClauseNotAllowed", "PIVOT … FOR takes one column IN (constants)", position_of(clause))
        only(fields[0], "this", "expressions")
        self.context = "group"
        key = self.value(fields[0].this, box)
        values = []
        for item in fields[0].expressions:
            constant = item.this if isinstance(item, exp.PivotAlias) else item
            cast = isinstance(constant, exp.Anonymous) and constant.this == MARK + "CAST"
            if not (isinstance(constant, _CONSTANTS) or (cast and isinstance(constant.expressions[0], exp.Literal | exp.Neg))):
                raise Refusal("ClauseNotAllowed", "PIVOT … FOR takes one column IN (constants)", position_of(clause))
            checked = self.value(constant, Scope())
            if isinstance(item, exp.PivotAlias):
                label = item.args["alias"].name
            elif isinstance(constant, exp.Literal):
                label = str(constant.this)
            else:
                raise Refusal("ClauseNotAllowed", "this value of a PIVOT needs an alias", position_of(clause))
            self.check_column_name(label, clause)
            values.append((label, checked.sql))
        if not values:
            raise Refusal("ClauseNotAllowed", "PIVOT … FOR takes one column IN (constants)", position_of(clause))
        return key, values
