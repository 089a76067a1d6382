"""Clean Room Governance, called with a collaborator's own identity: documents, votes, secrets."""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.azure_ad import identity_message, identity_name
from activities.governance_policy import require_same_policy
from activities.key_vault import key_name
from activities.orders import Orders
from activities.s3 import require_s3
from cleanroom.clients.azure import ManagedIdentities
from cleanroom.clients.owned import read_secret_reference
from cleanroom.clients.s3 import S3Credentials
from cleanroom.datasets.encryption import encode_dataset_key
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.query import QueryDocument
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec
from cleanroom.errors import Conflict, Refused
from cleanroom.identifiers import document_digest, user_secret_name
from cleanroom.messages.publish import AcceptOrder, ProposedDocument, ProposeOrder, PublishedDataset, SecretOrder, StoredSecret
from cleanroom.messages.query import (
    AuthorOrder,
    BallotRecorded,
    DraftOrder,
    DraftStored,
    ProposeQueryOrder,
    QueryProposed,
    VoteOrder,
    WithdrawOrder,
)
from cleanroom.publishing.conformity import OwnAzure, require_descriptor, require_query
from cleanroom.publishing.user_documents import UserDocuments, proposal_id_for
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data, decision_document_id
from cleanroom.settings import Settings


class CollaboratorGovernance:
    """What one collaborator does in governance, on that collaborator's signed word."""

    def __init__(
        self, settings: Settings, orders: Orders, documents: UserDocuments, keys: KeyStore, identities: ManagedIdentities | None = None
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._documents = documents
        self._keys = keys
        self._identities = identities

    # ------------------------------------------------------------------ datasets

    @activity.defn
    async def set_secret(self, request: SecretOrder) -> StoredSecret:
        """Set the connection secret or the encryption key, readable by clean rooms under the contract's policy and by nobody else."""
        order = request.order
        self._orders.dataset(order)
        await require_same_policy(self._documents.client, order.collaboration, request.policy)
        if request.kind == "key":
            value = encode_dataset_key(self._keys.get_or_create(order.spec.name))
        else:
            value = read_secret_reference(require_s3(order.spec).connection_secret, self._settings)
            S3Credentials.parse(value)
        name = user_secret_name(order.spec.name, request.kind)
        return StoredSecret(kind=request.kind, secret_id=await self._documents.client.put_secret(order.collaboration, name, value))

    async def _require_own(self, data: str, spec: DatasetSpec) -> None:
        """``data`` is the document that this owner signed for, made again here from what this worker knows by itself."""
        azure = None
        if isinstance(spec.store, BlobStoreSpec) and self._identities is not None:
            made = await asyncio.to_thread(self._identities.get, identity_name(self._settings.collaboration, spec.name))
            azure = OwnAzure(
                identity=identity_message(made),
                issuer_url=(await self._documents.client.oidc_issuer_info()).issuer_url or "",
                key_name=key_name(self._settings.collaboration, spec.name),
                wrapped_here=self._keys.wrappings(spec.name),
            )
        require_descriptor(data, spec, self._settings, self._orders.user_id, azure)

    @activity.defn
    async def propose_document(self, request: ProposeOrder) -> ProposedDocument:
        """Propose the dataset document; its only approver is its owner."""
        order, descriptor = request.order, request.descriptor
        self._orders.dataset(order)
        if descriptor.document_id != order.spec.name or document_digest(descriptor.data) != descriptor.digest:
            raise Refused("OrderMismatch", f"descriptor: it is not one of dataset {order.spec.name!r}, or its digest is wrong.")
        await self._require_own(descriptor.data, order.spec)
        existing = await self._documents.find(descriptor.document_id)
        replaces = existing.version if existing is not None and existing.state == "Draft" else None
        version = await self._documents.put_draft(
            descriptor.document_id, descriptor.data, descriptor.labels, [self._orders.user_id], replaces=replaces
        )
        now = await self._documents.get(descriptor.document_id)
        # A draft counts as the same when only the random wrapping of the key differs; so what is there is looked at again.
        await self._require_own(str(now.data), order.spec)
        proposal_id = now.proposal_id
        if now.state == "Draft":
            wanted = proposal_id_for(descriptor.document_id, version, order.authorisation)
            proposal_id = await self._documents.propose(descriptor.document_id, version, wanted)
        return ProposedDocument(
            document_id=descriptor.document_id, proposal_id=proposal_id, version=version, digest=document_digest(str(now.data))
        )

    @activity.defn
    async def accept_document(self, request: AcceptOrder) -> PublishedDataset:
        """Accept the owner's own document; what is accepted must be what was proposed."""
        order, proposed = request.order, request.proposed
        self._orders.dataset(order)
        document = await self._documents.get(proposed.document_id)
        if document_digest(str(document.data)) != proposed.digest or document.id != order.spec.name:
            raise Conflict("DocumentDiffers", f"document {document.id!r} changed between its proposal and its acceptance.")
        await self._require_own(str(document.data), order.spec)
        if document.proposer_id != self._orders.user_id:
            raise Refused("DocumentNotOwn", f"document {document.id!r} was proposed by {document.proposer_id}, not by this owner.")
        if document.state != "Accepted":
            await self._require_proposal(proposed)
            await self._documents.vote(proposed.proposal_id, self._orders.user_id, accept=True)
            document = await self._documents.get(proposed.document_id)
        return PublishedDataset(
            document_id=document.id,
            version=document.version or "",
            digest=document_digest(str(document.data)),
            proposal_id=document.proposal_id,
            owner_id=document.proposer_id,
        )

    async def _require_proposal(self, proposed: ProposedDocument) -> None:
        """The proposal that is voted on is of this document and text: acceptance uses the proposal's own snapshot."""
        proposal = await self._documents.client.get_proposal(proposed.proposal_id)
        asked = proposal.args.get("document", {})
        if proposal.args.get("documentId") != proposed.document_id or document_digest(str(asked.get("data", ""))) != proposed.digest:
            raise Refused("ProposalDiffers", f"proposal {proposed.proposal_id}: it is of another document or text than was published.")

    # ------------------------------------------------------------------ queries

    @activity.defn
    async def create_document(self, request: DraftOrder) -> DraftStored:
        """Create the query's draft."""
        self._orders.query(request.order, {"create-query"})
        query = self._require_draft(request)
        if query.approval is None or query.approval.proposer_id != self._orders.user_id:
            raise Refused("DraftMismatch", f"query {request.order.query!r}: the draft names somebody else as its author.")
        return await self._put(request, None)

    @activity.defn
    async def update_document(self, request: DraftOrder) -> DraftStored:
        """Replace the query's draft, if it still is the version that was meant."""
        self._orders.query(request.order, {"update-query"})
        self._require_draft(request)
        return await self._put(request, request.version)

    def _require_draft(self, request: DraftOrder) -> QueryDocument:
        order = request.order
        if order.spec is None:
            raise Refused("OrderMismatch", f"draft: no signed text of query {order.query!r} came with it.")
        return require_query(request.draft.data, order.spec, order.collaboration)

    async def _put(self, request: DraftOrder, replaces: str | None) -> DraftStored:
        draft = request.draft
        if draft.document_id != request.order.query or document_digest(draft.data) != draft.digest:
            raise Refused("OrderMismatch", f"draft: it is not one of query {request.order.query!r}, or its digest is wrong.")
        version = await self._documents.put_draft(draft.document_id, draft.data, draft.labels, draft.owners, replaces=replaces)
        return DraftStored(version=version, digest=draft.digest)

    @activity.defn
    async def confirm_order(self, order: AuthorOrder) -> None:
        """That this person really wants the query withdrawn."""
        self._orders.query(order, {"withdraw-query"})

    @activity.defn
    async def propose_query(self, request: ProposeQueryOrder) -> QueryProposed:
        """Propose the query to the derived approvers; the draft must be the text that was meant."""
        order = request.order
        self._orders.query(order, {"propose-query"})
        document = await self._documents.get(order.query)
        if document.state == "Draft":
            digest = document_digest(str(document.data))
            approvers = {item.approver_id for item in document.approvers or ()}
            if digest != request.digest or approvers != set(request.owners):
                raise Conflict("DraftChanged", f"query {order.query!r}: its text or its approvers changed before it could be proposed.")
            wanted = proposal_id_for(order.query, request.version, order.authorisation)
            await self._documents.propose(order.query, request.version, wanted)
            document = await self._documents.get(order.query)
        if document.proposer_id != self._orders.user_id:
            # Anybody may propose a draft; only who proposed it can withdraw it when it expires.
            raise Conflict(
                "ProposedByAnother",
                f"query {order.query!r}: {document.proposer_id} proposed it in governance, not its author {self._orders.user_id}.",
                hint="Ask them to withdraw that proposal, or reject it, then propose again.",
                party=document.proposer_id,
            )
        digest = document_digest(str(document.data))
        if digest != request.digest or {item.approver_id for item in document.approvers or ()} != set(request.owners):
            raise Conflict("DraftChanged", f"query {order.query!r}: another text, or to other approvers, was proposed meanwhile.")
        return QueryProposed(proposal_id=document.proposal_id, version=request.version, digest=digest)

    @activity.defn
    async def withdraw_proposal(self, request: WithdrawOrder) -> None:
        """Withdraw the open proposal; one that is closed already is left as it is."""
        actions = {"withdraw-query", "propose-query"} if request.expired else {"withdraw-query"}
        self._orders.query(request.order, actions, allow_expired=request.expired)
        proposal = await self._documents.client.get_proposal(request.proposal_id)
        if proposal.args.get("documentId") != request.order.query:
            raise Refused("OrderMismatch", f"withdraw: proposal {request.proposal_id} is not of query {request.order.query!r}.")
        status = await self._documents.client.proposal_status(request.proposal_id)
        if status.state == "Open":
            await self._documents.client.withdraw_proposal(request.proposal_id)
        elif status.state == "Accepted":
            raise Conflict(
                "ProposalNotOpen", "withdraw: the query has been approved by all meanwhile.", hint="`cleanroom consent off` stops it."
            )

    @activity.defn
    async def accept_query(self, request: VoteOrder) -> BallotRecorded:
        """Accept the query with this person's identity, on their signed decision."""
        return await self._vote(request, "approve")

    @activity.defn
    async def reject_query(self, request: VoteOrder) -> BallotRecorded:
        """Reject the query with this person's identity, on their signed decision."""
        return await self._vote(request, "reject")

    async def _vote(self, request: VoteOrder, decision: str) -> BallotRecorded:
        signed = self._orders.decision(request, decision)
        user = self._orders.user_id
        proposal = await self._documents.client.get_proposal(request.proposal_id)
        asked = proposal.args.get("document", {})
        # Acceptance uses the proposal's own snapshot (spec/governance.md, trap 5): that is what the digest must be of.
        if proposal.args.get("documentId") != request.query or document_digest(str(asked.get("data", ""))) != request.digest:
            raise Refused("ProposalDiffers", f"proposal {request.proposal_id}: it holds another text than was decided on.")
        if asked.get("version") != signed.version:
            raise Refused(
                "DecisionVersionMismatch",
                f"vote: decided on version {signed.version}, proposal {request.proposal_id} is of version {asked.get('version')}.",
                hint="The same text proposed again is decided again.",
            )
        # The signed decision is in governance before the ballot counts, so that no approval stands without its signature.
        await self._documents.publish_own(
            decision_document_id(request.proposal_id, user), decision_document_data(request.token), DECISION_LABELS, user
        )
        status = await self._documents.vote(request.proposal_id, user, accept=decision == "approve")
        return BallotRecorded(proposal_state=status.state, ballots={ballot.approver_id: ballot.ballot for ballot in status.ballots})
