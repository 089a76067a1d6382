"""What the checker knows about an expression, a column of a relation and a relation.

Everything that the gate lets through becomes text of its own making the moment it has been checked; these are the facts that
travel with that text. ``origins`` say which input columns a value comes from and how (for the lineage), ``exposed`` say of
which input columns a value still shows values (for the owners' output rules), ``degree`` says what an aggregate over
protected rows may do with it (0: constant, n: polynomial of columns, None: could single out rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

Origin = tuple[str, str, str]
"""View, column (both lower case), and how: ``value``, ``computed``, or the name of an aggregate."""
Column = tuple[str, str]

ROWS = "*"
"""Stands for a column where rows are read or counted."""

NOTHING: frozenset[Origin] = frozenset()
NO_COLUMNS: frozenset[Column] = frozenset()
NO_TEXT: frozenset[str] = frozenset()

OR, AND, PREDICATE, SUM, PRODUCT, SIGN, ATOM = range(7)
"""How tightly the outermost operator of a text binds."""


class Value:
    """A checked scalar expression."""

    __slots__ = (
        "aggregated",
        "chain",
        "degree",
        "exposed",
        "free",
        "identity",
        "joinable",
        "level",
        "matched",
        "name",
        "number",
        "origins",
        "raw",
        "sources",
        "sql",
        "type",
        "weight",
        "windowed",
    )

    def __init__(self, sql: str, type: str, level: int = ATOM, weight: float = 1.0, **facts: Any) -> None:
        self.sql = sql
        self.type = type
        self.level = level
        self.weight = weight
        """Largest constant, or inverse of one, by which the expression scales a column: where it is huge, rounding can single out rows."""
        self.origins: frozenset[Origin] = NOTHING
        self.exposed: frozenset[Column] = NO_COLUMNS
        self.sources: frozenset[str] = NO_TEXT
        """Aliases of the relations that it reads."""
        self.matched: frozenset[str] = NO_TEXT
        """Conditions that say whether the outer join which supplied it found a row."""
        self.degree: int | None = 0
        self.raw = False
        """A column as it is, not computed."""
        self.joinable = False
        """A column as it is, or an identity in normal form: equal values mean the same thing."""
        self.identity = False
        """Comes from an identity column of an owner's floor."""
        self.free = False
        """Refers to a column outside of any aggregate and any group key."""
        self.aggregated = False
        self.windowed = False
        self.name = ""
        """Name that the column has where no alias is given."""
        self.chain = ""
        """The operator, where it is a chain of AND, OR or ||: inside of a longer one it needs no parentheses, and a reader drops them."""
        self.number: float | None = None
        """What a numeric constant is, where the gate knows it."""
        for name, fact in facts.items():
            setattr(self, name, fact)

    @staticmethod
    def of_column(
        sql: str, type: str, name: str, sources: frozenset[str], origins: frozenset[Origin], exposed: frozenset[Column], degree: int | None
    ) -> Value:
        """A column as it is."""
        out = Value(sql, type)
        out.name, out.sources, out.origins, out.exposed, out.degree = name, sources, origins, exposed, degree
        out.raw = out.joinable = out.free = True
        return out


@dataclass(slots=True)
class Slot:
    """One protected input inside a relation: each of its rows carries the identity of a person in ``ref``."""

    view: str
    identity: str
    ref: str
    matched: str = ""
    """Condition under which an outer join found the row that it belongs to."""
    column: int | None = None
    """Place of the identity among the output columns of a finished query."""
    outer: Value | None = None
    """A column of an enclosing query that equals the identity in every row."""


@dataclass(slots=True)
class OutField:
    """A column of a finished query."""

    name: str
    type: str
    origins: frozenset[Origin]
    exposed: frozenset[Column]
    degree: int | None
    raw: bool
    identity: bool
    weight: float = 1.0


@dataclass(slots=True)
class Result:
    """A finished query. ``slots`` name its hidden identity columns; ``releases`` are the floors already enforced inside it."""

    sql: str
    fields: list[OutField]
    slots: list[Slot] = field(default_factory=list)
    releases: frozenset[tuple[int, str]] = frozenset()
    """Number of the release and view that it covers, for each."""
    views: frozenset[str] = NO_TEXT
    """Input views that the rows come from, lower case."""
    multiplied: bool = False
    """Holds rows that the text itself made (constants, unions, explode), so that joining it could copy protected rows at will."""


