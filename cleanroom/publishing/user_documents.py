"""Idempotent operations on documents in governance, in the name of one user.

Every operation compares the document in governance with the wanted one, so it can be retried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cleanroom.bulkheads import bulkhead
from cleanroom.concurrency import gather_limited
from cleanroom.documents.dataset import parse_dataset
from cleanroom.documents.query import QUERY_LABELS
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, PreconditionFailed
from cleanroom.governance import Approver, Document, GovernanceUserClient, LedgerPosition, ProposalStatus
from cleanroom.governance.endpoint import proxy_headers
from cleanroom.identifiers import document_digest
from cleanroom.joining import parts_digest
from cleanroom.secret import read_secret_file
from cleanroom.settings import SET_UP, GovernanceSettings, Settings

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential


def governance_client(
    settings: Settings, credential: TokenCredential | Any, *, position: LedgerPosition | None = None
) -> GovernanceUserClient:
    """Create a client of governance for the user of ``credential``, which accepts nothing older than ``position``.

    Raises:
        PreconditionFailed: ``SettingMissing``.
    """
    require_url(settings)
    section = settings.governance

    async def token() -> str:
        # In a thread, because azure-identity blocks while it calls Entra ID.
        return str((await bulkhead("entra").run(credential.get_token, section.scope)).token)

    through_proxy = section.mode == "cgs-client"
    return GovernanceUserClient(
        section.url,
        token=token,
        mode=section.mode,
        ca_file=settings.ca_file if through_proxy else settings.governance_roots,
        client_cert=_client_cert(section),
        headers=proxy_headers(section.ccf_endpoint, section.service_cert_file) if through_proxy else None,
        position=position,
    )


def require_url(settings: Settings) -> None:
    """Require the address of governance.

    Raises:
        PreconditionFailed: ``SettingMissing``.
    """
    if not settings.governance.url:
        message = f"settings: governance.url is not set for profile {settings.profile!r}."
        raise PreconditionFailed("SettingMissing", message, hint=SET_UP)


def _client_cert(section: GovernanceSettings) -> tuple[Path, Path] | None:
    if section.client_cert_file is None and section.client_key_file is None:
        return None
    if section.client_cert_file is None or section.client_key_file is None:
        raise PreconditionFailed(
            "SettingMissing", "settings: set both or neither of governance.client_cert_file and governance.client_key_file."
        )
    # Require that only its owner can read the key file.
    read_secret_file(section.client_key_file, what="member key")
    return section.client_cert_file, section.client_key_file


def proposal_id_for(*parts: str) -> str:
    """Derive a proposal ID of 32 hex digits from the content of the proposal, so that a retry uses the same ID."""
    return parts_digest("proposal", *parts).hex()[:32]


_DIFFERS = {
    QUERY_LABELS["type"]: "Propose this text as a new version: `cleanroom query renew {name} --file FILE`. Or choose a different name."
}
"""Hints for a document that exists with different content, by its type. Accepted documents are immutable."""


class UnreadableDocument(NamedTuple):
    """A document in a list that governance does not return, or that has another shape."""

    id: str
    error: CleanRoomError


class UserDocuments:
    """The documents of one contract."""

    def __init__(self, client: GovernanceUserClient, contract_id: str) -> None:
        self._client = client
        self._contract = contract_id

    @property
    def client(self) -> GovernanceUserClient:
        """The client of governance."""
        return self._client

    async def get(self, document_id: str) -> Document:
        """Return a document.

        Raises:
            NotFound: ``UserDocumentNotFound``.
            Conflict: ``ContractIdMismatch`` if it belongs to a different contract. Document IDs are global in governance.
        """
        try:
            document = await self._client.get_document(document_id)
        except NotFound as error:
            if error.code == "UserDocumentNotFound":
                error.message = f"{document_id!r} does not exist in governance."
            raise
        if document.contract_id != self._contract:
            raise Conflict("ContractIdMismatch", f"document {document_id!r} belongs to contract {document.contract_id!r}.")
        return document

    async def find(self, document_id: str) -> Document | None:
        """Return a document, or None if it does not exist."""
        try:
            return await self.get(document_id)
        except NotFound as error:
            if error.code != "UserDocumentNotFound":
                raise
            return None

    async def select(self, labels: Mapping[str, str]) -> list[Document | UnreadableDocument]:
        """Read the contract's documents that have ``labels``, and those of which this cannot be told, ordered by ID.

        Any user can store a document that cannot be read. It must not hide the others.
        """
        names = sorted(row.id for row in await self._client.list_documents(labels))
        found = await gather_limited(self.readable, names)
        # Governance lists the documents of all contracts.
        return [item for item in found if isinstance(item, UnreadableDocument) or item.contract_id == self._contract]

    async def readable(self, name: str) -> Document | UnreadableDocument:
        """Return a document of any contract, or the error of one that cannot be read."""
        try:
            return await self._client.get_document(name)
        except (Internal, Conflict, InvalidInput) as error:
            return UnreadableDocument(name, error)

    async def put_draft(
        self, document_id: str, data: str, labels: Mapping[str, str], approvers: Sequence[str], *, replaces: str | None = None
    ) -> str:
        """Create or replace a draft, unless it has this content already, and return its version.

        Args:
            document_id: ID of the document.
            data: Text of the document.
            labels: Labels of the document.
            approvers: User IDs of the approvers.
            replaces: Version of the draft to replace; None to create a draft.

        Raises:
            Conflict: ``DocumentDiffers`` if a document with different content exists and ``replaces`` is None,
                ``PreconditionFailed`` if the draft has a newer version, ``UserDocumentAlreadyAccepted``.
        """
        wanted = [Approver(approver_id=approver) for approver in approvers]
        existing = await self.find(document_id)
        if existing is not None and _same(existing, data, labels, approvers):
            return _version(existing)
        if existing is not None and replaces is None:
            raise Conflict(
                "DocumentDiffers",
                f"document {document_id!r} ({existing.state}, version {existing.version}) already exists with different content.",
                hint=_DIFFERS.get(labels.get("type", ""), "Choose a different name.").format(name=document_id),
            )
        if existing is None:
            version = await self._client.put_document(document_id, self._contract, data, labels=labels, approvers=wanted)
        else:
            version = await self._client.put_document(document_id, self._contract, data, version=replaces, labels=labels, approvers=wanted)
        if version is not None:
            return version
        return _version(await self.get(document_id))

    async def propose(self, document_id: str, version: str, proposal_id: str) -> str:
        """Propose a version of a draft and return the proposal ID. Through cgs-client, it differs from ``proposal_id``."""
        return await self._client.propose_document(document_id, version=version, proposal_id=proposal_id)

    async def vote(self, proposal_id: str, user_id: str, *, accept: bool) -> ProposalStatus:
        """Cast a ballot. Casting the same ballot again succeeds."""
        return await self._client.submit_ballot(proposal_id, accept=accept, voter_id=user_id)

    async def publish_own(self, document_id: str, data: str, labels: Mapping[str, str], user_id: str) -> Document:
        """Create, propose and accept a document of which ``user_id`` is the only approver. Idempotent.

        Raises:
            Conflict: ``DocumentDiffers`` if it is accepted or proposed with different content, or proposed by a different user.
        """
        existing = await self.find(document_id)
        if existing is not None and existing.state == "Accepted":
            if not _same(existing, data, labels, [user_id]):
                raise Conflict(
                    "DocumentDiffers",
                    f"document {document_id!r} is already accepted with different content. Accepted documents are immutable.",
                    hint="Choose a different name.",
                )
            return existing
        if existing is not None and existing.state == "Proposed":
            # Every user can propose a document with this user as its only approver, so verify it before voting.
            if existing.proposer_id != user_id or not _same(existing, data, labels, [user_id]):
                raise Conflict(
                    "DocumentDiffers",
                    f"document {document_id!r} was proposed by {existing.proposer_id}, or with different content; no vote was cast.",
                    hint="Reject or withdraw that proposal in governance, then publish again.",
                )
            proposal_id = existing.proposal_id
        else:
            replaces = _version(existing) if existing is not None else None
            version = await self.put_draft(document_id, data, labels, [user_id], replaces=replaces)
            proposal_id = await self.propose(document_id, version, proposal_id_for(document_id, version, document_digest(data), user_id))
        await self.vote(proposal_id, user_id, accept=True)
        accepted = await self.get(document_id)
        if accepted.state != "Accepted" or not _same(accepted, data, labels, [user_id]):
            raise Conflict("DocumentDiffers", f"document {document_id!r} is {accepted.state} and differs from the published text.")
        return accepted


def _version(document: Document) -> str:
    if document.version is None:
        raise Internal("GovernanceAnswerMalformed", f"document {document.id!r} has no version.")
    return document.version


def _same(document: Document, data: str, labels: Mapping[str, str], approvers: Sequence[str]) -> bool:
    same_labels = dict(document.labels or {}) == dict(labels)
    same_approvers = {item.approver_id for item in document.approvers or ()} == set(approvers)
    return same_labels and same_approvers and _equivalent(str(document.data), data)


def _equivalent(held: str, wanted: str) -> bool:
    """Whether two texts are equal, or are dataset documents that differ only in the wrapped key, because wrapping is randomised."""
    if held == wanted:
        return True
    try:
        first, second = (parse_dataset(data, document_id="") for data in (held, wanted))
    except InvalidInput:
        return False
    blank = [document.model_dump(mode="json") for document in (first, second)]
    for value in blank:
        secrets = (value["dataset_access_point"]["protection"] or {}).get("encryption_secrets") or {}
        if secrets.get("dek"):
            secrets["dek"]["wrapped_key"] = None
    return blank[0] == blank[1]
