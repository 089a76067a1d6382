"""``cleanroom query lint``: what the gate says about a query, before anybody is asked to approve it.

Mounted by the command line as ``cleanroom query lint``; also callable alone: ``python -m starters.lint --sql FILE --catalog FILE``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from cleanroom.documents.query import QuerySegment, QuerySegments
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, InvalidInput, NotFound
from starters.terminal.entry import main
from starters.terminal.output import Format

# The gate is a quarter of a second to import, and every command of the noun `query` imports this module.
if TYPE_CHECKING:
    from cleanroom.sql import Catalog, GateVerdict, Reason

EXIT_REFUSED = 4


def verdict_of(sql: str, catalog: Catalog) -> GateVerdict:
    """The verdict over the text of a file: ``;``-separated statements in order, or the JSON ``{"segments": […]}`` of a query document."""
    from cleanroom.sql import GateVerdict, Reason, Refusal, analyse, split_statements
    from cleanroom.sql.catalog import unique_members

    if sql.lstrip().startswith("{"):
        try:
            document = QuerySegments.model_validate(json.loads(sql, object_pairs_hook=unique_members))
        except (ValueError, RecursionError) as error:
            why = describe_validation(error) if isinstance(error, ValidationError) else str(error)
            raise InvalidInput(
                "InvalidQueryFormat",
                f"the file looks like JSON and holds no query segments: {why}",
                hint='SQL text, or {"segments": [{"executionSequence": 1, "data": "SELECT …"}]}',
            ) from error
        return analyse(document.segments, catalog)
    try:
        statements = split_statements(sql)
    except Refusal as refusal:
        return GateVerdict(allowed=False, reasons=(refusal.reason(0),))
    if not statements:
        return GateVerdict(allowed=False, reasons=(Reason(code="EmptyQuery", message="the file holds no statement"),))
    return analyse([QuerySegment(execution_sequence=index + 1, data=text) for index, text in enumerate(statements)], catalog)


def lint(
    sql: Annotated[Path, typer.Option("--sql", help="File with the query: statements separated by ';', or segments as JSON.")],
    catalog: Annotated[Path, typer.Option("--catalog", help="Catalogue of views, allowed columns and floors (JSON).")],
    output: Annotated[
        Format, typer.Option("--output", "-o", help="table: the card that approvers see; json: {allowed, reasons, lineage, rewritten}.")
    ] = Format.TABLE,
) -> None:
    """Check a query against a catalogue and show what would run.

    Exit codes: 0 allowed, 2 bad input, 3 file missing, 4 refused.

    Example: cleanroom query lint --sql overlap.sql --catalog catalog.json --output json
    """
    from cleanroom.sql import Catalog, strip_invisible

    try:
        verdict = verdict_of(_read(sql, "--sql"), Catalog.parse(_read(catalog, "--catalog")))
    except CleanRoomError as error:
        if output is Format.JSON:
            typer.echo(json.dumps(error.to_dict(), indent=2))
        typer.echo(strip_invisible(f"{error}; {error.hint}" if error.hint else str(error)), err=True)
        raise typer.Exit(error.exit_code) from error
    if output is Format.JSON:
        typer.echo(json.dumps(verdict.to_dict(), indent=2))
    elif verdict.allowed:
        typer.echo(verdict.card, nl=False)
    if not verdict.allowed:
        if output is Format.TABLE:
            for reason in verdict.reasons:
                typer.echo(describe(reason), err=True)
        raise typer.Exit(EXIT_REFUSED)


def describe(reason: Reason) -> str:
    """One line for a terminal, free of control characters (users-and-threats.md T20)."""
    from cleanroom.sql import strip_invisible

    segment = f"segment {reason.segment + 1}" if reason.segment is not None else "query"
    place = f" line {reason.position.line} column {reason.position.column}" if reason.position is not None else ""
    return strip_invisible(f"{segment}{place}: {reason.code}: {reason.message}")


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("FileNotFound", f"{option} {path}: there is no such file", cause=str(error), hint="check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "UnreadableFile", f"{option} {path}: not a UTF-8 text file", cause=str(error), hint="save the file as UTF-8"
        ) from error
    except OSError as error:
        raise InvalidInput(
            "UnreadableFile", f"{option} {path}: cannot be read", cause=str(error), hint="name a file that this user may read"
        ) from error


if __name__ == "__main__":
    app = typer.Typer()
    app.command()(lint)
    main(app)
