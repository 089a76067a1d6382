"""A model of one document in governance (docs/facts/governance-service.md#documents and the sections after it)."""

from __future__ import annotations

from dataclasses import dataclass, field

Text = tuple[str, str]
"""Version and digest."""


@dataclass
class Proposal:
    """A proposal of the document."""

    id: str
    proposer: str
    approvers: frozenset[str]
    text: Text
    ballots: dict[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """What governance stores about one document: the draft, the open or accepted proposal, consent and secrets.

    The methods ``*_error`` return the error code that governance must answer with; empty means success.
    """

    draft: Text
    approvers: frozenset[str]
    proposal: Proposal | None = None
    accepted_version: str = ""
    disabled: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)

    @property
    def state(self) -> str:
        """The document's state in governance."""
        return "Accepted" if self.accepted_version else "Proposed" if self.proposal else "Draft"

    @property
    def text(self) -> Text:
        """Version and digest that a read of the document returns."""
        if self.proposal is None:
            return self.draft
        return (self.accepted_version or self.proposal.text[0], self.proposal.text[1])

    def edit_error(self, version: str) -> str:
        """Any registered user can edit a draft with its current version, even while a proposal is open. Accepted is final."""
        return "UserDocumentAlreadyAccepted" if self.accepted_version else "PreconditionFailed" if version != self.draft[0] else ""

    def proposal_error(self) -> str:
        """A document has at most one open proposal, and none once it is accepted."""
        return {"Accepted": "UserDocumentAlreadyAccepted", "Proposed": "UserDocumentAlreadyProposed"}.get(self.state, "")

    def ballot_error(self, who: str) -> str:
        """Only approvers vote, once, while the proposal is open."""
        assert self.proposal is not None
        if who not in self.proposal.approvers:
            return "NotProposalApprover"
        return "ProposalNotOpen" if self.accepted_version else "BallotAlreadySubmitted" if who in self.proposal.ballots else ""

    def withdrawal_error(self, who: str) -> str:
        """Only the proposer withdraws a proposal, while it is open."""
        assert self.proposal is not None
        return "NotProposalOwner" if who != self.proposal.proposer else "ProposalNotOpen" if self.accepted_version else ""

    def consent_error(self, who: str) -> str:
        """Only approvers change the consent of an accepted document."""
        if not self.accepted_version or self.proposal is None:
            return "UserDocumentNotAccepted"
        return "" if who in self.proposal.approvers else "NotUserDocumentApprover"

    def vote(self, who: str, ballot: str) -> bool:
        """Record a ballot: one rejection closes the proposal. Return whether this ballot accepts the document.

        Only governance knows the version of the accepted document: it is the transaction of this ballot.
        """
        assert self.proposal is not None
        self.proposal.ballots[who] = ballot
        if ballot == "rejected":
            self.proposal = None
            return False
        return set(self.proposal.ballots) == self.proposal.approvers
