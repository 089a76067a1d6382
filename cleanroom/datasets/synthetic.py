"""Makes synthetic rows for the input datasets of a query: from schemas, privacy floors and the query's text alone, never from real rows.

The same seed gives the same rows. Rows of different datasets join: identities come from one pool of persons, and columns that the query
compares, or that have one name in several datasets, take their values from the same few combinations.
"""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from cleanroom.datasets.pure.values import INTEGER_LIMITS
from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import FieldType
from cleanroom.sql import Refusal, Tokens

ROWS_PER_PERSON: Final = 4
SHARED_COMBINATIONS: Final = 60
"""Combinations of values in columns that several datasets share."""
NULL_SHARE: Final = 0.03
"""Part of the values of other columns than identities and shared ones that is null."""
_DAY: Final = dt.date(2024, 1, 15)
_RANGES: Final = {
    "year": (2023, 2),
    "month": (1, 12),
    "day": (1, 28),
    "hour": (0, 24),
    "minute": (0, 60),
    "quarter": (1, 4),
    "weekday": (1, 7),
}
_BACK: Final = 12
"""Tokens before a literal in which the column that it is compared with is searched."""


@dataclass(frozen=True)
class SyntheticInput:
    """What is known about an input dataset.

    Attributes:
        view: Its name in the query.
        types: Its columns.
        identity: The column that identifies a person, or None.
        unique: Columns whose values occur together once, or None.
        floor: The minimum group size.
        min_rows: Rows that a precondition of the query requires.
    """

    view: str
    types: Mapping[str, FieldType]
    identity: str | None = None
    unique: tuple[str, ...] | None = None
    floor: int = 0
    min_rows: int = 0


