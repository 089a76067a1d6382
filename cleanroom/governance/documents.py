"""User documents, the proposals and ballots that accept them, and consent to their use.

The rules are in docs/facts/governance-service.md#documents and the sections after it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cleanroom.errors import Conflict, Internal, InvalidInput, PreconditionFailed
from cleanroom.governance.endpoint import Endpoint
from cleanroom.governance.models import Approver, Consent, Document, DocumentSummary, Proposal, ProposalStatus, read, rows, text
from cleanroom.governance.urls import segment
from cleanroom.identifiers import document_digest

DocumentOption = Literal["execution", "telemetry"]
"""A runtime option of a document."""
ContractOption = Literal["execution", "logging", "telemetry"]
"""A runtime option of a contract."""


class DocumentOperations(Endpoint):
    """The life cycle of a document (draft, proposed, accepted), and consent to its use."""

    # -- documents --------------------------------------------------------------------------------------------------------------------

    async def get_document(self, document_id: str) -> Document:
        """Read a document: Accepted, else Proposed, else Draft.

        Raises:
            NotFound: ``UserDocumentNotFound``.
            Internal: ``InternalError`` if governance fails on this document.
        """
        try:
            return read(Document, await self._get(f"/userdocuments/{segment('document id', document_id)}"))
        except Internal as error:
            if error.code != "InternalError":
                raise
            # Any user can make such a proposal (docs/facts/governance-service.md#proposals-and-ballots).
            raise Internal(
                error.code,
                f"Document {document_id!r} cannot be read: governance fails on it, which an open proposal without a document causes.",
                cause=error.message,
                hint="Use another name, or ask the governance operator for the proposal: its proposer can withdraw it.",
                party="governance operator",
                details=error.details,
                retryable=error.retryable,
            ) from error

    async def list_documents(self, labels: Mapping[str, str] | None = None) -> list[DocumentSummary]:
        """List the documents of all contracts that have every one of ``labels``.

        The client selects, because one document whose labels are not an object makes every list that governance selects fail.

        Raises:
            InvalidInput: ``InvalidLabel``.
        """
        wanted = dict(labels or {})
        for name, value in wanted.items():
            if not name.strip() or not value.strip() or any(mark in name + value for mark in ":,"):
                raise InvalidInput(
                    "InvalidLabel",
                    f"Label {name!r}={value!r} cannot be selected by: it is empty, or has ':' or ','.",
                    hint="Select by another label.",
                )
        found = [read(DocumentSummary, row) for row in rows(await self._get("/userdocuments"))]
        return [row for row in found if wanted.items() <= {name: str(value) for name, value in (row.labels or {}).items()}.items()]

    async def put_document(
        self,
        document_id: str,
        contract_id: str,
        data: Any,
        *,
        version: str | None = None,
        labels: Mapping[str, str] | None = None,
        approvers: Sequence[Approver] | None = None,
    ) -> str | None:
        """Create a draft, or replace the one of ``version``, and return the new version.

        A replacement erases labels and approvers that are not given.

        Raises:
            Conflict: ``UserDocumentAlreadyExists`` (it exists, and no version was given), ``PreconditionFailed`` (it has another
                version), ``UserDocumentAlreadyAccepted``.
            NotFound: ``ContractNotFound``.
        """
        body: dict[str, Any] = {"contractId": contract_id, "data": data}
        if version is not None:
            body["version"] = version
        if labels is not None:
            body["labels"] = dict(labels)
        if approvers is not None:
            body["approvers"] = [approver.wire() for approver in approvers]
        _, transaction = await self._write("PUT", f"/userdocuments/{segment('document id', document_id)}", body)
        return transaction

    async def propose_text(self, document_id: str, *, version: str, digest: str, proposal_id: str) -> str:
        """Propose the draft of exactly this version and text to its approvers, and return the proposal's ID.

        The text that is compared is the text that is sent. Through the proxy the ID differs from ``proposal_id``.

        Raises:
            Conflict: ``UserDocumentModified`` (another version, text or state), ``UserDocumentAlreadyProposed``, ``ProposalAlreadyExists``.
            PreconditionFailed: ``ApproversMissing`` when the draft names none.
        """
        document = await self.get_document(document_id)
        if (document.state, document.version, document_digest(str(document.data))) != ("Draft", version, digest):
            raise Conflict(
                "UserDocumentModified",
                f"Document {document_id} is {document.state} at version {document.version}, not the draft {version} with the given text.",
                hint="Read the document again and propose its current version.",
            )
        return await self._propose_snapshot(document, proposal_id)

    async def _propose_snapshot(self, document: Document, proposal_id: str) -> str:
        if not document.approvers:
            raise PreconditionFailed("ApproversMissing", f"Document {document.id} has no approvers.", hint="Store it again with approvers.")
        snapshot = document.model_dump(by_alias=True, exclude_none=True, include={"contract_id", "version", "data", "labels"})
        return await self.create_proposal(proposal_id, document.id, snapshot, document.approvers)

    async def propose_document(self, document_id: str, *, version: str, proposal_id: str | None = None) -> str:
        """Propose the draft of exactly this ``version`` to its approvers, and return the proposal's ID.

        ``proposal_id`` makes the call idempotent. In mode ``app``, a proposal with this ID counts as done. The proxy chooses its own
        IDs, so there any proposal of this version counts, open or accepted. A caller that relies on the proposal's content or
        approvers must read them.

        Raises:
            Conflict: ``UserDocumentModified`` (another version), ``UserDocumentAlreadyProposed``, ``ProposalAlreadyExists``.
            PreconditionFailed: ``ApproversMissing`` if the draft has no approvers.
        """
        if self.mode == "cgs-client":
            try:
                body, _ = await self._write("POST", f"/userdocuments/{segment('document id', document_id)}/propose", {"version": version})
            except Conflict as error:
                if proposal_id is None or error.code not in ("UserDocumentAlreadyProposed", "UserDocumentModified"):
                    raise
                known = await self._proposal_of(await self.get_document(document_id), version)
                if known is None:
                    raise
                return known
            return text(body, "proposalId")
        wanted = proposal_id or uuid.uuid4().hex
        document = await self.get_document(document_id)
        if proposal_id is not None and document.proposal_id == proposal_id and await self._proposal_of(document, version) is not None:
            return proposal_id
        if document.version != version:
            raise Conflict(
                "UserDocumentModified",
                f"Document {document_id} has version {document.version} ({document.state}), not {version}.",
                hint="Read the document again and propose its current version.",
            )
        return await self._propose_snapshot(document, wanted)

    async def _proposal_of(self, document: Document, version: str) -> str | None:
        """Return the ID of the document's proposal, if that proposal is of this draft version."""
        if document.state == "Draft" or not document.proposal_id:
            return None
        snapshot = (await self.get_proposal(document.proposal_id)).args.get("document")
        return document.proposal_id if isinstance(snapshot, dict) and snapshot.get("version") == version else None

    async def create_proposal(self, proposal_id: str, document_id: str, document: Mapping[str, Any], approvers: Sequence[Approver]) -> str:
        """Propose a snapshot of a document, which governance does not compare with the draft."""
        args = {"documentId": document_id, "document": dict(document)}
        body = {"name": "set_user_document", "args": args, "approvers": [approver.wire() for approver in approvers]}
        if self.mode == "cgs-client":
            answer, _ = await self._write("POST", "/users/proposals/create", body)
        else:
            answer, _ = await self._write("PUT", f"/users/proposals/{segment('proposal id', proposal_id)}", body)
        return text(answer, "proposalId")

    async def get_proposal(self, proposal_id: str) -> Proposal:
        """Read the content of a user proposal.

        Raises:
            NotFound: ``ProposalNotFound``.
        """
        return read(Proposal, await self._get(f"/users/proposals/{segment('proposal id', proposal_id)}", post=True))

    async def proposal_status(self, proposal_id: str) -> ProposalStatus:
        """Read the state and ballots of a user proposal.

        Raises:
            NotFound: ``ProposalNotFound``.
        """
        return read(ProposalStatus, await self._get(f"/users/proposals/{segment('proposal id', proposal_id)}/status", post=True))

    async def submit_ballot(self, proposal_id: str, *, accept: bool, voter_id: str | None = None) -> ProposalStatus:
        """Submit the caller's ballot. With ``voter_id``, the caller's own ID, the call is idempotent.

        Raises:
            Refused: ``NotProposalApprover``.
            Conflict: ``ProposalNotOpen``, ``BallotAlreadySubmitted`` (a ballot cannot be changed).
        """
        path = f"/users/proposals/{segment('proposal id', proposal_id)}/ballots/"
        ballot = "accepted" if accept else "rejected"
        try:
            if self.mode == "cgs-client":
                body, _ = await self._write("POST", path + ("vote_accept" if accept else "vote_reject"))
            else:
                body, _ = await self._write("POST", path + "submit", {"ballot": ballot})
        except Conflict as error:
            if voter_id is None or error.code not in ("BallotAlreadySubmitted", "ProposalNotOpen"):
                raise
            status = await self.proposal_status(proposal_id)
            if not any(cast.approver_id == voter_id and cast.ballot == ballot for cast in status.ballots):
                raise
            return status
        return read(ProposalStatus, body)

    async def withdraw_proposal(self, proposal_id: str) -> ProposalStatus:
        """Withdraw the caller's own open proposal.

        Raises:
            Refused: ``NotProposalOwner``.
            Conflict: ``ProposalNotOpen``.
        """
        body, _ = await self._write("POST", f"/users/proposals/{segment('proposal id', proposal_id)}/withdraw")
        return read(ProposalStatus, body)

    # -- consent ----------------------------------------------------------------------------------------------------------------------

    async def document_consent(self, contract_id: str, document_id: str, option: DocumentOption = "execution") -> Consent:
        """Read a document's option. A missing document is ``disabled`` in mode ``app`` and ``NotFound`` through the proxy."""
        document = f"/userdocuments/{segment('document id', document_id)}"
        if self.mode == "cgs-client":
            return read(Consent, await self._channel.call("POST", f"{document}/checkstatus/{segment('option', option)}"))
        path = f"/app/contracts/{segment('contract id', contract_id)}{document}/runtimeoptions/{segment('option', option)}/status"
        return read(Consent, await self._channel.call("POST", path))

    async def set_document_consent(
        self, contract_id: str, document_id: str, option: DocumentOption = "execution", *, enabled: bool
    ) -> None:
        """Give or withdraw the caller's consent.

        Raises:
            Refused: ``NotUserDocumentApprover``.
            PreconditionFailed: ``UserDocumentNotAccepted``.
        """
        verb = "enable" if enabled else "disable"
        path = f"/userdocuments/{segment('document id', document_id)}/runtimeoptions/{segment('option', option)}/{verb}"
        prefix = "" if self.mode == "cgs-client" else f"/contracts/{segment('contract id', contract_id)}"
        await self._write("POST", prefix + path)

    async def contract_consent(self, contract_id: str, option: ContractOption = "execution") -> Consent:
        """Read a contract's option."""
        path = f"/contracts/{segment('contract id', contract_id)}"
        path += f"/checkstatus/{option}" if self.mode == "cgs-client" else f"/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", self._root + path))
