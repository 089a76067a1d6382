"""What the dialect of a CSV text does not allow, and the error for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.errors import InvalidInput


class CsvProblem(NamedTuple):
    """What was found, and what to do."""

    actual: str
    hint: str


OPEN_QUOTE: Final = CsvProblem("a quote that is never closed", "Close the quote.")
MISPLACED_QUOTE: Final = CsvProblem(
    "a quote within a value, or text after a closing quote",
    'Write a quote within a value as "" and enclose the value in quotes (RFC 4180), '
    "or declare csvDialect: escapeCharacter, or quoting: none if quotes are data.",
)
BARE_RETURN: Final = CsvProblem(
    "a carriage return without a line feed", "End rows with CRLF or LF, and enclose values with line breaks in quotes."
)


def wrong_escape(*, quoted: bool) -> CsvProblem:
    """Return the problem of an escape character that escapes nothing.

    Args:
        quoted: Whether the dialect has quoted values.
    """
    meaning = "a quote or itself, within a quoted value" if quoted else "a delimiter or itself"
    return CsvProblem(f"an escape character that does not precede {meaning}", "Write the escape character twice where it is data.")


def dialect_mismatch(problem: CsvProblem, names: Sequence[str], number: int, where: str, row: int | None) -> InvalidInput:
    """Return the error for a value that the dialect does not allow. It never contains the value.

    Args:
        problem: What is wrong with it.
        names: The columns in file order.
        number: The number of its column, from 0.
        where: The object's path.
        row: The number of its row, or None if unknown.
    """
    column = names[number] if number < len(names) else None
    return schema_mismatch(where, column, "CSV (RFC 4180, or as csvDialect declares)", problem.actual, row=row, hint=problem.hint)
