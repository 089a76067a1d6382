"""Activities of the Clean Room Application that read, verify or record. They release nothing."""

from __future__ import annotations

from temporalio import activity

from activities.clean_room_context import CleanRoomContext
from cleanroom.errors import Internal, InvalidInput, Refused
from cleanroom.governance import Event, committed_later
from cleanroom.messages.run import (
    ApprovalVerdict,
    AuditEvent,
    CallerVerdict,
    CollectRequest,
    ConsentVerdict,
    DocumentSnapshot,
    QuerySnapshot,
    RunTicket,
    SparkVerdict,
    VerifyPolicyRequest,
    VerifySparkRequest,
)
from cleanroom.runs.ledger import event_scope, run_facts
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.run_events import ATTESTED_STEP, CLEAN_ROOM_STEPS, RUN_ENDS, event_id, parse_event

PREPARATION_STEPS = frozenset({"PREPARE_STARTED", "GRANTED"})
"""Entries whose commit the entry PREPARED waits for."""


class CleanRoomGovernance:
    """Checks of the Prepare and Run diagrams, and the run's audit events."""

    def __init__(self, room: CleanRoomContext) -> None:
        self._room = room

    @activity.defn
    async def get_users(self, ticket: RunTicket) -> CallerVerdict:
        """Get the users; check that the caller is an active one and signed this request."""
        request, users = await self._room.verifier.verify_caller(ticket)
        return CallerVerdict(caller_id=request.signer, users=users)

    @activity.defn
    async def fetch_query(self, ticket: RunTicket) -> QuerySnapshot:
        """Fetch the accepted query; return which documents the run uses."""
        document, query = await self._room.verifier.fetch_query(ticket)
        assert query.approval is not None
        return QuerySnapshot(
            query=DocumentSnapshot(id=document.id, version=document.version, digest=document.digest, owner_id=document.proposer_id),
            datasets=tuple(
                DocumentSnapshot(id=pin.id, version=pin.version, digest=pin.digest, owner_id=pin.owner_id)
                for pin in query.approval.datasets
            ),
        )

    @activity.defn
    async def validate_access_and_approvals(self, ticket: RunTicket) -> ApprovalVerdict:
        """Derive the owners from the datasets; check that each owner accepted and signed this exact text."""
        run = await self._room.verifier.verify_approvals(ticket)
        return ApprovalVerdict(owners=run.owners, approved_by=run.approved_by, runs_left=run.runs_left)

    @activity.defn
    async def check_execution_consent(self, ticket: RunTicket) -> ConsentVerdict:
        """Check the execution consent of the query and of every dataset, the output included."""
        run = await self._room.verifier.verify_consent(ticket)
        return ConsentVerdict(documents=run.document_ids)

    @activity.defn
    async def build_job(self, ticket: RunTicket) -> JobConfig:
        """Check the query with the query gate and build the job configuration that the pods measure."""
        return await self._room.verifier.build_job(ticket)

    @activity.defn
    async def verify_spark(self, request: VerifySparkRequest) -> SparkVerdict:
        """Verify the Spark service's report: hardware signature, host data, and the nonce of this run."""
        return await self._room.verifier.verify_service(request.ticket, request.report)

    @activity.defn
    async def verify_security_policy(self, request: VerifyPolicyRequest) -> None:
        """Verify that the attested service signed the pod policies for this run and that they equal those computed here."""
        await self._room.verifier.verify_policies(request.ticket, request.proof)

    @activity.defn
    async def record_event(self, event: AuditEvent) -> None:
        """Write a step of the run to the ledger. Only the request to which the ledger pins the run can do this.

        Run, query and caller come from the signed request. ``message`` and ``digests`` of an entry without a proof are the
        orchestrator's words. An entry with a proof is bound to the clean room's attestation report, so it contains none of
        them: every member of it is derived here.

        The first recorded end of a run counts. Another one is not written: a workflow that was reset, or a cleanup, does not know it.

        Raises:
            InvalidInput: ``AuditStepUnknown``, ``AuditStepNotAttested``.
            Refused: ``RunPinnedToAnotherRequest``; the codes of :meth:`cleanroom.runs.authority.RunAuthority.verify_pin`.
        """
        if event.step not in CLEAN_ROOM_STEPS:
            raise InvalidInput("AuditStepUnknown", f"audit: step {event.step!r} is not one of {', '.join(sorted(CLEAN_ROOM_STEPS))}.")
        if (event.proof is not None) != (event.step == ATTESTED_STEP):
            raise InvalidInput("AuditStepNotAttested", f"audit: a proof belongs to step {ATTESTED_STEP} alone, not to {event.step}.")
        if event.proof is not None:
            # The statement verifies the whole run, the pin included.
            request, _ = await self._room.verifier.verify_caller(event.ticket)
            body = run_facts(request, event.ticket.request) | {"name": event.step}
            body |= await self._room.attested_statement(event.ticket, event.proof, body)
        else:
            request = await self._room.verifier.pin(event.ticket)
            body = run_facts(request, event.ticket.request) | {"name": event.step}
            body |= {"message": event.message[:500], "digests": event.digests}
        scope = event_scope(request.run_id)
        if event.step in RUN_ENDS and await self._ended_otherwise(request.run_id, event.step):
            activity.logger.info("run %s has another end in the ledger; %s is not recorded", request.run_id, event.step)
            return
        put = committed_later(self._room.client.put_event) if event.step in PREPARATION_STEPS else self._room.client.put_event
        await put(body, event_id=event_id(request.run_id, event.step), scope=scope)

    async def _ended_otherwise(self, run_id: str, step: str) -> bool:
        scope = event_scope(run_id)
        for other in RUN_ENDS:
            if other != step and await self._room.user.latest_event(
                self._room.collaboration, event_id=event_id(run_id, other), scope=scope
            ):
                return True
        return False

    @activity.defn
    async def collect_result(self, request: CollectRequest) -> ResultReceipt:
        """Read the run's result receipt from the ledger, where the attested driver pod wrote it.

        The state of the pod in Kubernetes is not evidence: the operator controls it.

        Raises:
            Internal: ``CompletionEvidenceMissing``.
            Refused: ``CompletionEvidenceMismatch`` when the receipt is for another query text, job or output dataset.
        """
        ticket = request.ticket
        past = await self._room.verifier.past_run(ticket)
        event = await self._completion(ticket)
        if event is None or not isinstance(event.data, dict):
            raise Internal(
                "CompletionEvidenceMissing",
                f"run {ticket.run_id!r}: the job reports that it is complete, but the ledger has no completion record.",
                party="operator",
                hint="Treat the result as not delivered and start another run.",
            )
        receipt = parse_event(event.data).receipt
        # The job is derived here. The orchestrator's digest only chooses between the trust documents that were in force.
        jobs = [job for job in past.past_jobs if job.digest() == request.job_digest]
        expected = [(job.run_id, job.query_digest, job.digest(), job.datasink.name) for job in jobs]
        if receipt is None or (receipt.run_id, receipt.query_digest, receipt.job_digest, receipt.dataset) not in expected:
            raise Refused(
                "CompletionEvidenceMismatch", f"run {ticket.run_id!r}: the completion record is for another query text, job or dataset."
            )
        return receipt

    async def _completion(self, ticket: RunTicket) -> Event | None:
        """Read the pod's completion record. The pod's process wrote it, so the node that answers may not have it yet."""
        where = {"event_id": event_id(ticket.run_id, "QUERY_COMPLETED"), "scope": event_scope(ticket.run_id)}
        event = await self._room.user.latest_event(ticket.collaboration, **where)
        if event is None:
            await self._room.write_barrier()
            event = await self._room.user.latest_event(ticket.collaboration, **where)
        return event
