"""Privacy floors: which rows are under an owner's floor, what may be computed from them, and the condition that enforces it.

Model. A row of a relation is *protected* when it comes from a view with a floor; it then carries, for every such view, the
identity of the person it is about in a hidden column (a :class:`~cleanroom.sql.values.Slot`) through subqueries, common table
expressions, temporary views, joins and unions. Protected rows leave only through an aggregation, and the gate adds to its HAVING
``COUNT(DISTINCT identity) >= floor`` for every slot, with the strictest floor of all. What comes out is a *release*. Rows grouped by
every identity are one row a person and still protected.

Refused, because the condition would not mean what it says:

* two releases of one view in one result, ROLLUP, CUBE, GROUPING SETS (their difference shows the groups that are suppressed);
* rows copied or chosen by the text: joins without an equality, constants, LATERAL VIEW, a union of a view with itself, LIMIT, and
  windows that are not PARTITION BY the identity (those that are see one person at a time, like rows grouped by her);
* aggregates that show a value of one person (MIN, MAX, FIRST, COLLECT_LIST, percentiles …), except MIN and MAX of a column that its
  owner lists as publishable;
* aggregates of expressions that can single out rows. A CASE, IF or FILTER whose conditions read columns that may be in a result is
  allowed, and each part into which the conditions divide a group must itself reach the floor; a part may be empty only where the
  owners have listed all of these columns as publishable, because an empty part and a small one could otherwise be told apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.expressions import position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.relations import Relations
from cleanroom.sql.values import ROWS, SUM, Scope, Slot, Source, Value, wrap
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import COUNTING, MIXING

MAX_CELLS = 32
MAX_SLOTS = 64
"""Inputs under a floor in one FROM; each joins and counts persons of its own."""


class Floors(Relations):
    """Mixin of the checker: the rules above."""

    def floor_of(self, slots: Sequence[Slot]) -> int:
        """The strictest floor among the views of ``slots``."""
        views = (self.catalog.view(slot.view) for slot in slots)
        return max((view.min_group_size for view in views if view is not None), default=0)

    # -- rows -----------------------------------------------------------------------------------------------------

    def join_floor(
        self, word: str, scope: Scope, slots: int, left: list[Source], right: Source, conditions: list[Value], node: exp.Expr
    ) -> None:
        """Rules for a join in which rows under a floor take part; ``slots`` of the scope's slots are of the left side."""
        if not scope.slots or word in ("JOIN", "CROSS JOIN"):
            return
        mine = scope.slots[slots:]
        if word == "FULL JOIN":
            raise Refusal("JoinOverFloor", "a FULL JOIN of rows under a privacy floor is not allowed", position_of(node))
        if word == "LEFT ANTI JOIN":
            if mine:
                raise Refusal(
                    "JoinOverFloor", "rows that are absent from data under a privacy floor cannot be told apart", position_of(node)
                )
            return
        if word == "LEFT SEMI JOIN":
            scope.slots[slots:] = [self._carry(slot, scope, right, node) for slot in mine]
            return
        other = [right] if word == "LEFT JOIN" else left
        aliases = {source.alias for source in other}
        found = None
        for first, second in self.equal_columns(conditions, scope):
            for side in (first, second):
                if side.raw and side.sources <= aliases:
                    found = side.sql
        if found is None:
            raise Refusal("JoinOverFloor", f"a {word} of rows under a privacy floor needs an equality of two columns", position_of(node))
        text = f"{found} IS NOT NULL"
        for source in other:
            for value in source.fields.values():
                value.matched = value.matched | {text}
        for slot in mine if word == "LEFT JOIN" else scope.slots[:slots]:
            slot.matched = text

    def equal_columns(self, conditions: list[Value], scope: Scope) -> list[tuple[Value, Value]]:
        texts = {condition.sql for condition in conditions}
        return [pair for pair in scope.outer_equalities if f"{pair[0].sql} = {pair[1].sql}" in texts]

    def _carry(self, slot: Slot, scope: Scope, right: Source, node: exp.Expr) -> Slot:
        """The slot of a relation that only filters, expressed by a column that equals its identity in every row that is left."""
        for first, second in scope.outer_equalities:
            for inner, outer in ((first, second), (second, first)):
                if inner.sql == slot.ref and inner.raw and outer.raw and right.alias not in outer.sources:
                    return Slot(slot.view, slot.identity, outer.sql)
        raise Refusal(
            "JoinOverFloor",
            f"rows of {slot.view} are under a privacy floor: filter by its identity column {slot.identity}",
            position_of(node),
        )

    def check_rows(self, scope: Scope, node: exp.Expr) -> None:
        """After FROM and WHERE: the text must not have copied protected rows."""
        if len(scope.slots) > MAX_SLOTS:
            raise Refusal(
                "QueryTooComplex", f"more than {MAX_SLOTS} relations under a privacy floor in one FROM, counting those inside of others",
                position_of(node),
            )  # fmt: skip
        if scope.ties:
            self.spread_ties(scope)
        aliases = [source.alias for source in scope.sources.values()]
        connected = self._connected(aliases, scope.links)
        if scope.slots and (scope.multiplied or not connected):
            raise Refusal(
                "FanOutOverFloor",
                "rows under a privacy floor may be joined only by an equality with a column of another view: constants, unions, "
                "LATERAL VIEW and cross joins could copy rows",
                position_of(node),
            )
        scope.multiplied = scope.multiplied or not connected

    @staticmethod
    def _connected(aliases: list[str], links: list[tuple[str, str]]) -> bool:
        if len(aliases) < 2:
            return True
        beside: dict[str, list[str]] = {}
        for one, two in links:
            beside.setdefault(one, []).append(two)
            beside.setdefault(two, []).append(one)
        reached, waiting = {aliases[0]}, [aliases[0]]
        while waiting:
            for other in beside.get(waiting.pop(), ()):
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)
        return reached.issuperset(aliases)

    # -- groups ---------------------------------------------------------------------------------------------------

    def is_keyed(self, scope: Scope, keys: Sequence[Value]) -> bool:
        """Whether grouping by ``keys`` makes every group one person of every protected view."""
        raw = {scope.representative(key.sql) for key in keys if key.raw}
        return bool(scope.slots) and all(scope.representative(slot.ref) in raw for slot in scope.slots)

    def check_release_key(self, key: Value, node: exp.Expr) -> None:
        """A group key of a release shows its values: each must be publishable."""
        self.check_exposed(key, "grouping by", position_of(node))

    def check_exposed(self, value: Value, what: str, where: Position | None) -> None:
        """Refuses a value that still shows columns which their owners do not let out."""
        for view_name, column in sorted(value.exposed):
            view = self.catalog.view(view_name)
            if view is None or view.may_output(column):
                continue
            if column in view.identity_columns:
                raise Refusal(
                    "IdentityInOutput", f"{what} {column}: it identifies persons of {view.name} and cannot be part of a result", where
                )
            raise Refusal(
                "OutputColumnNotAllowed", f"{what} {column}: the owner of {view.name} does not allow its values in a result", where
            )

    def protected_aggregate(self, name: str, args: list[Value], distinct: bool, scope: Scope, node: exp.Expr) -> None:
        """Whether an aggregate over protected rows, in a release, may be computed."""
        matched = frozenset(text for arg in args for text in arg.matched)
        for text in matched:
            scope.cells[(f"({text})",)] = True
        at = position_of(node)
        if name in ("COUNT", "APPROX_COUNT_DISTINCT"):
            if not all(arg.degree == 0 or arg.raw or (arg.degree is not None and not distinct) for arg in args):
                raise Refusal("ConditionalAggregate", f"{name} over rows under a privacy floor counts rows or plain columns only", at)
            return
        if name == "COUNT_IF":
            self.add_cells([args[0]], node, scope)
            return
        if name in MIXING and not distinct:
            if any(arg.degree is None for arg in args):
                raise Refusal(
                    "ConditionalAggregate",
                    f"{name} over rows under a privacy floor takes columns and their sums and products (up to three factors); "
                    "this expression could single out rows (round and cast the result, not the rows)",
                    at,
                )
            if any(arg.type in ("boolean", "string") for arg in args):
                raise Refusal("ConditionalAggregate", f"{name} over rows under a privacy floor takes numbers", at)
            return
        if name in ("MIN", "MAX") and len(args) == 1 and args[0].raw and args[0].type != "string" and not args[0].matched:
            views = [(self.catalog.view(view), column) for view, column, _ in args[0].origins]
            if views and all(view is not None and view.lists_output(column) for view, column in views):
                return
        raise Refusal(
            "ValueOfOnePerson",
            f"{name}{' DISTINCT' if distinct else ''} over rows under a privacy floor can show the value of one person",
            at,
        )

    def add_cells(self, conditions: Sequence[Value], node: exp.Expr, scope: Scope) -> None:
        """Remembers that an aggregate divides the rows of a group by ``conditions``."""
        listed = True
        for condition in conditions:
            for view_name, column, _ in condition.origins:
                view = self.catalog.view(view_name)
                if view is None or view.min_group_size == 0:
                    listed = False
                elif not view.may_output(column) or column == ROWS:
                    raise Refusal(
                        "ConditionalAggregate",
                        f"a condition inside an aggregate reads {column}, which the owner of {view.name} does not let into a result",
                        position_of(node),
                    )
                elif not view.lists_output(column):
                    listed = False
            if condition.degree is None and not condition.origins:
                listed = False
            for text in condition.matched:
                scope.cells[(f"({text})",)] = True
        key = tuple(wrap(condition, SUM) for condition in conditions)
        scope.cells[key] = scope.cells.get(key, False) or not listed

    def floor_conditions(self, scope: Scope, node: exp.Expr) -> list[str]:
        """What HAVING must demand of a group made of the scope's protected rows."""
        floor = self.floor_of(scope.slots)
        identities = {slot.ref: slot.matched for slot in scope.slots}
        conditions = [f"COUNT(DISTINCT {ref}) >= {floor}" for ref in identities]
        divisions = [[self._part(key, index) for index in range(len(key) + 1)] for key in scope.cells]
        strict = any(scope.cells.values())
        total = 1
        for parts in divisions:
            total *= len(parts)
        if total > MAX_CELLS:
            raise Refusal(
                "ConditionalAggregate",
                f"the conditions inside the aggregates divide each group into {total} parts; the limit is {MAX_CELLS}",
                position_of(node),
            )
        if (divisions and floor > 1) or strict:
            for cell in itertools.product(*divisions):
                condition = " AND ".join(cell)
                for ref, matched in identities.items():
                    if matched and f"({matched}) IS NOT TRUE" in cell:
                        continue  # rows without a person of this view
                    count = f"COUNT(DISTINCT CASE WHEN {condition} THEN {ref} END)"
                    conditions.append(f"{count} >= {floor}" if strict else f"{count} NOT BETWEEN 1 AND {floor - 1}")
        return conditions

    @staticmethod
    def _part(key: tuple[str, ...], index: int) -> str:
        """Condition of the rows that fall into branch ``index`` of a CASE (the last is ELSE); never unknown."""
        before = [f"{text} IS NOT TRUE" for text in key[:index]]
        return " AND ".join([*before, *([f"{key[index]} IS TRUE"] if index < len(key) else [])])

    @staticmethod
    def still_exposed(name: str, args: Sequence[Value], scope: Scope, floored: set[str]) -> frozenset[tuple[str, str]]:
        """Columns whose values an aggregate still shows."""
        if name in COUNTING:
            return frozenset()
        exposed = frozenset(pair for arg in args for pair in arg.exposed)
        if name in MIXING and scope.slots and not scope.keyed:
            return frozenset(pair for pair in exposed if pair[0] not in floored)
        return exposed
