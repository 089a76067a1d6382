"""Contracts, deployments, member documents, members' governance."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.governance.target import Target, expect, fresh


def get(cgs: Target, contract_id: str) -> dict[str, Any]:
    return dict(expect(cgs.call("POST", f"/app/contracts/{contract_id}", cgs.ann), 200))


def ids(cgs: Target, state: str = "") -> set[str]:
    return {row["id"] for row in expect(cgs.call("GET", f"/app/contracts{state}", cgs.ann), 200)["value"]}


def propose(cgs: Target, *actions: dict[str, Any]) -> dict[str, Any]:
    return dict(expect(cgs.proxy("POST", "/proposals/create", json={"actions": list(actions)}), 200))


def set_contract(contract_id: str) -> dict[str, Any]:
    return {"name": "set_contract", "args": {"contractId": contract_id, "contract": {"data": "x", "version": "1.1"}}}


def test_contract_from_draft_to_accepted(cgs: Target) -> None:
    contract_id = fresh("contract")
    path = f"/app/contracts/{contract_id}"
    expect(cgs.call("POST", path, cgs.ann), 404, "ContractNotFound")
    expect(cgs.call("PUT", path, "member", json={}), 400, "DataMissing")
    version = cgs.call("PUT", path, "member", json={"data": {"terms": 1}}).headers["x-ms-ccf-transaction-id"]
    draft = {"id": contract_id, "version": version, "state": "Draft", "data": {"terms": 1}, "proposalId": ""}
    assert get(cgs, contract_id) == draft
    expect(cgs.call("PUT", path, "member", json={"data": 2}), 409, "ContractAlreadyExists")
    expect(cgs.call("PUT", path, "member", json={"data": 2, "version": "1.0"}), 412, "PreconditionFailed")
    assert contract_id in ids(cgs)
    assert contract_id in ids(cgs, "?state=Draft")
    proposal = expect(cgs.proxy("POST", f"/contracts/{contract_id}/propose", json={"version": version}), 200)
    if proposal["proposalState"] == "Open":
        assert get(cgs, contract_id) == {**draft, "state": "Proposed", "proposalId": proposal["proposalId"]}
        assert contract_id in ids(cgs, "?state=Proposed") - ids(cgs, "?state=Draft")
        vote = {"proposalId": proposal["proposalId"]}
        expect(cgs.proxy("POST", f"/contracts/{contract_id}/vote_accept", json=vote), 200)
    accepted = get(cgs, contract_id)
    assert (accepted["state"], accepted["data"], accepted["proposalId"]) == ("Accepted", {"terms": 1}, proposal["proposalId"])
    assert accepted["version"] != version
    assert all(set(row) == {"memberId", "vote"} and row["vote"] is True for row in accepted["finalVotes"])
    expect(cgs.call("PUT", path, "member", json={"data": 2, "version": accepted["version"]}), 405, "ContractAlreadyAccepted")
    assert contract_id in ids(cgs, "?state=Accepted")
    assert contract_id not in ids(cgs, "?state=Draft") | ids(cgs, "?state=Proposed")


def test_unknown_state_is_400(cgs: Target) -> None:
    expect(cgs.call("GET", "/app/contracts?state=Open", cgs.ann), 400, "InvalidParameter")


def test_resolution_rejects_mixed_duplicate_and_accepted_contracts(cgs: Target) -> None:
    fresh_id = cgs.draft_contract()
    policy = {"name": "set_oidc_issuer_url", "args": {"issuer_url": "https://x.example"}}
    assert propose(cgs, set_contract(fresh_id), policy)["proposalState"] == "Rejected"
    assert propose(cgs, set_contract(fresh_id), set_contract(fresh_id))["proposalState"] == "Rejected"
    assert propose(cgs, set_contract(cgs.accepted_contract()))["proposalState"] == "Rejected"
    first = propose(cgs, set_contract(fresh_id))
    if first["proposalState"] == "Open":
        assert propose(cgs, set_contract(fresh_id))["proposalState"] == "Rejected"
        expect(cgs.proxy("POST", f"/proposals/{first['proposalId']}/ballots/vote_reject"), 200)
        assert get(cgs, fresh_id)["state"] == "Draft"


def test_votes_are_idempotent_and_final_and_closed_proposals_are_erased(cgs: Target) -> None:
    proposal = propose(cgs, set_contract(cgs.draft_contract()))
    if proposal["proposalState"] != "Open":
        pytest.skip("this consortium accepts without votes")
    assert len(proposal["proposalId"]) == 64
    assert proposal["ballotCount"] == 0
    path = f"/proposals/{proposal['proposalId']}"
    done = expect(cgs.proxy("POST", f"{path}/ballots/vote_accept"), 200)
    assert (done["proposalState"], done["ballotCount"], list(done["finalVotes"].values())) == ("Accepted", 1, [True])
    expect(cgs.proxy("POST", f"{path}/ballots/vote_accept"), 400, "ProposalNotOpen")
    expect(cgs.proxy("POST", f"{path}/withdraw"), 400, "ProposalNotOpen")
    assert expect(cgs.proxy("GET", path), 200)["proposalState"] == "Accepted"
    other = propose(cgs, set_contract(cgs.draft_contract()))
    assert expect(cgs.proxy("POST", f"/proposals/{other['proposalId']}/withdraw"), 200)["proposalState"] == "Withdrawn"
    expect(cgs.proxy("GET", path), 404, "ProposalNotFound")
    history = expect_history(cgs, proposal["proposalId"])
    assert [row["proposalState"] for row in history] == ["Open", "Accepted"]


def expect_history(cgs: Target, proposal_id: str) -> list[dict[str, Any]]:
    for _ in range(50):
        response = cgs.call("GET", f"/app/proposals/{proposal_id}/historical", cgs.ann)
        if response.status_code != 202:
            break
    return list(expect(response, 200)["value"])


@pytest.mark.parametrize(
    "action",
    [{"name": "no_such_action", "args": {}}, {"name": ["x"], "args": {}}, {"args": {}}, 7, {"name": "set_contract", "args": 7}],
)
def test_unknown_action_fails_to_validate(cgs: Target, action: Any) -> None:
    expect(cgs.proxy("POST", "/proposals/create", json={"actions": [action]}), 400, "ProposalFailedToValidate")


def test_an_action_that_is_null_crashes(cgs: Target) -> None:
    expect(cgs.proxy("POST", "/proposals/create", json={"actions": [None]}), 500, "InternalError")


def test_votes_of_a_proposal_are_a_bare_array(cgs: Target) -> None:
    found = cgs.govern("set_user_identity", {"id": fresh("oid"), "accountType": "microsoft", "data": {"tenantId": "t"}})
    votes = expect(cgs.proxy("GET", f"/proposals/{found['proposalId']}/votes"), 200)
    assert isinstance(votes, list)
    assert set(votes) <= {"accepted", "rejected"}


@pytest.mark.parametrize(("name", "field"), [("spec", "set_deployment_spec"), ("info", "set_deployment_info")])
def test_deployments_are_public(cgs: Target, name: str, field: str) -> None:
    contract_id = cgs.accepted_contract()
    path = f"/app/contracts/{contract_id}/deployment{name}"
    assert expect(cgs.http.post(path), 200) == {"proposalIds": [], "data": {}}
    data = {"template": {"a": [1]}}
    proposal = expect(cgs.proxy("POST", f"/contracts/{contract_id}/deployment{name}/propose", json=data), 200)
    if proposal["proposalState"] == "Open":
        assert expect(cgs.http.post(path), 200) == {"proposalIds": [proposal["proposalId"]], "data": {}}
        expect(cgs.proxy("POST", f"/proposals/{proposal['proposalId']}/ballots/vote_accept"), 200)
    assert expect(cgs.http.post(path), 200) == {"proposalIds": [], "data": data}
    assert expect(cgs.http.post(f"/app/contracts/{fresh('none')}/deployment{name}"), 200) == {"proposalIds": [], "data": {}}


def test_member_document_from_draft_to_accepted(cgs: Target) -> None:
    document_id, contract_id = fresh("mdoc"), cgs.contract()
    path = f"/app/contracts/{contract_id}/memberdocuments"
    put = f"{path}/{document_id}"
    expect(cgs.call("PUT", put, cgs.ann, json={"contractId": contract_id, "data": "x"}), 401, "InvalidAuthenticationInfo")
    expect(cgs.call("PUT", put, "member", json={"data": "x"}), 400, "ContractIdMissing")
    expect(cgs.call("PUT", put, "member", json={"contractId": contract_id}), 400, "DataMissing")
    expect(cgs.call("PUT", put, "member", json={"contractId": fresh("none"), "data": "x"}), 404, "ContractNotFound")
    expect(cgs.call("POST", put, cgs.ann), 404, "DocumentNotFound")
    version = cgs.call("PUT", put, "member", json={"contractId": contract_id, "data": "x"}).headers["x-ms-ccf-transaction-id"]
    expect(cgs.call("PUT", put, "member", json={"contractId": contract_id, "data": "y"}), 409, "DocumentAlreadyExists")
    expect(cgs.call("PUT", put, "member", json={"contractId": contract_id, "data": "y", "version": "1.1"}), 412, "PreconditionFailed")
    draft = expect(cgs.call("POST", put, cgs.ann), 200)
    assert draft == {"id": document_id, "state": "Draft", "version": version, "contractId": contract_id, "data": "x", "proposalId": ""}
    assert expect(cgs.call("GET", f"/app/memberdocuments/{document_id}", cgs.ann), 200) == draft
    # A bare array.
    assert {"id": document_id} in expect(cgs.call("GET", path, cgs.ann), 200)
    accepted_path = f"{path}/accepted/{document_id}"
    guest = cgs.guest()
    expect(cgs.call("POST", accepted_path, json=guest.read()), 404, "DocumentNotFound")
    proposal = expect(cgs.proxy("POST", f"/memberdocuments/{document_id}/propose", json={"version": version}), 200)
    if proposal["proposalState"] == "Open":
        vote = {"proposalId": proposal["proposalId"]}
        expect(cgs.proxy("POST", f"/memberdocuments/{document_id}/vote_accept", json=vote), 200)
    accepted = cgs.call("POST", put, cgs.ann)
    body = expect(accepted, 200)
    assert body["state"] == "Accepted"
    assert {"labels", "approvers", "proposerId"}.isdisjoint(body)
    assert all(set(row) == {"memberId", "vote"} for row in body["finalVotes"])
    expect(cgs.call("PUT", put, "member", json={"contractId": contract_id, "data": "y"}), 405, "DocumentAlreadyAccepted")
    assert guest.unwrap(expect(cgs.call("POST", accepted_path, json=guest.read()), 200)).decode() == accepted.text
    elsewhere = accepted_path.replace(contract_id, cgs.accepted_contract(cgs.policy()))
    expect(cgs.call("POST", elsewhere, json=guest.read()), 400, "ContractIdMismatch")
