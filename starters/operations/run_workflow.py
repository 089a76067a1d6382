"""Finds the workflow of a run and reads where the run stands, with or without a worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, NamedTuple

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError

from cleanroom.concurrency import gather_limited
from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.identifiers import conclude_workflow_id, run_workflow_id
from cleanroom.lifecycle.run import CANCELLED, CONCLUDED, FAILED, TERMINATED, RunFacts, failure_code, next_command, run_state
from cleanroom.lifecycle.state import State, WorkflowEnd
from cleanroom.messages.run import RunFailure, RunResult, RunStatus
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.run_states import workflow_status
from starters.operations.session import FoundWorkflow, Session, find_workflow
from starters.operations.worker_queries import require_worker, send_query
from starters.operations.workflow_names import OUTCOME, STATUS

_STOPPED: Final = (WorkflowEnd.TERMINATED, WorkflowEnd.TIMED_OUT)
"""Ends of a workflow that the server ended without running its code."""
CONCURRENT: Final = 20


class RunSnapshot(NamedTuple):
    """Where a run stands at one moment."""

    query: str
    state: State
    """State of the run; see :mod:`cleanroom.lifecycle.run`."""
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


async def take_snapshot(session: Session, found: FoundWorkflow[RunResult]) -> RunSnapshot:
    """Read where a run stands: from its worker, or else from the server and the history."""
    described = found.described
    facts = (await with_cleanup(session, {_run_id(found): run_facts(described)}))[_run_id(found)]
    completed = described.status is WorkflowExecutionStatus.COMPLETED
    snapshot = RunSnapshot(
        query=str(described.typed_search_attributes.get(attributes.QUERY, "")),
        state=run_state(facts),
        stage=facts.stage,
        result=await found.handle.result() if completed else None,
        failure=await _failure(found, facts) if found.ended and not completed else None,
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
        state=snapshot.state if found.ended else run_state(replace(facts, stage=status.stage)),
        stage=status.stage,
        result=snapshot.result or outcome,
        steps=status.steps,
        job=status.job,
        failure=snapshot.failure if facts.workflow in _STOPPED else status.failure or snapshot.failure,
    )


async def _failure(found: FoundWorkflow[RunResult], facts: RunFacts) -> RunFailure | None:
    """The failure in the history of a run that has ended without completing."""
    state, code = run_state(facts), failure_code(facts)
    if code == CONCLUDED:
        return RunFailure(code=code, message="The run was terminated. Its grants are revoked, and its job is stopped.", party="operator")
    if state is CANCELLED:
        return RunFailure(code="RunCancelled", message="The run was cancelled.")
    if not code and state is not FAILED:
        return None
    try:
        await found.handle.result()
    except WorkflowFailureError as error:
        known = error_from_failure(error)
        hint = known.hint or ""
        if state is TERMINATED:
            hint = f"Revoke its grants and stop its job: `{next_command(state, _run_id(found), '')}`."
        return RunFailure(code=known.code, message=known.message, party=known.party or "", hint=hint)
    return None


def run_facts(described: WorkflowExecution) -> RunFacts:
    """Return what the server's description of a run's workflow says."""
    values = described.typed_search_attributes
    stage = str(values.get(attributes.STAGE) or "").removeprefix("run.")
    return RunFacts(WorkflowEnd.of(described.status), stage, str(values.get(attributes.OUTCOME) or ""))


async def with_cleanup(session: Session, runs: dict[str, RunFacts]) -> dict[str, RunFacts]:
    """Add to the facts of terminated runs whether they were cleaned up: what the ledger records, and what concluded them.

    Other runs keep their facts. An operator's profile cannot read the ledger. It sees the workflows that conclude runs.
    """
    stopped = [run_id for run_id, facts in runs.items() if facts.workflow in _STOPPED]
    if not stopped:
        return runs
    from starters.operations.ledger_run import recorded_ends

    client = await session.temporal()
    try:
        recorded = await recorded_ends(session, stopped)
    except CleanRoomError as error:
        if error.code not in ("ProfileIsNoPerson", "SettingMissing") and not isinstance(error, Unavailable):
            raise
        recorded = {}

    async def one(run_id: str) -> tuple[str, RunFacts]:
        concluding = await workflow_status(client, conclude_workflow_id(session.collaboration, run_id))
        concluded = concluding is WorkflowExecutionStatus.COMPLETED
        return run_id, replace(runs[run_id], recorded=recorded.get(run_id, ""), concluded=concluded)

    return runs | dict(await gather_limited(one, stopped, CONCURRENT))


def _run_id(found: FoundWorkflow[RunResult]) -> str:
    return found.handle.id.rsplit("/", 1)[-1]
