"""What the checks know about expressions, columns, relations and queries.

Each part of a query is rendered as soon as it has been checked. The classes of this module hold the rendered text together with
the facts that later checks and the privacy rules need. None of them refers to the syntax tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

OR, AND, PREDICATE, SUM, PRODUCT, SIGN, ATOM = range(7)
"""Precedence of the outermost operator of a rendered expression, lowest first."""

Origin = tuple[str, str, str]
"""View and column (both lower case), and how the value is derived: ``value``, ``computed``, or the name of an aggregate."""
ColumnKey = tuple[str, str]
"""View and column, both lower case."""

ROWS = "*"
"""Replaces the column name in an origin where rows are read or counted."""

NO_ORIGINS: frozenset[Origin] = frozenset()
NO_COLUMNS: frozenset[ColumnKey] = frozenset()
NO_NAMES: frozenset[str] = frozenset()
NUMERIC_FACTS = ("transformed", "filled", "made_by_text", "whole", "capped", "conditional")
"""Facts about a number that hold for whatever is computed from it; see :class:`Value`."""


@dataclass(slots=True, eq=False)
class Value:
    """A checked scalar expression, or an output column of a checked query."""

    sql: str  # rendered text
    type: str  # type of the result, as verdicts name it
    precedence: int = ATOM  # of the outermost operator; lowest first
    degree: int | None = 0  # 0: constant; n: product of n columns; None: anything else, which could single out rows
    origins: frozenset[Origin] = NO_ORIGINS  # input columns that the value is derived from, for the lineage
    exposed: frozenset[ColumnKey] = NO_COLUMNS  # input columns whose values can be read from this value
    sources: frozenset[str] = NO_NAMES  # aliases of the relations that the expression reads
    columns: frozenset[str] = NO_NAMES  # texts of the columns that it reads
    mixed: int = 0  # it, or an earlier step, combines several columns: 1 if it compares dates, otherwise 2
    day: bool = False  # a column of dates, possibly shifted or truncated
    outer_join_markers: frozenset[str] = NO_NAMES  # conditions that are true where the outer join that supplied the value found a row
    plain: bool = False  # a column, unchanged
    identity: bool = False  # derived from the identity column of a floor
    ungrouped: bool = False  # reads a column outside of any aggregate and any group key
    aggregated: bool = False  # contains an aggregate
    windowed: bool = False  # contains a window function
    name: str = ""  # name of the output column; for an expression, if the query gives no alias
    operator: str = ""  # AND, OR or || of a chain, which needs no parentheses inside a longer chain of the same operator; or =
    parts: tuple[Value, ...] = ()  # conditions that AND combines, or the sides of an equality
    semi_join: SemiJoin | None = None  # rows of persons that the condition reads: it must be a condition on every row of a SELECT
    constant: float | None = None  # value of a numeric constant, if known
    flag: bool = False  # 0 or 1 by its form
    step: str = ""  # the aggregates by which earlier steps per person have computed it from values, such as ``AVG`` or ``SUM(AVG)``
    made_by_text: bool = False  # the text chooses the rows that have the value: it is a count, or an outer join supplies it
    transformed: bool = False  # not linear in a column: rounded, capped, or a logarithm. It is not multiplied any further
    filled: bool = False  # NULL is replaced by 0
    whole: bool = False  # arithmetic of whole numbers, or a union with others that an author may know: a sum may overflow
    capped: bool = False  # LEAST of a column and a constant, or of a sum: it may be the same for all but a few persons
    caps: frozenset[str] = NO_NAMES  # conditions that are true where LEAST in this expression does not give its constant
    factors: tuple[str, ...] = ()  # columns, and functions of one, that a product multiplies; see cleanroom.sql.privacy.polynomials
    conditional: bool = False  # contains a CASE inside an aggregate over rows of several persons
    selector: str = ""  # condition under which such a CASE is the value `selected`; otherwise it is 0 or NULL
    selected: Value | None = None

    def copy(self) -> Value:
        """A copy, to be changed."""
        return Value(*_facts(self))

    def as_column(self, sql: str, name: str, sources: frozenset[str]) -> Value:
        """This output column of a query as a column of the relation ``sources``."""
        out = self.copy()
        out.sql, out.name, out.sources, out.columns, out.ungrouped, out.factors = sql, name, sources, frozenset([sql]), True, ()
        return out


_facts = attrgetter(*Value.__slots__)


class SemiJoin(NamedTuple):
    """A condition of the form ``column IN (SELECT ...)`` on protected rows."""

    protected: list[ProtectedInput]  # protected inputs of the subquery
    column: Value  # column on the left of IN
    type: str  # type of the column that the subquery returns


class Equality(NamedTuple):
    """Two columns of different relations that a condition compares."""

    first: Value
    second: Value
    in_every_row: bool  # the condition is true in every row of the SELECT
    # Aliases of the relations whose rows the condition selects: those of the optional side of an outer join; None for both relations
    restricts: frozenset[str] | None = None

    @property
    def plain(self) -> bool:
        """Both are unchanged columns."""
        return self.first.plain and self.second.plain

    @property
    def same(self) -> bool:
        """Both are unchanged columns of one type, so that equal values are the same value."""
        return self.plain and self.first.type == self.second.type


class ProtectedInput(NamedTuple):
    """A view with a floor whose rows are in a relation: each row carries the identity of the person that it is about."""

    view: str  # lower-case name of the view
    identity_column: str  # lower-case name of its identity column
    reference: str  # text that reads the identity: a column reference inside a SELECT, a column name of a checked query
    outer_join_marker: str = ""  # condition that is true where an outer join found the row that carries the identity
    output_position: int | None = None  # index of the identity among the output columns of a checked query, if it is one of them
    partial: bool = False  # the rows include those of another part of a UNION, in which the identity is NULL
    chooses: bool = False  # a subquery with these rows chooses the rows of a relation: those in which `reference` is one of the persons


class Division(NamedTuple):
    """A condition by which an aggregate divides the rows of a group into two parts, each of which must reach the floor."""

    condition: str  # its text
    # A group with an empty part is suppressed as well, because an owner does not publish the columns that the condition reads
    must_not_be_empty: bool


PartOfDivision = tuple[tuple[str, bool], ...]
"""Conditions and whether each of them is true: some of the rows of a group."""


class ReleasedAggregate(NamedTuple):
    """An aggregate over rows of several persons."""

    name: str  # name of the aggregate
    arg: Value | None  # its argument; None for ``COUNT(*)``
    where: str  # text of the condition of FILTER, or empty
    sql: str  # rendered text, with FILTER
    persons: bool  # it counts different identities
    value: Value | None  # what it reads: the argument, or the result that a CASE in it chooses; None if it counts rows
    part: PartOfDivision  # the conditions of FILTER, of a CASE and of a flag


Release = tuple[int, str]
"""Number of a release within the query, and a view whose rows it aggregates."""


@dataclass(slots=True)
class CheckedQuery:
    """The rendered text of a query, and what the queries around it must know."""

    sql: str  # rendered text
    fields: list[Value]  # output columns
    # Inputs whose rows are still under a floor, with the hidden columns that carry the identities
    protected: list[ProtectedInput] = field(default_factory=list)
    releases: frozenset[Release] = frozenset()  # floors that the query already enforces
    views: frozenset[str] = NO_NAMES  # lower-case names of the input views that the rows are derived from
    # Lower-case names of output columns whose values occur together in one row at most; None if there are none
    unique_on: frozenset[str] | None = None
    overlapping: bool = False  # A protected row of one person may be in several rows, with different values of other columns
    repeats: bool = False  # Joins have repeated protected rows
    chooses: bool = False  # Conditions on several columns have chosen rows of a person


@dataclass(slots=True)
class Relation:
    """A relation of a FROM clause."""

    alias: str  # alias in the rendered text; unique among all enclosing queries
    written_alias: str  # alias that the author wrote
    columns: dict[str, Value]  # columns that the query may read, by lower-case name
    forbidden: frozenset[str] = NO_NAMES  # lower-case names of the columns that the owner does not allow
    view: str = ""  # name of the input view, if the relation is one
    # Lower-case names of columns whose values occur together in one row at most; None if that is not known
    unique_on: frozenset[str] | None = None
    text: str = ""  # rendered text, with the alias
