"""What is known about the rows of a plan: whose persons they are about, and which input columns their values show.

A column has a *value*: the ID of the attribute that it is, unchanged, or a new ID. Aliases of one attribute have one value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

InputColumn = tuple[str, str]
"""View and column, both lower case."""

NOTHING: frozenset[InputColumn] = frozenset()
_fresh = itertools.count(-1, -1)


class Person(NamedTuple):
    """A view with a floor whose rows are in a relation.

    Attributes:
        view: Name of the view.
        floor: Smallest number of persons.
        share: Largest part of a sum, in percent, that may come from one person.
        ids: Values that are the identity in every row about such a person, and NULL in other rows.
        found: Values that are the identity in every row about such a person, and may be another person's in other rows.
        partial: The rows include those of another part of a union.
    """

    view: str
    floor: int
    share: int
    ids: frozenset[int]
    found: frozenset[int] = frozenset()
    partial: bool = False

    @property
    def all_ids(self) -> frozenset[int]:
        """Values that are the identity in every row about such a person."""
        return self.ids | self.found

    def renamed(self, names: Mapping[int, Iterable[int]]) -> Person:
        """The person in terms of other values; those without a new name are lost."""
        ids, found = (frozenset([new for old in group for new in names.get(old, ())]) for group in (self.ids, self.found))
        return self._replace(ids=ids, found=found)


@dataclass(frozen=True)
class Column:
    """An attribute.

    Attributes:
        value: See the module.
        shows: Input columns whose values can be read from this one.
        identity: An identity, unchanged.
        flag: 0 or 1 by its form.
        null: The constant NULL.
        counts: Values by which a window partitions the rows that this column counts.
        computed: Not one unchanged input column: how many different values it has tells more than those of a column.
        power: The largest number of columns that it multiplies.
        step: The aggregates by which steps per person have computed it from values.
        capped: LEAST limits it, so that it may be the same for all but a few persons.
        united: Values of persons, and others that an author may know.
        countable: Queries may count how many different values it has.
        mixed: It, or an earlier step, combines several columns: 1 if it compares dates, otherwise 2.
        day: A column of dates, possibly shifted or truncated.
        optional: For each outer join that may find no row with this column, the compared values, one of which is then NULL.
    """

    value: int
    shows: frozenset[InputColumn] = NOTHING
    identity: bool = False
    flag: bool = False
    null: bool = False
    counts: frozenset[int] | None = None
    computed: bool = False
    power: int = 1
    step: str = ""
    capped: bool = False
    united: bool = False
    countable: bool = True
    mixed: int = 0
    day: bool = False
    optional: frozenset[frozenset[int]] = frozenset()


def _nothing(_value: int) -> frozenset[int]:
    return frozenset()


@dataclass
class Rows:
    """The rows of a plan.

    Attributes:
        columns: The output attributes in order, by ID. Some operators also keep attributes that the output lacks.
        persons: Whose rows they are; empty if they are not about persons with a floor, or have been released.
        unique: Sets of values that occur together once.
        overlapping: Joins of a subquery may have done so, or the text makes or chooses the rows of a person.
        repeated: Relations of this SELECT whose rows its joins may repeat, with different values of others.
        repeats: Joins of a subquery have repeated rows of persons.
        chooses: Conditions on several columns have chosen rows of a person.
        exploded: EXPLODE repeats the rows of a person, so that only persons may be counted.
        relations: For a value, the number of the relation that it is a column of, if several are joined. Known until the SELECT ends.
        decided_by: For a value, those that are the same in all rows that share it. Known until the SELECT ends.
    """

    columns: dict[int, Column] = field(default_factory=dict)
    persons: list[Person] = field(default_factory=list)
    unique: list[frozenset[int]] = field(default_factory=list)
    repeated: frozenset[int] = frozenset()
    repeats: bool = False
    chooses: bool = False
    overlapping: bool = False
    exploded: bool = False
    relations: Mapping[int, int] = field(default_factory=dict)
    decided_by: Callable[[int], frozenset[int]] = _nothing

    @property
    def multiplied(self) -> bool:
        """Joins of this SELECT may put a person into several rows."""
        return bool(self.repeated)

    def with_columns(self, columns: dict[int, Column]) -> Rows:
        """The rows with other columns. Persons without a column of their identity can no longer be counted."""
        return replace(self, columns=columns)

    def ended(self) -> Rows:
        """The rows as those of a subquery."""
        columns = {id: replace(column, optional=frozenset()) for id, column in self.columns.items()}
        overlapping = self.overlapping or self.multiplied
        repeats = self.repeats or self.multiplied
        none = frozenset[int]()
        return replace(self, columns=columns, overlapping=overlapping, repeats=repeats, repeated=none, relations={}, decided_by=_nothing)

    def renumbered(self, ids: Sequence[int]) -> Rows:
        """The rows under other attribute IDs, with new values."""
        names: dict[int, int] = {}
        for column in self.columns.values():
            names.setdefault(column.value, next(_fresh))
        columns = {
            id: replace(column, value=names[column.value], counts=_renamed(column.counts, names))
            for id, column in zip(ids, self.columns.values(), strict=True)
        }
        unique = [found for ids in self.unique if (found := _renamed(ids, names)) is not None]
        several = {old: (new,) for old, new in names.items()}
        return replace(self, columns=columns, unique=unique, persons=[person.renamed(several) for person in self.persons])


def _renamed(values: frozenset[int] | None, names: Mapping[int, int]) -> frozenset[int] | None:
    return frozenset(names[value] for value in values) if values is not None and values <= names.keys() else None


def fresh() -> int:
    """A value that no attribute has."""
    return next(_fresh)
