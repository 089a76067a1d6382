"""``cleanroom run``: start, show, watch, cancel, conclude, result. Also ``python -m starters.run``."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from temporalio.client import WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.specs import load_dataset_spec
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import Conflict, InvalidInput, NotFound, Unavailable
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, document_digest, prepare_workflow_id, require_name, run_workflow_id
from cleanroom.messages.run import RunQueryInput, RunResult, RunTicket
from cleanroom.spark.job import JobParameters
from cleanroom.temporal import attributes
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details, escape
from cleanroom.temporal.started import started_with
from starters.asking import require_worker
from starters.conclude import conclude_run
from starters.entry import command_line
from starters.names import RUN_QUERY, STATUS
from starters.output import (
    ConfigFile,
    Format,
    Output,
    Profile,
    by_name,
    out,
    print_json,
    print_look,
    print_record,
    print_rows,
    reported,
    safe,
    say,
)
from starters.pending import retried
from starters.progress import follow_timeline
from starters.receiver import open_result, read_receipt, require_receiver
from starters.result import chart_png, print_chart, result_rows, result_table
from starters.run_workflow import Handle, RunLook, find_run, look, run_state
from starters.session import Session, new_run_id, now, run_async

app = typer.Typer(help="Run approved queries.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="The run's id.", show_default=False)]
REQUEST_LIFETIME = dt.timedelta(hours=12)


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
    with reported(output):
        session = Session.load(profile, config)
        parameters = _parameters(start_date, end_date)
        handle = run_async(_start(session, query, run_id or new_run_id(), parameters))
        if not wait:
            print_record({"run_id": handle.id.rsplit("/", 1)[-1], "workflow_id": handle.id, "link": session.ui_link(handle.id)}, output)
            return
        print_record(_result_record(session, run_async(watch_run(session, handle.id.rsplit("/", 1)[-1]))), output)


def _parameters(start_date: str | None, end_date: str | None) -> JobParameters:
    """
    Raises:
        InvalidInput: ``RunParametersInvalid``.
    """
    try:
        return JobParameters(start_date=start_date, end_date=end_date)
    except ValidationError as error:
        raise InvalidInput(
            "RunParametersInvalid", f"parameters: {describe_validation(error)}.", hint="Dates are written yyyy-MM-dd."
        ) from error


async def _start(session: Session, query: str, run_id: str, parameters: JobParameters) -> Handle:
    async with session.governance() as governance:
        document = await session.documents(governance).get(query)
    return await start_run(session, query, document_digest(str(document.data)), run_id, parameters)


async def start_run(
    session: Session,
    query: str,
    digest: str,
    run_id: str,
    parameters: JobParameters | None = None,
    *,
    run_seconds: int | None = None,
    consent_check_seconds: int = 5,
) -> Handle:
    """Sign the request and start the run. Asked again for the same, it is the same run: a run id is a promise that it happens once.

    Raises:
        Conflict: ``RunExists`` when a run of that id was started for something else, or by somebody else.
    """
    from cleanroom.statements import RunRequest, sign
    from cleanroom.statements.signing import peek

    require_name("run_id", run_id)
    request = RunRequest(
        collaboration=session.collaboration,
        signer=session.user_id,
        expires=now() + REQUEST_LIFETIME,
        query=query,
        digest=digest,
        run_id=run_id,
        parameters=parameters or JobParameters(),
    )
    spark = session.settings.spark
    ticket = RunTicket(collaboration=session.collaboration, query=query, run_id=run_id, request=sign(request, session.key()))
    client = await session.temporal()
    try:
        return await client.start_workflow(
            RUN_QUERY,
            RunQueryInput(
                ticket=ticket,
                caller=session.party,
                driver_start_seconds=spark.driver_start_seconds,
                run_seconds=run_seconds or spark.run_seconds,
                consent_check_seconds=consent_check_seconds,
            ),
            id=run_workflow_id(session.collaboration, run_id),
            task_queue=CLEAN_ROOM_QUEUE,
            result_type=RunResult,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=f"{session.party} runs query {query}",
            static_details=_details(session, query, digest, run_id, parameters),
            search_attributes=start_attributes(
                collaboration=session.collaboration, kind="run", query=query, proposer=session.party, digest=digest
            ),
        )
    except WorkflowAlreadyStartedError as error:
        first = await started_with(client, run_workflow_id(session.collaboration, run_id), RunQueryInput)
        before = peek(RunRequest, first.ticket.request)
        asked = ("signer", "query", "digest", "parameters")
        other = [name for name in asked if getattr(before, name) != getattr(request, name)]
        if other:
            raise Conflict(
                "RunExists",
                f"run {run_id!r} was started before with another {', '.join(other)}.",
                hint=f"Name another run, or look at this one: cleanroom run show {run_id}",
            ) from error
        return client.get_workflow_handle(run_workflow_id(session.collaboration, run_id), result_type=RunResult)


def _details(session: Session, query: str, digest: str, run_id: str, parameters: JobParameters | None) -> str:
    """What the Web UI says about a run beside its progress."""
    given = {name: value for name, value in (parameters or JobParameters()).model_dump(mode="json").items() if value is not None}
    lines = [
        f"One run of query {code(query)} for **{escape(session.party)}**, asked for by a signed request.",
        f"Approved text and datasets: digest {code(digest)}",
        f"Parameters: {code(', '.join(f'{name} = {value}' for name, value in given.items()))}" if given else "",
        f"Steps: this workflow, and {code(run_workflow_id(session.collaboration, run_id) + '/prepare')} for the preparation.",
        "Whatever way it ends, every grant that it was given is revoked. Only a termination does not let it: then run "
        f"{code(f'cleanroom run conclude {run_id}')}.",
    ]
    return details(*lines)


async def watch_run(session: Session, run_id: str) -> RunResult:
    """Follow a run to its end; raises what it failed with."""
    found = await find_run(session, run_id)
    return await follow_timeline(found.client, found.handle, f"run {run_id}", query=STATUS)


@app.command()
def watch(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Follow a run until it is complete.

    Example: cleanroom run watch r-1 --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        print_record(_result_record(session, run_async(watch_run(session, run_id))), output, title=f"run {run_id}")


@app.command()
def show(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show where a run stands: state, steps, failure, receipt.

    Example: cleanroom run show r-1 --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        record = run_async(_show(session, run_id))
        print_look(record, output, title=f"run {run_id}")


async def _show(session: Session, run_id: str) -> dict[str, Any]:
    found = await find_run(session, run_id)
    seen = await look(found)
    trying = {} if found.ended else await retried(found.client, found.handle.id, prepare_workflow_id(session.collaboration, run_id))
    return _look_record(session, run_id, seen) | {"retrying": {step: by_name(str(error)) for step, error in trying.items()}}


def _look_record(session: Session, run_id: str, seen: RunLook) -> dict[str, Any]:
    result = seen.result or RunResult(run_id=run_id, query=seen.query, state="Preparing")
    return {
        **_result_record(session, result),
        "state": seen.state,
        "failure": {key: by_name(text) for key, text in seen.failure.model_dump(mode="json").items()} if seen.failure else None,
        "stage": seen.stage,
        "steps": list(seen.steps),
        "job": seen.job,
        "unanswered": seen.unanswered.to_dict() if seen.unanswered else None,
    }


def _result_record(session: Session, result: RunResult) -> dict[str, Any]:
    receipt = result.receipt
    workflow_id = run_workflow_id(session.collaboration, result.run_id)
    return {
        "run_id": result.run_id,
        "query": result.query,
        "state": result.state,
        "rows": receipt.rows if receipt else None,
        "digest": receipt.digest if receipt else None,
        "failure": result.failure.model_dump(mode="json") if result.failure else None,
        "seconds": {stage: round(value, 2) for stage, value in result.stages.items()},
        "spark_seconds": round(receipt.spark_seconds, 2) if receipt else None,
        "revoked": result.revoked.model_dump(exclude={"removed"}) if result.revoked else None,
        "workflow_id": workflow_id,
        "link": session.ui_link(workflow_id),
    }


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the collaboration's runs, the newest first.

    Example: cleanroom run list --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        rows = run_async(_list(session))
        print_rows(rows, output, columns=("run", "query", "caller", "state", "failure", "stage", "started"), title="runs")


async def _list(session: Session) -> list[dict[str, Any]]:
    client = await session.temporal()
    wanted = f"WorkflowType = 'RunQuery' AND CrCollab = '{session.collaboration}'"
    rows = []
    async for item in client.list_workflows(wanted, limit=200):
        found = {pair.key.name: pair.value for pair in item.typed_search_attributes}
        rows.append(
            {
                "run": item.id.rsplit("/", 1)[-1],
                "query": found.get("CrQuery", ""),
                "caller": found.get("CrProposer", ""),
                "state": run_state(item),
                "failure": _failure_code(item),
                "stage": found.get("CrStage", ""),
                "started": item.start_time.isoformat(timespec="seconds"),
            }
        )
    return rows


def _failure_code(item: WorkflowExecution) -> str:
    """The code that a run ended with which did not complete; its outcome is its state otherwise."""
    outcome = str(item.typed_search_attributes.get(attributes.OUTCOME, ""))
    return "" if outcome == "COMPLETED" else outcome


@app.command()
def cancel(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Cancel a run: the job is deleted, every grant is revoked.

    Example: cleanroom run cancel r-1 --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        print_look(run_async(cancel_run(session, run_id)), output, title=f"run {run_id}")


async def cancel_run(session: Session, run_id: str) -> dict[str, Any]:
    """Ask for cancellation and wait until the run has cleaned up.

    Raises:
        Conflict: ``RunEnded`` when it had ended before.
        Unavailable: ``NoWorker``: it is asked for, and happens when one serves the run again.
    """
    found = await find_run(session, run_id)
    status = found.described.status
    if status is not WorkflowExecutionStatus.RUNNING:
        raise Conflict(
            "RunEnded", f"run {run_id!r} has ended already ({status.name if status else '?'}).", hint=f"cleanroom run show {run_id}"
        )
    await found.handle.cancel()
    try:
        await require_worker(found.client, found.described.task_queue)
    except Unavailable as error:
        error.message = f"run {run_id!r} is asked to stop. {error.message}"
        raise
    try:
        await follow_timeline(found.client, found.handle, f"run {run_id}", query=STATUS)
    except WorkflowFailureError:
        say(f"run {safe(run_id)} has stopped")
    return await _show(session, run_id)


@app.command()
def conclude(run_id: RunId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Clean up after a run that was terminated: revoke its grants, stop its job.

    Runs that end, fail or are cancelled clean up by themselves.

    Example: cleanroom run conclude r-1 --profile litware
    """
    with reported(output):
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
    with reported(output):
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
            say(f"chart written to {safe(chart)}")
        if output is Format.JSON:
            print_json({"run_id": run_id, "rows": rows, "digest": receipt.digest})
            return
        out.print(result_table(rows, title=f"result of run {run_id}", limit=limit))
        print_chart(rows, value)


if __name__ == "__main__":
    command_line(app)
