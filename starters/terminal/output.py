"""What commands print: data on standard output (a table, or JSON with ``--output json``), err and errors on standard error."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, TextIO

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from cleanroom.errors import CleanRoomError, Internal
from cleanroom.temporal.markdown import plain
from starters.terminal.error_hints import add_hint

DEBUG_VARIABLE = "CLEANROOM_DEBUG"
NOT_WRITTEN = "OutputNotWritten"
USER_NAMES: dict[str, str] = {}
"""User id to name of whoever the command's settings know: services name people by id, and errors are told by name."""
_UNBOUNDED = 10_000
_SQUEEZE = 1.5
"""A table that is so many times as wide as the terminal is printed as paragraphs: its cells would be a few letters wide."""


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]
Profile = Annotated[str | None, typer.Option("--profile", "-p", envvar="CLEANROOM_PROFILE", help="Who acts: a profile of cleanroom.toml.")]
ConfigFile = Annotated[str | None, typer.Option("--config", envvar="CLEANROOM_CONFIG", help="Path of cleanroom.toml.")]

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


_PLAIN = str.maketrans("▇█━─│┃✔✓✘▶·…—’“”", '##--||++x>..-\'""')
_PLAIN_ERRORS = "cleanroom.plain"


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Drawing characters as ASCII ones, others as question marks, for :func:`codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(character if character.isascii() else "?" for character in text), error.end


class _Pipe(io.FileIO):
    """Where the reader has gone away (``| head``), what is written goes nowhere: that is the reader's choice, and no error."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def tolerant_streams() -> None:
    """Streams on which no command fails after its work is done: what a terminal's encoding lacks (``LC_ALL=C``) is replaced on the way
    out, readers may leave, and a stream that was closed (``>&-``) is an empty one."""
    codecs.register_error(_PLAIN_ERRORS, _plainly)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = _plain(sys.stdout)
    sys.stderr = _plain(sys.stderr)


def _plain(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w")
    if type(stream) is not io.TextIOWrapper:
        # Somebody else's: a test's, or another program's that calls us.
        return stream
    if type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO:
        stream.flush()
        pipe = _Pipe(stream.fileno(), "wb", closefd=False)
        # Unbuffered, where Python was told to be (PYTHONUNBUFFERED).
        file = io.BufferedWriter(pipe) if isinstance(stream.buffer, io.BufferedWriter) else pipe
        return io.TextIOWrapper(
            file,
            encoding=stream.encoding,
            errors=_PLAIN_ERRORS,
            line_buffering=stream.line_buffering,
            write_through=file is pipe,
        )
    stream.reconfigure(errors=_PLAIN_ERRORS)
    return stream


def print_status(text: str) -> None:
    """A line of err to standard error; ``text`` may hold Rich markup of ours, strangers' parts go through :func:`safe`."""
    err.print(text)


def safe(text: object, limit: int = 400) -> str:
    """Somebody else's text: no control, ANSI or bidirectional characters, no markup (T20)."""
    return escape(plain(str(text), limit))


def with_names(text: str) -> str:
    """A service's words with names for the user ids in them."""
    for user, name in USER_NAMES.items():
        text = text.replace(user, name)
    return text


def to_json(value: Any) -> Any:
    """Models and tuples as plain JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=False, exclude_none=True)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One JSON document on one line, as a program reads it; escaped where the stream's encoding would change it."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(to_json(value), ensure_ascii=not utf8) + "\n")
    sys.stdout.flush()


def print_record(value: Any, output: Format, *, title: str = "") -> None:
    """One thing: its members as rows."""
    if output is Format.JSON:
        print_json(value)
        return
    table = Table(title=title or None, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, item in to_json(value).items():
        table.add_row(safe(key), _cell(item, "\n"))
    out.print(table)


def print_rows(rows: Sequence[Mapping[str, Any]], output: Format, *, columns: Sequence[str], title: str = "") -> None:
    """Many things of a kind; no rows is an empty list, not an error. The first column names them: it is never broken, so that it can be
    copied."""
    if output is Format.JSON:
        print_json(list(rows))
        return
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    if not rows:
        out.print("[dim]none[/dim]")
        return
    wanted = Measurement.get(out, out.options.update(max_width=_UNBOUNDED), table).maximum
    if not out.is_terminal and "COLUMNS" not in os.environ:
        # A pipe or a file is as wide as the table, so that a line stays a line for `grep`.
        Console(width=wanted).print(table)
    elif wanted <= out.width * _SQUEEZE:
        out.print(table)
    else:
        for row in rows:
            out.print(
                *(f"[bold]{_cell(row.get(c, ''))}[/bold]" if c == columns[0] else f"  {c}: {_cell(row.get(c, ''))}" for c in columns),
                sep="\n",
            )


def _cell(value: Any, between: str = ", ") -> str:
    """``between``: what stands between the parts of a list or a table of plain values; of the latter, empty ones are left out."""
    if value is None:
        return ""
    if isinstance(value, dict) and not any(isinstance(item, dict | list) for item in value.values()):
        value = [f"{key}: {_plain_cell(item)}" for key, item in value.items() if item not in (None, "")]
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return between.join(_plain_cell(item) for item in value)
    if isinstance(value, dict | list):
        return safe(json.dumps(value, ensure_ascii=False), 2000)
    return _plain_cell(value)


def _plain_cell(value: Any) -> str:
    return safe(value, 2000)


def print_partial_record(record: dict[str, Any], output: Format, *, title: str) -> None:
    """A record that may be missing something: for people, why (``unanswered``) is said beside it, not in it."""
    error = record.get("unanswered")
    if output is Format.TABLE:
        record = {key: value for key, value in record.items() if key != "unanswered"}
    print_record(record, output, title=title)
    if error is not None:
        print_status(f"[yellow]incomplete[/yellow]: {safe(error['message'], 1000)}")
        print_status(f"  [green]hint:[/green] {safe(error['hint'], 1000)}")


def print_error(error: CleanRoomError, output: Format) -> None:
    """``{code, message, cause, hint, …}`` to standard output as JSON, or words to standard error."""
    add_hint(error)
    error.message, error.cause = with_names(error.message), error.cause and with_names(error.cause)
    if output is Format.JSON and error.code != NOT_WRITTEN:
        print_json(error.to_dict())
        return
    err.print(f"[bold red]error[/bold red] [bold]{safe(error.code)}[/bold]: {safe(error.message, 2000)}")
    if error.cause:
        err.print(f"  [dim]cause:[/dim] {safe(error.cause, 1000)}")
    for reason in error.details.get("reasons", [])[:10]:
        err.print(f"  - {safe(reason.get('message', reason))}")
    if error.party:
        err.print(f"  [dim]who must act:[/dim] {safe(error.party)}")
    if error.hint:
        err.print(f"  [green]hint:[/green] {safe(error.hint, 1000)}")


@contextmanager
def error_boundary(output: Format) -> Iterator[None]:
    """Run a command's body; an error of ours is printed and becomes its exit code."""
    try:
        yield
    except CleanRoomError as error:
        print_error(error, output)
        raise typer.Exit(error.exit_code) from error
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            unexpected = Internal(NOT_WRITTEN, f"{error.filename or 'output'}: cannot be written.", cause=error.strerror, hint="Make room.")
        else:
            unexpected = Internal(
                "UnexpectedError",
                f"{type(error).__name__}: {error}",
                hint=f"This is a bug. {DEBUG_VARIABLE}=1 shows where it happened; please report that.",
            )
        print_error(unexpected, output)
        raise typer.Exit(unexpected.exit_code) from error
