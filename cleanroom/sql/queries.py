"""Queries: SELECT, set operations, WITH and subqueries, from the names that they bring into scope to the text that runs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.aggregates import Aggregates
from cleanroom.sql.expressions import flatten, only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.relations import HIDDEN
from cleanroom.sql.values import NO_COLUMNS, OutField, Result, Scope, Slot, Value, quote, widest

_SET_OPERATIONS: dict[type[exp.Expression], str] = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}
_SELECT_PARTS = (
    "with_", "distinct", "expressions", "limit", "from_", "joins", "laterals", "where", "group", "having", "windows", "order", "offset",
)  # fmt: skip


class Queries(Aggregates):
    """Mixin of the checker: ``query(node, parent, hidden=…)`` and what belongs to it."""

    releases: int

    def query(self, node: exp.Expression, scope: Scope | None, *, hidden: bool) -> Result:
        """A checked query. ``hidden``: append the identity columns of protected rows, so that an enclosing query can count them."""
        if isinstance(node, exp.Subquery):
            only(node, "this")
            return self.query(node.this, scope, hidden=hidden)
        names: list[str] = []
        saved = self.context, self.aggregate, self.in_window, self.allow_aggregate
        self.aggregate, self.in_window, self.allow_aggregate = "", False, False
        try:
            text = self._with(node, names)
            if isinstance(node, exp.Select):
                result = self._select(node, scope, hidden)
            elif type(node) in _SET_OPERATIONS:
                result = self._set_operation(node, scope, hidden)
            else:
                raise Refusal("StatementNotAllowed", f"a {type(node).__name__} is not a query that is allowed here", position_of(node))
        finally:
            for name in names:
                del self.named[name]
            self.context, self.aggregate, self.in_window, self.allow_aggregate = saved
        result.sql = text + result.sql
        return result

    def _with(self, node: exp.Expression, names: list[str]) -> str:
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
                result = self._renamed(result, columns, table)
            self.check_unique(result, f"the table expression {name}", table)
            self.named[name.lower()] = result
            names.append(name.lower())
            parts.append(f"{quote(name)} AS (\n  {_indent(result.sql)}\n)")
        return f"WITH {', '.join(parts)}\n"

    def claim_name(self, name: str, node: exp.Expression) -> None:
        """Refuses a name that an input view or an earlier relation of the query has already: a reader must know what it means."""
        self.check_relation_name(name, node)
        if self.catalog.view(name) is not None or name.lower() in self.named:
            raise Refusal("NameShadowsView", f"{name} is the name of another relation already; choose another", position_of(node))

    def check_unique(self, result: Result, what: str, node: exp.Expression) -> None:
        seen: set[str] = set()
        for field in result.fields:
            if field.name.lower() in seen:
                raise Refusal("DuplicateColumn", f"{what} has two columns called {field.name}; alias one of them", position_of(node))
            seen.add(field.name.lower())

    def _renamed(self, result: Result, columns: list[str], node: exp.Expression) -> Result:
        if len(columns) != len(result.fields):
            raise Refusal("ClauseNotAllowed", f"{len(columns)} column names for {len(result.fields)} columns", position_of(node))
        self.check_unique(result, "the query", node)
        items = [f"{quote(field.name)} AS {quote(name)}" for field, name in zip(result.fields, columns, strict=True)]
        items += [quote(slot.ref) for slot in result.slots]
        qualified = [f"`renamed`.{item}" for item in items]
        qualified = [item if " AS " in item else f"{item} AS {item.rsplit('.', 1)[1]}" for item in qualified]
        sql = "SELECT\n  " + ",\n  ".join(qualified) + f"\nFROM (\n  {_indent(result.sql)}\n) AS `renamed`"
        fields = [
            OutField(name, field.type, field.origins, field.exposed, field.degree, field.raw, field.identity)
            for field, name in zip(result.fields, columns, strict=True)
        ]
        return Result(sql, fields, result.slots, result.releases, result.views, result.multiplied)

    # -- SELECT ---------------------------------------------------------------------------------------------------

    def _select(self, node: exp.Select, parent: Scope | None, hidden: bool) -> Result:
        only(node, *_SELECT_PARTS)
        scope = Scope(parent)
        self.context = "join"
        text = self.from_clause(node, scope)
        where = node.args.get("where")
        if where is not None:
            only(where, "this")
            self.context = "filter"
            parts = self.conjuncts(where.this, scope, equate=True)
            text += "\nWHERE " + " AND ".join(part.sql if part.level >= 2 else f"({part.sql})" for part in parts)
        self.check_rows(scope, node)
        for window in node.args.get("windows") or []:
            scope.windows[window.name.lower()] = window
        items = self._items(node, scope)
        self._prepare_groups(node, scope, [item for item, _ in items])
        values = self._values_of(items, scope)
        return self._finish(node, scope, values, text, hidden)

    def _items(self, node: exp.Select, scope: Scope) -> list[tuple[exp.Expression | Value, str]]:
        """SELECT list with ``*`` replaced by the columns that the query may read: expression (or column) and output name."""
        items: list[tuple[exp.Expression | Value, str]] = []
        for item in node.expressions:
            target = item.this if isinstance(item, exp.Alias) else item
            star = (
                item
                if isinstance(item, exp.Star)
                else item.this
                if isinstance(item, exp.Column) and isinstance(item.this, exp.Star)
                else None
            )
            if star is not None:
                items.extend((value, value.name) for value in self._star(item, star, scope))
                continue
            if isinstance(item, exp.Alias):
                only(item, "this", "alias")
                name = item.alias
            elif isinstance(target, exp.Column) and isinstance(target.this, exp.Identifier):
                name = target.name
            else:
                name = f"_c{len(items)}"
            self.check_column_name(name, item)
            items.append((target, name))
        if not items:
            raise Refusal("Unparsable", "a SELECT needs at least one column", position_of(node))
        return items

    def _star(self, item: exp.Expression, star: exp.Star, scope: Scope) -> list[Value]:
        only(star, "except_")
        left_out = {part.name.lower() for part in star.args.get("except_") or []}
        if isinstance(item, exp.Column):
            only(item, "this", "table")
            source = scope.sources.get(item.table.lower())
            if source is None:
                raise Refusal("UnknownRelation", f"there is no relation {item.table!r} here", position_of(item))
            found = list(source.fields.values())
        else:
            found = list(scope.merged.values())
            for source in scope.sources.values():
                for key, value in source.fields.items():
                    if key not in scope.merged:
                        found.append(value)
        known = {value.name.lower() for value in found}
        if left_out - known:
            raise Refusal(
                "UnknownColumn", f"EXCEPT names columns that are not there: {', '.join(sorted(left_out - known))}", position_of(item)
            )
        if not scope.sources:
            raise Refusal("UnknownRelation", "* needs a FROM", position_of(item))
        self.context = "output"
        out = [value for value in found if value.name.lower() not in left_out]
        for value in out:
            self.record(value)
        return out

    def _values_of(self, items: Sequence[tuple[exp.Expression | Value, str]], scope: Scope) -> list[tuple[str, Value]]:
        later = dict(scope.aliases)
        scope.aliases.clear()
        self.allow_aggregate = True
        out = []
        for item, name in items:
            self.context = "output"
            if isinstance(item, Value):
                value = self._read(item, scope, scope)
            else:
                try:
                    value = self.value(item, scope)
                except Refusal as refusal:
                    self.note(refusal)
                    value = Value("NULL", "unknown")
            if scope.group_keys is not None and value.free:
                self.note(
                    Refusal(
                        "NotGrouped",
                        f"{name}: neither in GROUP BY nor inside an aggregate",
                        None if isinstance(item, Value) else position_of(item),
                    )
                )
            out.append((name, value))
            if name.lower() in later:
                scope.aliases[name.lower()] = later[name.lower()]
        return out

    def _finish(self, node: exp.Select, scope: Scope, values: list[tuple[str, Value]], text: str, hidden: bool) -> Result:
        group = scope.group_text
        distinct = self._distinct(node)
        having: list[str] = []
        if node.args.get("having") is not None:
            only(node.args["having"], "this")
            self.context = "filter"
            for part in flatten(node.args["having"].this, exp.And):
                value = self.value(part, scope)
                if value.free:
                    raise Refusal("NotGrouped", "HAVING may read group keys and aggregates only", position_of(node.args["having"]))
                having.append(value.sql if value.level >= 2 else f"({value.sql})")
        order = self._order(node, scope, values)
        release = bool(scope.slots) and scope.group_keys is not None and not scope.keyed
        if distinct and scope.slots and not release:
            raw = {scope.representative(value.sql) for _, value in values if value.raw}
            if not all(scope.representative(slot.ref) in raw for slot in scope.slots):
                if scope.keyed:
                    raise Refusal("RowLevelOutput", "DISTINCT over rows under a privacy floor: aggregate them instead", position_of(node))
                for _, value in values:
                    self.check_release_key(value, node)
                keys = list(dict.fromkeys(value.sql for _, value in values if value.origins))
                group = "\nGROUP BY " + ", ".join(keys) if keys else ""
                distinct, release = False, True
        if release:
            having.extend(self.floor_conditions(scope, node))
            self.releases += 1
            scope.releases |= {(self.releases, slot.view) for slot in scope.slots}
            for slot in scope.slots:
                self.floors.setdefault((slot.view, slot.identity), 0)
                self.floors[slot.view, slot.identity] = max(self.floors[slot.view, slot.identity], self.floor_of(scope.slots))
        columns = [f"{value.sql} AS {quote(name)}" for name, value in values]
        slots = [] if release else self._slots(scope, values)
        if hidden:
            columns += [f"{slot.ref} AS {quote(HIDDEN + str(index))}" for index, slot in enumerate(slots)]
        sql = f"SELECT {'DISTINCT' if distinct else ''}".rstrip() + "\n  " + ",\n  ".join(columns) + text + group
        if having:
            sql += "\nHAVING " + " AND ".join(having)
        if slots and (node.args.get("limit") or node.args.get("offset")):
            raise Refusal("LimitOverFloor", "LIMIT over rows under a privacy floor is not allowed; aggregate them first", position_of(node))
        sql += order + self._limit(node)
        fields = [self._field(name, value, bool(scope.slots)) for name, value in values]
        named = [Slot(s.view, s.identity, HIDDEN + str(i), column=s.column, outer=s.outer) for i, s in enumerate(slots)]
        return Result(sql, fields, named, scope.releases, scope.views, scope.multiplied and not release)

    def _slots(self, scope: Scope, values: list[tuple[str, Value]]) -> list[Slot]:
        """The scope's slots, each by a column that the SELECT may still name, and where it stands in the output or outside."""
        out = []
        aliases = {source.alias for source in scope.sources.values()}
        for slot in scope.slots:
            same = scope.representative(slot.ref)
            ref = next((key for key in scope.raw_keys if scope.representative(key) == same), slot.ref) if scope.keyed else slot.ref
            column = next((i for i, (_, v) in enumerate(values) if v.raw and scope.representative(v.sql) == same), None)
            outer = None
            for first, second in scope.equalities:
                for inner, other in ((first, second), (second, first)):
                    if scope.representative(inner.sql) == same and not (other.sources & aliases):
                        outer = other
            out.append(Slot(slot.view, slot.identity, ref, column=column, outer=outer))
        return out

    @staticmethod
    def _field(name: str, value: Value, protected: bool) -> OutField:
        degree = None if value.matched or (value.windowed and value.degree != 0) else value.degree
        return OutField(
            name, value.type, value.origins, value.exposed, degree, value.raw and not value.matched, value.identity and protected
        )

    @staticmethod
    def _distinct(node: exp.Expression) -> bool:
        distinct = node.args.get("distinct")
        if distinct is None or distinct is False:
            return False
        only(distinct)
        return True

    def _order(self, node: exp.Expression, scope: Scope, values: list[tuple[str, Value]]) -> str:
        order = node.args.get("order")
        if order is None:
            return ""
        only(order, "expressions")
        self.context = "sort"
        names = {name.lower(): name for name, _ in values}
        texts = {value.sql: name for name, value in values}
        parts = []
        for item in order.expressions:
            if not isinstance(item, exp.Ordered):
                raise Refusal("ClauseNotAllowed", "this form of ORDER BY is not allowed", position_of(item))
            only(item, "this", "desc", "nulls_first")
            key = item.this
            while isinstance(key, exp.Paren):
                key = key.this
            if isinstance(key, exp.Literal) and not key.is_string:
                if not str(key.this).isdecimal() or not 1 <= int(str(key.this)) <= len(values):
                    raise Refusal("ClauseNotAllowed", f"ORDER BY {key.this}: there is no such column", position_of(item))
                text = str(key.this)
            elif isinstance(key, exp.Column) and not key.args.get("table") and key.name.lower() in names:
                text = quote(names[key.name.lower()])
            else:
                value = self.value(key, scope)
                if scope.group_keys is not None and value.free:
                    raise Refusal("NotGrouped", "ORDER BY may read group keys and aggregates only", position_of(item))
                text = quote(texts[value.sql]) if value.sql in texts else value.sql
            parts.append(text + direction(item))
        return "\nORDER BY " + ", ".join(parts)

    def _limit(self, node: exp.Expression) -> str:
        text = ""
        for name, word in (("limit", "LIMIT"), ("offset", "OFFSET")):
            clause = node.args.get(name)
            if clause is None:
                continue
            only(clause, "expression")
            count = clause.args.get("expression")
            if not isinstance(count, exp.Literal) or count.is_string or not str(count.this).isdecimal():
                raise Refusal("ClauseNotAllowed", f"{word} takes a whole number", position_of(node))
            text += f"\n{word} {count.this}"
        return text

    # -- set operations -------------------------------------------------------------------------------------------

    def _set_operation(self, node: exp.Expression, parent: Scope | None, hidden: bool) -> Result:
        kind = type(node)
        word = _SET_OPERATIONS[kind] + ("" if node.args.get("distinct") else " ALL")
        operands: list[exp.Expression] = []
        current: exp.Expression = node
        while True:
            only(current, "with_", "this", "expression", "distinct", "order", "limit", "offset")
            operands.append(current.args["expression"])
            inner = current.this
            plain = type(inner) is kind and bool(inner.args.get("distinct")) == bool(node.args.get("distinct"))
            if not plain or any(inner.args.get(part) for part in ("with_", "order", "limit", "offset")):
                operands.append(inner)
                break
            current = inner
        branches = [self.query(operand, parent, hidden=True) for operand in reversed(operands)]
        width = len(branches[0].fields)
        if any(len(branch.fields) != width for branch in branches):
            raise Refusal("WrongArguments", f"the parts of a {word} have different numbers of columns", position_of(node))
        slots = [slot for branch in branches for slot in branch.slots]
        self._check_union_floor(node, word, branches, slots)
        texts = []
        before = 0
        for branch in branches:
            texts.append(f"(\n  {_indent(self._pad(branch, before, len(slots), hidden, node))}\n)")
            before += len(branch.slots)
        fields = [self._merge([branch.fields[index] for branch in branches]) for index in range(width)]
        sql = f"\n{word}\n".join(texts)
        values = [(field.name, Value(quote(field.name), field.type)) for field in fields]
        empty = Scope(parent)
        sql += self._order(node, empty, values) + self._limit(node)
        if slots and (node.args.get("limit") or node.args.get("offset")):
            raise Refusal("LimitOverFloor", "LIMIT over rows under a privacy floor is not allowed; aggregate them first", position_of(node))
        named = [Slot(slot.view, slot.identity, HIDDEN + str(index)) for index, slot in enumerate(slots)]
        releases = frozenset(pair for branch in branches for pair in branch.releases)
        views = frozenset(view for branch in branches for view in branch.views)
        return Result(sql, fields, named, releases, views, multiplied=not slots)

    def _check_union_floor(self, node: exp.Expression, word: str, branches: list[Result], slots: list[Slot]) -> None:
        if not slots:
            return
        if word != "UNION ALL":
            raise Refusal("UnionOverFloor", f"{word} of rows under a privacy floor is not allowed; UNION ALL is", position_of(node))
        seen: set[str] = set()
        for branch in branches:
            views = {slot.view for slot in branch.slots}
            if views & seen:
                raise Refusal(
                    "FanOutOverFloor",
                    f"{', '.join(sorted(views & seen))} stands in two parts of a UNION ALL: its rows would be counted twice",
                    position_of(node),
                )
            seen |= views

    def _pad(self, branch: Result, before: int, total: int, hidden: bool, node: exp.Expression) -> str:
        """A branch with the identity columns of all branches (empty where they are another's), in the same order."""
        if total == 0 or not hidden:
            return branch.sql
        self.check_unique(branch, "a part of a UNION", node)
        columns = [f"`part`.{quote(field.name)} AS {quote(field.name)}" for field in branch.fields]
        for index in range(total):
            own = f"`part`.{quote(HIDDEN + str(index - before))}" if before <= index < before + len(branch.slots) else "NULL"
            columns.append(f"{own} AS {quote(HIDDEN + str(index))}")
        return "SELECT\n  " + ",\n  ".join(columns) + f"\nFROM (\n  {_indent(branch.sql)}\n) AS `part`"

    @staticmethod
    def _merge(fields: list[OutField]) -> OutField:
        first = fields[0]
        degrees = [field.degree for field in fields]
        return OutField(
            first.name,
            widest([field.type for field in fields]),
            frozenset(origin for field in fields for origin in field.origins),
            frozenset(pair for field in fields for pair in field.exposed) or NO_COLUMNS,
            None if None in degrees else max(degree or 0 for degree in degrees),
            all(field.raw for field in fields),
            any(field.identity for field in fields),
        )

    # -- subqueries in expressions --------------------------------------------------------------------------------

    def _inner(self, node: exp.Expression, scope: Scope) -> tuple[Result, list[Value]]:
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

    def _no_rows(self, result: Result, node: exp.Expression) -> None:
        if result.slots:
            raise Refusal(
                "SubqueryOverFloor",
                f"rows of {', '.join(sorted({slot.view for slot in result.slots}))} are under a privacy floor: here only "
                "<column> IN (SELECT <identity column> …) and EXISTS with the same equality are allowed, joined by AND",
                position_of(node),
            )

    def subquery_value(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        result, reads = self._inner(node.this, scope)
        self._no_rows(result, node)
        if len(result.fields) != 1:
            raise Refusal("WrongArguments", "a subquery in an expression has exactly one column", position_of(node))
        field = result.fields[0]
        inner = Value("", field.type, origins=field.origins, exposed=field.exposed, degree=None)
        return self.combine(f"(\n  {_indent(result.sql)}\n)", field.type, 6, [inner, *reads], node, identity=True)

    def exists_value(self, node: exp.Expression, scope: Scope) -> Value:
        only(node, "this")
        result, reads = self._inner(node.this, scope)
        self._no_rows(result, node)
        return self._exists(result, reads, node)

    def _exists(self, result: Result, reads: list[Value], node: exp.Expression) -> Value:
        out = self.combine(f"EXISTS(\n  {_indent(result.sql)}\n)", "boolean", 2, reads, node, identity=True)
        out.identity, out.degree = False, None
        return out

    def in_subquery(self, node: exp.Expression, scope: Scope, negated: bool) -> Value:
        what, result, reads = self._in_parts(node, scope)
        self._no_rows(result, node)
        return self._in_text(node, what, result, reads, negated)

    def _in_parts(self, node: exp.Expression, scope: Scope) -> tuple[Value, Result, list[Value]]:
        only(node, "this", "query")
        what = self.value(node.this, scope)
        query = node.args["query"]
        while isinstance(query, exp.Subquery):
            only(query, "this")
            query = query.this
        result, reads = self._inner(query, scope)
        if len(result.fields) != 1:
            raise Refusal("WrongArguments", "IN (SELECT …) has exactly one column", position_of(node))
        return what, result, reads

    def _in_text(self, node: exp.Expression, what: Value, result: Result, reads: list[Value], negated: bool) -> Value:
        text = f"{what.sql if what.level >= 3 else f'({what.sql})'} {'NOT ' if negated else ''}IN (\n  {_indent(result.sql)}\n)"
        join = bool(result.fields[0].origins) and bool(what.origins)
        out = self.combine(text, "boolean", 2, [what, *reads], node, identity=join or not what.identity)
        out.identity, out.degree = False, None
        return out

    def semi_join(self, node: exp.Expression, scope: Scope) -> Value | None:
        """``x IN (SELECT identity …)`` and ``EXISTS (… WHERE identity = x)`` as conditions that every row must meet."""
        if isinstance(node, exp.In) and node.args.get("query") is not None:
            what, result, reads = self._in_parts(node, scope)
            for slot in result.slots:
                if slot.column != 0 or not what.raw or not what.origins:
                    self._no_rows(result, node)
                scope.slots.append(Slot(slot.view, slot.identity, what.sql))
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


def direction(item: exp.Expression) -> str:
    """Sort direction with the place of NULLs spelt out, so that every engine sorts alike."""
    return f" {'DESC' if item.args.get('desc') else 'ASC'} NULLS {'FIRST' if item.args.get('nulls_first') else 'LAST'}"


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")
