"""FROM and WHERE: trees of joins and filters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparkapp.plan.comparisons import attributes, counts_one, equal_columns
from sparkapp.plan.conditions import conjuncts
from sparkapp.plan.expressions import Columns, combines, require_conditions, require_shown
from sparkapp.plan.joins import From, Pair
from sparkapp.plan.rows import Person, Rows
from sparkapp.plan.tree import Node, is_generated_join, join_kind, refused
from sparkapp.plan.walking import Walk


class Sources:
    """The relations and conditions of one tree of joins and filters."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._numbers = itertools.count(1)

    def rows(self, node: Node, outer: Columns) -> Rows:
        """The rows of a tree of joins and filters."""
        relations: dict[int, Rows] = {}
        pairs: list[Pair] = []
        conditions: list[tuple[Node, frozenset[int] | None]] = []
        optional: list[frozenset[int]] = []
        self._collect(node, outer, relations, conditions, optional)
        columns = {**outer, **{id: column for rows in relations.values() for id, column in rows.columns.items()}}
        added: list[Person] = []
        unique: list[frozenset[int]] = []
        chooses = self._chooses_optional(conditions, relations)
        for condition, restricts in conditions:
            if restricts is None and condition.kind == "InSubquery":
                added += self._membership(condition, columns)
                continue
            pair = self._read(condition, columns, restricts)
            if pair is not None:
                pairs.append(pair)
            chooses = chooses or (pair is None and combines(condition, columns, self._walk.catalog))
            unique += [counts for counts in counts_one(condition, columns) if len(relations) == 1]
        for numbers in optional:
            _mark(numbers, relations, pairs)
        for number, persons in _chosen(added, relations).items():
            relations[number] = replace(relations[number], persons=persons)
        out = From(relations, pairs).rows()
        chooses = out.chooses or (bool(out.persons) and chooses)
        return replace(out, unique=[*out.unique, *unique], overlapping=out.overlapping or bool(added), chooses=chooses)

    @staticmethod
    def _chooses_optional(conditions: Sequence[tuple[Node, frozenset[int] | None]], relations: Mapping[int, Rows]) -> bool:
        """Whether several conditions of an outer join read its other side: they decide which rows find none."""
        seen: dict[frozenset[int], int] = {}
        for condition, optional in conditions:
            here = {id for number in optional or () for id in relations[number].columns}
            seen[optional or frozenset()] = seen.get(optional or frozenset(), 0) + bool({*attributes(condition)} - here)
        return any(count > 1 for optional, count in seen.items() if optional)

    def _collect(
        self,
        node: Node,
        outer: Columns,
        relations: dict[int, Rows],
        conditions: list[tuple[Node, frozenset[int] | None]],
        optional: list[frozenset[int]],
    ) -> frozenset[int]:
        """Fill in the relations and conditions below a node, and return the numbers of its relations.

        ``optional`` receives the relations for whose rows an outer join with persons looks.
        """
        if node.kind == "Filter" and node.child.kind != "Aggregate":
            numbers = self._collect(node.child, outer, relations, conditions, optional)
            conditions += [(part, None) for part in conjuncts(node.expression("condition"))]
            return numbers
        if node.kind != "Join" or is_generated_join(node):
            number = next(self._numbers)
            relations[number] = self._walk.settled(node, outer)
            return frozenset([number])
        kind = join_kind(node)
        parts = conjuncts(node.expression("condition")) if node.fields.get("condition") else []
        left = self._collect(node.children[0], outer, relations, conditions, optional)
        if kind in ("LeftSemi", "LeftAnti"):
            rows = self._walk.settled(node.children[1], outer)
            self._walk.require_no_persons(rows.persons, f"a join ({kind})")
            here = {id: column for number in left for id, column in relations[number].columns.items()}
            for part in parts:
                self._read(part, {**outer, **here, **rows.columns}, None)
            return left
        right = self._collect(node.children[1], outer, relations, conditions, optional)
        restricted = {"Inner": None, "Cross": None, "LeftOuter": right, "RightOuter": left}
        persons = [person for number in left | right for person in relations[number].persons]
        if kind not in restricted:
            self._walk.require_no_persons(persons, f"a join ({kind})")
            return left | right
        found = restricted[kind]
        conditions += [(part, found) for part in parts]
        optional += [found] if found is not None and persons else []
        return left | right

    def _read(self, condition: Node, columns: Columns, restricts: frozenset[int] | None) -> Pair | None:
        """Require that a condition reads columns that queries may filter by, and return the columns that it compares for equality."""
        pair = equal_columns(condition, columns, restricts)
        compared = [column for column in columns.values() if pair is not None and column.value in pair[:2]]
        if any(column.identity for column in compared):
            for column in compared:
                require_shown(column.shows, "a condition reads", self._walk.catalog, identities=True, joins_persons=True)
        else:
            require_conditions(condition, columns, self._walk.subquery, self._walk.catalog, all_of_it=True)
        return pair

    def _membership(self, condition: Node, columns: Columns) -> list[Person]:
        """Persons of ``column IN (SELECT identity …)``, in terms of the rows around it."""
        outer, inner = condition.children[0], condition.children[-1]
        rows = self._walk.settled(inner.expression("plan"), columns)
        if not rows.persons:
            require_conditions(condition, columns, self._walk.subquery, self._walk.catalog, all_of_it=True)
            return []
        persons = []
        first = next(iter(rows.columns.values()), None)
        for person in rows.persons:
            if first is None or first.value not in person.all_ids or outer.kind != "AttributeReference":
                raise refused("PlanJoinNotAllowed", f"rows of {person.view} are compared by another column than their identity")
            persons.append(person._replace(ids=frozenset([columns[outer.id].value]), found=frozenset()))
        return persons


def _chosen(added: Sequence[Person], relations: Mapping[int, Rows]) -> dict[int, list[Person]]:
    """The persons of the relations whose rows lists of persons choose. These rows are those of persons already, or unique."""
    found: dict[int, list[Person]] = {}
    for person in added:
        for number, rows in relations.items():
            ids = person.ids & {column.value for column in rows.columns.values()}
            if ids and (rows.persons or any(unique <= ids for unique in rows.unique)):
                found.setdefault(number, [*rows.persons]).append(person)
                break
        else:
            raise refused("PlanJoinNotAllowed", f"rows of {person.view} choose rows that are not unique on the compared column")
    return found


def _mark(optional: frozenset[int], relations: dict[int, Rows], pairs: Sequence[Pair]) -> None:
    """Note in the columns of some relations that an outer join may leave them without a row."""
    values = {column.value for number in optional for column in relations[number].columns.values()}
    compared = frozenset(value for pair in pairs for value in pair[:2] if value in values)
    for number in optional:
        columns = {id: replace(column, optional=column.optional | {compared}) for id, column in relations[number].columns.items()}
        relations[number] = replace(relations[number], columns=columns)
