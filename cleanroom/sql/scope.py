"""The scope of one SELECT: names that it may use, and what is known about its rows and groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cleanroom.sql.model import NO_NAMES, Division, Equality, ProtectedInput, Relation, Release, ReleasedAggregate, Value


@dataclass(slots=True, eq=False)
class EqualColumns:
    """Columns that the conditions of one SELECT compare."""

    found: list[Equality] = field(default_factory=list)  # the equalities, in the order of the query
    _representatives: dict[str, str] = field(default_factory=dict)
    _persons: dict[str, str] = field(default_factory=dict)

    def representative(self, reference: str) -> str:
        """One reference for all columns that equal ``reference`` in every row."""
        while reference in self._representatives:
            reference = self._representatives[reference]
        return reference

    def person(self, reference: str) -> str:
        """One reference for all columns that equal ``reference`` in every row in which they are not NULL."""
        while reference in self._persons:
            reference = self._persons[reference]
        return reference

    def record(self, equality: Equality) -> None:
        """Record an equality. That of an outer join holds where both columns are not NULL."""
        self.found.append(equality)
        left, right = equality.first, equality.second
        if not equality.same:
            return
        one, two = self.person(left.sql), self.person(right.sql)
        if one != two:
            self._persons[two] = one
        if equality.in_every_row:
            one, two = self.representative(left.sql), self.representative(right.sql)
            if one != two:
                self._representatives[two] = one


@dataclass(slots=True, eq=False)
class Scope:
    """Names and rows of one SELECT. The checks of FROM, WHERE and GROUP BY fill it in that order."""

    parent: Scope | None = None  # scope of the enclosing SELECT, whose columns a correlated subquery may read
    relations: dict[str, Relation] = field(default_factory=dict)  # relations of FROM, by lower-case name
    visible: list[Value] = field(default_factory=list)  # columns that `*` and names without an alias mean; see show
    named: dict[str, list[Value]] = field(default_factory=dict)  # the same, by lower-case name
    aliases: dict[str, int] = field(default_factory=dict)  # for each lower-case alias, the token at which its expression begins
    outer_reads: list[Value] = field(default_factory=list)  # columns of enclosing SELECTs that this one reads
    equal: EqualColumns = field(default_factory=EqualColumns)  # columns that conditions compare
    protected: list[ProtectedInput] = field(default_factory=list)  # inputs whose rows are under a floor
    releases: frozenset[Release] = frozenset()  # floors that subqueries already enforce
    views: frozenset[str] = NO_NAMES  # input views that the rows are derived from
    # For the text of each group key, the text that reads it after grouping; None if the SELECT neither groups nor aggregates
    group_keys: dict[str, str] | None = None
    keys: list[Value] = field(default_factory=list)  # the group keys
    per_person: bool = False  # rows are grouped by every identity: each group is one person and stays protected
    divisions: dict[str, bool] = field(default_factory=dict)  # conditions by which aggregates divide the rows of a group
    released: dict[str, ReleasedAggregate] = field(default_factory=dict)  # the aggregates over rows of several persons, by their texts
    overlapping: bool = False  # see CheckedQuery
    repeats: bool = False  # see CheckedQuery
    chooses: bool = False  # see CheckedQuery
    repeated: frozenset[str] = NO_NAMES  # aliases of protected relations whose rows the joins may repeat, with different values of others
    exploded: set[str] = field(default_factory=set)  # aliases of LATERAL VIEWs over protected rows, which repeat the rows of a person
    joins: dict[str, list[Value]] = field(default_factory=dict)  # conditions of each inner join, by alias

    def enclosing(self) -> Iterator[Scope]:
        """This scope and those around it, from the inside out."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def add(self, relation: Relation) -> None:
        """Add a relation. Its columns follow those of the relations before it."""
        self.relations[relation.written_alias.lower()] = relation
        self.show([*self.visible, *relation.columns.values()])

    def show(self, columns: list[Value]) -> None:
        """Let ``*`` and names without an alias mean ``columns``: a join by USING has each of its columns once, and first."""
        self.visible, self.named = columns, {}
        for value in columns:
            self.named.setdefault(value.name.lower(), []).append(value)

    @property
    def columns(self) -> dict[str, Value]:
        """The columns of the relations, by their texts."""
        return {value.sql: value for relation in self.relations.values() for value in relation.columns.values()}

    @property
    def plain_group_keys(self) -> list[str]:
        """Texts of the group keys that are unchanged columns."""
        return [key.sql for key in self.keys if key.plain]

    @property
    def multiplied(self) -> bool:
        """The joins may repeat a protected row."""
        return bool(self.repeated)

    @property
    def one_row_each(self) -> bool:
        """Each group is one person, who has no other group."""
        return self.per_person and len(self.plain_group_keys) == len(self.keys) == 1

    @property
    def aggregates_persons(self) -> bool:
        """Aggregates combine protected rows of several persons, so that their results are released."""
        return bool(self.protected) and not self.per_person

    def divide(self, divisions: Iterable[Division]) -> None:
        """Record that an aggregate divides the rows of each group."""
        for division in divisions:
            self.divisions[division.condition] = self.divisions.get(division.condition, False) or division.must_not_be_empty
