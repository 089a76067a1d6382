"""Whether the relations of a FROM clause may be joined with rows of persons.

Relations of persons are joined by equal identities, without a cast. Every other relation is joined by columns on which it is unique, by
an identity, or by columns of a relation that is joined by an identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sparkapp.plan.rows import Person, Rows
from sparkapp.plan.tree import refused


class Pair(NamedTuple):
    """Two columns of different relations that a condition compares for equality.

    Attributes:
        first: Value of one column.
        second: Value of the other column.
        how: ``same`` (as they are) or ``widened`` (an integer as a long).
        restricts: Relations whose rows the condition selects: those of the optional side of an outer join; None for all.
    """

    first: int
    second: int
    how: str
    restricts: frozenset[int] | None = None


@dataclass
class From:
    """The relations of a FROM clause, by number, and the equalities of its conditions."""

    relations: dict[int, Rows]
    pairs: list[Pair]

    def rows(self) -> Rows:
        """The joined rows.

        Raises:
            Refused: ``PlanJoinNotAllowed``.
        """
        relations = list(self.relations.values())
        columns = {id: column for rows in relations for id, column in rows.columns.items()}
        persons = self._equated([person for rows in relations for person in rows.persons])
        attachment = _Attachment(self, persons)
        repeated = attachment.repeated() if persons and len(relations) > 1 else frozenset[int]()
        return Rows(
            columns,
            persons,
            relations[0].unique if len(relations) == 1 else [],
            overlapping=any(rows.overlapping for rows in relations),
            repeated=repeated | {number for number, rows in self.relations.items() if rows.multiplied},
            repeats=any(rows.repeats for rows in relations),
            chooses=attachment.chosen or any(rows.chooses for rows in relations),
            exploded=any(rows.exploded for rows in relations),
            relations={column.value: number for number, rows in self.relations.items() for column in rows.columns.values()},
            decided_by=self._decided_by,
        )

    def _decided_by(self, value: int) -> frozenset[int]:
        """Values of relations that are unique on a value, or on values that these decide: equalities hold in every row."""
        known, size = {value}, 0
        while len(known) != size:
            size = len(known)
            for pair in self.pairs:
                if pair.restricts is None and pair.how == "same" and not known.isdisjoint(pair[:2]):
                    known |= {pair.first, pair.second}
            for rows in self.relations.values():
                if any(ids <= known for ids in rows.unique):
                    known |= {column.value for column in rows.columns.values()}
        return frozenset(known)

    def _equated(self, persons: Iterable[Person]) -> list[Person]:
        """The persons with all values that equal their identities."""
        owner = {column.value: number for number, rows in self.relations.items() for column in rows.columns.values()}
        out = []
        for person in persons:
            ids, found = set(person.ids), set(person.found)
            grown = -1
            while grown != len(ids) + len(found):
                grown = len(ids) + len(found)
                for pair in self.pairs:
                    if pair.how != "same":
                        continue
                    for one, two in ((pair.first, pair.second), (pair.second, pair.first)):
                        if pair.restricts is None and one in ids:
                            ids.add(two)
                        elif one in ids | found and (pair.restricts is None or owner.get(one) in pair.restricts):
                            found.add(two)
            out.append(person._replace(ids=frozenset(ids), found=frozenset(found - ids)))
        return out


class _Attachment:
    def __init__(self, joined: From, persons: Sequence[Person]) -> None:
        self.relations, self.pairs = joined.relations, joined.pairs
        self.identities = frozenset(id for person in persons for id in person.all_ids)
        self.columns = {column.value: (number, column) for number, rows in joined.relations.items() for column in rows.columns.values()}
        self.core = [number for number, rows in joined.relations.items() if rows.persons]
        self.reached: set[int] = set()
        self.many: set[int] = set()
        self.chosen = False  # a relation without persons is joined by several columns

    def repeated(self) -> frozenset[int]:
        """Attach every relation, and return those whose rows may then be in several rows."""
        if not self.core:
            return frozenset(self.relations)  # a semi join made the rows those of persons
        if not any(self._joins_core(start) for start in self.core):
            raise refused("PlanJoinNotAllowed", "relations under privacy floors are not joined by equal identities")
        self.many = {number for number in self.core if not self._one_row_per_person(number)}
        waiting = [number for number in self.relations if number not in self.reached]
        while waiting:
            number = next((number for number in waiting if self._attaches(number)), None)
            if number is None:
                raise refused("PlanJoinNotAllowed", "a relation is joined with persons by columns that are neither unique nor an identity")
            waiting.remove(number)
            self.chosen = self.chosen or len({inner for _, inner, _ in self._into(number)}) > 1
            self.reached.add(number)
        return frozenset(number for number in self.core if self.many - {number})

    def _into(self, number: int) -> list[tuple[int, int, str]]:
        found = []
        for pair in self.pairs:
            for outer, inner in ((pair.first, pair.second), (pair.second, pair.first)):
                if self._owner(inner) != number or self._owner(outer) not in self.reached:
                    continue
                owner = self._owner(outer)
                if pair.restricts is None or number in pair.restricts or (self.core == [owner] and owner in pair.restricts):
                    found.append((outer, inner, pair.how))
        return found

    def _owner(self, value: int) -> int | None:
        return self.columns[value][0] if value in self.columns else None

    def _is_identity(self, value: int) -> bool:
        return value in self.identities or self.columns[value][1].identity

    def _joins_core(self, start: int) -> bool:
        self.reached = {start}
        waiting = [number for number in self.core if number != start]
        while waiting:
            found = None
            for number in waiting:
                if any(how != "widened" and self._is_identity(one) and self._is_identity(two) for one, two, how in self._into(number)):
                    found = number
            if found is None:
                return False
            self.reached.add(found)
            waiting.remove(found)
        return True

    def _one_row_per_person(self, number: int) -> bool:
        return any(ids <= self.identities for ids in self.relations[number].unique)

    def _attaches(self, number: int) -> bool:
        names = {inner for _, inner, _ in self._into(number)}
        return any(ids <= names for ids in self.relations[number].unique)
