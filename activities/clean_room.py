"""Clean Room Governance, called by the Clean Room Application: everything of the Prepare phase that reads, verifies or records."""

from __future__ import annotations

from temporalio import activity

from activities.clean_room_context import CleanRoomContext
from cleanroom.errors import Internal, InvalidInput, Refused
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
from cleanroom.runs.ledger import event_scope
from cleanroom.runs.reader import to_accepted_document
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, event_id, parse_event


class CleanRoomGovernance:
    """Checks and records; releases nothing."""

    def __init__(self, room: CleanRoomContext) -> None:
        self._room = room

    @activity.defn
    async def get_users(self, ticket: RunTicket) -> CallerVerdict:
        """Get users; the caller must be one of them, active, and have signed this request."""
        request, users = await self._room.authority.caller(ticket)
        return CallerVerdict(caller_id=request.signer, users=users)

    @activity.defn
    async def fetch_query(self, ticket: RunTicket) -> QuerySnapshot:
        """Fetch the accepted query and say which documents the run rests on."""
        request, _ = await self._room.authority.caller(ticket)
        document, query = await self._room.authority.fetch_query(ticket, request)
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
        """Owners derived from the datasets now; every one must have accepted and signed this very text."""
        run = await self._room.authority.authorise(ticket, consent=False)
        return ApprovalVerdict(owners=run.owners, approved_by=run.approved_by, runs_left=run.runs_left)

    @activity.defn
    async def check_execution_consent(self, ticket: RunTicket) -> ConsentVerdict:
        """Execution consent of the query and of every dataset, the output included."""
        run = await self._room.authority.authorise(ticket)
        return ConsentVerdict(documents=(run.document.id, *(item.document.id for item in run.datasets)))

    @activity.defn
    async def build_job(self, ticket: RunTicket) -> JobConfig:
        """Pass the gate and assemble the job that the pods will be measured against."""
        return self._room.job(await self._room.authority.authorise(ticket))

    @activity.defn
    async def verify_spark(self, request: VerifySparkRequest) -> SparkVerdict:
        """Verify the Spark service: hardware signature, code, and that it answers this run and no other."""
        return self._room.verify_service(request.ticket, request.report)

    @activity.defn
    async def verify_security_policy(self, request: VerifyPolicyRequest) -> None:
        """The policies are signed by the attested service, for this run, and are what the job gives when computed here."""
        await self._room.verify_run(request.ticket, request.proof)

    @activity.defn
    async def record_event(self, event: AuditEvent) -> None:
        """Enter a step of the run into the ledger; what is entered is derived from the signed request, not taken from the caller."""
        if event.step not in CLEAN_ROOM_STEPS:
            raise InvalidInput("AuditStepUnknown", f"audit: step {event.step!r} is not one of {', '.join(sorted(CLEAN_ROOM_STEPS))}.")
        request, _ = await self._room.authority.caller(event.ticket, past=True)
        body = {
            "source": "cleanroom-application",
            "name": event.step,
            "message": event.message[:500],
            "runId": request.run_id,
            "query": request.query,
            "queryDigest": request.digest,
            "caller": request.signer,
            "digests": event.digests,
        }
        if event.proof is not None:
            body |= await self._room.attested_statement(event.ticket, event.proof, body)
        scope = event_scope(request.run_id)
        await self._room.client.put_event(body, event_id=event_id(request.run_id, event.step), scope=scope)

    @activity.defn
    async def collect_result(self, request: CollectRequest) -> ResultReceipt:
        """The receipt of the run, from the ledger: a completed pod alone proves nothing.

        Raises:
            Internal: ``CompletionEvidenceMissing``.
            Refused: ``CompletionEvidenceMismatch`` when the evidence is of another text or job.
        """
        ticket = request.ticket
        asked, _ = await self._room.authority.caller(ticket, past=True)
        event = await self._room.user.latest_event(
            ticket.collaboration, event_id=event_id(ticket.run_id, "QUERY_COMPLETED"), scope=event_scope(ticket.run_id)
        )
        if event is None or not isinstance(event.data, dict):
            raise Internal(
                "CompletionEvidenceMissing",
                f"run {ticket.run_id!r}: the job says it is complete, but the ledger has no completion record.",
                party="operator",
                hint="Treat the result as not delivered; run again.",
            )
        found = parse_event(event.data)
        receipt = found.receipt
        if receipt is None or (receipt.run_id, receipt.query_digest, receipt.job_digest) != (
            ticket.run_id,
            asked.digest,
            request.job_digest,
        ):
            raise Refused("CompletionEvidenceMismatch", f"run {ticket.run_id!r}: the completion record is of another query text or job.")
        sink = to_accepted_document(await self._room.client.accepted_document(receipt.dataset))
        if sink.contract_id != ticket.collaboration:
            raise Refused(
                "CompletionEvidenceMismatch", f"run {ticket.run_id!r}: the completion record names a dataset of another contract."
            )
        return receipt
