"""What was inferred from a file of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cleanroom.documents.dataset import MAX_COLUMNS, CsvDialect, FieldType, Format
from cleanroom.documents.dataset_rules import column_problems
from cleanroom.errors import InvalidInput


@dataclass(frozen=True)
class InferredColumn:
    """A column as the sample shows it.

    Attributes:
        name: Its name.
        type: The type with which every sampled value can be read.
        nulls: Sampled rows without a value.
        distinct: Different values in the sample.
        note: What its owner should look at; empty if nothing.
    """

    name: str
    type: FieldType
    nulls: int
    distinct: int
    note: str = ""


@dataclass(frozen=True)
class InferredFile:
    """What was inferred from a file.

    Attributes:
        format: CSV, JSON lines or Parquet.
        columns: The columns in file order.
        rows: Sampled rows.
        whole: Whether the sample is the whole file.
        header: Whether a CSV file begins with a header.
        dialect: How a CSV file deviates from RFC 4180, or None.
        day: Whether the file is in a folder ``yyyy-MM-dd``.
    """

    format: Format
    columns: tuple[InferredColumn, ...]
    rows: int
    whole: bool
    header: bool = True
    dialect: CsvDialect | None = None
    day: bool = False


def require_names(path: Path, names: list[str], hint: str) -> None:
    """Require names that a dataset may have.

    Raises:
        InvalidInput: ``ColumnNamesInvalid``.
    """
    problems = column_problems(names)
    if len(names) > MAX_COLUMNS:
        problems.append(f"it has {len(names)} columns; the maximum is {MAX_COLUMNS}")
    if problems:
        raise InvalidInput("ColumnNamesInvalid", f"{path}: {'; '.join(problems)}.", hint=hint)
