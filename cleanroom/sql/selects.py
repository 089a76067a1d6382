"""SELECT: its items, groups, conditions, order and limit, from checked parts to the text that runs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.aggregates import direction
from cleanroom.sql.expressions import flatten, only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.relations import HIDDEN
from cleanroom.sql.subqueries import Subqueries
from cleanroom.sql.values import OutField, Result, Scope, Slot, Value, conjunction, quote

_PARTS = (
    "with_", "distinct", "expressions", "limit", "from_", "joins", "laterals", "where", "group", "having", "windows", "qualify", "order",
    "offset",
)  # fmt: skip


class Selects(Subqueries):
    """Mixin of the checker: one SELECT."""

    releases: int

    def _select(self, node: exp.Select, parent: Scope | None, hidden: bool) -> Result:
        only(node, *_PARTS)
        scope = Scope(parent)
        self.context = "join"
        text = self.from_clause(node, scope)
        where = node.args.get("where")
        if where is not None:
            only(where, "this")
            self.context = "filter"
            parts = self.conjuncts(where.this, scope, equate=True)
            text += "\nWHERE " + conjunction(parts)
        self.check_rows(scope, node)
        for window in node.args.get("windows") or []:
            if scope.windows.setdefault(window.name.lower(), window) is not window:
                raise Refusal("DuplicateAlias", f"two windows of one SELECT are called {window.name[:80]}", position_of(window))
        items = self._items(node, scope)
        self._prepare_groups(node, scope, [item for item, _ in items])
        values = self._values_of(items, scope)
        return self._finish(node, scope, values, text, hidden)

    def _items(self, node: exp.Select, scope: Scope) -> list[tuple[exp.Expr | Value, str]]:
        """SELECT list with ``*`` replaced by the columns that the query may read: expression (or column) and output name."""
        items: list[tuple[exp.Expr | Value, str]] = []
        taken: dict[str, int] = {}
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
                for value in self._star(item, star, scope):
                    items.append((value, _unused(value.name, taken)))
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
            taken.setdefault(name.lower(), 1)
        if not items:
            raise Refusal("Unparsable", "a SELECT needs at least one column", position_of(node))
        return items

    def _star(self, item: exp.Expr, star: exp.Star, scope: Scope) -> list[Value]:
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
        self.expand(sum(len(value.sql) + len(value.name) for value in out), item)
        for value in out:
            self.record(value)
        return out

    def _values_of(self, items: Sequence[tuple[exp.Expr | Value, str]], scope: Scope) -> list[tuple[str, Value]]:
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
                having.append(conjunction([value]))
        qualify = self._qualify(node, scope)
        self.check_windows(scope)
        order = self._order(node, scope, values)
        release = bool(scope.slots) and scope.group_keys is not None and not scope.keyed
        if distinct and scope.slots and not release:
            raw = {scope.representative(value.sql) for _, value in values if value.raw}
            if not all(scope.representative(slot.ref) in raw for slot in scope.slots):
                if scope.keyed or qualify or any(value.windowed for _, value in values):
                    raise Refusal("RowLevelOutput", "DISTINCT over rows under a privacy floor: aggregate them instead", position_of(node))
                for _, value in values:
                    self.check_release_key(value, node)
                keys = list(dict.fromkeys(value.sql for _, value in values if value.origins or value.sources))
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
        sql += qualify
        if slots and (node.args.get("limit") or node.args.get("offset")):
            raise Refusal("LimitOverFloor", "LIMIT over rows under a privacy floor is not allowed; aggregate them first", position_of(node))
        sql += order + self._limit(node)
        fields = [self._field(name, value, bool(scope.slots)) for name, value in values]
        named = [Slot(s.view, s.identity, HIDDEN + str(i), column=s.column, outer=s.outer) for i, s in enumerate(slots)]
        return Result(sql, fields, named, scope.releases, scope.views, scope.multiplied and not release)

    def _qualify(self, node: exp.Select, scope: Scope) -> str:
        clause = node.args.get("qualify")
        if clause is None:
            return ""
        only(clause, "this")
        self.context, self.in_qualify = "filter", True
        try:
            value = self.value(clause.this, scope)
        finally:
            self.in_qualify = False
        if not value.windowed:
            raise Refusal("ClauseNotAllowed", "QUALIFY needs a window function; use WHERE or HAVING", position_of(clause))
        if scope.group_keys is not None and value.free:
            raise Refusal("NotGrouped", "QUALIFY may read group keys, aggregates and windows over them only", position_of(clause))
        return "\nQUALIFY " + conjunction([value])

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
            name, value.type, value.origins, value.exposed, degree, value.raw and not value.matched,
            value.identity and protected, value.weight,
        )  # fmt: skip

    @staticmethod
    def _distinct(node: exp.Expr) -> bool:
        distinct = node.args.get("distinct")
        if distinct is None or distinct is False:
            return False
        only(distinct)
        return True

    def _order(self, node: exp.Expr, scope: Scope, values: list[tuple[str, Value]]) -> str:
        order = node.args.get("order")
        if order is None:
            return ""
        only(order, "expressions")
        self.context = "sort"
        names = {name.lower(): name for name, _ in values}
        texts = {value.sql: name for name, value in values}
        parts = []
        for item in order.expressions:
            if len(order.expressions) == 1 and isinstance(item.this, exp.Var) and item.this.name.upper() == "ALL":
                only(item, "this", "desc", "nulls_first")
                return "\nORDER BY " + ", ".join(quote(name) + direction(item) for name, _ in values)
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

    def _limit(self, node: exp.Expr) -> str:
        text = ""
        for name, word in (("limit", "LIMIT"), ("offset", "OFFSET")):
            clause = node.args.get(name)
            if clause is None:
                continue
            if not isinstance(clause, exp.Fetch):
                only(clause, "expression")
            count = clause.args.get("expression")
            if word == "LIMIT" and isinstance(count, exp.Var) and count.name.upper() == "ALL":
                continue
            if isinstance(clause, exp.Fetch):
                raise Refusal("ClauseNotAllowed", "FETCH FIRST is not Spark SQL; write LIMIT <whole number>", position_of(node))
            if not isinstance(count, exp.Literal) or count.is_string or not str(count.this).isdecimal():
                raise Refusal("ClauseNotAllowed", f"{word} takes a whole number", position_of(node))
            text += f"\n{word} {count.this}"
        return text


def _unused(name: str, taken: dict[str, int]) -> str:
    """``name``, or a variation: ``*`` over a join may bring two columns of one name, which nobody could tell apart in a result."""
    unique, number = name, taken.get(name.lower(), 1)
    while unique.lower() in taken:
        number += 1
        unique = f"{name}_{number}"
    taken[name.lower()] = number
    taken.setdefault(unique.lower(), 1)
    return unique
