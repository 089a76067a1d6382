"""Random actors and interleavings on a few documents, compared with a small model."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.conformance.governance.target import Person, Target, approver_rows, expect

ACTOR = st.integers(0, 2)
DOCUMENT = st.integers(0, 1)
APPROVERS = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)


@dataclass
class Draft:
    data: str
    labels: dict[str, str] | None
    version: str


@dataclass
class Proposed:
    document: int
    data: str
    version: str | None
    proposer: int
    approvers: list[int]
    state: str = "Open"
    ballots: list[tuple[int, str]] = field(default_factory=list)


class Documents(RuleBasedStateMachine):
    """Two documents, three users. The model knows drafts, proposals, the accepted ones and who disabled what."""

    target: ClassVar[Target]

    def __init__(self) -> None:
        super().__init__()
        mark = uuid.uuid4().hex[:12]
        self.ids = [f"model-{mark}-{number}" for number in range(2)]
        self.drafts: dict[int, Draft] = {}
        self.proposals: dict[str, Proposed] = {}
        self.accepted: dict[int, tuple[str, str]] = {}
        self.disabled: dict[int, list[int]] = {0: [], 1: []}

    @property
    def people(self) -> list[Person]:
        return [self.target.ann, self.target.bob, self.target.eve]

    def open_one(self, document: int) -> str | None:
        return next((key for key, row in self.proposals.items() if row.document == document and row.state == "Open"), None)

    @rule(
        actor=ACTOR,
        document=DOCUMENT,
        data=st.text("abcü\U0001f512", min_size=1, max_size=5),
        kind=st.sampled_from(["none", "current", "stale"]),
    )
    def put(self, actor: int, document: int, data: str, kind: str) -> None:
        known = self.drafts.get(document)
        version = {"none": None, "current": known.version if known else "1.1", "stale": "1.0"}[kind]
        response = self.target.put(self.ids[document], self.people[actor], data=data, version=version)
        if document in self.accepted:
            expect(response, 405, "UserDocumentAlreadyAccepted")
        elif known is not None and version is None:
            expect(response, 409, "UserDocumentAlreadyExists")
        elif known is not None and version != known.version:
            expect(response, 412, "PreconditionFailed")
        else:
            expect(response, 200)
            self.drafts[document] = Draft(data, None, response.headers["x-ms-ccf-transaction-id"])

    @rule(actor=ACTOR, document=DOCUMENT, approvers=APPROVERS, data=st.sampled_from(["one", "two"]), versioned=st.booleans())
    def propose(self, actor: int, document: int, approvers: list[int], data: str, versioned: bool) -> None:
        key = uuid.uuid4().hex
        version = "5.5" if versioned else None
        body = self.target.proposal(self.ids[document], [self.people[who] for who in approvers], data=data)
        body["args"]["document"].pop("version")
        if version is not None:
            body["args"]["document"]["version"] = version
        response = self.target.call("PUT", f"/app/users/proposals/{key}", self.people[actor], json=body)
        if document in self.accepted:
            expect(response, 405, "UserDocumentAlreadyAccepted")
        elif self.open_one(document) is not None:
            expect(response, 409, "UserDocumentAlreadyProposed")
        else:
            assert expect(response, 200) == {"proposalId": key}
            self.proposals[key] = Proposed(document, data, version, actor, approvers)

    @precondition(lambda self: self.proposals)
    @rule(
        actor=ACTOR,
        choice=st.randoms(use_true_random=False),
        ballot=st.sampled_from(["accepted", "accepted", "accepted", "rejected", "maybe"]),
    )
    def vote(self, actor: int, choice: Any, ballot: str) -> None:
        key = choice.choice(sorted(self.proposals, key=list(self.proposals).index))
        proposal = self.proposals[key]
        response = self.target.vote(key, self.people[actor], ballot)
        if actor not in proposal.approvers:
            expect(response, 403, "NotProposalApprover")
        elif proposal.state != "Open":
            expect(response, 409, "ProposalNotOpen")
        elif any(who == actor for who, _ in proposal.ballots):
            expect(response, 409, "BallotAlreadySubmitted")
        elif ballot == "maybe":
            expect(response, 400, "InvalidBallotValue")
        else:
            proposal.ballots.append((actor, ballot))
            if ballot == "rejected":
                proposal.state = "Rejected"
            elif {who for who, _ in proposal.ballots} == set(proposal.approvers):
                proposal.state = "Accepted"
                self.accepted[proposal.document] = (key, response.headers["x-ms-ccf-transaction-id"])
            assert expect(response, 200) == self.status(proposal)

    @precondition(lambda self: self.proposals)
    @rule(actor=ACTOR, choice=st.randoms(use_true_random=False))
    def withdraw(self, actor: int, choice: Any) -> None:
        key = choice.choice(list(self.proposals))
        proposal = self.proposals[key]
        response = self.target.call("POST", f"/app/users/proposals/{key}/withdraw", self.people[actor])
        if actor != proposal.proposer:
            expect(response, 403, "NotProposalOwner")
        elif proposal.state != "Open":
            expect(response, 409, "ProposalNotOpen")
        else:
            proposal.state = "Withdrawn"
            assert expect(response, 200) == self.status(proposal)

    @rule(actor=ACTOR, document=DOCUMENT, verb=st.sampled_from(["enable", "disable"]))
    def consent(self, actor: int, document: int, verb: str) -> None:
        path = f"/app/contracts/{self.target.contract()}/userdocuments/{self.ids[document]}/runtimeoptions/execution/{verb}"
        response = self.target.call("POST", path, self.people[actor])
        if document not in self.accepted:
            expect(response, 400, "UserDocumentNotAccepted")
        elif actor not in self.proposals[self.accepted[document][0]].approvers:
            expect(response, 403, "NotUserDocumentApprover")
        else:
            expect(response, 200)
            without = [who for who in self.disabled[document] if who != actor]
            self.disabled[document] = [*without, actor] if verb == "disable" else without

    def status(self, proposal: Proposed) -> dict[str, Any]:
        ballots = [{"approverId": self.people[who].oid, "ballot": ballot} for who, ballot in proposal.ballots]
        return {"proposerId": self.people[proposal.proposer].oid, "state": proposal.state, "ballots": ballots}

    def expected(self, document: int) -> dict[str, Any] | None:
        """Return the document as a read shows it."""
        common = {"id": self.ids[document], "contractId": self.target.contract()}
        if document in self.accepted or self.open_one(document) is not None:
            key = self.accepted[document][0] if document in self.accepted else str(self.open_one(document))
            row = self.proposals[key]
            shown: dict[str, Any] = {
                **common,
                "data": row.data,
                "approvers": approver_rows([self.people[who] for who in row.approvers]),
                "proposalId": key,
                "proposerId": self.people[row.proposer].oid,
            }
            if document in self.accepted:
                return {**shown, "state": "Accepted", "version": self.accepted[document][1], "finalVotes": self.status(row)["ballots"]}
            return {**shown, "state": "Proposed"} | ({"version": row.version} if row.version else {})
        draft = self.drafts.get(document)
        if draft is None:
            return None
        return {**common, "state": "Draft", "data": draft.data, "version": draft.version, "proposalId": "", "proposerId": ""}

    @invariant()
    def documents_are_as_the_model_says(self) -> None:
        for document in range(2):
            response = self.target.call("GET", f"/app/userdocuments/{self.ids[document]}", self.target.ann)
            wanted = self.expected(document)
            if wanted is None:
                expect(response, 404, "UserDocumentNotFound")
            else:
                assert expect(response, 200) == wanted

    @invariant()
    def consent_is_as_the_model_says(self) -> None:
        for document in range(2):
            path = f"/app/contracts/{self.target.contract()}/userdocuments/{self.ids[document]}/runtimeoptions/execution/status"
            body = expect(self.target.call("POST", path, self.target.bob), 200)
            enabled = document in self.accepted and not self.disabled[document]
            assert (body["status"] == "enabled") == enabled

    @invariant()
    def proposals_are_as_the_model_says(self) -> None:
        for key, proposal in self.proposals.items():
            assert expect(self.target.call("POST", f"/app/users/proposals/{key}/status", self.target.eve), 200) == self.status(proposal)


@pytest.mark.timeout(600)
def test_documents_proposals_ballots_and_consent_follow_the_model(cgs: Target) -> None:
    Documents.target = cgs
    budget = settings(
        max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    run_state_machine_as_test(Documents, settings=budget)
