"""A run's workflow as commands meet it: found, looked at with or without a worker, followed to its end."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)

from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import run_workflow_id
from cleanroom.messages.run import RunFailure, RunResult, RunStatus
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.session import Session, require_workflow
from starters.operations.worker_queries import query_workflow, require_worker
from starters.operations.workflow_names import OUTCOME, STATUS

Handle = WorkflowHandle[Any, RunResult]

_STATES: Final = {"prepare": "Preparing", "submit": "Submitting", "watch": "Running", "conclude": "Concluding", "cleanup": "Concluding"}
"""Stage of the search attributes to state of a run."""
_STOPPED: Final = (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT)


class RunFound(NamedTuple):
    """A run that exists."""

    client: Client
    handle: Handle
    described: WorkflowExecutionDescription

    @property
    def ended(self) -> bool:
        return self.described.status not in (None, WorkflowExecutionStatus.RUNNING)


class RunSnapshot(NamedTuple):
    """Where a run stands."""

    query: str
    state: str
    """A state of a run; of one that an operator ended, ``TERMINATED`` or ``TIMED_OUT``."""
    stage: str
    result: RunResult | None
    """So far; None where only a worker would know it."""
    steps: tuple[str, ...] = ()
    job: str = ""
    failure: RunFailure | None = None
    unanswered: CleanRoomError | None = None
    """Why the steps are missing."""


async def find_run(session: Session, run_id: str) -> RunFound:
    """The run's workflow.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    client = await session.temporal()
    handle: Handle = client.get_workflow_handle(run_workflow_id(session.collaboration, run_id), result_type=RunResult)
    described = await require_workflow(handle, f"run {run_id!r}", "`cleanroom run list` shows what there is.")
    return RunFound(client, handle, described)


async def take_snapshot(found: RunFound) -> RunSnapshot:
    """Where the run stands: as its worker tells; without one, as the server and the history do, with the reason."""
    described = found.described
    completed = described.status is WorkflowExecutionStatus.COMPLETED
    seen = RunSnapshot(
        query=str(described.typed_search_attributes.get(attributes.QUERY, "")),
        state=run_state(described),
        stage=_stage(described),
        result=await found.handle.result() if completed else None,
        failure=await _failure(found) if found.ended and not completed else None,
    )
    try:
        await require_worker(found.client, described.task_queue)
        status, outcome = await asyncio.gather(
            query_workflow(found.client, found.handle, STATUS, RunStatus), query_workflow(found.client, found.handle, OUTCOME, RunResult)
        )
    except CleanRoomError as error:
        return seen._replace(unanswered=error)
    return seen._replace(
        # Who was terminated did not notice, and would tell where it stood then.
        state=seen.state if described.status in _STOPPED else status.state,
        stage=status.stage,
        result=seen.result or outcome,
        steps=status.steps,
        job=status.job,
        failure=status.failure or seen.failure,
    )


async def _failure(found: RunFound) -> RunFailure | None:
    """What a run ended with that did not complete, from its history."""
    try:
        await found.handle.result()
    except WorkflowFailureError as error:
        known = error_from_failure(error)
        if found.described.status is WorkflowExecutionStatus.CANCELED:
            return RunFailure(code="RunCancelled", message="The run was cancelled.")
        hint = known.hint or ""
        if found.described.status in _STOPPED:
            hint = f"What it left behind is undone by: cleanroom run conclude {found.handle.id.rsplit('/', 1)[-1]}"
        return RunFailure(code=known.code, message=known.message, party=known.party or "", hint=hint)
    return None


def run_state(described: WorkflowExecution) -> str:
    """The run's state as the server knows it."""
    status = described.status
    if status is None or status is WorkflowExecutionStatus.RUNNING:
        return _STATES.get(_stage(described), "Preparing")
    return {WorkflowExecutionStatus.CANCELED: "CANCELLED"}.get(status, status.name)


def _stage(described: WorkflowExecution) -> str:
    return str(described.typed_search_attributes.get(attributes.STAGE, "")).removeprefix("run.")
