"""Collects a run's evidence from governance, as the exporting user sees it, and from Temporal's histories."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from cleanroom.audit.bodies import (
    Body,
    ConsentBody,
    DocumentBody,
    EventBody,
    ExportBody,
    GrantBody,
    JobBody,
    OutcomeBody,
    PoliciesBody,
    PolicyBody,
    ReceiptBody,
    ReportBody,
    RequestBody,
    RevocationBody,
    TrustBody,
)
from cleanroom.audit.chain import Bundle, Kind, build_bundle
from cleanroom.audit.history import RunTrace
from cleanroom.audit.seal import SEAL_LIFETIME, ExportSeal
from cleanroom.claims import HOST_DATA
from cleanroom.documents.query import QueryDocument, parse_query
from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, PreconditionFailed
from cleanroom.governance import Document, Event, GovernanceUserClient
from cleanroom.identifiers import (
    approver_key_document_id,
    decision_document_id,
    deputy_document_id,
    document_digest,
    retirement_document_id,
)
from cleanroom.messages.run import ConsentVerdict, ConsentWithdrawn, Grant, PolicyStatement, Revoked, SparkVerdict
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.decisions import parse_decision_document
from cleanroom.runs.ledger import (
    RUNS_SCOPE,
    closed_event_id,
    event_scope,
    pinned_event_id,
    request_digest,
    run_key,
    runs_event_id,
    started_key,
)
from cleanroom.runs.published_keys import MAX_RETIREMENTS, published_keys
from cleanroom.runs.reader import UserReader
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, EVENT_IDS, event_id
from cleanroom.spark.service_report import ServiceReport
from cleanroom.statements import Decision, RunRequest, SigningKey, sign
from cleanroom.statements.signing import claimed_key, peek

Item = tuple[Kind, str, Mapping[str, object]]


class Exporter:
    """Collects the audit bundle of a run for one user.

    Args:
        client: Governance as the exporting user.
        collaboration: The contract ID.
        user_id: The exporting user.
        key: The user's signing key; None leaves the bundle unsealed.
        now: The clock.
    """

    def __init__(
        self,
        client: GovernanceUserClient,
        collaboration: str,
        user_id: str,
        key: SigningKey | None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._client = client
        self._collaboration = collaboration
        self._user_id = user_id
        self._key = key
        self._now = now
        self._items: list[Item] = []

    def _add(self, kind: Kind, subject: str, body: Body) -> None:
        self._items.append((kind, subject, body.wire()))

    async def export(self, trace: RunTrace) -> Bundle:
        """Return the bundle of a run that has ended.

        Raises:
            Refused, Unavailable: From governance.
        """
        ticket, now = trace.input.ticket, self._now()
        sealed = await self._can_seal()
        self._items.clear()
        self._add(
            "export",
            ticket.run_id,
            ExportBody(
                collaboration=self._collaboration,
                run_id=ticket.run_id,
                query=ticket.query,
                state=trace.state,
                exported_at=now,
                exported_by=self._user_id,
                sealed_by=self._user_id if sealed else None,
            ),
        )
        self._add("request", ticket.run_id, RequestBody(request=ticket.request))
        self._add("outcome", ticket.run_id, _outcome(trace))
        await self._documents(trace, sealed)
        policy = await self._client.clean_room_policy(self._collaboration)
        self._add("clean-room-policy", self._collaboration, PolicyBody(policy=policy.policy))
        await self._trust(trace)
        self._consents(trace)
        self._service(trace)
        await self._grants(trace)
        if found := trace.last("collect_result", ResultReceipt):
            self._add("receipt", ticket.run_id, ReceiptBody(receipt=found[0]))
        await self._events(trace)
        bundle = build_bundle(self._items)
        if not sealed or self._key is None:
            return bundle
        seal = ExportSeal(
            collaboration=self._collaboration,
            signer=self._user_id,
            expires=now.replace(microsecond=0) + SEAL_LIFETIME,
            run_id=ticket.run_id,
            head=bundle.manifest.head,
        )
        return bundle.model_copy(update={"manifest": bundle.manifest.model_copy(update={"seal": sign(seal, self._key)})})

    async def _can_seal(self) -> bool:
        """Return whether the user has published the given key. A signature by another key could not be verified."""
        if self._key is None:
            return False
        try:
            published = await published_keys(UserReader(self._client, self._collaboration), self._collaboration, self._user_id)
        except PreconditionFailed:
            return False
        return self._key.public.kid in {key.kid for key in published.active}

    async def _find(self, document_id: str) -> Document | None:
        try:
            return await self._client.get_document(document_id)
        except NotFound as error:
            if error.code != "UserDocumentNotFound":
                raise
            return None

    async def _document(self, kind: Kind, document_id: str) -> Document | None:
        """Add a document once. A missing document leaves a gap, which verification reports if it matters."""
        if any(subject == document_id for _, subject, _ in self._items):
            return None
        document = await self._find(document_id)
        if document is not None:
            self._add(kind, document_id, DocumentBody(document=document.wire(), digest=document_digest(str(document.data))))
        return document

    async def _documents(self, trace: RunTrace, sealed: bool) -> None:
        """Add the query, the datasets, the owners' decisions, and the keys of all signers."""
        ticket = trace.input.ticket
        signers = [_signer(ticket.request), *([self._user_id] if sealed else [])]
        query = await self._document("document", ticket.query)
        owners: list[str] = []
        if query is not None:
            for pin in _pins(query):
                dataset = await self._document("document", pin)
                if dataset is not None and dataset.proposer_id not in owners:
                    owners.append(dataset.proposer_id)
            for owner in sorted(owners):
                decision = await self._document("decision", decision_document_id(query.proposal_id, owner))
                await self._deputy(owner, decision)
        for user in dict.fromkeys([*signers, *sorted(owners)]):
            if user:
                await self._keys(user)

    async def _deputy(self, owner: str, decision: Document | None) -> None:
        """Add the document that names the deputy who signed a decision, if a deputy did."""
        with suppress(InvalidInput):
            kid = claimed_key(Decision, parse_decision_document(str(decision.data))) if decision is not None else ""
            if kid:
                await self._document("deputy", deputy_document_id(owner, kid))

    async def _keys(self, user_id: str) -> None:
        """Add a user's key document and retirements (:mod:`cleanroom.runs.published_keys`)."""
        document_id = approver_key_document_id(user_id)
        if await self._find(document_id) is None:
            return
        if (await self._client.document_consent(self._collaboration, document_id)).enabled:
            await self._document("key", document_id)
            return
        retirements = []
        for number in range(1, MAX_RETIREMENTS + 1):
            found = await self._find(retirement_document_id(user_id, number))
            if found is not None and found.state == "Accepted" and found.proposer_id == user_id:
                retirements.append(found.id)
        # Without retirements, all keys are retired. Then the bundle contains no key of this user.
        for name in [document_id, *retirements] if retirements else []:
            await self._document("key", name)

    async def _trust(self, trace: RunTrace) -> None:
        """Add the trust document that the job names. A missing one leaves a gap, which verification reports."""
        found = trace.last("build_job", JobConfig)
        if found is None or not found[0].governance.trust_document:
            return
        try:
            document = await self._client.get_member_document(found[0].governance.trust_document)
        except NotFound as error:
            if error.code != "DocumentNotFound":
                raise
            return
        self._add("trust", document.id, TrustBody(document=document.wire(), digest=document_digest(str(document.data))))

    def _consents(self, trace: RunTrace) -> None:
        for item in trace.completed:
            if isinstance(item.result, ConsentVerdict):
                self._add("consent", item.name, ConsentBody(step=item.name, at=item.at, documents=item.result.documents, status="enabled"))
            elif isinstance(item.result, ConsentWithdrawn):
                found = item.result
                body = ConsentBody(step=item.name, at=item.at, documents=(found.document_id,), status="withdrawn", message=found.message)
                self._add("consent", item.name, body)
            elif item.name == "issue_consent_receipt":
                # This activity checks the consent of the query and of every dataset again (RunAuthority.authorise).
                checked = trace.last("check_execution_consent", ConsentVerdict)
                documents = checked[0].documents if checked else ()
                self._add("consent", item.name, ConsentBody(step=item.name, at=item.at, documents=documents, status="enabled"))

    def _service(self, trace: RunTrace) -> None:
        ticket = trace.input.ticket
        report, verdict = trace.last("get_attestation_report", ServiceReport), trace.last("verify_spark", SparkVerdict)
        if report is not None:
            at = verdict[1] if verdict is not None else report[1]
            found = verdict[0].model_dump(mode="json") if verdict is not None else {}
            self._add("report", "spark-service", ReportBody(report=report[0], nonce=service_nonce(ticket), at=at, verdict=found))
        if job := trace.last("build_job", JobConfig):
            self._add("job", ticket.run_id, JobBody(job=job[0], digest=job[0].digest()))
        if policies := trace.last("get_security_policy", PolicyStatement):
            detail = policies[0]
            body = PoliciesBody(statement=detail.statement, driver=detail.driver_host_data, executor=detail.executor_host_data)
            self._add("policies", ticket.run_id, body)

    async def _grants(self, trace: RunTrace) -> None:
        grants = list(trace.grants())
        job, policies = trace.last("build_job", JobConfig), trace.last("get_security_policy", PolicyStatement)
        if job is not None and policies is not None and "issue_consent_receipt" in trace.steps():
            hosts = (policies[0].driver_host_data, policies[0].executor_host_data)
            made = [secret for secret in (job[0].consent_secret_id, job[0].network_secret_id) if secret]
            grants += [
                Grant(delegate_type="secrets", delegate_id=secret, host_data=host) for secret in made for host in dict.fromkeys(hosts)
            ]
        held: dict[tuple[str, str], list[str]] = {}
        for grant in grants:
            place = (grant.delegate_type, grant.delegate_id)
            if place not in held:
                claims = await self._client.delegate_policy(self._collaboration, *place)
                held[place] = [str(value) for value in claims.get(HOST_DATA) or []]
            body = GrantBody(
                delegate_type=grant.delegate_type,
                delegate_id=grant.delegate_id,
                host_data=grant.host_data,
                held=grant.host_data in held[place],
            )
            self._add("grant", f"{grant.delegate_type}/{grant.delegate_id}/{grant.host_data[:16]}", body)
        if found := trace.last("revoke_grants", Revoked):
            revoked, at = found
            body_ = RevocationBody(at=at, secrets=revoked.secrets, grants=revoked.grants, removed=revoked.removed)
            self._add("revocation", trace.input.ticket.run_id, body_)

    async def _events(self, trace: RunTrace) -> None:
        ticket = trace.input.ticket
        query = await self._find(ticket.query)
        events = [event async for event in run_events(self._client, self._collaboration, ticket.run_id, _pins(query) if query else [])]
        own_key, own = run_key(ticket.run_id, request_digest(ticket.request)), None
        started: list[Event] = []
        async for event in self._client.events(self._collaboration, event_id=runs_event_id(ticket.query), scope=RUNS_SCOPE):
            started.append(event)
            if own is None and started_key(event.data) == own_key:
                own = event.seqno
        # The starts before this run show whether it kept the owners' limits. Every start under its own ID must be of its request.
        events += [event for event in started if (own is not None and event.seqno <= own) or _is_of_run(event, ticket.run_id)]
        for id in (pinned_event_id(ticket.run_id), closed_event_id(ticket.run_id)):
            if await self._client.latest_event(self._collaboration, event_id=id, scope=RUNS_SCOPE) is not None:
                events += [event async for event in self._client.events(self._collaboration, event_id=id, scope=RUNS_SCOPE)]
        for event in sorted(events, key=lambda each: each.seqno):
            body = EventBody(scope=event.scope, id=event.id, seqno=event.seqno, timestamp=event.timestamp, data=event.data)
            self._add("event", f"{event.id}#{event.seqno}", body)


