"""Finds the workflow of a run and reads where the run stands, with or without a worker."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError

from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import run_workflow_id
from cleanroom.messages.run import RunFailure, RunResult, RunStatus
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.session import FoundWorkflow, Session, find_workflow
from starters.operations.worker_queries import require_worker, send_query
from starters.operations.workflow_names import OUTCOME, STATUS

_STATES: Final = {"prepare": "Preparing", "submit": "Submitting", "watch": "Running", "conclude": "Concluding", "cleanup": "Concluding"}
"""Stage in the search attributes to state of the run."""
_STOPPED: Final = (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT)
"""Statuses of a workflow that the server ended without running its code."""


class RunSnapshot(NamedTuple):
    """Where a run stands at one moment."""

    query: str
    state: str
    """State of the run; ``TERMINATED`` or ``TIMED_OUT`` when the server ended its workflow."""
    stage: str
    result: RunResult | None
    """The result so far. None when the run is open and no worker answers."""
    steps: tuple[str, ...] = ()
    """Steps, ``<state>: <text>``. Empty when no worker answers."""
    job: str = ""
    """Name of the Spark job."""
    failure: RunFailure | None = None
    unanswered: CleanRoomError | None = None
    """Why the steps are missing."""


async def find_run(session: Session, run_id: str) -> FoundWorkflow[RunResult]:
    """Find the workflow of a run.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    return await find_workflow(session, "run", run_id, run_workflow_id, RunResult)


async def take_snapshot(found: FoundWorkflow[RunResult]) -> RunSnapshot:
    """Read where a run stands: from its worker, or else from the server and the history."""
    described = found.described
    completed = described.status is WorkflowExecutionStatus.COMPLETED
    snapshot = RunSnapshot(
        query=str(described.typed_search_attributes.get(attributes.QUERY, "")),
        state=run_state(described),
        stage=_stage(described),
        result=await found.handle.result() if completed else None,
        failure=await _failure(found) if found.ended and not completed else None,
    )
    try:
        await require_worker(found.client, described.task_queue)
        status, outcome = await asyncio.gather(
            send_query(found.client, found.handle, STATUS, RunStatus), send_query(found.client, found.handle, OUTCOME, RunResult)
        )
    except CleanRoomError as error:
        return snapshot._replace(unanswered=error)
    return snapshot._replace(
        # A terminated workflow does not observe its termination, and its queries still return the last state before it.
        state=snapshot.state if described.status in _STOPPED else status.state,
        stage=status.stage,
        result=snapshot.result or outcome,
        steps=status.steps,
        job=status.job,
        failure=status.failure or snapshot.failure,
    )


async def _failure(found: FoundWorkflow[RunResult]) -> RunFailure | None:
    """The failure in the history of a run that has ended without completing."""
    try:
        await found.handle.result()
    except WorkflowFailureError as error:
        known = error_from_failure(error)
        if found.described.status is WorkflowExecutionStatus.CANCELED:
            return RunFailure(code="RunCancelled", message="The run was cancelled.")
        hint = known.hint or ""
        if found.described.status in _STOPPED:
            hint = f"Revoke its grants and stop its job: cleanroom run conclude {found.handle.id.rsplit('/', 1)[-1]}"
        return RunFailure(code=known.code, message=known.message, party=known.party or "", hint=hint)
    return None


def run_state(described: WorkflowExecution) -> str:
    """Return the state of a run from the server's description of its workflow."""
    status = described.status
    if status is None or status is WorkflowExecutionStatus.RUNNING:
        return _STATES.get(_stage(described), "Preparing")
    return {WorkflowExecutionStatus.CANCELED: "CANCELLED"}.get(status, status.name)


def _stage(described: WorkflowExecution) -> str:
    return str(described.typed_search_attributes.get(attributes.STAGE, "")).removeprefix("run.")
