"""Workflow that cleans up after a run that was terminated or timed out.

It is not in the diagrams. ``RunQuery`` revokes its grants whenever its code runs to an end, but a termination and a timeout
run no workflow code.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
    from cleanroom.messages.run import AuditEvent, Concluded, Revoked, RevokeRequest, RunTicket
    from cleanroom.temporal.retries import CLEANUP, STANDARD
    from workflows.story import Story

STEPS = {
    "revoke": "Revoke every grant of the run",
    "stop": "Stop the job",
    "audit": "Record the end in the ledger",
}


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
            # Revoke first: it makes the pods harmless, and the Spark service's worker may be offline.
            revoked = await self._story.step(
                "revoke",
                workflow.execute_activity_method(
                    CleanRoomSecrets.revoke_grants,
                    RevokeRequest(ticket=ticket),
                    **CLEANUP.config("secrets, IDP subjects, event writers", task_queue=CLEAN_ROOM_QUEUE),
                ),
            )
            if not revoked.closed:
                # The ledger does not pin the run to this request, so the request began nothing.
                return Concluded(revoked=revoked, job_stopped=False)
            stopped = await self._story.step(
                "stop",
                workflow.execute_activity_method(
                    SparkServiceActivities.delete_job, ticket, **CLEANUP.config("stop the job", task_queue=SPARK_SERVICE_QUEUE)
                ),
            )
            await self._story.step("audit", self._audit(ticket, revoked))
            return Concluded(revoked=revoked, job_stopped=stopped)

    async def _audit(self, ticket: RunTicket, revoked: Revoked) -> None:
        counts = f"{revoked.secrets} secrets, {revoked.grants} grants"
        for step, message in (("REVOKED", counts), ("RUN_FAILED", "RunTerminated")):
            await workflow.execute_activity_method(
                CleanRoomGovernance.record_event,
                AuditEvent(ticket=ticket, step=step, message=message),
                **STANDARD.config(f"audit: {step}", task_queue=CLEAN_ROOM_QUEUE),
            )

    @workflow.query(description="The steps and the state of each.")
    def timeline(self) -> tuple[str, ...]:
        """Return the steps as lines."""
        return self._story.lines()
