"""Documents in governance as one of its users: repeatable steps that compare content instead of hoping."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from azure.core.credentials import TokenCredential

from cleanroom.documents.dataset import parse_dataset
from cleanroom.errors import Conflict, Internal, InvalidInput, NotFound, PreconditionFailed
from cleanroom.governance import Approver, Document, GovernanceUserClient, ProposalStatus
from cleanroom.governance.endpoint import proxy_headers
from cleanroom.identifiers import document_digest
from cleanroom.secret import read_secret_file
from cleanroom.settings import GovernanceSettings, Settings


def governance_client(settings: Settings, credential: TokenCredential | Any) -> GovernanceUserClient:
    """Governance as the user whose ``credential`` this is.

    Raises:
        PreconditionFailed: ``SettingMissing``.
    """
    section = settings.governance
    if not section.url:
        raise PreconditionFailed("SettingMissing", "settings: governance.url is not set.", hint="Run `cleanroom up`, or set it.")

    async def token() -> str:
        # A thread: azure-identity's own call blocks, and may go to Entra ID.
        return str((await asyncio.to_thread(credential.get_token, section.scope)).token)

    through_proxy = section.mode == "cgs-client"
    return GovernanceUserClient(
        section.url,
        token=token,
        mode=section.mode,
        ca_file=settings.ca_file if through_proxy else settings.governance_roots,
        client_cert=_client_cert(section),
        headers=proxy_headers(section.ccf_endpoint, section.service_cert_file) if through_proxy else None,
    )


def _client_cert(section: GovernanceSettings) -> tuple[Path, Path] | None:
    if section.client_cert_file is None and section.client_key_file is None:
        return None
    if section.client_cert_file is None or section.client_key_file is None:
        raise PreconditionFailed(
            "SettingMissing", "settings: governance.client_cert_file and governance.client_key_file go together; one of them is not set."
        )
    # Only a file that its owner alone can read: the same rule as for every secret.
    read_secret_file(section.client_key_file, what="member key")
    return section.client_cert_file, section.client_key_file


def proposal_id_for(*parts: str) -> str:
    """A proposal id derived from what it is about: 32 hex digits, so that a retry finds its own proposal."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class UserDocuments:
    """Documents of one contract, as one user."""

    def __init__(self, client: GovernanceUserClient, contract_id: str) -> None:
        self._client = client
        self._contract = contract_id

    @property
    def client(self) -> GovernanceUserClient:
        return self._client

    async def get(self, document_id: str) -> Document:
        """The document.

        Raises:
            NotFound: ``UserDocumentNotFound``.
            Conflict: ``ContractIdMismatch`` when it belongs to another contract (ids are global, trap 32).
        """
        document = await self._client.get_document(document_id)
        if document.contract_id != self._contract:
            raise Conflict("ContractIdMismatch", f"document {document_id!r} belongs to contract {document.contract_id!r}.")
        return document

    async def find(self, document_id: str) -> Document | None:
        """The document, or None where governance says that there is none."""
        try:
            return await self.get(document_id)
        except NotFound as error:
            if error.code != "UserDocumentNotFound":
                raise
            return None

    async def ids(self, labels: Mapping[str, str]) -> list[str]:
        """Ids of documents that carry ``labels``, of this contract."""
        found = sorted(row.id for row in await self._client.list_documents(labels))
        # The list has no contract filter (spec/governance.md 4.3).
        return [name for name in found if (await self._client.get_document(name)).contract_id == self._contract]

    async def put_draft(
        self, document_id: str, data: str, labels: Mapping[str, str], approvers: Sequence[str], *, replaces: str | None = None
    ) -> str:
        """Make the draft have exactly this content and return its version.

        Args:
            replaces: Version that the caller means to replace; None only creates (or finds the same content).

        Raises:
            Conflict: ``DocumentDiffers`` when other content is there, ``PreconditionFailed`` when somebody was faster,
                ``UserDocumentAlreadyAccepted``.
        """
        wanted = [Approver(approver_id=approver) for approver in approvers]
        existing = await self.find(document_id)
        if existing is not None and _same(existing, data, labels, approvers):
            return _version(existing)
        if existing is not None and replaces is None:
            raise Conflict(
                "DocumentDiffers",
                f"document {document_id!r} exists already ({existing.state}, version {existing.version}) with other content.",
                hint="Documents are immutable once accepted: choose another name, or update the draft.",
            )
        if existing is None:
            version = await self._client.put_document(document_id, self._contract, data, labels=labels, approvers=wanted)
        else:
            version = await self._client.put_document(document_id, self._contract, data, version=replaces, labels=labels, approvers=wanted)
        if version is not None:
            return version
        return _version(await self.get(document_id))

    async def propose(self, document_id: str, version: str, proposal_id: str) -> str:
        """Propose the draft of exactly ``version``; returns the proposal's id (the one asked for, or the proxy's own)."""
        return await self._client.propose_document(document_id, version=version, proposal_id=proposal_id)

    async def vote(self, proposal_id: str, user_id: str, *, accept: bool) -> ProposalStatus:
        """Cast ``user_id``'s ballot; a repetition of the same ballot counts as done."""
        return await self._client.submit_ballot(proposal_id, accept=accept, voter_id=user_id)

    async def publish_own(self, document_id: str, data: str, labels: Mapping[str, str], user_id: str) -> Document:
        """Bring a document that ``user_id`` alone answers for to Accepted: draft, proposal, own vote. Repeatable.

        Raises:
            Conflict: ``DocumentDiffers`` when it is accepted, or proposed, with other content or by somebody else.
        """
        existing = await self.find(document_id)
        if existing is not None and existing.state == "Accepted":
            if not _same(existing, data, labels, [user_id]):
                raise Conflict(
                    "DocumentDiffers",
                    f"document {document_id!r} is accepted with other content, and accepted documents never change.",
                    hint="Choose another name.",
                )
            return existing
        if existing is not None and existing.state == "Proposed":
            # A vote is for what was proposed, so it is looked at before: anybody can propose a document to this user alone.
            if existing.proposer_id != user_id or not _same(existing, data, labels, [user_id]):
                raise Conflict(
                    "DocumentDiffers",
                    f"document {document_id!r} was proposed by {existing.proposer_id}, or with other content; nothing was voted for.",
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
            raise Conflict("DocumentDiffers", f"document {document_id!r} is {accepted.state} with other content than was published.")
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
    """Equal bytes, or dataset documents that differ in nothing but the wrapping of the same key (OAEP is randomised)."""
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
