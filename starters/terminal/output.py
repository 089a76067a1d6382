"""Prints results, status lines and errors, and defines the options that every command has.

Results go to standard output as a table, or as JSON with ``--output json``. Status lines and errors go to standard error; with
``--output json``, an error is a JSON document on standard output.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from cleanroom import display_names
from cleanroom.errors import CleanRoomError, Internal
from cleanroom.temporal.markdown import plain
from starters.terminal.error_hints import add_hint
from starters.terminal.extras import missing_extra

DEBUG_VARIABLE = "CLEANROOM_DEBUG"
"""Environment variable that makes unexpected errors print a traceback."""
NOT_WRITTEN = "OutputNotWritten"
"""Error code for output that could not be written, for example to a full disk."""
USER_NAMES: dict[str, str] = {}
"""User ID to collaborator name, from the settings of this command. Services name users by ID; error messages show the names."""
_UNBOUNDED = 10_000
_MAX_SQUEEZE = 1.5
"""A table wider than this many terminal widths is printed as paragraphs, because its cells would be only a few characters wide."""


class Format(StrEnum):
    """Output format of a result."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="Output format: table for people, json for programs.")]
Profile = Annotated[
    str | None, typer.Option("--profile", "-p", envvar="CLEANROOM_PROFILE", help="Profile in cleanroom.toml that the command acts as.")
]
ConfigFile = Annotated[str | None, typer.Option("--config", envvar="CLEANROOM_CONFIG", help="Path of cleanroom.toml.")]
Plaintext = Annotated[bool, typer.Option("--plaintext", help="Send unencrypted payloads to Temporal if the profile has no keyring.")]

out = Console(soft_wrap=True)
"""Standard output, for results."""
err = Console(stderr=True, soft_wrap=True)
"""Standard error, for status lines and errors."""


def print_status(text: str) -> None:
    """Print a status line to standard error.

    Args:
        text: Rich markup. Text from outside of this program must pass through :func:`safe`.
    """
    err.print(text)


def safe(text: object, limit: int = 400) -> str:
    """Return ``text`` from an untrusted source without control, ANSI and bidirectional characters, escaped for Rich, and truncated."""
    return escape(plain(str(text), limit))


def with_names(text: str) -> str:
    """Replace the user IDs in ``text`` by collaborator names; see :data:`USER_NAMES`."""
    return display_names.with_names(text, USER_NAMES)


def to_json(value: Any) -> Any:
    """Convert models and tuples, also nested ones, to plain JSON values.

    JSON has no infinite numbers and no NaN. They become the strings that Spark writes, and that JSON datasets use.
    """
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=False, exclude_none=True)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def print_json(value: Any) -> None:
    """Print one JSON document on one line; non-ASCII characters are escaped unless the stream is UTF-8."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(to_json(value), ensure_ascii=not utf8) + "\n")
    sys.stdout.flush()


def print_record(value: Any, output: Format, *, title: str = "") -> None:
    """Print one record: a table with one row per member, or a JSON object."""
    if output is Format.JSON:
        print_json(value)
        return
    table = Table(title=title or None, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, item in to_json(value).items():
        table.add_row(safe(key), _cell(item, "\n"))
    out.print(table)


def print_partial_record(record: dict[str, Any], output: Format, *, title: str) -> None:
    """Print a record that may be incomplete; as a table, its member ``unanswered`` becomes a warning below the table."""
    error = record.get("unanswered")
    if output is Format.TABLE:
        record = {key: value for key, value in record.items() if key != "unanswered"}
    print_record(record, output, title=title)
    if error is not None:
        print_status(f"[yellow]incomplete[/yellow]: {safe(error['message'], 1000)}")
        print_status(f"  [green]hint:[/green] {safe(error['hint'], 1000)}")


def print_rows(rows: Sequence[Mapping[str, Any]], output: Format, *, columns: Sequence[str], title: str = "") -> None:
    """Print a list of records as a table or a JSON array.

    Args:
        rows: The records. An empty list is a valid result.
        output: Table or JSON. JSON contains all members of the rows.
        columns: Members to show as columns. The first one identifies the row; it is never wrapped, so that it can be copied.
        title: Title of the table.
    """
    if output is Format.JSON:
        print_json(list(rows))
        return
    if not rows:
        out.print("[dim]none[/dim]")
        return
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    width = Measurement.get(out, out.options.update(max_width=_UNBOUNDED), table).maximum
    if not out.is_terminal and "COLUMNS" not in os.environ:
        # In a pipe or a file, every row stays on one line, for `grep`.
        Console(width=width).print(table)
    elif width <= out.width * _MAX_SQUEEZE:
        out.print(table)
    else:
        for row in rows:
            out.print(f"[bold]{_cell(row.get(columns[0], ''))}[/bold]", *(f"  {c}: {_cell(row.get(c, ''))}" for c in columns[1:]), sep="\n")


def _cell(value: Any, separator: str = ", ") -> str:
    """Format ``value`` for a table cell: a flat list or mapping is joined with ``separator``, a nested one becomes JSON."""
    if value is None:
        return ""
    if isinstance(value, dict) and not any(isinstance(item, dict | list) for item in value.values()):
        value = [f"{key}: {_plain_cell(item)}" for key, item in value.items() if item not in (None, "")]
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return separator.join(_plain_cell(item) for item in value)
    if isinstance(value, dict | list):
        return safe(json.dumps(value, ensure_ascii=False), 2000)
    return _plain_cell(value)


def _plain_cell(value: Any) -> str:
    return safe(value, 2000)


def print_error(error: CleanRoomError, output: Format) -> None:
    """Print ``error`` with its hint: as JSON to standard output, otherwise as text to standard error."""
    add_hint(error)
    error = display_names.error_with_names(error, USER_NAMES)
    if output is Format.JSON and error.code != NOT_WRITTEN:
        print_json(error.to_dict())
        return
    err.print(f"[bold red]error[/bold red] [bold]{safe(error.code)}[/bold]: {safe(error.message, 2000)}")
    if error.cause:
        err.print(f"  [dim]cause:[/dim] {safe(error.cause, 1000)}")
    for reason in error.details.get("reasons", [])[:10]:
        err.print(f"  - {safe(with_names(str(reason.get('message', reason))))}")
    if error.party:
        err.print(f"  [dim]responsible:[/dim] {safe(error.party)}")
    if error.hint:
        err.print(f"  [green]hint:[/green] {safe(error.hint, 1000)}")


@contextmanager
def error_boundary(output: Format) -> Iterator[None]:
    """Run the body of a command; print every error and turn it into the command's exit code.

    Raises:
        typer.Exit: With the exit code of the error.
    """
    try:
        yield
    except CleanRoomError as error:
        print_error(error, output)
        raise typer.Exit(error.exit_code) from error
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error)) is not None:
            print_error(missing, output)
            raise typer.Exit(missing.exit_code) from error
        if os.environ.get(DEBUG_VARIABLE):
            raise
        unexpected = _unexpected(error)
        print_error(unexpected, output)
        raise typer.Exit(unexpected.exit_code) from error


def _unexpected(error: Exception) -> Internal:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return Internal(
            NOT_WRITTEN, f"cannot write {error.filename or 'the output'}.", cause=error.strerror, hint="Free disk space, then retry."
        )
    return Internal(
        "UnexpectedError",
        f"{type(error).__name__}: {error}",
        hint=f"This is a bug. Repeat the command with {DEBUG_VARIABLE}=1 and report the traceback.",
    )
