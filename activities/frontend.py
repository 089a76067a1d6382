"""The Workload Frontend: what needs no person's identity, done with the frontend's own registered one."""

from __future__ import annotations

import datetime as dt

from temporalio import activity

from activities.governance_policy import read_policy
from cleanroom.documents.query import parse_query
from cleanroom.errors import Conflict, PreconditionFailed, Refused
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, document_digest, federated_subject
from cleanroom.messages.publish import CleanRoomDetailsRequest, CleanRoomIdentity, CleanRoomPolicy, Descriptor, DescriptorRequest
from cleanroom.messages.query import (
    DatasetOwners,
    GenerateQueryRequest,
    GovernanceQueryState,
    OwnersRequest,
    QueryChangeRequest,
    QueryDraft,
    VerifiedDecision,
    VerifyDecisionRequest,
)
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query, owners_of, read_dataset
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.authority import published_keys
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision, verify
from cleanroom.statements.signing import peek


class Frontend:
    """Details, descriptors, derived approvers, reconciliation."""

    def __init__(self, documents: UserDocuments, reader: UserReader, collaboration: str) -> None:
        self._documents = documents
        self._reader = reader
        self._collaboration = collaboration

    def _ours(self, collaboration: str) -> None:
        if collaboration != self._collaboration:
            raise Refused(
                "CollaborationMismatch", f"asked for collaboration {collaboration!r}; this frontend serves {self._collaboration!r}."
            )

    # ------------------------------------------------------------------ datasets

    @activity.defn
    async def get_clean_room_identity(self, request: CleanRoomDetailsRequest) -> CleanRoomIdentity:
        """As whom the clean room appears to Entra ID for this owner: issuer, subject, audience."""
        self._ours(request.collaboration)
        info = await self._documents.client.oidc_issuer_info()
        if not info.enabled or not info.issuer_url:
            raise PreconditionFailed(
                "IssuerUrlNotSet",
                "governance: its OIDC issuer is not enabled or has no URL.",
                party="operator",
                hint="A member enables it.",
            )
        subject = federated_subject(request.collaboration, request.owner_id)
        return CleanRoomIdentity(issuer_url=info.issuer_url, subject=subject, audience=TOKEN_EXCHANGE_AUDIENCE)

    @activity.defn
    async def get_clean_room_policy(self, request: CleanRoomDetailsRequest) -> CleanRoomPolicy:
        """Which code is the clean room: the contract's policy."""
        self._ours(request.collaboration)
        return await read_policy(self._documents.client, request.collaboration)

    @activity.defn
    async def generate_dataset_descriptor(self, request: DescriptorRequest) -> Descriptor:
        """The dataset document; the owner's own worker checks it again before it proposes it."""
        self._ours(request.collaboration)
        return generate_descriptor(request)

    # ------------------------------------------------------------------ queries

    @activity.defn
    async def generate_query_document(self, request: GenerateQueryRequest) -> QueryDraft:
        """The query document with pinned datasets, derived approvers and the lineage card."""
        self._ours(request.collaboration)
        return await generate_query(self._reader, request)

    @activity.defn
    async def determine_dataset_owners(self, request: OwnersRequest) -> DatasetOwners:
        """Who must approve the draft as governance holds it now: derived from the dataset documents, never from the request.

        Raises:
            Conflict: ``DatasetChanged`` when a dataset moved on since the draft was written.
        """
        self._ours(request.collaboration)
        document = await self._documents.get(request.query)
        query = parse_query(str(document.data), document_id=request.query)
        application = query.application
        inputs = tuple([await read_dataset(self._reader, item.specification, item.view, "read") for item in application.input_dataset])
        sink = await read_dataset(self._reader, application.output_dataset.specification, application.output_dataset.view, "write")
        pins = {pin.id: (pin.version, pin.digest) for pin in query.approval.datasets} if query.approval else {}
        for item in (*inputs, sink):
            if pins.get(item.dataset.name) != (item.document.version, item.document.digest):
                raise Conflict(
                    "DatasetChanged",
                    f"dataset {item.dataset.name!r} is at version {item.document.version}, the draft pins another.",
                    hint="Update the draft; it then pins the datasets as they are.",
                )
        return DatasetOwners(owners=owners_of(inputs, sink), version=document.version or "", digest=document_digest(str(document.data)))

    @activity.defn
    async def verify_decision(self, request: VerifyDecisionRequest) -> VerifiedDecision:
        """Is this a decision of an approver on exactly this version? What is not is refused with its reason.

        Raises:
            Refused: ``NotProposalApprover``, ``DecisionVersionMismatch``, ``DecisionDigestMismatch``, ``DecisionQueryMismatch``,
                ``DecisionProposalMismatch`` and
                those of :func:`cleanroom.statements.verify`.
        """
        self._ours(request.collaboration)
        claimed = peek(Decision, request.token)
        if claimed.signer not in request.owners:
            raise Refused("NotProposalApprover", f"decision: user {claimed.signer} is not among the approvers of this query.")
        keys = await published_keys(self._reader, request.collaboration, claimed.signer)
        decision = verify(Decision, request.token, keys, collaboration=request.collaboration, now=dt.datetime.now(dt.UTC))
        if decision.query != request.query:
            raise Refused("DecisionQueryMismatch", f"decision: it is on query {decision.query!r}, not {request.query!r}.")
        if decision.digest != request.digest:
            raise Refused(
                "DecisionDigestMismatch",
                f"decision: it is on the text {decision.digest[:16]}…, the query has {request.digest[:16]}… now.",
                hint="Look at the query again and decide on what it says now.",
            )
        if decision.version != request.version:
            raise Refused("DecisionVersionMismatch", f"decision: it is on version {decision.version}, the query is at {request.version}.")
        if decision.proposal_id != request.proposal_id:
            raise Refused(
                "DecisionProposalMismatch",
                "decision: it is on an earlier proposal of this query; every proposal is decided anew.",
                hint="Decide on the query as it is proposed now.",
            )
        return VerifiedDecision(
            approver_id=decision.signer,
            decision=decision.decision,
            reason=decision.reason,
            expires=decision.expires,
            max_runs=decision.max_runs,
            nonce=decision.nonce,
        )

    async def _query_state(self, query: str) -> GovernanceQueryState:
        document = await self._documents.find(query)
        if document is None:
            return GovernanceQueryState(state="Missing")
        state = GovernanceQueryState(
            state=document.state,
            version=document.version or "",
            digest=document_digest(str(document.data)),
            proposal_id=document.proposal_id,
            approvers=tuple(sorted(item.approver_id for item in document.approvers or ())),
        )
        if not document.proposal_id:
            return state
        status = await self._documents.client.proposal_status(document.proposal_id)
        ballots = {ballot.approver_id: ballot.ballot for ballot in status.ballots}
        return state.model_copy(update={"proposal_state": status.state, "ballots": ballots})

    @activity.defn
    async def await_query_change(self, request: QueryChangeRequest) -> GovernanceQueryState:
        """What governance holds of the query, as soon as it is something else than ``known``; until then, a benign failure to retry.

        Raises:
            PreconditionFailed: ``NothingChanged`` (retryable).
        """
        self._ours(request.collaboration)
        now, known = await self._query_state(request.query), request.known
        same_text = known.state != "Draft" or (now.version, now.digest) == (known.version, known.digest)
        if same_text and (now.state, now.proposal_id, now.ballots) == (known.state, known.proposal_id, known.ballots):
            raise PreconditionFailed("NothingChanged", "governance still says what is shown.", retryable=True)
        return now