async def run_events(client: GovernanceUserClient, collaboration: str, run_id: str, datasets: list[str]) -> AsyncIterator[Event]:
    """Yield every ledger entry of a run, ID by ID.

    Governance cannot list the IDs, but they follow from the run ID and the names of its datasets.

    Args:
        client: Governance as the reading user.
        collaboration: The contract ID.
        run_id: The run.
        datasets: The names of its datasets.
    """
    scope = event_scope(run_id)
    ids = [event_id(run_id, name) for name in (*CLEAN_ROOM_STEPS, *EVENT_IDS)]
    ids += [event_id(run_id, name, dataset) for name in EVENT_IDS if name.startswith("DATASET_") for dataset in datasets]
    for id in ids:
        # Reading the latest value is cheap. The ledger is only read for existing IDs.
        if await client.latest_event(collaboration, event_id=id, scope=scope) is None:
            continue
        async for event in client.events(collaboration, event_id=id, scope=scope):
            yield event


def _is_of_run(event: Event, run_id: str) -> bool:
    return isinstance(event.data, dict) and event.data.get("runId") == run_id


def _outcome(trace: RunTrace) -> OutcomeBody:
    return OutcomeBody(
        workflow_id=trace.workflow_id,
        temporal_run_id=trace.temporal_run_id,
        state=trace.state,
        started_at=trace.started_at,
        closed_at=trace.closed_at,
        failure=trace.failure,
        steps=trace.steps(),
    )


def _signer(request: str) -> str:
    try:
        return peek(RunRequest, request).signer
    except CleanRoomError:
        # A malformed request has no signer whose key could be read. Verification reports it.
        return ""


def _pins(query: Document) -> list[str]:
    try:
        parsed: QueryDocument = parse_query(str(query.data), document_id=query.id)
    except CleanRoomError:
        return []
    wanted = [*parsed.application.input_dataset, parsed.application.output_dataset]
    return [item.specification for item in wanted]
