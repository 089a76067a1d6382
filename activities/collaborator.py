"""Participant "Clean Room Governance", called with a collaborator's credentials: its documents, votes and secrets.

The diagrams draw these calls from the Workload Frontend. They run on the collaborator's own worker instead, so that the frontend
never holds a collaborator's credentials.
"""

from __future__ import annotations

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import identity_message
from activities.governance_policy import require_same_policy
from activities.s3 import require_s3
from cleanroom.bulkheads import bulkhead
from cleanroom.clients.azure import ManagedIdentities
from cleanroom.clients.owned import read_secret_reference
from cleanroom.clients.s3 import S3Credentials
from cleanroom.datasets.encryption import encode_dataset_key
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.query import QueryDocument
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec
from cleanroom.errors import Conflict, Refused
from cleanroom.governance import Document
from cleanroom.identifiers import decision_document_id, document_digest, identity_name, key_encryption_key_name, user_secret_name
from cleanroom.joining import joined
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
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.publishing.verification import OwnAzureValues, verify_descriptor_matches_spec, verify_draft_matches_spec
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data
from cleanroom.settings import Settings
from cleanroom.statements import Authorisation
from cleanroom.trust import TrustSource


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
        await self._authorisations.verify_dataset(dataset)
        await require_same_policy(self._documents.client, dataset.collaboration, request.policy)
        await self._authorisations.verify_unpublished(dataset)
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
            identity = await bulkhead("azure").run(self._identities.get, identity_name(self._settings.collaboration, spec.name))
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
        signed = await self._authorisations.verify_dataset(dataset)
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
            # The ID is derived from the authorisation, so a dataset whose proposal its owner withdrew is not proposed again.
            proposal_id = await self._documents.propose(descriptor.document_id, version, signed.own_proposal_id())
        return ProposedDocument(
            document_id=descriptor.document_id, proposal_id=proposal_id, version=version, digest=document_digest(str(stored.data))
        )

    @activity.defn
    async def accept_document(self, request: AcceptDocumentRequest) -> PublishedDataset:
        """Vote for the owner's own dataset document, which must be the text that was proposed."""
        dataset, proposed = request.dataset, request.proposed
        await self._authorisations.verify_dataset(dataset)
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
        await self._authorisations.verify_command(request.command, {"create-query"})
        query = self._verify_draft(request)
        if query.approval is None or query.approval.proposer_id != self._authorisations.user_id:
            raise Refused("DraftMismatch", f"query {request.command.query!r}: the draft names a different proposer than its author.")
        return await self._put_draft(request, None)

    @activity.defn
    async def update_document(self, request: DraftRequest) -> DraftStored:
        """Replace the query's draft if it still has the version that the authorisation names."""
        signed = await self._authorisations.verify_command(request.command, {"update-query"})
        self._verify_draft(request)
        return await self._put_draft(request, signed.version)

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
        """Verify that the author authorised closing the draft that governance holds. A draft has no proposal to withdraw.

        Raises:
            Conflict: ``DraftChanged``.
        """
        signed = await self._authorisations.verify_command(command, {"withdraw-query"})
        _require_signed_draft(await self._documents.get(command.query), signed)

    @activity.defn
    async def propose_query(self, request: ProposeQueryRequest) -> QueryProposed:
        """Propose exactly the version and text that the author signed, to the derived approvers. Idempotent.

        Raises:
            Conflict: ``DraftChanged`` if version, text or approvers differ, ``ProposedByAnother``.
            Refused: ``AuthorisationUsed`` if this authorisation has already made a proposal.
        """
        command = request.command
        signed = await self._authorisations.verify_command(command, {"propose-query"})
        document = await self._documents.get(command.query)
        if document.state == "Draft":
            _require_signed_draft(document, signed)
            if {item.approver_id for item in document.approvers or ()} != set(request.owners):
                raise Conflict("DraftChanged", f"query {command.query!r}: its approvers changed before it could be proposed.")
            await self._propose_once(command.query, signed)
            document = await self._documents.get(command.query)
        if document.proposer_id != self._authorisations.user_id:
            # Governance lets every user propose a draft, but only the proposer can withdraw the proposal when it expires.
            raise Conflict(
                "ProposedByAnother",
                f"query {command.query!r}: it was proposed in governance by {document.proposer_id}, not by its author.",
                hint="Ask them to withdraw that proposal, or reject it, then propose again.",
                party=document.proposer_id,
            )
        made = await self._is_proposal_of(document.proposal_id, signed)
        if not made or {item.approver_id for item in document.approvers or ()} != set(request.owners):
            raise Conflict("DraftChanged", f"query {command.query!r}: a different text or different approvers were proposed first.")
        return QueryProposed(proposal_id=document.proposal_id, version=signed.version, digest=signed.digest)

    async def _propose_once(self, query: str, signed: Authorisation) -> None:
        """Propose the draft under the ID that is derived from the authorisation."""
        client, proposal_id = self._documents.client, signed.own_proposal_id()
        if client.mode == "cgs-client":
            await self._record_use(query, signed)
        try:
            await client.propose_text(query, version=signed.version, digest=signed.digest, proposal_id=proposal_id)
        except Conflict as error:
            if error.code == "UserDocumentModified":
                raise Conflict(
                    "DraftChanged", f"query {query!r}: its draft changed before it could be proposed.", cause=str(error)
                ) from error
            if error.code != "ProposalAlreadyExists":
                raise
            # The answer to an earlier call may have been lost.
            if (await self._documents.get(query)).proposal_id != proposal_id:
                raise _used(query, signed) from error

    async def _record_use(self, query: str, signed: Authorisation) -> None:
        """Record in governance that the authorisation is used. The proxy cgs-client chooses the IDs of proposals itself.

        The record is made before the proposal, so a failure between the two needs another authorisation.
        """
        record = joined(".", "used-authorisation", signed.own_proposal_id())
        if await self._documents.find(record) is not None:
            raise _used(query, signed)
        await self._documents.put_draft(record, signed.action, {"type": "used-authorisation"}, [self._authorisations.user_id])

    async def _is_proposal_of(self, proposal_id: str, signed: Authorisation) -> bool:
        """Whether a proposal is the one that this authorisation to propose has made."""
        client = self._documents.client
        if client.mode != "cgs-client" and proposal_id != signed.own_proposal_id():
            return False
        proposal = await client.get_proposal(proposal_id)
        snapshot = proposal.args.get("document", {})
        found = (proposal.args.get("documentId"), snapshot.get("version"), document_digest(str(snapshot.get("data", ""))))
        return found == (signed.subject, signed.version, signed.digest)

    @activity.defn
    async def withdraw_proposal(self, request: WithdrawRequest) -> ProposalWithdrawn:
        """Withdraw the open proposal. A proposal that was rejected or withdrawn before stays as it is.

        Raises:
            Conflict: ``ProposalNotOpen`` if the proposal is accepted.
            Refused: ``OrderMismatch`` if the authorisation is not for this proposal.
        """
        command = request.command
        actions = {"withdraw-query", "propose-query"} if request.expired else {"withdraw-query"}
        signed = await self._authorisations.verify_command(command, actions, allow_expired=request.expired)
        if signed.action == "withdraw-query":
            named = signed.proposal_id == request.proposal_id
        else:
            # The authorisation to propose also allows to withdraw what it proposed.
            named = await self._is_proposal_of(request.proposal_id, signed)
        proposal = await self._documents.client.get_proposal(request.proposal_id)
        if not named or proposal.args.get("documentId") != command.query:
            raise Refused(
                "OrderMismatch", f"withdraw: the authorisation is not for proposal {request.proposal_id} of query {command.query!r}."
            )
        status = await self._documents.client.proposal_status(request.proposal_id)
        if status.state == "Open":
            await self._documents.client.withdraw_proposal(request.proposal_id)
        elif status.state == "Accepted":
            raise Conflict(
                "ProposalNotOpen",
                "withdraw: every owner has already approved the query.",
                hint=f"An owner stops an approved query with `cleanroom consent off {command.query}`.",
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
        signed = await self._authorisations.verify_vote(request, decision)
        user = self._authorisations.user_id
        version = await self._require_proposal_of(request.proposal_id, request.query, request.digest)
        if version != signed.version:
            raise Refused(
                "DecisionVersionMismatch",
                f"vote: the decision is for version {signed.version}, proposal {request.proposal_id} is for version {version}.",
                hint="Decide on the current proposal, even if its text is the same.",
            )
        if decision == "approve" and signed.trust:
            await self._require_trust(signed.trust)
        # Publish the signed decision before the ballot counts, so that every approval in governance has its signature.
        await self._documents.publish_own(
            decision_document_id(request.proposal_id, user), decision_document_data(request.token), DECISION_LABELS, user
        )
        status = await self._documents.vote(request.proposal_id, user, accept=decision == "approve")
        return BallotRecorded(proposal_state=status.state, ballots={ballot.approver_id: ballot.ballot for ballot in status.ballots})

    async def _require_trust(self, digest: str) -> None:
        """Require that the trust document in force is the one that the collaborator's card showed.

        Raises:
            Conflict: ``TrustDocumentChanged``.
        """
        read, contract = self._documents.client.get_member_document, self._settings.collaboration
        found = await TrustSource(read, contract, development=True).in_force()
        if found.digest != digest:
            raise Conflict(
                "TrustDocumentChanged",
                f"vote: the decision was made under another trust document than {found.id}, which is in force now.",
                hint="Read the query's card again, which shows what changed, and decide again.",
            )


def _require_signed_draft(document: Document, signed: Authorisation) -> None:
    """Require that governance holds exactly the draft that the author signed.

    Raises:
        Conflict: ``DraftChanged``.
    """
    found = (document.state, document.version, document_digest(str(document.data)))
    if found != ("Draft", signed.version, signed.digest):
        raise Conflict(
            "DraftChanged",
            f"query {signed.subject!r}: the authorisation is for version {signed.version}, "
            f"governance holds version {document.version} ({document.state}).",
            hint=f"Read it with `cleanroom query show {signed.subject}`, then sign again.",
        )


def _used(query: str, signed: Authorisation) -> Refused:
    return Refused(
        "AuthorisationUsed",
        f"query {query!r}: the authorisation to propose version {signed.version} was already used.",
        hint=f"Sign again: `cleanroom query propose {query}`.",
    )
