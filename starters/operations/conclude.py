"""``cleanroom run conclude``: undo what a run left behind that was terminated, and so could not clean up."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy

from cleanroom.errors import Conflict
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, conclude_workflow_id, run_workflow_id
from cleanroom.messages.run import Concluded, RunQueryInput
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details
from cleanroom.temporal.started import started_with
from starters.operations.session import Session, require_workflow
from starters.operations.workflow_names import CONCLUDE_RUN
from starters.operations.workflow_progress import follow_timeline


async def conclude_run(session: Session, run_id: str) -> dict[str, Any]:
    """Revoke the grants of a run that has ended, stop its job, tell the ledger. May be repeated; asking twice at once is asking once.

    Raises:
        Conflict: ``RunStillRuns``: it cleans up by itself when it ends.
        NotFound: ``WorkflowNotFound``.
    """
    client = await session.temporal()
    run_workflow = run_workflow_id(session.collaboration, run_id)
    handle = client.get_workflow_handle(run_workflow)
    ended = await require_workflow(handle, f"run {run_id!r}", "`cleanroom run list` shows what there is.")
    if ended.status is WorkflowExecutionStatus.RUNNING:
        raise Conflict(
            "RunStillRuns", f"run {run_id!r} has not ended; it cleans up by itself when it does.", hint=f"cleanroom run cancel {run_id}"
        )
    started = await started_with(client, run_workflow, RunQueryInput)
    ticket = started.ticket
    concluding = await client.start_workflow(
        CONCLUDE_RUN,
        ticket,
        result_type=Concluded,
        id=conclude_workflow_id(session.collaboration, run_id),
        task_queue=CLEAN_ROOM_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"conclude run {run_id} of query {ticket.query}",
        static_details=details(
            f"Run {code(run_id)} ended without cleaning up: a termination does not let it. This undoes what it left behind: its grants are "
            "revoked, its job is stopped, the ledger is told. What to undo is derived from governance."
        ),
        search_attributes=start_attributes(
            collaboration=session.collaboration, kind="conclude", query=ticket.query, proposer=started.caller
        ),
    )
    result: Concluded = await follow_timeline(client, concluding, f"conclude run {run_id}")
    return {
        "run_id": run_id,
        "revoked": result.revoked.model_dump(exclude={"removed"}),
        "job_stopped": result.job_stopped,
        "workflow_id": concluding.id,
        "link": session.ui_link(concluding.id),
    }
