"""Relations and names: what FROM, JOIN and LATERAL VIEW bring into scope, and which input column a name means.

Only three things are relations: a view of the catalogue, an earlier temporary view or common table expression of the same
query, and a subquery. A name with more than one part before the column is never a relation (``csv.`/path```, ``spark_catalog.x``).
"""

from __future__ import annotations

import difflib

from sqlglot import exp

from cleanroom.sql.catalog import View
from cleanroom.sql.expressions import flatten, only, position_of
from cleanroom.sql.lexical import Refusal, strip_invisible
from cleanroom.sql.marking import MARK
from cleanroom.sql.pivots import Pivots
from cleanroom.sql.values import ATOM, NO_COLUMNS, NOTHING, PREDICATE, ROWS, Result, Scope, Slot, Source, Value, conjunction, indent, quote
from cleanroom.sql.vocabulary import FUNCTIONS

HIDDEN = "__cr_id_"
"""Columns in which the rewrite carries identities through subqueries; an author cannot write such a name."""

_JOINS = {
    ("", ""): "JOIN",
    ("", "INNER"): "JOIN",
    ("", "CROSS"): "CROSS JOIN",
    ("LEFT", ""): "LEFT JOIN",
    ("LEFT", "OUTER"): "LEFT JOIN",
    ("RIGHT", ""): "RIGHT JOIN",
    ("RIGHT", "OUTER"): "RIGHT JOIN",
    ("FULL", ""): "FULL JOIN",
    ("FULL", "OUTER"): "FULL JOIN",
    ("LEFT", "SEMI"): "LEFT SEMI JOIN",
    ("", "SEMI"): "LEFT SEMI JOIN",
    ("LEFT", "ANTI"): "LEFT ANTI JOIN",
    ("", "ANTI"): "LEFT ANTI JOIN",
}


