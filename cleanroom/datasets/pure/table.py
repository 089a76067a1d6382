"""Columns of values in memory, with the methods of a pyarrow table that the commands use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


class Column:
    """The values of one column."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = list(values)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def to_pylist(self) -> list[Any]:
        """Return the values."""
        return list(self._values)

    @property
    def null_count(self) -> int:
        """The number of rows without a value."""
        return self._values.count(None)

    def unique(self) -> Column:
        """Return each value once. All numbers that are not a number count as one value."""
        return Column(list(dict.fromkeys("NaN" if value != value else value for value in self._values)))

    def drop_null(self) -> Column:
        """Return the values that are given."""
        return Column([value for value in self._values if value is not None])


class Table:
    """Columns by name, all of one length."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = {name: Column(values) for name, values in columns.items()}

    @classmethod
    def of_rows(cls, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
        """Return a table of rows whose values are in the order of ``names``."""
        return cls({name: [row[number] for row in rows] for number, name in enumerate(names)})

    @classmethod
    def concat(cls, names: Iterable[str], tables: Sequence[Table]) -> Table:
        """Return the rows of several tables with the columns ``names``."""
        return cls({name: [value for table in tables for value in table.column(name)] for name in names})

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self._columns.values()), ()))

    @property
    def num_columns(self) -> int:
        """The number of columns."""
        return len(self._columns)

    @property
    def column_names(self) -> list[str]:
        """Return the names in the order of the columns."""
        return list(self._columns)

    @property
    def columns(self) -> list[Column]:
        """The columns in order."""
        return list(self._columns.values())

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return self._columns[name]

    def slice(self, start: int, length: int) -> Table:
        """Return some rows."""
        return Table({name: column.to_pylist()[start : start + length] for name, column in self._columns.items()})
