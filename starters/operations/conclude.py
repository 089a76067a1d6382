"""Cleans up after a terminated run, which could not do so itself."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy

from cleanroom.errors import Conflict
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, conclude_workflow_id
from cleanroom.messages.run import Concluded, RunQueryInput
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details
from cleanroom.temporal.started import started_with
from starters.operations.run_workflow import find_run
from starters.operations.session import Session
from starters.operations.workflow_names import CONCLUDE_RUN
from starters.operations.workflow_progress import follow_timeline


async def conclude_run(session: Session, run_id: str) -> dict[str, Any]:
    """Revoke the grants of an ended run, stop its job, and record that in the ledger.

    Idempotent; concurrent calls share one workflow.

    Raises:
        Conflict: ``RunStillRuns``; ``RunCompleted``, because the cleanup would record a failure of this run.
        NotFound: ``WorkflowNotFound``.
    """
    session.require_encryption()
    found = await find_run(session, run_id)
    if not found.ended:
        raise Conflict(
            "RunStillRuns",
            f"run {run_id!r} has not ended. It cleans up when it ends.",
            hint=f"To stop it now: cleanroom run cancel {run_id}",
        )
    if found.described.status is WorkflowExecutionStatus.COMPLETED:
        raise Conflict(
            "RunCompleted",
            f"run {run_id!r} has completed and has revoked its grants. There is nothing to clean up.",
            hint=f"cleanroom run show {run_id}",
        )
    started = await started_with(found.client, found.handle.id, RunQueryInput)
    ticket = started.ticket
    concluding = await found.client.start_workflow(
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
        search_attributes=start_attributes(
            collaboration=session.collaboration, kind="conclude", query=ticket.query, proposer=started.caller
        ),
    )
    result: Concluded = await follow_timeline(found.client, concluding, f"conclude run {run_id}")
    return {
        "run_id": run_id,
        "revoked": result.revoked.model_dump(exclude={"removed"}),
        "job_stopped": result.job_stopped,
        "workflow_id": concluding.id,
        "link": session.ui_link(concluding.id),
    }
