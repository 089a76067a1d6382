"""Governance in memory, as users see it: drafts, proposals, ballots and secrets, with the client's own operations on top."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import Conflict, NotFound, Refused
from cleanroom.governance import Approver, Consent, Document, Proposal, ProposalStatus
from cleanroom.governance.documents import DocumentOperations
from cleanroom.governance.endpoint import Mode
from cleanroom.governance.models import Ballot, CleanRoomPolicy, OidcIssuerInfo
from cleanroom.secret import Secret

COLLABORATION = "flights"
ISSUER = "https://issuer.example/oidc"
HOST = "c1" * 32


@dataclass
class OpenProposal:
    """A proposal and its ballots."""

    proposer: str
    document_id: str
    content: Proposal
    state: str = "Open"
    ballots: dict[str, str] = field(default_factory=dict)


@dataclass
class Governance:
    """The state of governance."""

    drafts: dict[str, Document] = field(default_factory=dict)
    accepted: dict[str, Document] = field(default_factory=dict)
    proposals: dict[str, OpenProposal] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    """Documents without execution consent."""
    policy: dict[str, list[Any]] = field(default_factory=lambda: {HOST_DATA: [HOST], IS_DEBUGGABLE: [False]})
    issuer: OidcIssuerInfo = field(default_factory=lambda: OidcIssuerInfo(enabled=True, issuer_url=ISSUER))
    transaction: int = 10

    def version(self) -> str:
        self.transaction += 1
        return f"2.{self.transaction}"

    def open_proposal(self, document_id: str) -> tuple[str, OpenProposal] | None:
        found = [(key, item) for key, item in self.proposals.items() if item.document_id == document_id and item.state == "Open"]
        return found[0] if found else None


class Caller(DocumentOperations):
    """One user's client."""

    def __init__(self, governance: Governance, user: str, mode: Mode = "app") -> None:
        self.governance, self.user, self.mode = governance, user, mode
        self.writes: list[str] = []
        """Names of the writes that were made."""

    # ------------------------------------------------------------------ documents

    async def get_document(self, document_id: str) -> Document:
        found = self.governance
        if document_id in found.accepted:
            return found.accepted[document_id]
        if (proposed := found.open_proposal(document_id)) is not None:
            key, item = proposed
            snapshot = item.content.args["document"]
            return Document.model_validate(
                {
                    "id": document_id, "state": "Proposed", "proposalId": key, "proposerId": item.proposer,
                    "approvers": [approver.wire() for approver in item.content.approvers], **snapshot,
                }
            )  # fmt: skip
        if document_id in found.drafts:
            return found.drafts[document_id]
        raise NotFound("UserDocumentNotFound", f"{document_id} does not exist")

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
        found = self.governance
        if document_id in found.accepted:
            raise Conflict("UserDocumentAlreadyAccepted", document_id)
        held = found.drafts.get(document_id)
        if held is not None and version is None:
            raise Conflict("UserDocumentAlreadyExists", document_id)
        if held is not None and version != held.version:
            raise Conflict("PreconditionFailed", document_id)
        self.writes.append("put_document")
        made = Document(
            id=document_id, state="Draft", version=found.version(), contract_id=contract_id, data=data,
            labels=dict(labels or {}), approvers=tuple(approvers or ()),
        )  # fmt: skip
        found.drafts[document_id] = made
        return made.version

    async def create_proposal(self, proposal_id: str, document_id: str, document: Mapping[str, Any], approvers: Sequence[Approver]) -> str:
        found = self.governance
        if self.mode == "cgs-client":
            proposal_id = uuid.uuid4().hex
        if proposal_id in found.proposals:
            raise Conflict("ProposalAlreadyExists", proposal_id)
        if found.open_proposal(document_id) is not None:
            raise Conflict("UserDocumentAlreadyProposed", document_id)
        self.writes.append("create_proposal")
        args = {"documentId": document_id, "document": dict(document)}
        content = Proposal(proposal_id=proposal_id, name="set_user_document", approvers=tuple(approvers), args=args)
        found.proposals[proposal_id] = OpenProposal(self.user, document_id, content)
        return proposal_id

    async def get_proposal(self, proposal_id: str) -> Proposal:
        return self._proposal(proposal_id).content

    async def proposal_status(self, proposal_id: str) -> ProposalStatus:
        item = self._proposal(proposal_id)
        ballots = tuple(Ballot.model_validate({"approverId": user, "ballot": ballot}) for user, ballot in item.ballots.items())
        return ProposalStatus.model_validate({"proposerId": item.proposer, "state": item.state, "ballots": ballots})

    async def submit_ballot(self, proposal_id: str, *, accept: bool, voter_id: str | None = None) -> ProposalStatus:
        item, ballot = self._proposal(proposal_id), "accepted" if accept else "rejected"
        approvers = {approver.approver_id for approver in item.content.approvers}
        if self.user not in approvers:
            raise Refused("NotProposalApprover", self.user)
        if item.ballots.get(self.user) != ballot:
            if item.state != "Open":
                raise Conflict("ProposalNotOpen", proposal_id)
            if self.user in item.ballots:
                raise Conflict("BallotAlreadySubmitted", proposal_id)
            self.writes.append("submit_ballot")
            item.ballots[self.user] = ballot
            if ballot == "rejected":
                item.state = "Rejected"
            elif set(item.ballots) == approvers:
                self._accept(proposal_id, item)
        return await self.proposal_status(proposal_id)

    def _accept(self, proposal_id: str, item: OpenProposal) -> None:
        item.state = "Accepted"
        votes = [{"approverId": user, "ballot": ballot} for user, ballot in item.ballots.items()]
        self.governance.accepted[item.document_id] = Document.model_validate(
            {
                "id": item.document_id, "state": "Accepted", "proposalId": proposal_id, "proposerId": item.proposer,
                "approvers": [approver.wire() for approver in item.content.approvers], "finalVotes": votes,
                **item.content.args["document"], "version": self.governance.version(),
            }
        )  # fmt: skip

    async def withdraw_proposal(self, proposal_id: str) -> ProposalStatus:
        item = self._proposal(proposal_id)
        if item.proposer != self.user:
            raise Refused("NotProposalOwner", proposal_id)
        if item.state != "Open":
            raise Conflict("ProposalNotOpen", proposal_id)
        self.writes.append("withdraw_proposal")
        item.state = "Withdrawn"
        return await self.proposal_status(proposal_id)

    def _proposal(self, proposal_id: str) -> OpenProposal:
        if proposal_id not in self.governance.proposals:
            raise NotFound("ProposalNotFound", proposal_id)
        return self.governance.proposals[proposal_id]

    async def document_consent(self, contract_id: str, document_id: str, option: str = "execution") -> Consent:
        return Consent(status="disabled" if document_id in self.governance.disabled else "enabled")

    async def latest_event(self, contract_id: str, *, event_id: str, scope: str) -> None:
        """Return nothing: no run has started."""

    # ------------------------------------------------------------------ contract

    async def clean_room_policy(self, contract_id: str) -> CleanRoomPolicy:
        return CleanRoomPolicy(policy=self.governance.policy if contract_id == COLLABORATION else {})

    async def oidc_issuer_info(self) -> OidcIssuerInfo:
        return self.governance.issuer

    async def put_secret(self, contract_id: str, name: str, value: Secret) -> str:
        self.writes.append("put_secret")
        self.governance.secrets[f"{self.user}_{name}"] = value
        return f"{self.user}_{name}"
