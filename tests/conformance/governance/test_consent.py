"""Runtime options of documents, contracts and the service."""

from __future__ import annotations

import pytest

from tests.conformance.governance.target import Person, Target, expect, fresh


def status(cgs: Target, document_id: str, option: str = "execution", who: Person | None = None, contract: str | None = None) -> dict:
    path = f"/app/contracts/{contract or cgs.contract()}/userdocuments/{document_id}/runtimeoptions/{option}/status"
    return dict(expect(cgs.call("POST", path, who or cgs.ann), 200))


def switch(cgs: Target, document_id: str, verb: str, who: Person, option: str = "execution"):
    return cgs.call("POST", f"/app/contracts/{cgs.contract()}/userdocuments/{document_id}/runtimeoptions/{option}/{verb}", who)


def test_document_consent_is_enabled_until_an_approver_disables_it(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann, cgs.bob])
    assert status(cgs, document_id) == {"status": "enabled"}
    for who in (cgs.ann, cgs.bob, cgs.bob):
        response = switch(cgs, document_id, "disable", who)
        assert expect(response, 200) is None
    answer = status(cgs, document_id)
    assert (answer["status"], answer["reason"]["code"]) == ("disabled", "UserDocumentRuntimeOptionDisabled")
    assert f"m[{cgs.ann.oid},{cgs.bob.oid}]" in answer["reason"]["message"]
    expect(switch(cgs, document_id, "enable", cgs.ann), 200)
    answer = status(cgs, document_id)
    assert f"m[{cgs.bob.oid}]" in answer["reason"]["message"]
    expect(switch(cgs, document_id, "enable", cgs.bob), 200)
    assert status(cgs, document_id) == {"status": "enabled"}
    expect(switch(cgs, document_id, "disable", cgs.ann, "telemetry"), 200)
    assert status(cgs, document_id) == {"status": "enabled"}
    assert status(cgs, document_id, "telemetry")["status"] == "disabled"


def test_only_approvers_change_consent(cgs: Target) -> None:
    document_id = fresh("doc")
    expect(cgs.vote(cgs.propose(document_id, cgs.eve, [cgs.ann]), cgs.ann), 200)
    expect(switch(cgs, document_id, "disable", cgs.eve), 403, "NotUserDocumentApprover")
    expect(switch(cgs, document_id, "disable", cgs.eve, "nonsense"), 403, "NotUserDocumentApprover")
    expect(switch(cgs, document_id, "disable", cgs.ann, "logging"), 400, "InvalidUserDocumentRuntimeOption")


def test_missing_document_is_200_disabled_even_for_an_invalid_option(cgs: Target) -> None:
    missing, draft = fresh("none"), fresh("doc")
    expect(cgs.put(draft, cgs.ann), 200)
    for document_id in (missing, draft):
        for option in ("execution", "nonsense"):
            assert status(cgs, document_id, option)["reason"]["code"] == "UserDocumentNotAccepted"
        expect(switch(cgs, document_id, "disable", cgs.ann, "nonsense"), 400, "UserDocumentNotAccepted")


def test_documents_have_no_logging_option(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann])
    path = f"/app/contracts/other/userdocuments/{document_id}/runtimeoptions"
    expect(cgs.call("POST", f"{path}/logging/status", cgs.ann), 400, "InvalidUserDocumentRuntimeOption")
    expect(cgs.call("POST", f"{path}/execution/status", cgs.ann), 400, "ContractIdMismatch")
    # Enable and disable do not compare the contract.
    expect(cgs.call("POST", f"{path}/execution/enable", cgs.ann), 200)


def test_consent_check_of_a_clean_room_binds_no_key_and_ignores_the_platform(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann])
    path = f"/app/contracts/{cgs.contract()}/userdocuments/{document_id}/runtimeoptions/execution/status"
    guest = cgs.guest()
    assert expect(cgs.call("POST", path, json=guest.consent()), 200) == {"status": "enabled"}
    assert expect(cgs.call("POST", path, json={**guest.consent(), "platform": "nonsense"}), 200) == {"status": "enabled"}
    expect(cgs.call("POST", path, json={}), 400, "AttestationMissing")
    expect(cgs.call("POST", path, json=cgs.guest("other").consent()), 400, "VerifySnpAttestationFailed")
    missing = path.replace(document_id, fresh("none"))
    assert expect(cgs.call("POST", missing, json=guest.consent()), 200)["reason"]["code"] == "UserDocumentNotAccepted"
    expect(switch(cgs, document_id, "disable", cgs.ann), 200)
    assert expect(cgs.call("POST", path, json=guest.consent()), 200)["status"] == "disabled"


