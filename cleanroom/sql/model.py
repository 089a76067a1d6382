"""What the checks know about expressions, columns, relations and queries.

Each part of a query is rendered as soon as it has been checked. The classes of this module hold the rendered text together with
the facts that later checks and the privacy rules need. None of them refers to the syntax tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from cleanroom.sql.precedence import ATOM

Origin = tuple[str, str, str]
"""View and column (both lower case), and how the value is derived: ``value``, ``computed``, or the name of an aggregate."""
ColumnKey = tuple[str, str]
"""View and column, both lower case."""

ROWS = "*"
"""Replaces the column name in an origin where rows are read or counted."""

NO_ORIGINS: frozenset[Origin] = frozenset()
NO_COLUMNS: frozenset[ColumnKey] = frozenset()
NO_NAMES: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Value:
    """A checked scalar expression.

    Attributes:
        sql: Rendered text.
        type: Type of the result, as verdicts name it.
        precedence: Precedence of the outermost operator; see :mod:`cleanroom.sql.precedence`.
        scale: Largest constant factor, or inverse of one, by which the expression scales a column. Rounding after a huge factor can
            single out rows; see :mod:`cleanroom.sql.privacy.polynomials`.
        degree: 0 for a constant, n for a polynomial of degree n in columns, None for anything else, which could single out rows.
        origins: Input columns that the value is derived from, for the lineage.
        exposed: Input columns whose values can be read from this value.
        sources: Aliases of the relations that the expression reads.
        outer_join_markers: Conditions that are true where the outer join that supplied the value found a row.
        plain: The expression is a column, unchanged.
        joinable: The expression is a column, unchanged, or a normalised identity. Equal values mean the same thing.
        identity: The value is derived from the identity column of a floor.
        ungrouped: The expression reads a column outside of any aggregate and any group key.
        aggregated: The expression contains an aggregate.
        windowed: The expression contains a window function.
        name: Name of the output column if the query gives no alias.
        operator_chain: ``AND``, ``OR`` or ``||`` if the expression is a chain of that operator, which needs no parentheses inside a
            longer chain of the same operator.
        constant: Value of a numeric constant, if known.
        flag: The value is 0, 1 or NULL by its form.
        made_by_text: The query text chooses the rows that have the value: it is a count, or an outer join supplies it.
        transformed: The value is not linear in a column: rounded, capped or a logarithm. It is not multiplied any further.
    """

    sql: str
    type: str
    precedence: int = ATOM
    scale: float = 1.0
    degree: int | None = 0
    origins: frozenset[Origin] = NO_ORIGINS
    exposed: frozenset[ColumnKey] = NO_COLUMNS
    sources: frozenset[str] = NO_NAMES
    outer_join_markers: frozenset[str] = NO_NAMES
    plain: bool = False
    joinable: bool = False
    identity: bool = False
    ungrouped: bool = False
    aggregated: bool = False
    windowed: bool = False
    name: str = ""
    operator_chain: str = ""
    constant: float | None = None
    flag: bool = False
    transformed: bool = False
    made_by_text: bool = False

    @staticmethod
    def of_column(
        sql: str,
        type: str,
        name: str,
        sources: frozenset[str],
        origins: frozenset[Origin] = NO_ORIGINS,
        exposed: frozenset[ColumnKey] = NO_COLUMNS,
        degree: int | None = 1,
    ) -> Value:
        """An unchanged column of the relation whose alias is the one member of ``sources``."""
        out = Value(sql, type)
        out.name, out.sources, out.origins, out.exposed, out.degree = name, sources, origins, exposed, degree
        out.plain = out.joinable = out.ungrouped = True
        return out


class KeyPair(NamedTuple):
    """Two columns that a condition compares for equality.

    Attributes:
        first: One column.
        second: The other column.
        restricts: Aliases of the relations whose rows the condition selects: those of the optional side of an outer join; None for
            both relations.
    """

    first: Value
    second: Value
    restricts: frozenset[str] | None = None


class ProtectedInput(NamedTuple):
    """A view with a floor whose rows are in a relation: each row carries the identity of the person that it is about.

    Attributes:
        view: Lower-case name of the view.
        identity_column: Lower-case name of its identity column.
        reference: Text that reads the identity: a column reference inside a SELECT, a column name of a checked query.
        outer_join_marker: Condition that is true where an outer join found the row that carries the identity.
        output_position: Index of the identity among the output columns of a checked query, if it is one of them.
        enclosing_column: Column of an enclosing query that equals the identity in every row.
    """

    view: str
    identity_column: str
    reference: str
    outer_join_marker: str = ""
    output_position: int | None = None
    enclosing_column: Value | None = None


class Division(NamedTuple):
    """Conditions by which an aggregate divides the rows of a group into parts, each of which must reach the floor.

    Attributes:
        conditions: Texts of the conditions, as the branches of a CASE. They form ``len(conditions) + 1`` parts.
        must_not_be_empty: A group with an empty part is suppressed as well, because an owner does not publish the columns that the
            conditions read.
    """

    conditions: tuple[str, ...]
    must_not_be_empty: bool


class ReleasedAggregate(NamedTuple):
    """An aggregate over rows of several persons.

    Attributes:
        name: Name of the aggregate.
        args: Its arguments.
        distinct: The aggregate ignores duplicates.
        where: Text of the condition of FILTER, or empty.
        sql: Rendered text, with FILTER.
    """

    name: str
    args: tuple[Value, ...]
    distinct: bool
    where: str = ""
    sql: str = ""


Release = tuple[int, str]
"""Number of a release within the query, and a view whose rows it aggregates."""


@dataclass(slots=True)
class OutputField:
    """An output column of a checked query. The attributes have the meaning of those of :class:`Value`."""

    name: str
    type: str
    origins: frozenset[Origin]
    exposed: frozenset[ColumnKey]
    degree: int | None
    plain: bool
    identity: bool
    scale: float = 1.0
    flag: bool = False
    transformed: bool = False
    made_by_text: bool = False


@dataclass(slots=True)
class CheckedQuery:
    """A checked query.

    Attributes:
        sql: Rendered text.
        fields: Output columns.
        protected: Inputs whose rows are still under a floor, with the hidden columns that carry the identities.
        releases: Floors that the query already enforces.
        views: Lower-case names of the input views that the rows are derived from.
        may_copy_rows: The rows include some that the query text itself makes (constants, unions, ``explode``). A join with them
            could copy protected rows.
        unique_on: Lower-case names of output columns whose values occur together in one row at most; None if there are none.
        overlapping: A protected row of one person may be in several rows, with different values of other columns.
    """

    sql: str
    fields: list[OutputField]
    protected: list[ProtectedInput] = field(default_factory=list)
    releases: frozenset[Release] = frozenset()
    views: frozenset[str] = NO_NAMES
    may_copy_rows: bool = False
    unique_on: frozenset[str] | None = None
    overlapping: bool = False


@dataclass(slots=True)
class Relation:
    """A relation of a FROM clause.

    Attributes:
        alias: Alias in the rendered text; unique among all enclosing queries.
        written_alias: Alias that the author wrote.
        columns: Columns that the query may read, by lower-case name.
        forbidden: Lower-case names of the columns that the owner does not allow.
        view: Name of the input view, if the relation is one.
        unique_on: Lower-case names of columns whose values occur together in one row at most; None if that is not known.
    """

    alias: str
    written_alias: str
    columns: dict[str, Value]
    forbidden: frozenset[str] = NO_NAMES
    view: str = ""
    unique_on: frozenset[str] | None = None
