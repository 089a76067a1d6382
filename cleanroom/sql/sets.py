"""UNION, INTERSECT and EXCEPT."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.lexical import Refusal
from cleanroom.sql.relations import HIDDEN
from cleanroom.sql.selects import Selects
from cleanroom.sql.values import NO_COLUMNS, OutField, Result, Scope, Slot, Value, indent, quote, widest

SET_OPERATIONS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}


class SetOperations(Selects):
    """Mixin of the checker: queries made of queries."""

    def _set_operation(self, node: exp.Expr, parent: Scope | None, hidden: bool) -> Result:
        kind = type(node)
        word = SET_OPERATIONS[kind] + ("" if node.args.get("distinct") else " ALL")
        operands: list[exp.Expr] = []
        current: exp.Expr = node
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
            texts.append(f"(\n  {indent(self._pad(branch, before, len(slots), hidden, node))}\n)")
            before += len(branch.slots)
        # Values of persons mixed with values that the author may know: to count them distinct would tell whether one is among them.
        mixed = bool(slots) and not all(branch.slots for branch in branches)
        fields = [self._merge([branch.fields[index] for branch in branches], mixed) for index in range(width)]
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

    def _check_union_floor(self, node: exp.Expr, word: str, branches: list[Result], slots: list[Slot]) -> None:
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

    def _pad(self, branch: Result, before: int, total: int, hidden: bool, node: exp.Expr) -> str:
        """A branch with the identity columns of all branches (empty where they are another's), in the same order."""
        if total == 0 or not hidden:
            return branch.sql
        self.check_unique(branch, "a part of a UNION", node)
        columns = [f"`part`.{quote(field.name)} AS {quote(field.name)}" for field in branch.fields]
        for index in range(total):
            own = f"`part`.{quote(HIDDEN + str(index - before))}" if before <= index < before + len(branch.slots) else "NULL"
            columns.append(f"{own} AS {quote(HIDDEN + str(index))}")
        return "SELECT\n  " + ",\n  ".join(columns) + f"\nFROM (\n  {indent(branch.sql)}\n) AS `part`"

    @staticmethod
    def _merge(fields: list[OutField], mixed: bool) -> OutField:
        first = fields[0]
        degrees = [field.degree for field in fields]
        return OutField(
            first.name,
            widest([field.type for field in fields]),
            frozenset(origin for field in fields for origin in field.origins),
            frozenset(pair for field in fields for pair in field.exposed) or NO_COLUMNS,
            None if None in degrees else max(degree or 0 for degree in degrees),
            not mixed and all(field.raw for field in fields),
            any(field.identity for field in fields),
            max(field.weight for field in fields),
        )
