"""``cleanroom query lint``: the verdict of the query gate on a file. Also ``python -m starters.lint``."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, Refused
from starters.terminal.entry import main
from starters.terminal.output import Format

# Imported on use: the query gate takes a quarter of a second to import, and every `cleanroom query` command imports this module.
if TYPE_CHECKING:
    from cleanroom.sql import Catalog, GateVerdict, Reason


def verdict_of(sql: str, catalog: Catalog) -> GateVerdict:
    """Run the query gate on the text of a file.

    Args:
        sql: SQL statements separated by ``;``, or the JSON ``{"segments": […]}`` of a query document.
        catalog: The datasets that the query may read.

    Raises:
        InvalidInput: ``InvalidQueryFormat`` for JSON that contains no segments.
    """
    from pydantic import ValidationError

    from cleanroom.documents.query import QuerySegment, QuerySegments
    from cleanroom.documents.validation import describe_validation
    from cleanroom.sql import GateVerdict, Reason, Refusal, analyse, split_statements, unique_members

    if sql.lstrip().startswith("{"):
        try:
            document = QuerySegments.model_validate(json.loads(sql, object_pairs_hook=unique_members))
        except (ValueError, RecursionError) as error:
            reason = describe_validation(error) if isinstance(error, ValidationError) else str(error)
            raise InvalidInput(
                "InvalidQueryFormat",
                f"the file starts like JSON, but does not contain query segments: {reason}",
                hint='Write SQL text, or {"segments": [{"executionSequence": 1, "data": "SELECT …"}]}',
            ) from error
        return analyse(document.segments, catalog)
    try:
        statements = split_statements(sql)
    except Refusal as refusal:
        return GateVerdict(allowed=False, reasons=(refusal.reason(0),))
    if not statements:
        return GateVerdict(allowed=False, reasons=(Reason(code="EmptyQuery", message="the file contains no statement"),))
    return analyse([QuerySegment(execution_sequence=index + 1, data=text) for index, text in enumerate(statements)], catalog)


def lint(
    sql: Annotated[Path, typer.Option("--sql", help="File with SQL statements separated by ';', or with query segments as JSON.")],
    catalog: Annotated[Path, typer.Option("--catalog", help="Catalogue of views, allowed columns and privacy floors (JSON).")],
    output: Annotated[
        Format, typer.Option("--output", "-o", help="table: the approval card; json: {allowed, reasons, lineage, rewritten}.")
    ] = Format.TABLE,
    spark: Annotated[
        bool | None,
        typer.Option(
            "--spark/--no-spark",
            help="Also check Spark's plan of the rewritten query on empty views, as the pods do. Takes about 10 seconds. "
            "Default: if pyspark and Java are installed.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check SQL against a catalogue file, without any collaboration, and show the approval card that approvers see.

    Use `query check` to check a draft against the datasets that a collaboration has published.

    Exit codes: 0 allowed, 2 invalid input, 3 file not found, 4 refused by the query gate.

    Example: cleanroom query lint --sql demo/fabrikam-delays.sql --catalog catalog.json
    """
    from cleanroom.sql import Catalog, strip_invisible

    try:
        views = Catalog.parse(_read(catalog, "--catalog"))
        verdict = verdict_of(_read(sql, "--sql"), views)
        if verdict.allowed and (spark if spark is not None else _has_spark()):
            verdict = _with_plan(verdict, views)
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
        raise typer.Exit(Refused.exit_code)


def _has_spark() -> bool:
    return importlib.util.find_spec("pyspark") is not None and shutil.which("java") is not None


def _with_plan(verdict: GateVerdict, catalog: Catalog) -> GateVerdict:
    """The verdict after the check of Spark's plan."""
    from cleanroom.sql import Reason
    from sparkapp.plan_check import check_on_empty_views

    try:
        check_on_empty_views([segment.sql for segment in verdict.rewritten], catalog)
    except Refused as error:
        return verdict.model_copy(update={"allowed": False, "reasons": (Reason(code=error.code, message=error.message),)})
    return verdict


def describe(reason: Reason) -> str:
    """Format a reason of the gate as one line without control characters."""
    from cleanroom.sql import strip_invisible

    segment = f"segment {reason.segment + 1}" if reason.segment is not None else "query"
    place = f" line {reason.position.line} column {reason.position.column}" if reason.position is not None else ""
    return strip_invisible(f"{segment}{place}: {reason.code}: {reason.message}")


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("FileNotFound", f"{option}: file {path} does not exist", cause=str(error), hint="Check the path.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "UnreadableFile", f"{option}: {path} is not a UTF-8 text file", cause=str(error), hint="Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise InvalidInput(
            "UnreadableFile", f"{option}: cannot read {path}", cause=str(error), hint="Name a file that you have permission to read."
        ) from error


if __name__ == "__main__":
    app = typer.Typer()
    app.command()(lint)
    main(app)
