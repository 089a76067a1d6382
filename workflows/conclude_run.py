"""Workflow that cleans up after a run that was terminated or timed out.

It is not in the diagrams. ``RunQuery`` revokes its grants whenever its code runs to an end, but a termination and a timeout
run no workflow code.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
    from cleanroom.messages.run import AuditEvent, Concluded, Revoked, RevokeRequest, RunTicket
    from cleanroom.temporal.retries import CLEANUP, STANDARD, Timing
    from workflows.story import Story

T = TypeVar("T")

STEPS = {
    "revoke": "Revoke every grant of the run",
    "stop": "Stop the job",
    "audit": "Record the end in the ledger",
}


async def undo_run(ticket: RunTicket, story: Story | None = None, *, timing: Timing = CLEANUP, stop_job: bool = True) -> Concluded:
    """Revoke the grants of a run that has ended, stop its job and record its end, unless the ledger has one.

    Args:
        ticket: The run.
        story: Shows the steps.
        timing: Timeouts and retries of the steps that undo something.
        stop_job: Whether the run has a job.
    """

    async def step(key: str, work: Awaitable[T]) -> T:
        return await (story.step(key, work) if story is not None else work)

    # Revoke first: it makes the pods harmless, and the Spark service's worker may be offline.
    revoked = await step(
        "revoke",
        workflow.execute_activity_method(
            CleanRoomSecrets.revoke_grants,
            RevokeRequest(ticket=ticket),
            **timing.config(f"secrets, IDP subjects, event writers of {ticket.run_id}", task_queue=CLEAN_ROOM_QUEUE),
        ),
    )
    if not revoked.closed:
        # The ledger does not pin the run to this request, so the request began nothing.
        return Concluded(revoked=revoked, job_stopped=False)
    stopped = False
    if stop_job:
        stopped = await step(
            "stop",
            workflow.execute_activity_method(
                SparkServiceActivities.delete_job,
                ticket,
                **timing.config(f"stop the job of {ticket.run_id}", task_queue=SPARK_SERVICE_QUEUE),
            ),
        )
    await step("audit", _audit(ticket, revoked))
    return Concluded(revoked=revoked, job_stopped=stopped)


async def _audit(ticket: RunTicket, revoked: Revoked) -> None:
    for step, message in (("REVOKED", f"{revoked.secrets} secrets, {revoked.grants} grants"), ("RUN_FAILED", "RunTerminated")):
        await workflow.execute_activity_method(
            CleanRoomGovernance.record_event,
            AuditEvent(ticket=ticket, step=step, message=message),
            **STANDARD.config(f"audit: {step}", task_queue=CLEAN_ROOM_QUEUE),
        )


@workflow.defn(name="ConcludeRun", versioning_behavior=VersioningBehavior.PINNED)
class ConcludeRun:
    """Revoke a run's grants, stop its job and record its end.

    Idempotent. What to undo follows from the request that the ledger pins, and from governance's documents.
    """

    @workflow.init
    def __init__(self, ticket: RunTicket) -> None:
        self._story = Story(f"Conclude run {ticket.run_id} of {ticket.query}", STEPS, kind="conclude")

    @workflow.run
    async def run(self, ticket: RunTicket) -> Concluded:
        """Revoke, stop the job, record the end."""
        async with self._story.report_outcome():
            self._story.stage("cleanup")
            return await undo_run(ticket, self._story)

    @workflow.query(description="The steps and the state of each.")
    def timeline(self) -> tuple[str, ...]:
        """Return the steps as lines."""
        return self._story.lines()