def synthetic_tables(inputs: Sequence[SyntheticInput], sql: Iterable[str], *, rows: int, seed: int) -> dict[str, pa.Table]:
    """Return rows by view.

    Args:
        inputs: The input datasets.
        sql: The query's text, segment by segment. Literals that it compares with a column are among the column's values.
        rows: Rows of each dataset. A dataset with unique columns may have fewer, and one with a precondition more.
        seed: Seed of all values.
    """
    shapes = _Shapes(inputs, list(sql))
    least = max([rows // ROWS_PER_PERSON, 2, *(2 * item.floor for item in inputs), *(item.min_rows for item in inputs if item.unique)])
    return {item.view: _table(item, shapes, max(rows, item.min_rows), least, seed) for item in inputs}


class _Shapes:
    """Which columns take their values from the same pool, and the literals of each pool."""

    def __init__(self, inputs: Sequence[SyntheticInput], sql: list[str]) -> None:
        self._parent: dict[str, str] = {}
        self._shared_values: dict[tuple[str, str, int], Any] = {}
        self.literals: dict[str, list[str]] = {}
        names = [name.lower() for item in inputs for name in item.types]
        self._known = set(names)
        self._repeated = {name for name in names if names.count(name) > 1}
        for text in sql:
            self._read(text)
        self.identities = {self.pool(item.identity) for item in inputs if item.identity}
        views = [{self.pool(name) for name in item.types} for item in inputs]
        self.shared = {pool for pools in views for pool in pools if sum(pool in other for other in views) > 1} - self.identities

    def pool(self, column: str) -> str:
        """Return the name of the pool of a column."""
        name = column.lower()
        while name in self._parent:
            name = self._parent[name]
        return name

    def shared_value(self, name: str, kind: FieldType, combination: int) -> Any:
        """Return a value of a shared column: equal in all datasets, and different from column to column."""
        pool = self.pool(name)
        key = (pool, kind, combination)
        if key not in self._shared_values:
            own = random.Random(f"{pool}/{combination}")  # noqa: S311
            self._shared_values[key] = _drawn(name, kind, self.literals.get(pool, ()), own)
        return self._shared_values[key]

    def _read(self, text: str) -> None:
        try:
            tokens = Tokens(text)
        except Refusal:
            return
        found: list[tuple[str, str]] = []
        for at, kind in enumerate(tokens.kinds):
            if kind in ("=", "<=>"):
                self._join(tokens, at)
            elif kind in ("'", "0") and (column := self._compared(tokens, at)) is not None:
                value = tokens.values[at]
                found.append((column, value[1:-1].replace("''", "'") if kind == "'" else value))
        for column, value in found:
            self.literals.setdefault(self.pool(column), []).append(value)

    def _join(self, tokens: Tokens, at: int) -> None:
        left = tokens.values[at - 1].lower() if at else ""
        right = tokens.values[at + 3 if tokens.kinds[at + 2] == "." else at + 1].lower()
        if left in self._known and right in self._known and self.pool(left) != self.pool(right):
            self._parent[self.pool(left)] = self.pool(right)

    def _compared(self, tokens: Tokens, at: int) -> str | None:
        """Return the known column that is nearest before a literal, or directly after it."""
        for index in range(at - 1, max(at - _BACK, -1), -1):
            if tokens.kinds[index] in ("SELECT", "FROM", "WHERE", "AND", "OR", "ON", ";", "THEN", "ELSE", "WHEN", "HAVING"):
                break
            if tokens.values[index].lower() in self._known:
                return tokens.values[index].lower()
        return next((value.lower() for value in tokens.values[at + 2 : at + 5] if value.lower() in self._known), None)


def _table(item: SyntheticInput, shapes: _Shapes, rows: int, persons: int, seed: int) -> pa.Table:
    chosen = random.Random(f"{seed}/{item.view}")  # noqa: S311 - reproducible rows
    once = _once(item, shapes)
    by_person = len(once) == 1 and shapes.pool(once[0]) in shapes.identities
    numbers = list(range(persons))
    chosen.shuffle(numbers)
    table: dict[str, list[Any]] = {name: [] for name in item.types}
    seen: set[tuple[Any, ...]] = set()
    for row in range(min(rows, persons) if by_person else rows):
        person = numbers[row] if by_person else int(persons * chosen.random() ** 1.5)
        combination = row if once and not by_person else _skewed(chosen, SHARED_COMBINATIONS)
        values = {name: _value(name, kind, shapes, chosen, person, combination) for name, kind in item.types.items()}
        key = tuple(values[name] for name in once)
        if once and key in seen:
            if len(table[once[0]]) >= item.min_rows:
                continue
            # A NULL is equal to nothing, so the row counts and joins with none.
            values |= dict.fromkeys(once)
        seen.add(key)
        for name, value in values.items():
            table[name].append(value)
    return pa.table(table, schema=arrow_schema(item.types))


def _once(item: SyntheticInput, shapes: _Shapes) -> list[str]:
    """Return the columns whose values occur together once.

    Those that the owner declares. In a dataset without persons next to one with a privacy floor, those that both have: the gate joins
    persons with rows that are unique only.
    """
    if item.unique:
        names = {name.lower() for name in item.unique}
        return [name for name in item.types if name.lower() in names]
    if item.identity or not shapes.identities:
        return []
    return [name for name in item.types if shapes.pool(name) in shapes.shared | shapes.identities]


def _skewed(chosen: random.Random, size: int) -> int:
    """Return a number below ``size``. Small numbers are more frequent."""
    return int(size * chosen.random() ** 2)


def _rare(chosen: random.Random) -> int:
    """Return a number of at most 9; each is half as frequent as the one before, so that some groups are below a floor."""
    return min(9, int(-math.log2(1 - chosen.random())))


def _value(name: str, kind: FieldType, shapes: _Shapes, chosen: random.Random, person: int, combination: int) -> Any:
    pool = shapes.pool(name)
    if pool in shapes.identities:
        return _typed(name, kind, person, identity=True)
    if pool in shapes.shared:
        return shapes.shared_value(name, kind, combination)
    if chosen.random() < NULL_SHARE:
        return None
    return _drawn(name, kind, shapes.literals.get(pool, ()), chosen)


def _drawn(name: str, kind: FieldType, literals: Sequence[str], chosen: random.Random) -> Any:
    if literals and chosen.random() < 0.5:
        near = _near(kind, chosen.choice(literals), chosen)
        if near is not None:
            return near
    return _typed(name, kind, _rare(chosen) if kind == "string" else chosen.randrange(1000), identity=False)


def _near(kind: FieldType, literal: str, chosen: random.Random) -> Any:
    """Return a value that a comparison with the literal tells apart, or None if the literal is of another type."""
    if kind == "string":
        return literal.replace("%", "x").replace("_", "a")
    try:
        if kind in ("integer", "long"):
            low, high = INTEGER_LIMITS[kind]
            return min(max(int(float(literal)) + chosen.choice((-1, 0, 0, 1)), low), high)
        if kind == "number":
            return float(literal) + chosen.choice((-1.0, 0.0, 0.5, 1.0))
        if kind in ("date", "timestamp"):
            day = dt.date.fromisoformat(literal[:10]) + dt.timedelta(days=chosen.randint(-15, 15))
            return day if kind == "date" else dt.datetime(day.year, day.month, day.day, chosen.randrange(24), tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        return None
    return None


def _typed(name: str, kind: FieldType, number: int, *, identity: bool) -> Any:
    lowered = name.lower()
    match kind:
        case "string":
            return f"person-{number:06d}" if identity else f"{lowered[:24]}-{number}"
        case "integer" | "long":
            start, size = _RANGES.get(lowered, (0, 1000)) if not identity else (1, 2**31 - 2)
            return start + number % size
        case "number":
            return number * 0.25 if not identity else float(number)
        case "boolean":
            return number % 2 == 0
        case "date":
            return _DAY + dt.timedelta(days=number % 366)
        case "timestamp":
            return dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=number * 37)
