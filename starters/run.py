"""``cleanroom run``: start, show, watch, cancel, conclude, result. Also ``python -m starters.run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleanroom.documents.specs import load_dataset_spec
from cleanroom.errors import NotFound
from starters.operations.conclude import conclude_run
from starters.operations.results import open_result, read_receipt, require_receiver
from starters.operations.runs import (
    cancel_run,
    list_runs,
    parse_parameters,
    result_record,
    show_run,
    start_run_of_current_version,
    watch_run,
)
from starters.operations.session import Session, new_run_id, run_async
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Profile,
    error_boundary,
    out,
    print_json,
    print_partial_record,
    print_record,
    print_rows,
    print_status,
    safe,
)
from starters.terminal.result_view import chart_png, print_chart, result_rows, result_table

app = typer.Typer(help="Run approved queries.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="The run's id.", show_default=False)]


@app.command()
def start(
    query: Annotated[str, typer.Argument(help="The approved query.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run; the same name is never run twice.")] = None,
    start_date: Annotated[str | None, typer.Option(help="First day (yyyy-MM-dd), where the query allows a date range.")] = None,
    end_date: Annotated[str | None, typer.Option(help="Last day (yyyy-MM-dd).")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch the run to its end.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Run an approved query once.

    Example: cleanroom run start fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        parameters = parse_parameters(start_date, end_date)
        handle = run_async(start_run_of_current_version(session, query, run_id or new_run_id(), parameters))
        if not wait:
            print_record({"run_id": handle.id.rsplit("/", 1)[-1], "workflow_id": handle.id, "link": session.ui_link(handle.id)}, output)
            return
        print_record(result_record(session, run_async(watch_run(session, handle.id.rsplit("/", 1)[-1]))), output)


@app.command()
def watch(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Follow a run until it is complete.

    Example: cleanroom run watch r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        print_record(result_record(session, run_async(watch_run(session, run_id))), output, title=f"run {run_id}")


@app.command()
def show(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show where a run stands: state, steps, failure, receipt.

    Example: cleanroom run show r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        record = run_async(show_run(session, run_id))
        print_partial_record(record, output, title=f"run {run_id}")


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the collaboration's runs, the newest first.

    Example: cleanroom run list --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        rows = run_async(list_runs(session))
        print_rows(rows, output, columns=("run", "query", "caller", "state", "failure", "stage", "started"), title="runs")


@app.command()
def cancel(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Cancel a run: the job is deleted, every grant is revoked.

    Example: cleanroom run cancel r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        print_partial_record(run_async(cancel_run(session, run_id)), output, title=f"run {run_id}")


@app.command()
def conclude(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Clean up after a run that was terminated: revoke its grants, stop its job.

    Runs that end, fail or are cancelled clean up by themselves.

    Example: cleanroom run conclude r-1 --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        print_record(run_async(conclude_run(session, run_id)), output, title=f"run {run_id}")


@app.command()
def result(
    run_id: RunId,
    profile: Profile = None,
    config: ConfigFile = None,
    dataset: Annotated[Path | None, typer.Option(help="YAML of the output dataset, for its receiver: opens the rows.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Write a chart of the result (PNG).")] = None,
    value: Annotated[str | None, typer.Option(help="Column to draw; the last numeric one otherwise.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to print as a table.")] = 25,
    output: Output = Format.TABLE,
) -> None:
    """The result: rows for the receiver (with --dataset), the receipt for everybody else.

    Example: cleanroom run result r-1 --dataset demo/litware-delays.yaml --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        receipt = run_async(read_receipt(session, run_id))
        if dataset is None:
            print_record({"receipt": True, **receipt.model_dump(mode="json")}, output, title=f"receipt of run {run_id}")
            return
        spec = load_dataset_spec(dataset)
        try:
            table = open_result(session, spec, receipt)
        except NotFound:
            run_async(require_receiver(session, spec))
            raise
        rows = result_rows(table)
        if chart is not None:
            chart_png(rows, chart, title=f"{receipt.dataset}: run {run_id}", value=value)
            print_status(f"chart written to {safe(chart)}")
        if output is Format.JSON:
            print_json({"run_id": run_id, "rows": rows, "digest": receipt.digest})
            return
        out.print(result_table(rows, title=f"result of run {run_id}", limit=limit))
        print_chart(rows, value)


if __name__ == "__main__":
    main(app)
