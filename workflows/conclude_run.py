"""What a run that could not conclude has left behind is undone: one that was terminated in the Web UI, or that its server timed out.

No diagram's arrow. `RunQuery` takes back its grants on every way out that runs its code; a termination runs none.
"""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
    from cleanroom.messages.run import AuditEvent, Concluded, RevokeRequest, RunTicket
    from cleanroom.temporal.retries import CLEANUP, STANDARD
    from workflows.story import Story

STEPS = {
    "revoke": "Revoke every grant of the run",
    "stop": "Stop its job",
    "audit": "Tell the ledger",
}


@workflow.defn(name="ConcludeRun")
class ConcludeRun:
    """Revoke a run's grants, stop its job, tell the ledger; what to undo is derived from governance, so it may be repeated."""

    @workflow.init
    def __init__(self, ticket: RunTicket) -> None:
        self._story = Story(f"Conclude run {ticket.run_id} of {ticket.query}", STEPS, kind="conclude")

    @workflow.run
    async def run(self, ticket: RunTicket) -> Concluded:
        async with self._story.report_outcome():
            self._story.stage("cleanup")
            # The grants first: pods without a secret can do no harm, and the other queue's worker may be off.
            revoked = await self._story.step(
                "revoke",
                workflow.execute_activity_method(
                    CleanRoomSecrets.revoke_grants,
                    RevokeRequest(ticket=ticket),
                    **CLEANUP.config("secrets, IDP subjects, event writers", task_queue=CLEAN_ROOM_QUEUE),
                ),
            )
            stopped = await self._story.step(
                "stop",
                workflow.execute_activity_method(
                    SparkServiceActivities.delete_job, ticket, **CLEANUP.config("stop the job", task_queue=SPARK_SERVICE_QUEUE)
                ),
            )
            told = f"{revoked.secrets} secrets, {revoked.grants} grants"
            await self._story.step("audit", self._audit(ticket, told))
            return Concluded(revoked=revoked, job_stopped=stopped)

    async def _audit(self, ticket: RunTicket, told: str) -> None:
        for step, message in (("REVOKED", told), ("RUN_FAILED", "RunTerminated")):
            await workflow.execute_activity_method(
                CleanRoomGovernance.record_event,
                AuditEvent(ticket=ticket, step=step, message=message),
                **STANDARD.config(f"audit: {step}", task_queue=CLEAN_ROOM_QUEUE),
            )

    @workflow.query(description="The steps so far, as lines.")
    def timeline(self) -> tuple[str, ...]:
        return self._story.lines()