class Relations(Pivots):
    """Mixin of the checker: FROM clauses."""

    named: dict[str, Result]

    def query(self, node: exp.Expr, scope: Scope | None, *, hidden: bool) -> Result:
        raise NotImplementedError

    # -- FROM -----------------------------------------------------------------------------------------------------

    def from_clause(self, node: exp.Expr, scope: Scope) -> str:
        """The checked text of FROM with its joins and lateral views; fills ``scope``. Empty where there is no FROM."""
        start = node.args.get("from_")
        if start is None:
            if node.args.get("joins") or node.args.get("laterals"):
                raise Refusal("ClauseNotAllowed", "a join needs a FROM", position_of(node))
            scope.multiplied = True
            return ""
        only(start, "this")
        first, joins = _unwrapped(start.this, node.args.get("joins") or [])
        text = ["\nFROM " + self.relation(first, scope)[1]]
        text.extend(self.join(join, scope) for join in joins)
        text.extend(self.lateral(lateral, scope) for lateral in node.args.get("laterals") or [])
        return "".join(text)

    def relation(self, node: exp.Expr, scope: Scope) -> tuple[Source, str]:
        if node.args.get("pivots"):
            return self.pivot(node, scope)
        if isinstance(node, exp.Table):
            return self._table(node, scope)
        if isinstance(node, exp.Subquery):
            only(node, "this", "alias")
            if not isinstance(node.this, exp.Query) or isinstance(node.this, exp.Table):
                raise Refusal(
                    "RelationNotAllowed",
                    "a join in parentheses may stand first in FROM, or be an INNER JOIN with ON inside an INNER JOIN; "
                    "else write it as a subquery with an alias",
                    position_of(node),
                )
            result = self.query(node.this, self.lateral_parent(scope), hidden=True)
            columns = self._alias_columns(node)
            source = self._source(self._alias(node, scope, "subquery"), result, columns, scope)
            names = f"({', '.join(quote(name) for name in columns)})" if columns else ""
            return source, f"(\n  {indent(result.sql)}\n) AS {quote(source.alias)}{names}"
        if isinstance(node, exp.Values):
            return self._values(node, scope)
        if isinstance(node, exp.Lateral):
            raise Refusal(
                "RelationNotAllowed", "LATERAL is not allowed; join a subquery that groups by what it is joined on", position_of(node)
            )
        if isinstance(node, exp.Func):
            raise Refusal("TableFunctionNotAllowed", "table functions are not relations here", position_of(node))
        raise Refusal("RelationNotAllowed", f"a relation of kind {type(node).__name__} is not allowed", position_of(node))

    def lateral_parent(self, scope: Scope) -> Scope | None:
        """Subqueries in FROM see what encloses the whole SELECT, not their neighbours (LATERAL is not allowed)."""
        return scope.parent

    def _table(self, node: exp.Table, scope: Scope) -> tuple[Source, str]:
        if not isinstance(node.this, exp.Identifier):
            raise Refusal(
                "TableFunctionNotAllowed", "table functions (range, read_files, explode …) are not relations here", position_of(node)
            )
        if node.args.get("db") or node.args.get("catalog"):
            raise Refusal(
                "MultiPartName",
                f"{strip_invisible('.'.join(part.name for part in node.parts))[:120]!r}: a relation is one plain name; "
                "files, formats and catalogues cannot be read",
                position_of(node),
            )
        only(node, "this", "alias")
        name = node.name
        columns = self._alias_columns(node)
        names = f"({', '.join(quote(item) for item in columns)})" if columns else ""
        result = self.named.get(name.lower())
        if result is not None:
            source = self._source(self._alias(node, scope, name), result, columns, scope)
            return source, f"{quote(name)} AS {quote(source.alias)}{names}"
        view = self.catalog.view(name)
        if view is None:
            known = sorted([view.name for view in self.catalog.views] + list(self.named))
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"the query may read {', '.join(known)}"
            raise Refusal("UnknownRelation", f"there is no view {strip_invisible(name)[:120]!r}: {hint}", position_of(node))
        if columns:
            raise Refusal("ClauseNotAllowed", "column aliases on an input view are not allowed", position_of(node))
        source = self._view_source(view, self._alias(node, scope, view.name), scope)
        return source, f"{quote(view.name)} AS {quote(source.alias)}"

    def _values(self, node: exp.Expr, scope: Scope) -> tuple[Source, str]:
        only(node, "expressions", "alias")
        columns = self._alias_columns(node)
        rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in node.expressions]
        columns = columns or [f"col{index + 1}" for index in range(len(rows[0]))]
        if any(len(row) != len(columns) for row in rows):
            raise Refusal("RelationNotAllowed", "VALUES needs an alias that names each of its columns", position_of(node))
        empty = Scope()
        values = [self.all(row, empty) for row in rows]
        if any(value.degree != 0 and value.origins for row in values for value in row):
            raise Refusal("RelationNotAllowed", "VALUES may hold constants only", position_of(node))
        written = self._alias(node, scope, "values")
        source = Source(self._unique(written, scope), written, {})
        for index, name in enumerate(columns):
            source.fields[name.lower()] = Value.of_column(
                f"{quote(source.alias)}.{quote(name)}", values[0][index].type, name, frozenset([source.alias]), NOTHING, NO_COLUMNS, 1
            )
        scope.sources[written.lower()] = source
        scope.multiplied = True
        text = ", ".join("(" + ", ".join(value.sql for value in row) + ")" for row in values)
        return source, f"VALUES {text} AS {quote(source.alias)}({', '.join(quote(name) for name in columns)})"

    def _view_source(self, view: View, written: str, scope: Scope) -> Source:
        alias = self._unique(written, scope)
        visible = view.columns if self.trusted else view.visible()
        protected = view.min_group_size > 0 and not self.trusted
        identities = view.identity_columns if protected else ()
        key, at = view.name.lower(), frozenset([alias])
        follow = not self.trusted  # nobody reads the lineage of our own rendering
        self.expand(8 * len(visible), None)
        prefix = f"{quote(alias)}."
        fields = {}
        for column in visible:
            name = column.name.lower()
            origins = frozenset([(key, name, "value")]) if follow else NOTHING
            exposed = frozenset([(key, name)]) if follow else NO_COLUMNS
            fields[name] = Value.of_column(f"{prefix}{quote(column.name)}", column.type, column.name, at, origins, exposed, 1)
            fields[name].identity = name in identities
        hidden = frozenset(column.name.lower() for column in view.columns) - fields.keys()
        source = Source(alias, written, fields, hidden, view.name)
        scope.sources[written.lower()] = source
        exact = {column.name.lower(): column.name for column in view.columns}
        scope.slots.extend(Slot(key, name, f"{quote(alias)}.{quote(exact[name])}") for name in identities)
        scope.views |= {key}
        self.uses.setdefault((key, ROWS), set()).add("rows")
        return source

    def _source(self, written: str, result: Result, columns: list[str], scope: Scope) -> Source:
        alias = self._unique(written, scope)
        names = columns or [field.name for field in result.fields]
        if len(names) != len(result.fields):
            raise Refusal("ClauseNotAllowed", f"{alias} has {len(result.fields)} columns and the alias names {len(names)}")
        if columns and result.slots:
            raise Refusal(
                "ClauseNotAllowed", f"{alias}: column aliases on a relation under a privacy floor are not allowed; alias in its SELECT"
            )
        self.expand(8 * len(names), None)
        fields = {}
        at, prefix = frozenset([alias]), f"{quote(alias)}."
        for name, field in zip(names, result.fields, strict=True):
            value = Value.of_column(f"{prefix}{quote(name)}", field.type, name, at, field.origins, field.exposed, field.degree)
            value.raw = value.joinable = field.raw
            value.identity, value.weight = field.identity, field.weight
            fields[name.lower()] = value
        source = Source(alias, written, fields)
        scope.sources[written.lower()] = source
        scope.slots.extend(Slot(slot.view, slot.identity, f"{quote(alias)}.{quote(slot.ref)}") for slot in result.slots)
        scope.releases |= result.releases
        scope.views |= result.views
        scope.multiplied = scope.multiplied or result.multiplied
        return source

    # -- joins ----------------------------------------------------------------------------------------------------

    def join(self, node: exp.Expr, scope: Scope) -> str:
        only(node, "this", "side", "kind", "on", "using", "method")
        method, side, kind = (str(node.args.get(name) or "").upper() for name in ("method", "side", "kind"))
        word = _JOINS.get((side, kind))
        if word is None or method not in ("", "NATURAL"):
            raise Refusal("JoinNotAllowed", f"a {' '.join(filter(None, (method, side, kind)))} join is not allowed", position_of(node))
        left = list(scope.sources.values())
        slots = len(scope.slots)
        source, text = self.relation(node.this, scope)
        using = [item.name for item in node.args.get("using") or []]
        if node.args.get("using") == []:
            raise Refusal("Unparsable", "USING names the columns that both sides have", position_of(node))
        if method == "NATURAL":
            using = [value.name for key, value in source.fields.items() if any(key in other.fields for other in left)]
        conditions: list[Value] = []
        self.context = "join"
        merged = [self._using(name, left, source, scope, word) for name in using]
        conditions.extend(condition for condition, _, _ in merged)
        if node.args.get("on") is not None:
            conditions.extend(self.conjuncts(node.args["on"], scope, equate=word == "JOIN"))
        if word == "JOIN" and not conditions:
            word = "CROSS JOIN"
        if word in ("LEFT JOIN", "RIGHT JOIN", "FULL JOIN") and not conditions:
            raise Refusal("JoinNotAllowed", f"a {word} needs ON or USING", position_of(node))
        self.join_floor(word, scope, slots, left, source, conditions, node)
        for _, key, value in merged:
            scope.merged[key] = value
        if word.startswith(("LEFT S", "LEFT A")):
            del scope.sources[source.written.lower()]
        on = conjunction(conditions)
        return f"\n{word} {text}" + (f" ON {on}" if on else "")

    def join_floor(
        self, word: str, scope: Scope, slots: int, left: list[Source], right: Source, conditions: list[Value], node: exp.Expr
    ) -> None:
        raise NotImplementedError

    def _using(self, name: str, left: list[Source], right: Source, scope: Scope, word: str) -> tuple[Value, str, Value]:
        key = name.lower()
        if key in scope.merged:
            first = scope.merged[key]
        else:
            owners = [source for source in left if key in source.fields]
            if len(owners) != 1:
                code = "AmbiguousColumn" if owners else "UnknownColumn"
                raise Refusal(code, f"USING ({strip_invisible(name)[:80]}): the left side has {len(owners)} such columns")
            first = owners[0].fields[key]
        if key not in right.fields:
            raise Refusal("UnknownColumn", f"USING ({strip_invisible(name)[:80]}): {right.alias} has no such column")
        second = right.fields[key]
        condition = exp.EQ()
        out = self.combine(f"{first.sql} = {second.sql}", "boolean", PREDICATE, [first, second], condition, identity=True)
        out.identity = False
        self.equality(first, second, scope, equate=word == "JOIN")
        self.record(first)
        self.record(second)
        scope.dropped.add((right.alias.lower(), key))
        if word == "RIGHT JOIN":
            value = second
        elif word == "FULL JOIN":
            value = self.combine(f"COALESCE({first.sql}, {second.sql})", first.type, ATOM, [first, second], condition, identity=True)
            value.name = first.name
        else:
            value = first
        return out, key, value

    def conjuncts(self, node: exp.Expr, scope: Scope, *, equate: bool) -> list[Value]:
        """Checks the conditions of an ON or WHERE one by one, and remembers which columns they make equal."""
        out = []
        for part in flatten(node, exp.And):
            semi = self.semi_join(part, scope) if equate else None
            if semi is not None:
                out.append(semi)
                continue
            out.append(self.value(part, scope))
            self.tie(part, out[-1], scope)
            if type(part) is exp.EQ:
                self.equality(*self.equal_sides, scope, equate=equate)
        return out

    def semi_join(self, node: exp.Expr, scope: Scope) -> Value | None:
        raise NotImplementedError

    def equality(self, first: Value, second: Value, scope: Scope, *, equate: bool) -> None:
        """Remembers that two columns of different relations are equal in every row (``equate``) or where both are present."""
        if not (first.origins and second.origins) or first.sources & second.sources:
            return
        if self.withheld:
            scope.ties.append((first, second))
        if first.joinable and second.joinable:
            scope.links.extend((one, two) for one in first.sources for two in second.sources)
        if first.raw and second.raw:
            scope.outer_equalities.append((first, second))
        # A view without a floor that is joined with itself makes as many copies of a row, and with such labels, as the text likes.
        if any(not self.is_protected(view) for view in scope.behind(first) & scope.behind(second)):
            scope.multiplied = True
        if equate and first.raw and second.raw:
            scope.equate(first, second)
            scope.equalities.append((first, second))

    # -- LATERAL VIEW ---------------------------------------------------------------------------------------------

    def lateral(self, node: exp.Expr, scope: Scope) -> str:
        only(node, "this", "view", "outer", "alias", "ordinality")
        call = node.this
        name = (
            call.this[len(MARK) :] if isinstance(call, exp.Anonymous) and isinstance(call.this, str) and call.this.startswith(MARK) else ""
        )
        if not node.args.get("view") or FUNCTIONS.get(name, FUNCTIONS["SUM"]).kind != "generator":
            raise Refusal("RelationNotAllowed", "only LATERAL VIEW explode(…) and posexplode(…) are allowed", position_of(node))
        if scope.slots:
            raise Refusal(
                "FanOutOverFloor", "LATERAL VIEW over rows under a privacy floor is not allowed: it copies rows", position_of(node)
            )
        self.context = "explode"
        only(call, "this", "expressions")
        if len(call.expressions) != 1:
            raise Refusal("WrongArguments", f"{name} takes one array", position_of(node))
        value = self.value(call.expressions[0], scope)
        if value.type != "array":
            raise Refusal("TypeNotAllowed", f"{name} needs an array (split, collect_list, array …), not {value.type}", position_of(node))
        columns = self._alias_columns(node)
        expected = 2 if name.startswith("POS") else 1
        if len(columns) != expected:
            raise Refusal("ClauseNotAllowed", f"LATERAL VIEW {name.lower()}(…) needs AS with {expected} column name(s)", position_of(node))
        written = self._alias(node, scope, "exploded")
        alias = self._unique(written, scope)
        fields: dict[str, Value] = {}
        for column in columns:
            kind = "integer" if expected == 2 and not fields else "string"
            field = self.combine(f"{quote(alias)}.{quote(column)}", kind, ATOM, [value], node)
            field.name, field.raw, field.free, field.sources, field.degree = column, True, True, frozenset([alias]), 1
            fields[column.lower()] = field
        scope.sources[written.lower()] = Source(alias, written, fields)
        scope.links.extend((alias, other) for other in value.sources)
        scope.multiplied = True
        outer = "OUTER " if node.args.get("outer") else ""
        return f"\nLATERAL VIEW {outer}{name}({value.sql}) {quote(alias)} AS {', '.join(quote(column) for column in columns)}"


