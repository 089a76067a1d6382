"""Participant "Workload Frontend": everything that needs no collaborator's credentials. It has its own user in governance."""

from __future__ import annotations

import datetime as dt

from temporalio import activity

from activities.governance_policy import read_policy
from cleanroom.documents.query import parse_query
from cleanroom.errors import Conflict, PreconditionFailed, Refused
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, document_digest, federated_subject, is_older_transaction
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
from cleanroom.publishing.query_check import owners_of
from cleanroom.publishing.query_document import generate_query, read_used_datasets
from cleanroom.publishing.query_states import read_approvals, read_query_state
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.deputies import verify_decision
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision
from cleanroom.statements.signing import peek


class Frontend:
    """Clean room details, descriptors, query documents, approvers, decisions, and the poll of governance."""

    def __init__(self, documents: UserDocuments, reader: UserReader, collaboration: str) -> None:
        self._documents = documents
        self._reader = reader
        self._collaboration = collaboration

    def _require_collaboration(self, requested: str) -> None:
        if requested != self._collaboration:
            raise Refused(
                "CollaborationMismatch", f"the request is for collaboration {requested!r}; this frontend serves {self._collaboration!r}."
            )

    # ------------------------------------------------------------------ datasets

    @activity.defn
    async def get_clean_room_identity(self, request: CleanRoomDetailsRequest) -> CleanRoomIdentity:
        """Return issuer, subject and audience of the tokens with which the clean room signs in at Entra ID for this owner."""
        self._require_collaboration(request.collaboration)
        info = await self._documents.client.oidc_issuer_info()
        if not info.enabled or not info.issuer_url:
            raise PreconditionFailed(
                "IssuerUrlNotSet",
                "governance: the OIDC issuer is not enabled or has no URL.",
                party="operator",
                hint="Let a member enable it.",
            )
        subject = federated_subject(request.collaboration, request.owner_id)
        return CleanRoomIdentity(issuer_url=info.issuer_url, subject=subject, audience=TOKEN_EXCHANGE_AUDIENCE)

    @activity.defn
    async def get_clean_room_policy(self, request: CleanRoomDetailsRequest) -> CleanRoomPolicy:
        """Return the contract's clean room policy, which identifies the clean room's code."""
        self._require_collaboration(request.collaboration)
        return await read_policy(self._documents.client, request.collaboration)

    @activity.defn
    async def generate_dataset_descriptor(self, request: DescriptorRequest) -> Descriptor:
        """Generate the dataset document. The owner's worker verifies it before it proposes it."""
        self._require_collaboration(request.collaboration)
        return generate_descriptor(request)

    # ------------------------------------------------------------------ queries

    @activity.defn
    async def generate_query_document(self, request: GenerateQueryRequest) -> QueryDraft:
        """Generate the query document with pinned datasets, derived approvers and the lineage card."""
        self._require_collaboration(request.collaboration)
        return await generate_query(self._reader, request)

    @activity.defn
    async def determine_dataset_owners(self, request: OwnersRequest) -> DatasetOwners:
        """Derive the approvers of the draft in governance from its dataset documents.

        Raises:
            Conflict: ``DatasetChanged`` if a dataset has a new version since the draft was written.
        """
        self._require_collaboration(request.collaboration)
        document = await self._documents.get(request.query)
        query = parse_query(str(document.data), document_id=request.query)
        application = query.application
        inputs, sink = await read_used_datasets(self._reader, application.input_dataset, application.output_dataset)
        pins = {pin.id: (pin.version, pin.digest) for pin in query.approval.datasets} if query.approval else {}
        for item in (*inputs, sink):
            if pins.get(item.dataset.name) != (item.document.version, item.document.digest):
                raise Conflict(
                    "DatasetChanged",
                    f"dataset {item.dataset.name!r} is at version {item.document.version}; the draft pins a different version.",
                    hint="Update the draft to pin the current versions.",
                )
        return DatasetOwners(owners=owners_of(inputs, sink), version=document.version or "", digest=document_digest(str(document.data)))

    @activity.defn
    async def verify_decision(self, request: VerifyDecisionRequest) -> VerifiedDecision:
        """Verify that a signed decision is by an approver, and on exactly this proposal, version and text.

        Raises:
            Refused: ``NotProposalApprover``, ``DecisionVersionMismatch``, ``DecisionDigestMismatch``, ``DecisionQueryMismatch``,
                ``DecisionProposalMismatch``, or an error of :func:`cleanroom.runs.deputies.verify_decision`.
        """
        self._require_collaboration(request.collaboration)
        claimed = peek(Decision, request.token)
        if claimed.signer not in request.owners:
            raise Refused("NotProposalApprover", f"decision: user {claimed.signer} is not an approver of this query.")
        keys = await published_keys(self._reader, request.collaboration, claimed.signer)
        signed = await verify_decision(self._reader, request.token, keys, collaboration=request.collaboration, now=dt.datetime.now(dt.UTC))
        decision = signed.decision
        if decision.query != request.query:
            raise Refused("DecisionQueryMismatch", f"decision: it is for query {decision.query!r}, not for {request.query!r}.")
        if decision.digest != request.digest:
            raise Refused(
                "DecisionDigestMismatch",
                f"decision: it is for the text with digest {decision.digest[:16]}…; the digest of the query is {request.digest[:16]}….",
                hint="Read the current text of the query and decide again.",
            )
        if decision.version != request.version:
            raise Refused("DecisionVersionMismatch", f"decision: it is for version {decision.version}; the query is at {request.version}.")
        if decision.proposal_id != request.proposal_id:
            raise Refused(
                "DecisionProposalMismatch",
                "decision: it is for an earlier proposal of this query; every proposal needs new decisions.",
                hint="Decide on the current proposal.",
            )
        return VerifiedDecision(
            approver_id=decision.signer,
            decision=decision.decision,
            reason=decision.reason,
            expires=decision.expires,
            max_runs=decision.max_runs,
            nonce=decision.nonce,
            deputy=signed.deputy,
        )

    @activity.defn
    async def find_query_change(self, request: QueryChangeRequest) -> GovernanceQueryState | None:
        """Return the state of the query in governance if it differs from ``known``, and otherwise None."""
        self._require_collaboration(request.collaboration)
        now, known = await read_query_state(self._documents, request.query), request.known
        if now.state == "Accepted":
            approvals = await read_approvals(self._documents, self._reader, self._collaboration, request.query, dt.datetime.now(dt.UTC))
            return None if known.state == "Accepted" and approvals == known.approvals else now.model_copy(update={"approvals": approvals})
        older = now.state == known.state == "Draft" and not now.seen and is_older_transaction(now.version, known.version)
        same_text = known.state != "Draft" or (now.version, now.digest) == (known.version, known.digest)
        if older or (same_text and (now.state, now.proposal_id, now.ballots) == (known.state, known.proposal_id, known.ballots)):
            return None
        return now
