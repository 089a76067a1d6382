"""``cleanroom run``: runs of approved queries and their results. Also ``python -m starters.run``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.errors import InvalidInput, NotFound
from starters.operations.query_names import latest_name
from starters.operations.session import Session, new_run_id, run_async
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Plaintext,
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

app = typer.Typer(help="Run approved queries.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="ID of the run.", show_default=False)]


class Size(StrEnum):
    """Sizes of a run (:data:`cleanroom.identifiers.RunSize`)."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


@app.command()
def start(
    query: Annotated[str, typer.Argument(help="Name of the approved query.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    run_id: Annotated[str | None, typer.Option(help="ID of the run. An ID is used once.", show_default="generated")] = None,
    start_date: Annotated[str | None, typer.Option(help="First day (yyyy-MM-dd), if the query has a date range.")] = None,
    end_date: Annotated[str | None, typer.Option(help="Last day (yyyy-MM-dd), if the query has a date range.")] = None,
    size: Annotated[Size | None, typer.Option(help="Resources of the run.", show_default="the operator's")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the run has ended.")] = True,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Run an approved query once.

    Dates, approvals, the number of runs and consent are checked before anything is started. The command signs a run request and shows
    the steps of the run. After Ctrl-C the run continues; follow it with `run watch`. The same command with the same --run-id attaches
    to the run that exists. Another query, other dates or another size are a conflict.

    Example: cleanroom run start fabrikam-delays --run-id r-1 --profile fabrikam
    """
    with error_boundary(output):
        from cleanroom.identifiers import require_name, run_workflow_id
        from starters.operations.run_parameters import parse_parameters

        parameters = parse_parameters(start_date, end_date, size.value if size else None)
        if run_id is not None:
            require_name("--run-id", run_id)
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        if run_id is None:
            run_id = new_run_id()
            print_status(f"[dim]run {run_id}; to repeat this command, add --run-id {run_id}[/dim]")
        query = run_async(latest_name(session, query, accepted=True))
        from starters.operations.runs import current_digest, require_startable, result_record, start_run, watch_run

        digest = run_async(current_digest(session, query, parameters))
        run_async(require_startable(session, query, run_id))
        run_async(start_run(session, query, digest, run_id, parameters))
        if not wait:
            workflow_id = run_workflow_id(session.collaboration, run_id)
            print_record({"run_id": run_id, "workflow_id": workflow_id, "link": session.ui_link(workflow_id)}, output)
            return
        print_record(result_record(session, run_async(watch_run(session, run_id))), output)


@app.command()
def watch(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show the steps of a run until it ends, then its result.

    Example: cleanroom run watch r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.runs import result_record, watch_run

        print_record(result_record(session, run_async(watch_run(session, run_id))), output, title=f"run {run_id}")


@app.command()
def show(
    run_id: RunId,
    profile: Profile = None,
    config: ConfigFile = None,
    from_ledger: Annotated[bool, typer.Option("--from-ledger", help="Use the ledger alone, for a run that Temporal lost.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show where a run stands: state, steps, retrying activities, failure, receipt.

    If no worker answers, the command shows what the Temporal server knows and says what is missing.

    Example: cleanroom run show r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.runs import show_run

        if from_ledger:
            from starters.operations.ledger_run import show_run_from_ledger

            print_record(run_async(show_run_from_ledger(session, run_id)), output, title=f"run {run_id}, from the ledger")
            return
        print_partial_record(run_async(show_run(session, run_id)), output, title=f"run {run_id}")


@app.command("list")
def list_(
    profile: Profile = None,
    config: ConfigFile = None,
    from_ledger: Annotated[bool, typer.Option("--from-ledger", help="Use the ledger alone, for runs that Temporal lost.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List the latest 200 runs of the collaboration, newest first.

    Example: cleanroom run list --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.runs import list_runs

        if from_ledger:
            from starters.operations.ledger_run import list_runs_from_ledger

            found, columns = run_async(list_runs_from_ledger(session)), ("run", "query", "caller", "state", "failure", "started")
            print_rows(found, output, columns=columns, title="runs, from the ledger")
            return
        rows = run_async(list_runs(session))
        print_rows(rows, output, columns=("run", "query", "caller", "state", "failure", "stage", "started"), title="runs")


@app.command()
def cancel(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Cancel a run: delete its Spark job and revoke its grants.

    The command waits until the run has cleaned up.

    Example: cleanroom run cancel r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.runs import cancel_run

        print_partial_record(run_async(cancel_run(session, run_id)), output, title=f"run {run_id}")


@app.command()
def conclude(
    run_id: RunId, profile: Profile = None, config: ConfigFile = None, plaintext: Plaintext = False, output: Output = Format.TABLE
) -> None:
    """Clean up after a terminated run: revoke its grants, stop its Spark job.

    Only a run that was terminated, or that exceeded its workflow timeout, needs this. Completed, failed and cancelled runs have cleaned
    up. Idempotent.

    Example: cleanroom run conclude r-1 --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        from starters.operations.conclude import conclude_run

        print_record(run_async(conclude_run(session, run_id)), output, title=f"run {run_id}")


@app.command()
def result(
    run_id: RunId,
    profile: Profile = None,
    config: ConfigFile = None,
    dataset: Annotated[Path | None, typer.Option(help="YAML file of the output dataset. With it, the receiver decrypts the rows.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Write a bar chart of the rows to this file (PNG).")] = None,
    value: Annotated[str | None, typer.Option(help="Numeric column of the charts.", show_default="the last numeric column")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows in the table.")] = 25,
    to: Annotated[Path | None, typer.Option(help="Write the rows to this file: .csv, .parquet or .xlsx.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show the result of a completed run: its receipt, or its rows with --dataset.

    The receipt is the entry of the run's pod in governance's ledger. Every collaborator sees it. Only the receiver, who owns the
    output dataset and its key, can decrypt the rows. JSON output includes all rows.

    Example: cleanroom run result r-1 --dataset demo/litware-delays.yaml --profile litware
    """
    from cleanroom.documents.specs import load_dataset_spec
    from starters.terminal.result_files import check_target, write_result

    with error_boundary(output):
        if dataset is None and (chart is not None or to is not None):
            raise InvalidInput(
                "RowsNotRequested", "--chart and --to need the rows of the result.", hint="Add --dataset with the output dataset's file."
            )
        if to is not None:
            check_target(to, force=force)
        spec = load_dataset_spec(dataset) if dataset is not None else None
        session = Session.load(profile, config)
        from starters.operations.results import open_result, read_receipt, require_receiver
        from starters.terminal.result_view import chart_png, print_chart, result_rows, result_table

        receipt = run_async(read_receipt(session, run_id))
        if spec is None:
            print_record({"receipt": True, **receipt.model_dump(mode="json")}, output, title=f"receipt of run {run_id}")
            return
        try:
            table = open_result(session, spec, receipt)
        except NotFound:
            # The key is missing. Say so only to the receiver; name the receiver to everyone else.
            run_async(require_receiver(session, spec))
            raise
        if to is not None:
            write_result(table, to)
            print_status(f"{table.num_rows:,} rows written to {safe(to)}, readable by you only")
        rows = result_rows(table)
        if output is Format.JSON:
            print_json({"run_id": run_id, "rows": rows, "digest": receipt.digest})
        else:
            out.print(result_table(rows, title=f"result of run {run_id}", limit=limit))
            print_chart(rows, value)
        if chart is not None:
            chart_png(rows, chart, title=f"{receipt.dataset}: run {run_id}", value=value)
            print_status(f"chart written to {safe(chart)}")


@app.command()
def explain(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Explain a run: one timeline over workflow, activities, Kubernetes and ledger, the pod's log, and what to do.

    The cluster is that of the profile with the boundary spark-service in cleanroom.toml. Sources that do not answer are named.

    Example: cleanroom run explain r-1 --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.explain import cluster_settings, explain_run

        record = run_async(explain_run(session, run_id, cluster_settings(config)))
        if output is Format.JSON:
            print_json(record)
            return
        print_rows(record["timeline"], output, columns=("at", "source", "what"), title=f"timeline of run {run_id}")
        for line in record["log"]:
            out.print(f"[dim]pod[/dim] {safe(line, 2000)}", highlight=False)
        for source, why in record["missing"].items():
            print_status(f"[yellow]not shown[/yellow]: {safe(source)}: {safe(why, 1000)}")
        out.print(f"[bold]{safe(record['conclusion'], 3000)}[/bold]")


if __name__ == "__main__":
    main(app)