@dataclass(slots=True)
class Source:
    """A relation in FROM, under its alias."""

    alias: str
    written: str
    fields: dict[str, Value]
    """By lower-case name, in order."""
    hidden: frozenset[str] = NO_TEXT
    """Lower-case names of columns that exist and are not allowed."""
    view: str = ""
    """Name of the input view, where it is one."""


class Scope:
    """Names in force inside one SELECT, and what is known about its rows."""

    __slots__ = (
        "aliases",
        "cells",
        "class_views",
        "dropped",
        "equalities",
        "group_keys",
        "group_text",
        "keyed",
        "links",
        "merged",
        "multiplied",
        "outer_equalities",
        "outer_reads",
        "parent",
        "raw_keys",
        "releases",
        "slots",
        "sources",
        "ties",
        "unions",
        "views",
        "windows",
    )  # fmt: skip

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.sources: dict[str, Source] = {}
        self.merged: dict[str, Value] = {}
        self.dropped: set[tuple[str, str]] = set()
        """Source alias and column that a USING merged away from ``*``."""
        self.aliases: dict[str, exp.Expr] = {}
        self.group_keys: set[str] | None = None
        self.group_text = ""
        self.raw_keys: list[str] = []
        """Texts of the group keys that are plain columns."""
        self.slots: list[Slot] = []
        self.releases: frozenset[tuple[int, str]] = frozenset()
        self.multiplied = False
        self.views: frozenset[str] = NO_TEXT
        """Input views that the rows come from."""
        self.windows: dict[str, exp.Expr] = {}
        self.unions: dict[str, str] = {}
        """Columns known to be equal in every row: text of a reference to the text of its representative."""
        self.outer_reads: list[Value] = []
        self.ties: list[tuple[Value, ...]] = []
        """Columns of different relations that one condition compares: what one shows, the others may show."""
        self.class_views: dict[str, frozenset[str]] = {}
        self.links: list[tuple[str, str]] = []
        """Pairs of relations that an equality of columns joins."""
        self.equalities: list[tuple[Value, Value]] = []
        """Equal columns that hold for every row that is left."""
        self.outer_equalities: list[tuple[Value, Value]] = []
        """Every equality of two plain columns in a join condition, of whichever kind."""
        self.keyed = False
        """Rows are grouped by every identity below them, so that a group is one person."""
        self.cells: dict[tuple[str, ...], bool] = {}
        """Conditions by which aggregates over protected rows divide them; True where an empty part must be suppressed as well."""

    def chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def representative(self, ref: str) -> str:
        while ref in self.unions:
            ref = self.unions[ref]
        return ref

    def equate(self, left: Value, right: Value) -> None:
        """From here on both columns are known to be equal in every row."""
        views = self.behind(left) | self.behind(right)
        one, two = self.representative(left.sql), self.representative(right.sql)
        if one != two:
            self.unions[two] = one
        self.class_views[one] = views

    def behind(self, value: Value) -> frozenset[str]:
        """Input views that ``value``, or a column known to be equal to it, comes from."""
        own = frozenset(view for view, _, _ in value.origins)
        return own | self.class_views.get(self.representative(value.sql), NO_TEXT)


def quote(name: str) -> str:
    """``name`` as Spark reads it back; names are checked to hold no backtick."""
    return f"`{name}`"


def text_literal(value: str) -> str:
    """``value`` as a Spark string literal."""
    out = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return f"'{out}'"


def conjunction(parts: Iterable[Value]) -> str:
    """``parts`` joined by AND."""
    return " AND ".join(wrap(part, PREDICATE) for part in parts)


def indent(text: str) -> str:
    """``text`` two spaces further in; no literal of ours holds a line break."""
    return text.replace("\n", "\n  ")


def wrap(value: Value, least: int) -> str:
    """The text of ``value`` as an operand of something that binds at ``least``."""
    return value.sql if value.level >= least else f"({value.sql})"


NUMERIC = ("number", "float", "decimal", "long", "integer", "smallint", "tinyint")
"""Types of numbers as verdicts name them, the widest first; ``number`` is a double."""


def widest(types: list[str]) -> str:
    """The common type of several, as Spark's coercion finds it (roughly: it decides names in a report, not values)."""
    known = [kind for kind in types if kind not in ("null", "unknown")]
    if not known:
        return types[0] if types else "null"
    if len(set(known)) == 1:
        return known[0]
    for kind in NUMERIC:
        if kind in known and all(other in NUMERIC for other in known):
            return "number" if kind == "float" and "decimal" in known else kind
    if set(known) <= {"date", "timestamp"}:
        return "timestamp"
    return "string" if "string" in known else known[0]
