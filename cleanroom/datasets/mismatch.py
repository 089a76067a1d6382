"""The error for data that do not match the schema of their dataset."""

from __future__ import annotations

from cleanroom.errors import InvalidInput

SCHEMA_HINT = "Correct the file, or publish the dataset with a schema that matches it."


def schema_mismatch(
    where: str, column: str | None, expected: str, actual: str, *, row: int | None = None, hint: str = SCHEMA_HINT
) -> InvalidInput:
    """Return the error for data that do not match the dataset's schema.

    Args:
        where: The path of the file or object.
        column: The column, or None for the whole row or file.
        expected: The expected type or rule.
        actual: What was found, without any value.
        row: Number of the row in the file, from 1, if known.
        hint: What to do.
    """
    place = where + (f", column {column!r}" if column else "") + (f", row {row}" if row is not None else "")
    details = {"object": where, "column": column, "expected": expected, "actual": actual, "row": row}
    return InvalidInput(
        "SchemaMismatch",
        f"{place}: expected {expected}, found {actual}.",
        hint=hint,
        details={key: value for key, value in details.items() if value is not None},
    )
