"""``cleanroom query check``: the query gate on a draft, against the published datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cleanroom.errors import CleanRoomError
from starters.operations.session import Session, run_async
from starters.terminal.output import ConfigFile, Format, Output, Profile, err, error_boundary, print_error, print_json, print_record, safe


def check(
    file: Annotated[Path, typer.Argument(help="YAML file of the query.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Check a draft against the datasets as governance holds them, and show every problem with its line and column.

    It compares the SQL with schemas, allowed columns and privacy floors, and the result with the output dataset. `query create`, `update`
    and `propose` refuse exactly what this command refuses. Nothing is stored. Use `query lint` for SQL without a collaboration, and `query
    rehearse` to execute the query on synthetic rows.

    Example: cleanroom query check demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        from cleanroom.documents.specs import load_query_spec

        spec = load_query_spec(file)
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.query_check import check_record, check_spec
        from starters.operations.sql_places import sql_places

        checked = run_async(check_spec(session, spec))
        record = check_record(session, checked, sql_places(file, spec))
        refusal = None
        try:
            checked.require_allowed()
        except CleanRoomError as error:
            refusal = error
            if error.code == "QueryRefusedByGate":
                # The hint of the other commands is to run this one.
                error.hint = "Correct the draft, and check it again."
        if output is Format.JSON:
            print_json(record | (refusal.to_dict() if refusal is not None else {}))
        else:
            _print_table(record, refusal)
        if refusal is not None:
            raise typer.Exit(refusal.exit_code)


def _print_table(record: dict[str, Any], refusal: CleanRoomError | None) -> None:
    for item in record["warnings"]:
        err.print(f"[yellow]warning[/yellow] {safe(item['code'])}: {safe(item['message'], 1000)}")
    if refusal is None:
        shown = {key: record[key] for key in ("query", "output", "result_columns", "parameters", "approvers")}
        inputs = [f"{item['view']}: {item['dataset']} of {item['owner']}" for item in record["inputs"]]
        print_record({"query": shown.pop("query"), "inputs": inputs, **shown}, Format.TABLE, title=f"query {record['query']}: allowed")
        return
    for item in record["findings"]:
        err.print(f"{describe_place(item)}[bold]{safe(item['code'])}[/bold]: {safe(item['message'], 2000)}")
    count = len(record["findings"])
    problems = "one problem" if count == 1 else f"{count} problems"
    # What the findings say is not repeated.
    refusal.message = f"query {record['query']!r}: {problems}; `query create` and `query propose` would refuse it."
    refusal.details.pop("reasons", None)
    print_error(refusal, Format.TABLE)


def describe_place(item: dict[str, Any]) -> str:
    """Return the place of a problem as ``file:line:column: ``, or the empty string if the problem has none."""
    if item.get("line") is None:
        return ""
    member = f" ({item['member']}, counted in its text)" if item.get("member") else ""
    return f"{safe(item['file'])}:{item['line']}:{item['column']}{member}: "
