"""The scope of one SELECT: names that it may use, and what is known about its rows and groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cleanroom.sql.model import NO_NAMES, Division, KeyPair, ProtectedInput, Relation, Release, ReleasedAggregate, Value

if TYPE_CHECKING:
    from sqlglot import exp


class EqualColumns:
    """Columns that the conditions of one SELECT compare.

    Attributes:
        in_every_row: Pairs of unchanged columns that are equal in every row of the result.
        in_joins: Pairs of unchanged columns whose equality is a condition of a join of any kind.
        links: Pairs of relation aliases that an equality of columns joins.
        keys: Pairs of columns whose equality joins two relations.
        compared: Columns of different relations that one condition compares. If one of them is exposed, so are the others.
    """

    __slots__ = ("_persons", "_representatives", "_views", "compared", "in_every_row", "in_joins", "keys", "links")

    def __init__(self) -> None:
        self.in_every_row: list[tuple[Value, Value]] = []
        self.in_joins: list[tuple[Value, Value]] = []
        self.links: list[tuple[str, str]] = []
        self.keys: list[KeyPair] = []
        self.compared: list[tuple[Value, ...]] = []
        self._representatives: dict[str, str] = {}
        self._persons: dict[str, str] = {}
        self._views: dict[str, frozenset[str]] = {}

    def representative(self, reference: str) -> str:
        """One reference for all columns that equal ``reference`` in every row."""
        while reference in self._representatives:
            reference = self._representatives[reference]
        return reference

    def equate(self, left: Value, right: Value) -> None:
        """Record that two unchanged columns are equal in every row."""
        views = self.views_behind(left) | self.views_behind(right)
        one, two = self.representative(left.sql), self.representative(right.sql)
        if one != two:
            self._representatives[two] = one
        self._views[one] = views
        self.in_every_row.append((left, right))

    def person(self, reference: str) -> str:
        """One reference for all columns that equal ``reference`` in every row in which they are not NULL."""
        while reference in self._persons:
            reference = self._persons[reference]
        return reference

    def equate_if_found(self, left: Value, right: Value) -> None:
        """Record that two unchanged columns are equal, or one of them is NULL because an outer join found no row."""
        one, two = self.person(left.sql), self.person(right.sql)
        if one != two:
            self._persons[two] = one

    def views_behind(self, value: Value) -> frozenset[str]:
        """Input views that ``value``, or a column that equals it in every row, is derived from."""
        own = frozenset([view for view, _, _ in value.origins])
        return own | self._views.get(self.representative(value.sql), NO_NAMES)


class Scope:
    """Names and rows of one SELECT. The checks of FROM, WHERE and GROUP BY fill it in that order.

    Attributes:
        parent: Scope of the enclosing SELECT, whose columns a correlated subquery may read.
        relations: Relations of FROM, by lower-case name.
        merged: Columns that USING merged, by lower-case name.
        aliases: Expressions of the SELECT list that later expressions may refer to, by lower-case alias.
        windows: Definitions of the WINDOW clause, by lower-case name.
        outer_reads: Columns of enclosing SELECTs that this one reads.
        equal: Columns that conditions compare.
        protected: Inputs whose rows are under a floor.
        releases: Floors that subqueries already enforce.
        views: Input views that the rows are derived from.
        may_copy_rows: See :class:`~cleanroom.sql.model.CheckedQuery`.
        group_keys: Texts of the group keys; None if the SELECT neither groups nor aggregates.
        group_text: The rendered GROUP BY clause.
        plain_group_keys: Texts of the group keys that are unchanged columns.
        per_person: Rows are grouped by the identity of every protected input: each group is one person and stays protected.
        divisions: Conditions by which aggregates divide the rows of a group; see :mod:`cleanroom.sql.privacy.aggregates`.
        released: The aggregates over rows of several persons.
        overlapping: See :class:`~cleanroom.sql.model.CheckedQuery`.
        multiplied: The joins of this SELECT may repeat a protected row, with different values of other relations.
        keys: The group keys.
        texts: Rendered text of each relation, by alias. The FROM clause contains a placeholder until its joins are checked.
    """

    __slots__ = (
        "aliases",
        "divisions",
        "equal",
        "group_keys",
        "group_text",
        "keys",
        "may_copy_rows",
        "merged",
        "multiplied",
        "outer_reads",
        "overlapping",
        "parent",
        "per_person",
        "plain_group_keys",
        "protected",
        "relations",
        "released",
        "releases",
        "texts",
        "views",
        "windows",
    )

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.relations: dict[str, Relation] = {}
        self.merged: dict[str, Value] = {}
        self.aliases: dict[str, exp.Expr] = {}
        self.windows: dict[str, exp.Expr] = {}
        self.outer_reads: list[Value] = []
        self.equal = EqualColumns()
        self.protected: list[ProtectedInput] = []
        self.releases: frozenset[Release] = frozenset()
        self.views: frozenset[str] = NO_NAMES
        self.may_copy_rows = False
        self.group_keys: set[str] | None = None
        self.group_text = ""
        self.plain_group_keys: list[str] = []
        self.per_person = False
        self.divisions: dict[tuple[str, ...], bool] = {}
        self.released: list[ReleasedAggregate] = []
        self.overlapping = False
        self.multiplied = False
        self.keys: list[Value] = []
        self.texts: dict[str, str] = {}

    def enclosing(self) -> Iterator[Scope]:
        """This scope and those around it, from the inside out."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    @property
    def aliases_in_from(self) -> list[str]:
        """Rendered aliases of the relations."""
        return [relation.alias for relation in self.relations.values()]

    @property
    def aggregates_persons(self) -> bool:
        """Aggregates combine protected rows of several persons, so that their results are released."""
        return bool(self.protected) and not self.per_person

    def divide(self, divisions: Iterable[Division]) -> None:
        """Record that an aggregate divides the rows of each group."""
        for division in divisions:
            self.divisions[division.conditions] = self.divisions.get(division.conditions, False) or division.must_not_be_empty
