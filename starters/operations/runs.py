"""Starts, follows, shows, lists and cancels runs."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.query import parse_query
from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed, Unavailable
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    document_digest,
    latest_transaction,
    prepare_workflow_id,
    require_name,
    run_workflow_id,
)
from cleanroom.lifecycle.query import QueryFacts, query_state
from cleanroom.lifecycle.run import failure_code, next_command, run_state
from cleanroom.messages.run import RunFailure, RunQueryInput, RunResult, RunTicket
from cleanroom.runs.parameters import verify_parameters
from cleanroom.spark.causes import MEANINGS, cause_of
from cleanroom.spark.job import JobParameters
from cleanroom.temporal import attributes
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.fairness import fair_share
from cleanroom.temporal.markdown import code, details, escape
from cleanroom.temporal.started import started_with
from cleanroom.tracing import run_root
from starters.operations.pending_activities import retrying_activities
from starters.operations.query_workflow import read_state
from starters.operations.run_workflow import RunSnapshot, find_run, run_facts, take_snapshot, with_cleanup
from starters.operations.session import Session, differences, now, seek_workflow
from starters.operations.worker_queries import require_worker
from starters.operations.workflow_names import RUN_QUERY, STATUS
from starters.operations.workflow_progress import follow_timeline
from starters.terminal.output import print_status, safe, with_names

if TYPE_CHECKING:
    from cleanroom.statements import RunRequest

REQUEST_LIFETIME = dt.timedelta(hours=12)


async def current_digest(session: Session, query: str, parameters: JobParameters | None = None) -> str:
    """Return the digest of the query document that governance holds now.

    Args:
        session: Session of the caller.
        query: Name of the query.
        parameters: The days of a run, which must be within those of the document. The clean room verifies them again.

    Raises:
        NotFound: ``UserDocumentNotFound``.
        PreconditionFailed: ``QueryNotApproved``.
        Refused: ``ParametersNotApproved``.
    """
    async with session.governance() as governance:
        found = await session.documents(governance).get(query)
    if found.state != "Accepted":
        raise PreconditionFailed(
            "QueryNotApproved",
            f"query {query!r} is {query_state(QueryFacts(found.state)).word}, so no run was started.",
            hint=f"`cleanroom query show {query}` says who acts next.",
        )
    data = str(found.data)
    if parameters is not None:
        document = parse_query(data, document_id=query)
        if document.approval is not None:
            verify_parameters(parameters, document)
    return document_digest(data)


async def require_startable(session: Session, query: str, run_id: str) -> None:
    """Check what a run of an approved query would meet, before its workflow is started. The clean room decides by its own check.

    A run that exists passes: the command attaches to it.

    Raises:
        Refused: The code with which the clean room would refuse the run, such as ``ApprovalRunsExhausted``.
    """
    from cleanroom.runs.owner_decisions import read_owner_decisions
    from cleanroom.runs.reader import UserReader, to_accepted_document

    # The last approval, or consent, may be newer than what the governance node of this command shows.
    session.expect(await _seen_by_query(session, query))
    async with session.governance() as client:
        document = to_accepted_document(await session.documents(client).get(query))
        found = await read_owner_decisions(UserReader(client, session.collaboration), session.collaboration, document, now())
    if found.refusal and await seek_workflow(session, run_id, run_workflow_id, RunResult) is None:
        found.refusal.message += " No run was started."
        raise found.refusal


async def start_run(
    session: Session,
    query: str,
    digest: str,
    run_id: str,
    parameters: JobParameters | None = None,
    *,
    run_seconds: int | None = None,
    consent_check_seconds: int = 5,
) -> WorkflowHandle[Any, RunResult]:
    """Sign a run request and start the run.

    Idempotent: the same arguments again return the run that exists, because a run ID is used once.

    Args:
        session: Session of the caller.
        query: Name of the approved query.
        digest: Digest of the query document.
        run_id: ID of the run.
        parameters: Date range.
        run_seconds: Timeout of the Spark job; from the settings by default.
        consent_check_seconds: Interval at which a running job's consents are checked.

    Raises:
        Conflict: ``RunExists`` when a run with this ID was started by another caller or with other arguments.
    """
    from cleanroom.statements import RunRequest, sign

    session.require_encryption()
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
    input = RunQueryInput(
        ticket=RunTicket(
            collaboration=session.collaboration,
            query=query,
            run_id=run_id,
            request=sign(request, session.key()),
            seen=latest_transaction(session.seen, await _seen_by_query(session, query)),
        ),
        caller=session.party,
        driver_start_seconds=spark.driver_start_seconds,
        run_seconds=run_seconds or spark.run_seconds,
        consent_check_seconds=consent_check_seconds,
    )
    client = await session.temporal()
    try:
        with run_root(session.collaboration, run_id, "cleanroom run start"):
            return await client.start_workflow(
                RUN_QUERY,
                input,
                id=run_workflow_id(session.collaboration, run_id),
                task_queue=CLEAN_ROOM_QUEUE,
                result_type=RunResult,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                priority=fair_share(session.collaboration, session.party),
                static_summary=f"{session.party} runs query {query}",
                static_details=_web_ui_details(session, request),
                search_attributes=start_attributes(
                    collaboration=session.collaboration, kind="run", query=query, proposer=session.party, digest=digest
                ),
            )
    except WorkflowAlreadyStartedError:
        return await _same_run(client, request)


async def _same_run(client: Client, request: RunRequest) -> WorkflowHandle[Any, RunResult]:
    """The handle of the run that exists with this ID, if ``request`` asks for the same run."""
    from cleanroom.statements import RunRequest
    from cleanroom.statements.signing import peek

    workflow_id = run_workflow_id(request.collaboration, request.run_id)
    first = peek(RunRequest, (await started_with(client, workflow_id, RunQueryInput)).ticket.request)
    different = differences({name: (getattr(first, name), getattr(request, name)) for name in ("signer", "query", "digest", "parameters")})
    if different:
        raise Conflict(
            "RunExists",
            f"run {request.run_id!r} already exists with a different {different}.",
            hint=f"Choose another --run-id, or see the existing run with `cleanroom run show {request.run_id}`.",
        )
    print_status(f"[dim]run {safe(request.run_id)} already exists with the same query and parameters; attached to it[/dim]")
    return client.get_workflow_handle(workflow_id, result_type=RunResult)


async def _seen_by_query(session: Session, query: str) -> str:
    """Return what the query's workflow has seen in governance, such as the last approval; the empty string if it does not answer."""
    try:
        return (await read_state(session, query)).seen
    except CleanRoomError:
        return ""


