"""Starts, follows, lists and cancels runs."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import ValidationError
from temporalio.client import WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import Conflict, InvalidInput, Unavailable
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, document_digest, prepare_workflow_id, require_name, run_workflow_id
from cleanroom.messages.run import RunQueryInput, RunResult, RunTicket
from cleanroom.spark.job import JobParameters
from cleanroom.temporal import attributes
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details, escape
from cleanroom.temporal.started import started_with
from starters.operations.pending_activities import retrying_activities
from starters.operations.run_workflow import Handle, RunSnapshot, find_run, run_state, take_snapshot
from starters.operations.session import Session, now
from starters.operations.worker_queries import require_worker
from starters.operations.workflow_names import RUN_QUERY, STATUS
from starters.operations.workflow_progress import follow_timeline
from starters.terminal.output import (
    print_status,
    safe,
    with_names,
)

REQUEST_LIFETIME = dt.timedelta(hours=12)


def parse_parameters(start_date: str | None, end_date: str | None) -> JobParameters:
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


async def start_run_of_current_version(session: Session, query: str, run_id: str, parameters: JobParameters) -> Handle:
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
            static_details=_web_ui_details(session, query, digest, run_id, parameters),
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


def _web_ui_details(session: Session, query: str, digest: str, run_id: str, parameters: JobParameters | None) -> str:
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


async def show_run(session: Session, run_id: str) -> dict[str, Any]:
    found = await find_run(session, run_id)
    seen = await take_snapshot(found)
    trying = (
        {} if found.ended else await retrying_activities(found.client, found.handle.id, prepare_workflow_id(session.collaboration, run_id))
    )
    return _snapshot_record(session, run_id, seen) | {"retrying": {step: with_names(str(error)) for step, error in trying.items()}}


def _snapshot_record(session: Session, run_id: str, seen: RunSnapshot) -> dict[str, Any]:
    result = seen.result or RunResult(run_id=run_id, query=seen.query, state="Preparing")
    return {
        **result_record(session, result),
        "state": seen.state,
        "failure": {key: with_names(text) for key, text in seen.failure.model_dump(mode="json").items()} if seen.failure else None,
        "stage": seen.stage,
        "steps": list(seen.steps),
        "job": seen.job,
        "unanswered": seen.unanswered.to_dict() if seen.unanswered else None,
    }


def result_record(session: Session, result: RunResult) -> dict[str, Any]:
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


async def list_runs(session: Session) -> list[dict[str, Any]]:
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
        print_status(f"run {safe(run_id)} has stopped")
    return await show_run(session, run_id)