def _unwrapped(first: exp.Expr, joins: list[exp.Expr]) -> tuple[exp.Expr, list[exp.Expr]]:
    """FROM without the parentheses that change nothing: ``(a JOIN b) JOIN c``, and ``a JOIN (b JOIN c ON p) ON q`` where all are inner."""
    while isinstance(first, exp.Subquery) and not first.args.get("alias") and isinstance(first.this, exp.Table | exp.Subquery):
        only(first, "this", "joins")
        joins = [*(first.args.get("joins") or []), *joins]
        first = first.this
    if isinstance(first, exp.Table) and first.args.get("joins"):
        joins = [*first.args["joins"], *joins]
        first = _without_joins(first)
    out: list[exp.Expr] = []
    for join in joins:
        group = join.this
        inner = group.this if isinstance(group, exp.Subquery) and not group.args.get("alias") else None
        if not isinstance(inner, exp.Table):
            out.append(join)
            continue
        only(group, "this")
        nested = inner.args.get("joins") or []
        if not nested:
            out.append(exp.Join(**{**join.args, "this": inner}))
            continue
        if not all(_is_inner(part) for part in (join, *nested)):
            out.append(join)  # refused there
            continue
        out.append(exp.Join(this=_without_joins(inner), kind="CROSS"))
        last = nested[-1]
        both = [part.args["on"] for part in (last, join) if part.args.get("on") is not None]
        on = exp.And(this=both[0], expression=both[1]) if len(both) == 2 else both[0] if both else None
        out += [*nested[:-1], exp.Join(this=last.this, on=on)]
    return first, out


def _without_joins(table: exp.Table) -> exp.Table:
    return exp.Table(**{name: part for name, part in table.args.items() if name != "joins"})


def _is_inner(join: exp.Expr) -> bool:
    plain = not any(join.args.get(part) for part in ("using", "method", "side")) and str(join.args.get("kind") or "").upper() in (
        "",
        "INNER",
    )
    return plain and isinstance(join.this, exp.Table | exp.Subquery)
