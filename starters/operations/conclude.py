"""Cleans up after a terminated run, which could not do so itself."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy

from cleanroom.errors import Conflict, InvalidInput, NotFound
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, conclude_workflow_id
from cleanroom.messages.run import Concluded, RunQueryInput, RunTicket
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details
from cleanroom.temporal.started import started_with
from starters.operations.run_workflow import find_run
from starters.operations.session import Session
from starters.operations.workflow_names import CONCLUDE_RUN
from starters.operations.workflow_progress import follow_timeline


async def conclude_run(session: Session, run_id: str) -> dict[str, Any]:
    """Revoke the grants of an ended run, stop its job, and record that in the ledger.

    The run's request comes from the ledger, which pins the run ID to it. So a run can be concluded whose history Temporal has
    deleted. Idempotent; concurrent calls share one workflow.

    Raises:
        Conflict: ``RunStillRuns``; ``RunCompleted``, because the cleanup would record a failure of this run.
        NotFound: ``WorkflowNotFound`` when neither Temporal nor the ledger knows the run.
    """
    session.require_encryption()
    client = await session.temporal()
    ticket, caller = await _pinned_ticket(session, run_id), session.settings.profile
    try:
        found = await find_run(session, run_id)
    except NotFound:
        if ticket is None:
            raise
        if await _completed_and_closed(session, run_id):
            raise _completed(run_id) from None
    else:
        if not found.ended:
            raise Conflict(
                "RunStillRuns",
                f"run {run_id!r} has not ended. It cleans up when it ends.",
                hint=f"To stop it now: `cleanroom run cancel {run_id}`.",
            )
        if found.described.status is WorkflowExecutionStatus.COMPLETED:
            raise _completed(run_id)
        started = await started_with(found.client, found.handle.id, RunQueryInput)
        ticket, caller = ticket or started.ticket, started.caller
    concluding = await client.start_workflow(
        CONCLUDE_RUN,
        ticket,
        result_type=Concluded,
        id=conclude_workflow_id(session.collaboration, run_id),
        task_queue=CLEAN_ROOM_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"conclude run {run_id} of query {ticket.query}",
        static_details=details(
            f"Run {code(run_id)} was terminated and could not clean up. This workflow revokes its grants, stops its job, and records "
            "that in the ledger. It derives the grants from governance."
        ),
        search_attributes=start_attributes(collaboration=session.collaboration, kind="conclude", query=ticket.query, proposer=caller),
    )
    result: Concluded = await follow_timeline(client, concluding, f"conclude run {run_id}")
    return {
        "run_id": run_id,
        "revoked": result.revoked.model_dump(exclude={"removed", "seen"}),
        "job_stopped": result.job_stopped,
        "workflow_id": concluding.id,
        "link": session.ui_link(concluding.id),
    }


def _completed(run_id: str) -> Conflict:
    return Conflict(
        "RunCompleted",
        f"run {run_id!r} has completed and has revoked its grants. There is nothing to clean up.",
        hint=f"`cleanroom run show {run_id}`",
    )


async def _pinned_ticket(session: Session, run_id: str) -> RunTicket | None:
    """Return the ticket of the request to which the ledger pins the run, or None for a run that released and recorded nothing.

    An operator's profile cannot read the ledger. The activities compare its ticket, from Temporal, with the pin.
    """
    from cleanroom.runs.reader import UserReader

    try:
        async with session.governance() as client:
            pinned = await UserReader(client, session.collaboration).pinned_request(run_id)
    except InvalidInput as error:
        if error.code != "ProfileIsNoPerson":
            raise
        return None
    if pinned is None:
        return None
    return RunTicket(collaboration=session.collaboration, query=pinned.query, run_id=run_id, request=pinned.request)


async def _completed_and_closed(session: Session, run_id: str) -> bool:
    """Return whether the ledger says that the run has completed, and that its grants are revoked: the second closes the run."""
    from cleanroom.runs.ledger import event_scope
    from cleanroom.runs.reader import UserReader
    from cleanroom.spark.run_events import event_id

    async with session.governance() as client:
        completed = await client.latest_event(session.collaboration, event_id=event_id(run_id, "RUN_COMPLETED"), scope=event_scope(run_id))
        return completed is not None and await UserReader(client, session.collaboration).run_closed(run_id)
