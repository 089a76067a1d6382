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
    """

    sql: str
    fields: list[OutputField]
    protected: list[ProtectedInput] = field(default_factory=list)
    releases: frozenset[Release] = frozenset()
    views: frozenset[str] = NO_NAMES
    may_copy_rows: bool = False


@dataclass(slots=True)
class Relation:
    """A relation of a FROM clause.

    Attributes:
        alias: Alias in the rendered text; unique among all enclosing queries.
        written_alias: Alias that the author wrote.
        columns: Columns that the query may read, by lower-case name.
        forbidden: Lower-case names of the columns that the owner does not allow.
        view: Name of the input view, if the relation is one.
    """

    alias: str
    written_alias: str
    columns: dict[str, Value]
    forbidden: frozenset[str] = NO_NAMES
    view: str = ""