def _web_ui_details(session: Session, request: RunRequest) -> str:
    """The fixed part of the run's page in the Web UI, in Markdown."""
    given = {name: value for name, value in request.parameters.model_dump(mode="json").items() if value is not None}
    run_id = request.run_id
    lines = [
        f"One run of query {code(request.query)} for **{escape(session.party)}**, authorised by a signed run request.",
        f"Approved text and datasets: digest {code(request.digest)}",
        f"Parameters: {code(', '.join(f'{name} = {value}' for name, value in given.items()))}" if given else "",
        f"Steps: this workflow, and {code(run_workflow_id(session.collaboration, run_id) + '/prepare')} for the preparation.",
        "The run revokes all its grants when it ends. A terminated run cannot: revoke them with "
        f"{code(f'cleanroom run conclude {run_id}')}.",
    ]
    return details(*lines)


async def watch_run(session: Session, run_id: str) -> RunResult:
    """Show the steps of a run until it ends, and return its result; raise the run's failure."""
    found = await find_run(session, run_id)
    return await follow_timeline(found.client, found.handle, f"run {run_id}", query=STATUS)


async def show_run(session: Session, run_id: str) -> dict[str, Any]:
    """Return where a run stands, including the activities that are retrying.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    found = await find_run(session, run_id)
    snapshot = await take_snapshot(session, found)
    retrying = {}
    if not found.ended:
        prepare = prepare_workflow_id(session.collaboration, run_id)
        retrying = await retrying_activities(found.client, found.handle.id, prepare)
    return _snapshot_record(session, run_id, snapshot) | {"retrying": {step: with_names(str(error)) for step, error in retrying.items()}}


def _snapshot_record(session: Session, run_id: str, snapshot: RunSnapshot) -> dict[str, Any]:
    result = snapshot.result or RunResult(run_id=run_id, query=snapshot.query, state="Preparing")
    failure = snapshot.failure
    return {
        **result_record(session, result),
        "state": snapshot.state.word,
        "failure": failure_record(failure),
        "stage": snapshot.stage,
        "steps": list(snapshot.steps),
        "job": snapshot.job,
        "next": next_command(snapshot.state, run_id, snapshot.query, failure=failure.code if failure else ""),
        "unanswered": snapshot.unanswered.to_dict() if snapshot.unanswered else None,
    }


def result_record(session: Session, result: RunResult) -> dict[str, Any]:
    """Return the result of a run as the commands print it."""
    receipt = result.receipt
    workflow_id = run_workflow_id(session.collaboration, result.run_id)
    return {
        "run_id": result.run_id,
        "query": result.query,
        "state": result.state,
        "rows": receipt.rows if receipt else None,
        "suppressed_rows": receipt.suppressed_rows if receipt else None,
        "digest": receipt.digest if receipt else None,
        "failure": failure_record(result.failure),
        "seconds": {stage: round(value, 2) for stage, value in result.stages.items()},
        "spark_seconds": round(receipt.spark_seconds, 2) if receipt else None,
        "revoked": result.revoked.model_dump(exclude={"removed"}) if result.revoked else None,
        "workflow_id": workflow_id,
        "link": session.ui_link(workflow_id),
    }


def failure_record(failure: RunFailure | None) -> dict[str, str] | None:
    """Return a failure as the commands print it: with its cause and what that means, if the code belongs to one."""
    if failure is None:
        return None
    cause = cause_of(failure.code)
    explained = {"cause": cause.value, "meaning": MEANINGS[cause]} if cause else {}
    return {**explained, **{key: with_names(text) for key, text in failure.model_dump(mode="json").items()}}


async def list_runs(session: Session) -> list[dict[str, Any]]:
    """List the latest 200 runs of the collaboration, newest first."""
    client = await session.temporal()
    filter = f"WorkflowType = 'RunQuery' AND CrCollab = '{session.collaboration}'"
    found = [item async for item in client.list_workflows(filter, limit=200)]
    facts = await with_cleanup(session, {item.id.rsplit("/", 1)[-1]: run_facts(item) for item in found})
    rows = []
    for item in found:
        values = {pair.key.name: pair.value for pair in item.typed_search_attributes}
        run_id = item.id.rsplit("/", 1)[-1]
        rows.append(
            {
                "run": run_id,
                "query": values.get("CrQuery", ""),
                "caller": values.get("CrProposer", ""),
                "state": run_state(facts[run_id]).word,
                "failure": failure_code(facts[run_id]),
                "stage": values.get("CrStage", ""),
                "started": item.start_time.isoformat(timespec="seconds"),
            }
        )
    return rows


async def cancel_run(session: Session, run_id: str) -> dict[str, Any]:
    """Request the cancellation of a run, wait until it has cleaned up, and return its record. Idempotent.

    Raises:
        Conflict: ``RunEnded``.
        Unavailable: ``NoWorker``. The request is recorded, and takes effect when a worker starts.
    """
    found = await find_run(session, run_id)
    status = found.described.status
    if status is WorkflowExecutionStatus.CANCELED:
        return await show_run(session, run_id)
    if status is not WorkflowExecutionStatus.RUNNING:
        facts = (await with_cleanup(session, {run_id: run_facts(found.described)}))[run_id]
        state = run_state(facts)
        raise Conflict(
            "RunEnded",
            f"run {run_id!r} has already ended: {state}.",
            hint=f"`{next_command(state, run_id, str(found.described.typed_search_attributes.get(attributes.QUERY) or ''))}`",
        )
    await found.handle.cancel()
    try:
        await require_worker(found.client, found.described.task_queue)
    except Unavailable as error:
        error.message = f"Cancellation requested for run {run_id!r}. {error.message}"
        raise
    try:
        await follow_timeline(found.client, found.handle, f"run {run_id}", query=STATUS)
    except WorkflowFailureError:
        print_status(f"run {safe(run_id)} has stopped")
    return await show_run(session, run_id)
