"""Documents, the proposals and ballots by which they are accepted, and consent to what they are used for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cleanroom.errors import Conflict, InvalidInput, PreconditionFailed
from cleanroom.governance.http import query_string, segment
from cleanroom.governance.models import Approver, Consent, Document, DocumentSummary, Proposal, ProposalStatus, read, rows, text
from cleanroom.governance.surface import Surface

DocumentOption = Literal["execution", "telemetry"]
ContractOption = Literal["execution", "logging", "telemetry"]


class DocumentCalls(Surface):
    """The life of a document (spec/governance.md 4 to 6): draft, proposal, ballots, accepted; consent beside it."""

    # -- documents (4) ----------------------------------------------------------------------------------------------------------------

    async def get_document(self, document_id: str) -> Document:
        """The document: Accepted, else Proposed, else Draft. Raises ``NotFound`` ``UserDocumentNotFound``."""
        return read(Document, await self._get(f"/userdocuments/{segment('document id', document_id)}"))

    async def list_documents(self, labels: Mapping[str, str] | None = None) -> list[DocumentSummary]:
        """Documents of all contracts, those that carry every one of ``labels``."""
        selector = None
        if labels:
            for name, value in labels.items():
                if not name.strip() or not value.strip() or any(mark in name + value for mark in ":,"):
                    raise InvalidInput("InvalidLabel", f"Label {name!r}={value!r} cannot be selected: no empty text, ':' or ','.")
            selector = ",".join(f"{name}:{value}" for name, value in labels.items())
        body = await self._get("/userdocuments" + query_string({"labelSelector": selector}))
        return [read(DocumentSummary, row) for row in rows(body)]

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
        """Create (no ``version``) or replace a draft; what is not given is erased (trap 6). Returns the draft's new version.

        Raises:
            Conflict: ``UserDocumentAlreadyExists`` (version missing), ``PreconditionFailed`` (changed meanwhile),
                ``UserDocumentAlreadyAccepted``.
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

    async def propose_document(self, document_id: str, *, version: str, proposal_id: str | None = None) -> str:
        """Propose the draft of exactly this ``version`` to its approvers; returns the proposal's id.

        ``proposal_id`` makes the call repeatable: in mode ``app`` that very proposal counts as done. The proxy chooses its own id; there
        a proposal of this version, open or accepted, counts. Whoever relies on its content or approvers reads them again.

        Raises:
            Conflict: ``UserDocumentModified`` (another version), ``UserDocumentAlreadyProposed``, ``ProposalAlreadyExists``.
            PreconditionFailed: ``ApproversMissing`` when the draft names none.
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
                hint="Read it again, and propose what it says now.",
            )
        if not document.approvers:
            raise PreconditionFailed("ApproversMissing", f"Document {document_id} names no approvers.", hint="Put it again with approvers.")
        snapshot = document.model_dump(by_alias=True, exclude_none=True, include={"contract_id", "version", "data", "labels"})
        return await self.create_proposal(wanted, document_id, snapshot, document.approvers)

    async def _proposal_of(self, document: Document, version: str) -> str | None:
        """Id of the proposal that a document is proposed or accepted by, when it is of this draft version."""
        if document.state == "Draft" or not document.proposal_id:
            return None
        asked = (await self.get_proposal(document.proposal_id)).args.get("document")
        return document.proposal_id if isinstance(asked, dict) and asked.get("version") == version else None

    async def create_proposal(self, proposal_id: str, document_id: str, document: Mapping[str, Any], approvers: Sequence[Approver]) -> str:
        """Create a ``set_user_document`` proposal from a snapshot. CGS does not compare it with the draft (trap 5)."""
        args = {"documentId": document_id, "document": dict(document)}
        body = {"name": "set_user_document", "args": args, "approvers": [approver.wire() for approver in approvers]}
        if self.mode == "cgs-client":
            answer, _ = await self._write("POST", "/users/proposals/create", body)
        else:
            answer, _ = await self._write("PUT", f"/users/proposals/{segment('proposal id', proposal_id)}", body)
        return text(answer, "proposalId")

    async def get_proposal(self, proposal_id: str) -> Proposal:
        """The content of a user proposal. Raises ``NotFound`` ``ProposalNotFound``."""
        return read(Proposal, await self._get(f"/users/proposals/{segment('proposal id', proposal_id)}", post=True))

    async def proposal_status(self, proposal_id: str) -> ProposalStatus:
        """State and ballots of a user proposal. Raises ``NotFound`` ``ProposalNotFound``."""
        return read(ProposalStatus, await self._get(f"/users/proposals/{segment('proposal id', proposal_id)}/status", post=True))

    async def submit_ballot(self, proposal_id: str, *, accept: bool, voter_id: str | None = None) -> ProposalStatus:
        """Vote. With ``voter_id`` (the caller's own id) a repetition of the same ballot counts as done.

        Raises:
            Refused: ``NotProposalApprover``.
            Conflict: ``ProposalNotOpen``, ``BallotAlreadySubmitted`` (a ballot cannot be changed, trap 7).
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
        """Withdraw one's own open proposal. Raises ``Refused`` ``NotProposalOwner``, ``Conflict`` ``ProposalNotOpen``."""
        body, _ = await self._write("POST", f"/users/proposals/{segment('proposal id', proposal_id)}/withdraw")
        return read(ProposalStatus, body)

    # -- consent (6) ------------------------------------------------------------------------------------------------------------------

    async def document_consent(self, contract_id: str, document_id: str, option: DocumentOption = "execution") -> Consent:
        """Status of a document's option. A missing document is ``disabled`` here and ``NotFound`` through the proxy (trap 9)."""
        document = f"/userdocuments/{segment('document id', document_id)}"
        if self.mode == "cgs-client":
            return read(Consent, await self._channel.call("POST", f"{document}/checkstatus/{segment('option', option)}"))
        path = f"/app/contracts/{segment('contract id', contract_id)}{document}/runtimeoptions/{segment('option', option)}/status"
        return read(Consent, await self._channel.call("POST", path))

    async def set_document_consent(
        self, contract_id: str, document_id: str, option: DocumentOption = "execution", *, enabled: bool
    ) -> None:
        """Give or withdraw the caller's consent. Raises ``Refused`` ``NotUserDocumentApprover``, ``PreconditionFailed``."""
        verb = "enable" if enabled else "disable"
        path = f"/userdocuments/{segment('document id', document_id)}/runtimeoptions/{segment('option', option)}/{verb}"
        prefix = "" if self.mode == "cgs-client" else f"/contracts/{segment('contract id', contract_id)}"
        await self._write("POST", prefix + path)

    async def contract_consent(self, contract_id: str, option: ContractOption = "execution") -> Consent:
        """Status of a contract's option."""
        path = f"/contracts/{segment('contract id', contract_id)}"
        path += f"/checkstatus/{option}" if self.mode == "cgs-client" else f"/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", self._root + path))

    async def set_contract_execution(self, contract_id: str, *, enabled: bool) -> None:
        """Members only: give or withdraw this member's consent to execution under the contract."""
        verb = "enable" if enabled else "disable"
        path = f"/contracts/{segment('contract id', contract_id)}"
        await self._write("POST", path + (f"/execution/{verb}" if self.mode == "cgs-client" else f"/runtimeoptions/execution/{verb}"))