def test_unregistered_caller_cannot_read_consent(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann])
    path = f"/app/contracts/{cgs.contract()}/userdocuments/{document_id}/runtimeoptions/execution/status"
    expect(cgs.call("POST", path, cgs.stranger), 403, "CallerNotAuthorized")
    expect(switch(cgs, document_id, "disable", cgs.stranger), 403, "CallerNotAuthorized")


def test_contract_options(cgs: Target) -> None:
    contract_id = cgs.accepted_contract(cgs.policy())
    path = f"/app/contracts/{contract_id}/runtimeoptions"
    guest = cgs.guest()
    assert expect(cgs.call("POST", f"{path}/execution/status", cgs.ann), 200) == {"status": "enabled"}
    for option in ("logging", "telemetry"):
        expected = {"status": "disabled", "proposalIds": []}
        assert expect(cgs.call("POST", f"{path}/{option}/status", cgs.ann), 200) == expected
        assert expect(cgs.call("POST", f"{path}/{option}/status", json=guest.consent()), 200) == expected
    expect(cgs.call("POST", f"{path}/nonsense/status", cgs.ann), 400, "InvalidOption")
    expect(cgs.call("POST", f"{path}/logging/disable", "member"), 400, "InvalidOption")
    assert expect(cgs.call("POST", f"{path}/execution/disable", "member"), 200) is None
    assert expect(cgs.call("POST", f"{path}/execution/status", cgs.ann), 200)["reason"]["code"] == "ContractDisabled"
    assert expect(cgs.call("POST", f"{path}/execution/status", json=guest.consent()), 200)["status"] == "disabled"
    expect(cgs.call("POST", f"{path}/execution/enable", "member"), 200)
    assert expect(cgs.call("POST", f"{path}/execution/status", cgs.ann), 200) == {"status": "enabled"}


def test_members_enable_logging_and_disabling_needs_no_votes(cgs: Target) -> None:
    contract_id = cgs.accepted_contract()
    path = f"/app/contracts/{contract_id}/runtimeoptions/logging/status"
    proposal = expect(cgs.proxy("POST", f"/contracts/{contract_id}/logging/propose-enable"), 200)
    if proposal["proposalState"] == "Open":
        assert expect(cgs.call("POST", path, cgs.ann), 200) == {"status": "disabled", "proposalIds": [proposal["proposalId"]]}
        expect(cgs.proxy("POST", f"/proposals/{proposal['proposalId']}/ballots/vote_accept"), 200)
    assert expect(cgs.call("POST", path, cgs.ann), 200) == {"status": "enabled", "proposalIds": []}
    assert expect(cgs.proxy("POST", f"/contracts/{contract_id}/logging/propose-disable"), 200)["proposalState"] == "Accepted"
    assert expect(cgs.call("POST", path, cgs.ann), 200)["status"] == "disabled"


def test_options_of_an_unaccepted_contract_are_disabled(cgs: Target) -> None:
    contract_id = cgs.draft_contract()
    path = f"/app/contracts/{contract_id}/runtimeoptions/execution"
    assert expect(cgs.call("POST", f"{path}/status", cgs.ann), 200)["reason"]["code"] == "ContractNotAccepted"
    expect(cgs.call("POST", f"{path}/disable", "member"), 400, "ContractNotAccepted")


@pytest.mark.parametrize("name", ["constitution", "jsapp", "deploymentspec", "deploymentinfo", "cleanroompolicy"])
def test_service_options_exist(cgs: Target, name: str) -> None:
    answer = expect(cgs.call("POST", f"/app/runtimeoptions/autoapprove-{name}-proposal/status", cgs.ann), 200)
    assert answer["status"] in {"enabled", "disabled"}


def test_unknown_service_option_is_400(cgs: Target) -> None:
    expect(cgs.call("POST", "/app/runtimeoptions/nonsense/status", cgs.ann), 400, "InvalidOption")
