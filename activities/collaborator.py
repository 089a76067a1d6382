"""Participant "Clean Room Governance", called with a collaborator's credentials: its documents, votes and secrets.

The diagrams draw these calls from the Workload Frontend. They run on the collaborator's own worker instead, so that the frontend
never holds a collaborator's credentials.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import identity_message
from activities.governance_policy import require_same_policy
from activities.s3 import require_s3
from cleanroom.clients.azure import ManagedIdentities
from cleanroom.clients.owned import read_secret_reference
from cleanroom.clients.s3 import S3Credentials
from cleanroom.datasets.encryption import encode_dataset_key
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.query import QueryDocument
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec
from cleanroom.errors import Conflict, Refused
from cleanroom.identifiers import decision_document_id, document_digest, identity_name, key_encryption_key_name, user_secret_name
from cleanroom.messages.publish import (
    AcceptDocumentRequest,
    ProposedDocument,
    ProposeDocumentRequest,
    PublishedDataset,
    SecretRequest,
    StoredSecret,
)
from cleanroom.messages.query import (
    AuthorisedCommand,
    BallotRecorded,
    DraftRequest,
    DraftStored,
    ProposalWithdrawn,
    ProposeQueryRequest,
    QueryProposed,
    VoteRequest,
    WithdrawRequest,
)
from cleanroom.publishing.user_documents import UserDocuments, proposal_id_for
from cleanroom.publishing.verification import OwnAzureValues, verify_descriptor_matches_spec, verify_draft_matches_spec
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data
from cleanroom.settings import Settings


class CollaboratorGovernance:
    """Calls to governance in the name of one collaborator. Each call verifies the collaborator's signed statement first."""

    def __init__(
        self,
        settings: Settings,
        authorisations: AuthorisationVerifier,
        documents: UserDocuments,
        keys: KeyStore,
        identities: ManagedIdentities | None = None,
    ) -> None:
        self._settings = settings
        self._authorisations = authorisations
        self._documents = documents
        self._keys = keys
        self._identities = identities

    # ------------------------------------------------------------------ datasets

    @activity.defn
    async def set_secret(self, request: SecretRequest) -> StoredSecret:
        """Store the connection secret or the encryption key in governance, which releases it only under the contract's policy."""
        dataset = request.dataset
        self._authorisations.verify_dataset(dataset)
        await require_same_policy(self._documents.client, dataset.collaboration, request.policy)
        if request.kind == "key":
            value = encode_dataset_key(self._keys.get_or_create(dataset.spec.name))
        else:
            value = read_secret_reference(require_s3(dataset.spec).connection_secret, self._settings)
            S3Credentials.parse(value)
        name = user_secret_name(dataset.spec.name, request.kind)
        return StoredSecret(kind=request.kind, secret_id=await self._documents.client.put_secret(dataset.collaboration, name, value))

    async def _verify_own_descriptor(self, data: str, spec: DatasetSpec) -> None:
        """Verify that ``data`` is the descriptor that this worker would generate from the signed specification."""
        azure = None
        if isinstance(spec.store, BlobStoreSpec) and self._identities is not None:
            identity = await asyncio.to_thread(self._identities.get, identity_name(self._settings.collaboration, spec.name))
            azure = OwnAzureValues(
                identity=identity_message(identity),
                issuer_url=(await self._documents.client.oidc_issuer_info()).issuer_url or "",
                key_name=key_encryption_key_name(self._settings.collaboration, spec.name),
                own_wrappings=self._keys.wrappings(spec.name),
            )
        verify_descriptor_matches_spec(data, spec, self._settings, self._authorisations.user_id, azure)

    @activity.defn
    async def propose_document(self, request: ProposeDocumentRequest) -> ProposedDocument:
        """Propose the dataset document. Its owner is its only approver."""
        dataset, descriptor = request.dataset, request.descriptor
        self._authorisations.verify_dataset(dataset)
        if descriptor.document_id != dataset.spec.name or document_digest(descriptor.data) != descriptor.digest:
            raise Refused("OrderMismatch", f"descriptor: it is not for dataset {dataset.spec.name!r}, or its digest is wrong.")
        await self._verify_own_descriptor(descriptor.data, dataset.spec)
        existing = await self._documents.find(descriptor.document_id)
        replaces = existing.version if existing is not None and existing.state == "Draft" else None
        version = await self._documents.put_draft(
            descriptor.document_id, descriptor.data, descriptor.labels, [self._authorisations.user_id], replaces=replaces
        )
        stored = await self._documents.get(descriptor.document_id)
        # `put_draft` keeps an existing draft that differs only in the random wrapping of the key, so verify the stored text.
        await self._verify_own_descriptor(str(stored.data), dataset.spec)
        proposal_id = stored.proposal_id
        if stored.state == "Draft":
            requested_id = proposal_id_for(descriptor.document_id, version, dataset.authorisation)
            proposal_id = await self._documents.propose(descriptor.document_id, version, requested_id)
        return ProposedDocument(
            document_id=descriptor.document_id, proposal_id=proposal_id, version=version, digest=document_digest(str(stored.data))
        )

    @activity.defn
    async def accept_document(self, request: AcceptDocumentRequest) -> PublishedDataset:
        """Vote for the owner's own dataset document, which must be the text that was proposed."""
        dataset, proposed = request.dataset, request.proposed
        self._authorisations.verify_dataset(dataset)
        document = await self._documents.get(proposed.document_id)
        if document_digest(str(document.data)) != proposed.digest or document.id != dataset.spec.name:
            raise Conflict("DocumentDiffers", f"document {document.id!r} changed between its proposal and its acceptance.")
        await self._verify_own_descriptor(str(document.data), dataset.spec)
        if document.proposer_id != self._authorisations.user_id:
            raise Refused("DocumentNotOwn", f"document {document.id!r} was proposed by {document.proposer_id}, not by its owner.")
        if document.state != "Accepted":
            await self._require_proposal_of(proposed.proposal_id, proposed.document_id, proposed.digest)
            await self._documents.vote(proposed.proposal_id, self._authorisations.user_id, accept=True)
            document = await self._documents.get(proposed.document_id)
        return PublishedDataset(
            document_id=document.id,
            version=document.version or "",
            digest=document_digest(str(document.data)),
            proposal_id=document.proposal_id,
            owner_id=document.proposer_id,
        )

    async def _require_proposal_of(self, proposal_id: str, document_id: str, digest: str) -> str | None:
        """Require that a proposal is for this document and text, and return the version that it proposes.

        Governance accepts the snapshot inside the proposal, not the document at the time of the vote
        (docs/facts/governance-service.md).

        Raises:
            Refused: ``ProposalDiffers``.
        """
        proposal = await self._documents.client.get_proposal(proposal_id)
        snapshot = proposal.args.get("document", {})
        if proposal.args.get("documentId") != document_id or document_digest(str(snapshot.get("data", ""))) != digest:
            raise Refused("ProposalDiffers", f"proposal {proposal_id}: it is for a different document or text than {document_id!r}.")
        version: str | None = snapshot.get("version")
        return version

    # ------------------------------------------------------------------ queries

    @activity.defn
    async def create_document(self, request: DraftRequest) -> DraftStored:
        """Create the query's draft."""
        self._authorisations.verify_command(request.command, {"create-query"})
        query = self._verify_draft(request)
        if query.approval is None or query.approval.proposer_id != self._authorisations.user_id:
            raise Refused("DraftMismatch", f"query {request.command.query!r}: the draft names a different proposer than its author.")
        return await self._put_draft(request, None)

    @activity.defn
    async def update_document(self, request: DraftRequest) -> DraftStored:
        """Replace the query's draft if it still has the version in the request."""
        self._authorisations.verify_command(request.command, {"update-query"})
        self._verify_draft(request)
        return await self._put_draft(request, request.version)

    def _verify_draft(self, request: DraftRequest) -> QueryDocument:
        command = request.command
        if command.spec is None:
            raise Refused("OrderMismatch", f"draft: the request does not contain the signed text of query {command.query!r}.")
        return verify_draft_matches_spec(request.draft.data, command.spec, command.collaboration)

    async def _put_draft(self, request: DraftRequest, replaces: str | None) -> DraftStored:
        draft = request.draft
        if draft.document_id != request.command.query or document_digest(draft.data) != draft.digest:
            raise Refused("OrderMismatch", f"draft: it is not for query {request.command.query!r}, or its digest is wrong.")
        version = await self._documents.put_draft(draft.document_id, draft.data, draft.labels, draft.owners, replaces=replaces)
        return DraftStored(version=version, digest=draft.digest)

    @activity.defn
    async def confirm_withdrawal(self, command: AuthorisedCommand) -> None:
        """Verify that the author authorised withdrawing the query. Governance is not called: a draft has no proposal."""
        self._authorisations.verify_command(command, {"withdraw-query"})

    @activity.defn
    async def propose_query(self, request: ProposeQueryRequest) -> QueryProposed:
        """Propose the query to the derived approvers. Idempotent.

        Raises:
            Conflict: ``DraftChanged`` if text or approvers differ from the request, ``ProposedByAnother``.
        """
        command = request.command
        self._authorisations.verify_command(command, {"propose-query"})
        document = await self._documents.get(command.query)
        if document.state == "Draft":
            digest = document_digest(str(document.data))
            approvers = {item.approver_id for item in document.approvers or ()}
            if digest != request.digest or approvers != set(request.owners):
                raise Conflict("DraftChanged", f"query {command.query!r}: its text or its approvers changed before it could be proposed.")
            proposal_id = proposal_id_for(command.query, request.version, command.authorisation)
            await self._documents.propose(command.query, request.version, proposal_id)
            document = await self._documents.get(command.query)
        if document.proposer_id != self._authorisations.user_id:
            # Governance lets every user propose a draft, but only the proposer can withdraw the proposal when it expires.
            raise Conflict(
                "ProposedByAnother",
                f"query {command.query!r}: it was proposed in governance by {document.proposer_id}, not by its author.",
                hint="Ask them to withdraw that proposal, or reject it, then propose again.",
                party=document.proposer_id,
            )
        digest = document_digest(str(document.data))
        if digest != request.digest or {item.approver_id for item in document.approvers or ()} != set(request.owners):
            raise Conflict("DraftChanged", f"query {command.query!r}: a different text or different approvers were proposed first.")
        return QueryProposed(proposal_id=document.proposal_id, version=request.version, digest=digest)

    @activity.defn
    async def withdraw_proposal(self, request: WithdrawRequest) -> ProposalWithdrawn:
        """Withdraw the open proposal. A proposal that was rejected or withdrawn before stays as it is.

        Raises:
            Conflict: ``ProposalNotOpen`` if the proposal is accepted.
        """
        command = request.command
        actions = {"withdraw-query", "propose-query"} if request.expired else {"withdraw-query"}
        self._authorisations.verify_command(command, actions, allow_expired=request.expired)
        proposal = await self._documents.client.get_proposal(request.proposal_id)
        if proposal.args.get("documentId") != command.query:
            raise Refused("OrderMismatch", f"withdraw: proposal {request.proposal_id} is not for query {command.query!r}.")
        status = await self._documents.client.proposal_status(request.proposal_id)
        if status.state == "Open":
            await self._documents.client.withdraw_proposal(request.proposal_id)
        elif status.state == "Accepted":
            raise Conflict(
                "ProposalNotOpen",
                "withdraw: every owner has already approved the query.",
                hint="An owner stops an approved query with `cleanroom consent off`.",
            )
        return ProposalWithdrawn()

    @activity.defn
    async def accept_query(self, request: VoteRequest) -> BallotRecorded:
        """Cast the collaborator's vote for the query."""
        return await self._vote(request, "approve")

    @activity.defn
    async def reject_query(self, request: VoteRequest) -> BallotRecorded:
        """Cast the collaborator's vote against the query."""
        return await self._vote(request, "reject")

    async def _vote(self, request: VoteRequest, decision: str) -> BallotRecorded:
        signed = self._authorisations.verify_vote(request, decision)
        user = self._authorisations.user_id
        version = await self._require_proposal_of(request.proposal_id, request.query, request.digest)
        if version != signed.version:
            raise Refused(
                "DecisionVersionMismatch",
                f"vote: the decision is for version {signed.version}, proposal {request.proposal_id} is for version {version}.",
                hint="Decide on the current proposal, even if its text is the same.",
            )
        # Publish the signed decision before the ballot counts, so that every approval in governance has its signature.
        await self._documents.publish_own(
            decision_document_id(request.proposal_id, user), decision_document_data(request.token), DECISION_LABELS, user
        )
        status = await self._documents.vote(request.proposal_id, user, accept=decision == "approve")
        return BallotRecorded(proposal_state=status.state, ballots={ballot.approver_id: ballot.ballot for ballot in status.ballots})
