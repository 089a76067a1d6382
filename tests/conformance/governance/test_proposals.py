"""User proposals and ballots."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.governance.target import Target, approver_rows, expect, fresh


def test_document_from_draft_to_accepted(cgs: Target) -> None:
    document_id = fresh("doc")
    draft = cgs.put(document_id, cgs.ann).headers["x-ms-ccf-transaction-id"]
    proposal_id = fresh("p")
    body = cgs.proposal(document_id, [cgs.ann, cgs.bob], version=draft, labels={"type": "query"})
    assert expect(cgs.call("PUT", f"/app/users/proposals/{proposal_id}", cgs.eve, json=body), 200) == {"proposalId": proposal_id}
    proposed = cgs.get(document_id)
    assert (proposed["state"], proposed["version"], proposed["proposalId"]) == ("Proposed", draft, proposal_id)
    assert (proposed["proposerId"], proposed["approvers"]) == (cgs.eve.oid, approver_rows([cgs.ann, cgs.bob]))
    assert "finalVotes" not in proposed

    got = expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}", cgs.ann), 200)
    assert got == {"proposalId": proposal_id, **body}
    status = f"/app/users/proposals/{proposal_id}/status"
    assert expect(cgs.call("POST", status, cgs.ann), 200) == {"proposerId": cgs.eve.oid, "state": "Open", "ballots": []}

    first = {"approverId": cgs.bob.oid, "ballot": "accepted"}
    assert expect(cgs.vote(proposal_id, cgs.bob), 200) == {"proposerId": cgs.eve.oid, "state": "Open", "ballots": [first]}
    last = cgs.vote(proposal_id, cgs.ann)
    votes = [first, {"approverId": cgs.ann.oid, "ballot": "accepted"}]
    assert expect(last, 200) == {"proposerId": cgs.eve.oid, "state": "Accepted", "ballots": votes}
    accepted = cgs.get(document_id)
    assert accepted == {
        **{name: accepted[name] for name in ("id", "approvers", "data", "contractId")},
        "state": "Accepted",
        "version": last.headers["x-ms-ccf-transaction-id"],
        "labels": {"type": "query"},
        "proposalId": proposal_id,
        "proposerId": cgs.eve.oid,
        "finalVotes": votes,
    }


def test_draft_proposed_and_accepted_have_different_versions(cgs: Target) -> None:
    document_id = fresh("doc")
    draft = cgs.put(document_id, cgs.ann).headers["x-ms-ccf-transaction-id"]
    proposal_id = cgs.propose(document_id, cgs.ann, [cgs.ann], version="whatever the proposer says")
    proposed = cgs.get(document_id)["version"]
    deciding = cgs.vote(proposal_id, cgs.ann).headers["x-ms-ccf-transaction-id"]
    assert proposed == "whatever the proposer says"
    assert cgs.get(document_id)["version"] == deciding != draft


def test_rejection_and_withdrawal_return_to_the_same_draft(cgs: Target) -> None:
    document_id = fresh("doc")
    expect(cgs.put(document_id, cgs.ann, data="draft"), 200)
    before = cgs.get(document_id)
    rejected = cgs.propose(document_id, cgs.ann, [cgs.ann, cgs.bob])
    expect(cgs.vote(rejected, cgs.ann), 200)
    assert expect(cgs.vote(rejected, cgs.bob, "rejected"), 200)["state"] == "Rejected"
    assert cgs.get(document_id) == before
    withdrawn = cgs.propose(document_id, cgs.ann, [cgs.bob])
    assert expect(cgs.call("POST", f"/app/users/proposals/{withdrawn}/withdraw", cgs.ann), 200)["state"] == "Withdrawn"
    assert cgs.get(document_id) == before


def test_acceptance_uses_the_snapshot_even_if_the_draft_changed(cgs: Target) -> None:
    document_id = fresh("doc")
    version = cgs.put(document_id, cgs.ann, data="old").headers["x-ms-ccf-transaction-id"]
    proposal_id = cgs.propose(document_id, cgs.ann, [cgs.bob], data="proposed")
    expect(cgs.put(document_id, cgs.eve, version=version, data="newer"), 200)
    expect(cgs.vote(proposal_id, cgs.bob), 200)
    assert cgs.get(document_id)["data"] == "proposed"


def test_proposal_may_name_a_missing_draft_and_a_missing_contract(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann], contractId="no-such-contract", version=None)
    document = cgs.get(document_id)
    assert (document["state"], document["contractId"]) == ("Accepted", "no-such-contract")


def test_proposer_votes_only_if_listed_as_approver(cgs: Target) -> None:
    proposal_id = cgs.propose(fresh("doc"), cgs.ann, [cgs.bob])
    expect(cgs.vote(proposal_id, cgs.ann), 403, "NotProposalApprover")


def test_ballot_is_final_and_one_rejection_closes(cgs: Target) -> None:
    proposal_id = cgs.propose(fresh("doc"), cgs.ann, [cgs.ann, cgs.bob])
    expect(cgs.vote(proposal_id, cgs.ann), 200)
    expect(cgs.vote(proposal_id, cgs.ann, "rejected"), 409, "BallotAlreadySubmitted")
    expect(cgs.vote(proposal_id, cgs.bob, "rejected"), 200)
    expect(cgs.vote(proposal_id, cgs.ann), 409, "ProposalNotOpen")


def test_ballot_checks_in_the_order_of_the_original(cgs: Target) -> None:
    expect(cgs.vote(fresh("none"), cgs.ann, "nonsense"), 404, "ProposalNotFound")
    proposal_id = cgs.propose(fresh("doc"), cgs.ann, [cgs.ann, cgs.bob])
    expect(cgs.vote(proposal_id, cgs.eve, "nonsense"), 403, "NotProposalApprover")
    expect(cgs.vote(proposal_id, cgs.ann, "nonsense"), 400, "InvalidBallotValue")
    expect(cgs.vote(proposal_id, cgs.ann, None), 400, "InvalidBallotValue")
    expect(cgs.vote(proposal_id, cgs.ann), 200)
    expect(cgs.vote(proposal_id, cgs.ann, "nonsense"), 409, "BallotAlreadySubmitted")
    expect(cgs.vote(proposal_id, cgs.bob, "rejected"), 200)
    expect(cgs.vote(proposal_id, cgs.bob, "nonsense"), 409, "ProposalNotOpen")
    expect(cgs.vote(proposal_id, cgs.eve), 403, "NotProposalApprover")
    path = f"/app/users/proposals/{proposal_id}/ballots/submit"
    expect(cgs.call("POST", path, cgs.eve, content=b"not json"), 403, "NotProposalApprover")


def test_only_the_proposer_withdraws_an_open_proposal(cgs: Target) -> None:
    expect(cgs.call("POST", f"/app/users/proposals/{fresh('none')}/withdraw", cgs.ann), 404, "ProposalNotFound")
    proposal_id = cgs.propose(fresh("doc"), cgs.ann, [cgs.bob])
    expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/withdraw", cgs.bob), 403, "NotProposalOwner")
    expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/withdraw", cgs.ann), 200)
    expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/withdraw", cgs.bob), 403, "NotProposalOwner")
    expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/withdraw", cgs.ann), 409, "ProposalNotOpen")
    expect(cgs.vote(proposal_id, cgs.bob), 409, "ProposalNotOpen")


def test_proposal_checks_in_the_order_of_the_original(cgs: Target) -> None:
    document_id = fresh("doc")
    good = cgs.proposal(document_id, [cgs.ann])

    def refused(status: int, code: str, **changes: Any) -> None:
        body = {name: value for name, value in {**good, **changes}.items() if value is not ...}
        expect(cgs.call("PUT", f"/app/users/proposals/{fresh('p')}", cgs.ann, json=body), status, code)

    refused(400, "ApproversMissing", approvers=..., name="nonsense")
    refused(500, "InternalError", approvers=None)
    refused(400, "EmptyApprovers", approvers=[], name="nonsense")
    refused(400, "InvalidProposalType", name="nonsense", args=...)
    refused(400, "InvalidProposalType", name=...)
    refused(500, "InternalError", args=...)
    refused(400, "InvalidUserDocumentId", args={"document": {}})
    open_one = cgs.propose(document_id, cgs.ann, [cgs.bob])
    error = expect(cgs.call("PUT", f"/app/users/proposals/{fresh('p')}", cgs.ann, json=good), 409, "UserDocumentAlreadyProposed")
    assert open_one in error["message"]
    expect(cgs.call("PUT", f"/app/users/proposals/{open_one}", cgs.ann, content=b"not json"), 409, "ProposalAlreadyExists")


def test_id_of_a_closed_proposal_cannot_be_reused(cgs: Target) -> None:
    document_id = fresh("doc")
    proposal_id = cgs.propose(document_id, cgs.ann, [cgs.ann])
    expect(cgs.vote(proposal_id, cgs.ann, "rejected"), 200)
    body = cgs.proposal(document_id, [cgs.ann])
    expect(cgs.call("PUT", f"/app/users/proposals/{proposal_id}", cgs.ann, json=body), 409, "ProposalAlreadyExists")


def test_proposal_without_a_document_makes_reads_and_the_last_ballot_500(cgs: Target) -> None:
    document_id, proposal_id = fresh("doc"), fresh("p")
    body = {"name": "set_user_document", "args": {"documentId": document_id}, "approvers": approver_rows([cgs.ann])}
    expect(cgs.call("PUT", f"/app/users/proposals/{proposal_id}", cgs.ann, json=body), 200)
    expect(cgs.call("GET", f"/app/userdocuments/{document_id}", cgs.ann), 500, "InternalError")
    expect(cgs.vote(proposal_id, cgs.ann), 500, "InternalError")
    status = expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/status", cgs.ann), 200)
    assert (status["state"], status["ballots"]) == ("Open", [])


def test_empty_document_is_accepted(cgs: Target) -> None:
    document_id, proposal_id = fresh("doc"), fresh("p")
    body = {"name": "set_user_document", "args": {"documentId": document_id, "document": {}}, "approvers": approver_rows([cgs.ann])}
    expect(cgs.call("PUT", f"/app/users/proposals/{proposal_id}", cgs.ann, json=body), 200)
    expect(cgs.vote(proposal_id, cgs.ann), 200)
    assert cgs.get(document_id)["state"] == "Accepted"


@pytest.mark.parametrize("path", ["", "/status"])
def test_unknown_proposal_is_404(cgs: Target, path: str) -> None:
    expect(cgs.call("POST", f"/app/users/proposals/{fresh('none')}{path}", cgs.ann), 404, "ProposalNotFound")


def test_member_can_be_an_approver(cgs: Target) -> None:
    document_id = fresh("doc")
    member_id = cgs.member_id()
    body = cgs.proposal(document_id, [])
    body["approvers"] = [{"approverId": member_id, "approverIdType": "user"}]
    proposal_id = fresh("p")
    expect(cgs.call("PUT", f"/app/users/proposals/{proposal_id}", cgs.ann, json=body), 200)
    vote = cgs.call("POST", f"/app/users/proposals/{proposal_id}/ballots/submit", "member", json={"ballot": "accepted"})
    assert expect(vote, 200)["ballots"] == [{"approverId": member_id, "ballot": "accepted"}]


def test_an_empty_document_id_is_accepted(cgs: Target) -> None:
    proposal_id = fresh("p")
    approvers = [{"approverId": cgs.ann.oid, "approverIdType": "user"}]
    body = {"name": "set_user_document", "args": {"documentId": "", "document": {}}, "approvers": approvers}
    expect(cgs.call("PUT", f"/app/users/proposals/{proposal_id}", cgs.ann, json=body), 200)
    expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/withdraw", cgs.ann), 200)
