"""The contract's clean room policy and delegate policies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.governance.target import DEBUG, HOST_DATA, Target, expect, fresh

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


def read_policy(cgs: Target, contract_id: str) -> dict[str, Any]:
    return dict(expect(cgs.call("POST", f"/app/contracts/{contract_id}/cleanroompolicy", cgs.ann), 200))


def set_policy(cgs: Target, contract_id: str, kind: str, claims: dict[str, Any], **more: Any) -> None:
    cgs.govern("set_clean_room_policy", {"contractId": contract_id, "type": kind, "claims": claims, **more})


def propose(cgs: Target, contract_id: str, **args: Any) -> Any:
    action = {"name": "set_clean_room_policy", "args": {"contractId": contract_id, **args}}
    return cgs.proxy("POST", "/proposals/create", json={"actions": [action]})


def reads_secret(cgs: Target, contract_id: str, kind: str = "good") -> bool:
    response = cgs.call("POST", f"/app/contracts/{contract_id}/secrets/none", json=cgs.guest(kind).read())
    code = response.json()["error"]["code"]
    assert code in {"SecretNotFound", "VerifySnpAttestationFailed"}
    return bool(code == "SecretNotFound")


def delegate(cgs: Target, kind: str, delegate_id: str, body: Any, contract_id: str | None = None) -> Any:
    path = f"/app/contracts/{contract_id or cgs.contract()}/cleanroompolicy/delegates/{kind}/{delegate_id}"
    return cgs.call("PUT", path, json=cgs.guest().write(body))


def delegate_claims(cgs: Target, kind: str, delegate_id: str) -> dict[str, Any]:
    path = f"/app/contracts/{cgs.contract()}/cleanroompolicy/delegates/{kind}/{delegate_id}"
    body = expect(cgs.call("POST", path, cgs.ann), 200)
    assert set(body) == {"claims"}
    return dict(body["claims"])


def test_unknown_contract_has_an_empty_policy(cgs: Target) -> None:
    assert read_policy(cgs, fresh("none")) == {"proposalIds": [], "policy": {}}


def test_add_accumulates_and_scalars_become_arrays(cgs: Target) -> None:
    contract_id = cgs.accepted_contract({DEBUG: False, HOST_DATA: A})
    assert read_policy(cgs, contract_id) == {"proposalIds": [], "policy": {DEBUG: [False], HOST_DATA: [A]}}
    set_policy(cgs, contract_id, "add", {DEBUG: True, HOST_DATA: [B, A, B]})
    assert read_policy(cgs, contract_id)["policy"] == {DEBUG: [True], HOST_DATA: [A, B]}
    set_policy(cgs, contract_id, "remove", {HOST_DATA: A})
    assert read_policy(cgs, contract_id)["policy"] == {DEBUG: [True], HOST_DATA: [B]}
    set_policy(cgs, contract_id, "remove", {DEBUG: False, HOST_DATA: [B]})
    assert read_policy(cgs, contract_id)["policy"] == {}


def test_removing_an_absent_value_fails_and_changes_nothing(cgs: Target) -> None:
    contract_id = cgs.accepted_contract({HOST_DATA: [A, B]})
    for claims in ({HOST_DATA: [A, C]}, {DEBUG: False}):
        proposal = expect(propose(cgs, contract_id, type="remove", claims=claims), 200)
        expect(cgs.proxy("POST", f"/proposals/{proposal['proposalId']}/ballots/vote_accept"), 500, "InternalError")
        assert read_policy(cgs, contract_id)["policy"] == {HOST_DATA: [A, B]}


def test_open_proposal_is_listed(cgs: Target) -> None:
    contract_id = cgs.accepted_contract()
    proposal = expect(propose(cgs, contract_id, type="add", claims={HOST_DATA: A}), 200)
    if proposal["proposalState"] != "Open":
        pytest.skip("this consortium accepts without votes")
    assert read_policy(cgs, contract_id) == {"proposalIds": [proposal["proposalId"]], "policy": {}}
    expect(cgs.proxy("POST", f"/proposals/{proposal['proposalId']}/ballots/vote_reject"), 200)
    assert read_policy(cgs, contract_id)["proposalIds"] == []


@pytest.mark.parametrize(
    "args",
    [
        {"type": "replace", "claims": {HOST_DATA: A}},
        {"claims": {HOST_DATA: A}},
        {"type": "add", "claims": {"no-such-claim": 1}},
        {"type": "add", "claims": {HOST_DATA: A}, "policyType": "tdx"},
        {"type": "add", "claims": {HOST_DATA: A}, "policyType": "jwt"},
        {"type": "add", "claims": {"pcr0": "x"}},
    ],
)
def test_invalid_policy_fails_to_validate(cgs: Target, args: dict[str, Any]) -> None:
    expect(propose(cgs, cgs.contract(), **args), 400, "ProposalFailedToValidate")


def test_policy_needs_an_accepted_contract(cgs: Target) -> None:
    expect(propose(cgs, cgs.draft_contract(), type="add", claims={HOST_DATA: A}), 400, "ProposalFailedToValidate")


def test_without_a_contract_policy_no_clean_room_is_admitted(cgs: Target) -> None:
    contract_id = cgs.accepted_contract()
    assert not reads_secret(cgs, contract_id)
    set_policy(cgs, contract_id, "add", cgs.policy())
    assert reads_secret(cgs, contract_id)
    claims = {HOST_DATA: cgs.guest("other").host_data}
    expect(delegate(cgs, "secrets", "none", {"type": "add", "claims": claims}, contract_id), 200)
    assert reads_secret(cgs, contract_id, "other")
    set_policy(cgs, contract_id, "remove", cgs.policy())
    assert not reads_secret(cgs, contract_id)
    assert not reads_secret(cgs, contract_id, "other")


def test_policy_with_mixed_platforms_matches_no_guest(cgs: Target) -> None:
    contract_id = cgs.accepted_contract(cgs.policy())
    assert reads_secret(cgs, contract_id)
    set_policy(cgs, contract_id, "add", {"oid": cgs.ann.oid}, policyType="jwt")
    assert set(read_policy(cgs, contract_id)["policy"]) == {DEBUG, HOST_DATA, "oid"}
    assert not reads_secret(cgs, contract_id)


@pytest.mark.parametrize(
    "claims",
    [
        {DEBUG: "false"},
        {DEBUG: 0},
        {DEBUG: [None]},
        {"x-ms-sevsnpvm-vmpl": "0"},
        {"x-ms-sevsnpvm-vmpl": False},
        {"x-ms-ver": 3},
        {"x-ms-sevsnpvm-tee-svn": 0},
        {HOST_DATA: []},
    ],
)
def test_claims_are_compared_strictly(cgs: Target, claims: dict[str, Any]) -> None:
    contract_id = cgs.accepted_contract({HOST_DATA: cgs.guest().host_data} | claims)
    assert not reads_secret(cgs, contract_id)


def test_host_data_is_compared_in_lower_case_only(cgs: Target) -> None:
    upper = cgs.guest().host_data.upper()
    if upper == upper.lower():
        pytest.skip("host data has no letters")
    assert not reads_secret(cgs, cgs.accepted_contract({HOST_DATA: upper}))


def test_every_derivable_claim_can_be_satisfied_and_values_are_alternatives(cgs: Target) -> None:
    import base64

    report = base64.b64decode(cgs.guest().attestation["evidence"])
    snp = "x-ms-sevsnpvm-"
    claims = {
        "x-ms-ver": str(int.from_bytes(report[0:4], "little")),
        f"{snp}guestsvn": int.from_bytes(report[4:8], "little"),
        f"{snp}vmpl": int.from_bytes(report[0x30:0x34], "little"),
        f"{snp}is-debuggable": bool(report[0x0A] >> 3 & 1),
        f"{snp}smt-allowed": bool(report[0x0A] & 1),
        f"{snp}hostdata": [A, report[0xC0:0xE0].hex()],
        f"{snp}launchmeasurement": report[0x90:0xC0].hex(),
        f"{snp}reportdata": report[0x50:0x90].hex(),
        f"{snp}reportid": report[0x140:0x160].hex(),
        f"{snp}idkeydigest": report[0xE0:0x110].hex(),
        f"{snp}authorkeydigest": report[0x110:0x140].hex(),
        f"{snp}familyId": report[0x10:0x20].hex(),
        f"{snp}imageId": report[0x20:0x30].hex(),
    }
    assert reads_secret(cgs, cgs.accepted_contract(claims))


def test_delegates_are_read_and_listed(cgs: Target) -> None:
    kind, delegate_id = "oauth-federation-subjects", fresh("sub")
    assert delegate_claims(cgs, kind, delegate_id) == {}
    expect(delegate(cgs, kind, delegate_id, {"type": "add", "claims": {DEBUG: False, HOST_DATA: [A, A]}}), 200)
    expect(delegate(cgs, kind, delegate_id, {"type": "add", "claims": {HOST_DATA: B}}), 200)
    assert delegate_claims(cgs, kind, delegate_id) == {DEBUG: [False], HOST_DATA: [A, B]}
    expect(delegate(cgs, kind, delegate_id, {"type": "remove", "claims": {DEBUG: True, HOST_DATA: [B, A]}}), 200)
    assert delegate_claims(cgs, kind, delegate_id) == {}
    rows = expect(cgs.call("GET", f"/app/contracts/{cgs.contract()}/cleanroompolicy/delegates", cgs.ann), 200)["value"]
    assert rows.count({"delegateType": kind, "delegateId": delegate_id}) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"type": "replace", "claims": {HOST_DATA: A}},
        {"type": "add", "claims": {"no-such-claim": 1}},
        {"type": "add"},
        {"type": "add", "claims": {"oid": "x"}, "policyType": "jwt"},
        {"type": "remove", "claims": {HOST_DATA: A}},
    ],
)
def test_invalid_delegate_input_is_500(cgs: Target, body: dict[str, Any]) -> None:
    delegate_id = fresh("d")
    expect(delegate(cgs, "secrets", delegate_id, body), 500, "InternalError")
    assert delegate_claims(cgs, "secrets", delegate_id) == {}


def test_failed_removal_removes_nothing(cgs: Target) -> None:
    delegate_id = fresh("d")
    expect(delegate(cgs, "secrets", delegate_id, {"type": "add", "claims": {HOST_DATA: [A, B]}}), 200)
    for claims in ({HOST_DATA: A, DEBUG: False}, {HOST_DATA: [B, A], "x-ms-ver": "3"}):
        expect(delegate(cgs, "secrets", delegate_id, {"type": "remove", "claims": claims}), 500, "InternalError")
        assert delegate_claims(cgs, "secrets", delegate_id) == {HOST_DATA: [A, B]}


def test_cvm_claims_need_their_policy_type(cgs: Target) -> None:
    delegate_id = fresh("d")
    expect(delegate(cgs, "secrets", delegate_id, {"type": "add", "claims": {"pcr23": "x"}}), 500, "InternalError")
    expect(delegate(cgs, "secrets", delegate_id, {"type": "add", "claims": {"pcr23": "x"}, "policyType": "snp-cvm"}), 200)
    assert delegate_claims(cgs, "secrets", delegate_id) == {"pcr23": ["x"]}


def test_user_cannot_set_a_delegate(cgs: Target) -> None:
    path = f"/app/contracts/{cgs.contract()}/cleanroompolicy/delegates/secrets/{fresh('d')}"
    expect(cgs.call("PUT", path, cgs.ann, json={"type": "add", "claims": {HOST_DATA: A}}), 400, "AttestationMissing")
