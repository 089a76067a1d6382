"""The routes of cgs-client. Needs ``CLEANROOM_CGS_CLIENT_URL``, a proxy with the member's identity."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conformance.governance.target import Person, Target, approver_rows, expect, fresh


def as_user(cgs: Target, method: str, path: str, who: Person, **arguments: Any) -> httpx.Response:
    headers = {"x-ms-auth-mode": "FromAuthHeader", "authorization": f"Bearer {cgs.token(who)}", "x-ms-ccf-endpoint": cgs.settings.url}
    return cgs.proxy(method, path, headers=headers, **arguments)


def draft(cgs: Target, **changes: Any) -> tuple[str, str]:
    document_id = fresh("doc")
    body = {"contractId": cgs.contract(), "data": "x", "approvers": approver_rows([cgs.ann, cgs.bob]), "version": "", **changes}
    expect(as_user(cgs, "PUT", f"/userdocuments/{document_id}", cgs.ann, json=body), 200)
    return document_id, expect(as_user(cgs, "GET", f"/userdocuments/{document_id}", cgs.ann), 200)["version"]


def test_document_through_the_proxy(cgs: Target) -> None:
    document_id, version = draft(cgs)
    path = f"/userdocuments/{document_id}"
    expect(as_user(cgs, "POST", f"{path}/propose", cgs.ann, json={}), 400, "VersionMissing")
    expect(as_user(cgs, "POST", f"{path}/propose", cgs.ann, json={"version": "1.0"}), 400, "UserDocumentModified")
    expect(as_user(cgs, "POST", f"{path}/vote_accept", cgs.ann, json={"proposalId": "x"}), 400, "UserDocumentNotProposed")
    proposal_id = expect(as_user(cgs, "POST", f"{path}/propose", cgs.ann, json={"version": version}), 200)["proposalId"]
    assert len(proposal_id) == 32
    proposal = expect(as_user(cgs, "GET", f"/users/proposals/{proposal_id}", cgs.ann), 200)
    # The whole body of the GET is proposed.
    assert proposal["args"]["document"]["state"] == "Draft"
    assert proposal["approvers"] == approver_rows([cgs.ann, cgs.bob])
    expect(as_user(cgs, "POST", f"{path}/vote_accept", cgs.ann, json={}), 400, "ProposalIdMissing")
    expect(as_user(cgs, "POST", f"{path}/vote_accept", cgs.ann, json={"proposalId": "x"}), 400, "ProposalIdMismatch")
    expect(as_user(cgs, "POST", f"{path}/vote", cgs.ann, json={"proposalId": proposal_id}), 400, "BallotKeyMissing")
    ballot = {"proposalId": proposal_id, "ballot": {"ballot": "accepted"}}
    expect(as_user(cgs, "POST", f"{path}/vote", cgs.ann, json=ballot), 200)
    status = expect(as_user(cgs, "GET", f"/users/proposals/{proposal_id}/status", cgs.bob), 200)
    assert status["ballots"] == [{"approverId": cgs.ann.oid, "ballot": "accepted"}]
    expect(as_user(cgs, "POST", f"/users/proposals/{proposal_id}/ballots/vote_accept", cgs.bob), 200)
    assert expect(as_user(cgs, "GET", path, cgs.bob), 200)["state"] == "Accepted"
    expect(as_user(cgs, "POST", f"{path}/vote_accept", cgs.bob, json={"proposalId": proposal_id}), 409, "ProposalNotOpen")
    expect(as_user(cgs, "POST", f"{path}/vote", cgs.bob, json={}), 400, "BallotKeyMissing")
    expect(as_user(cgs, "POST", f"{path}/vote", cgs.bob, json={"ballot": {"ballot": "accepted"}}), 400, "ProposalIdMissing")


def test_rejection_and_withdrawal_through_the_proxy(cgs: Target) -> None:
    document_id, version = draft(cgs)
    path = f"/userdocuments/{document_id}"
    first = expect(as_user(cgs, "POST", f"{path}/propose", cgs.ann, json={"version": version}), 200)["proposalId"]
    expect(as_user(cgs, "POST", f"{path}/vote_reject", cgs.bob, json={"proposalId": first}), 200)
    second = expect(as_user(cgs, "POST", f"{path}/propose", cgs.ann, json={"version": version}), 200)["proposalId"]
    expect(as_user(cgs, "POST", f"/users/proposals/{second}/withdraw", cgs.bob), 403, "NotProposalOwner")
    assert expect(as_user(cgs, "POST", f"/users/proposals/{second}/withdraw", cgs.ann), 200)["state"] == "Withdrawn"


def test_proxy_names_the_active_regular_members_as_default_approvers(cgs: Target) -> None:
    document_id, version = draft(cgs, approvers=[])
    answer = expect(as_user(cgs, "POST", f"/userdocuments/{document_id}/propose", cgs.ann, json={"version": version}), 200)
    rows = expect(as_user(cgs, "GET", f"/users/proposals/{answer['proposalId']}", cgs.ann), 200)["approvers"]
    assert rows
    assert all(row["approverIdType"] == "member" and len(row["approverId"]) == 64 for row in rows)


def test_consent_of_a_missing_document_is_404_through_the_proxy(cgs: Target) -> None:
    path = f"/userdocuments/{fresh('none')}"
    expect(as_user(cgs, "POST", f"{path}/checkstatus/execution", cgs.ann), 404, "UserDocumentNotFound")
    expect(as_user(cgs, "POST", f"{path}/runtimeoptions/execution/disable", cgs.ann), 404, "UserDocumentNotFound")


def test_consent_through_the_proxy(cgs: Target) -> None:
    path = f"/userdocuments/{cgs.accepted([cgs.ann])}"
    expect(as_user(cgs, "POST", f"{path}/runtimeoptions/execution/disable", cgs.ann), 200)
    assert expect(as_user(cgs, "POST", f"{path}/checkstatus/execution", cgs.bob), 200)["status"] == "disabled"


def test_proxy_reads_with_get(cgs: Target) -> None:
    contract = f"/contracts/{cgs.contract()}"
    assert expect(as_user(cgs, "GET", contract, cgs.ann), 200)["state"] == "Accepted"
    assert set(expect(as_user(cgs, "GET", f"{contract}/cleanroompolicy", cgs.ann), 200)) == {"proposalIds", "policy"}
    assert expect(as_user(cgs, "GET", f"{contract}/cleanroompolicy/delegates/secrets/{fresh('x')}", cgs.ann), 200) == {"claims": {}}
    assert "enabled" in expect(as_user(cgs, "GET", "/oidc/issuerInfo", cgs.ann), 200)
    assert expect(as_user(cgs, "GET", f"/users/identities/{cgs.bob.oid}", cgs.ann), 200)["id"] == cgs.bob.oid
    assert expect(as_user(cgs, "POST", f"{contract}/checkstatus/execution", cgs.ann), 200)["status"] == "enabled"
    assert expect(as_user(cgs, "GET", "/members", cgs.ann), 200)["value"]
    secret = expect(as_user(cgs, "PUT", f"{contract}/secrets/{fresh('s')}", cgs.ann, json={"value": "v"}), 200)["secretId"]
    assert {"secretId": secret} in expect(as_user(cgs, "GET", f"{contract}/secrets", cgs.ann), 200)["value"]


def test_next_link_has_no_app_prefix(cgs: Target) -> None:
    event_id = fresh("run")
    path = f"/app/contracts/{cgs.contract()}/events?id={event_id}"
    for _ in range(3):
        response = cgs.call("PUT", path, json=cgs.guest().write({"a": 1}))
    last = int(response.headers["x-ms-ccf-transaction-id"].split(".")[1])
    for _ in range(20):
        query = f"?id={event_id}&from_seqno={last - 2}&to_seqno={last}&max_seqno_per_page=0"
        page = as_user(cgs, "GET", f"/contracts/{cgs.contract()}/events{query}", cgs.ann)
        if page.status_code != 202:
            break
    assert expect(page, 200)["nextLink"].startswith(f"/contracts/{cgs.contract()}/events?from_seqno={last - 1}&")


def test_user_without_a_signing_key_cannot_govern(cgs: Target) -> None:
    assert as_user(cgs, "GET", "/proposals", cgs.ann).status_code == 500
    assert as_user(cgs, "POST", "/proposals/create", cgs.ann, json={"actions": []}).status_code == 500


def test_upstream_errors_pass_through(cgs: Target) -> None:
    expect(as_user(cgs, "GET", "/userdocuments", cgs.stranger), 403, "CallerNotAuthorized")
    expect(as_user(cgs, "GET", f"/userdocuments/{fresh('none')}", cgs.ann), 404, "UserDocumentNotFound")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "ObjectIdMissing"),
        ({"objectId": "x", "acceptedInvitationId": "y"}, "TooManyInputs"),
        ({"objectId": "x"}, "AccountTypeNotSpecified"),
        ({"objectId": "x", "accountType": "microsoft"}, "TenantIdNotSpecified"),
        ({"acceptedInvitationId": "y", "accountType": "microsoft"}, "CannotSpecifyAccountType"),
        ({"acceptedInvitationId": "y", "tenantId": "t"}, "CannotSpecifyTenantId"),
        ({"acceptedInvitationId": "y", "identifier": "i"}, "CannotSpecifyIdentifier"),
    ],
)
def test_invalid_identity_is_rejected(cgs: Target, body: dict[str, str], code: str) -> None:
    expect(cgs.proxy("POST", "/users/identities/add", json=body), 400, code)


def test_invitation_through_the_proxy(cgs: Target) -> None:
    expect(cgs.proxy("POST", "/users/invitations/propose", json={}), 400, "UserNameMissing")
    service = {"userName": "not-a-guid", "identityType": "ServicePrincipal", "accountType": "microsoft"}
    expect(cgs.proxy("POST", "/users/invitations/propose", json=service), 400, "InvalidGuidUserName")
    service["userName"] = "11111111-2222-4333-8444-555555555555"
    expect(cgs.proxy("POST", "/users/invitations/propose", json=service), 400, "TenantIdMissing")
    name = f"{fresh('new')}@example.org"
    body = {"userName": name, "identityType": "User", "accountType": "microsoft"}
    answer = expect(cgs.proxy("POST", "/users/invitations/propose", json=body), 200)
    if answer["proposalState"] == "Open":
        expect(cgs.proxy("POST", f"/proposals/{answer['proposalId']}/ballots/vote_accept"), 200)
    invitation_id = answer["invitationId"]
    expect(cgs.proxy("POST", "/users/identities/add", json={"acceptedInvitationId": invitation_id}), 400, "InvitationNotAccepted")
    new = Person(fresh("oid"), cgs.settings.tenant, {"preferred_username": name})
    expect(as_user(cgs, "POST", f"/users/invitations/{invitation_id}/accept", new), 200)
    added = expect(cgs.proxy("POST", "/users/identities/add", json={"acceptedInvitationId": invitation_id}), 200)
    if added["proposalState"] == "Open":
        expect(cgs.proxy("POST", f"/proposals/{added['proposalId']}/ballots/vote_accept"), 200)
    row = expect(as_user(cgs, "GET", f"/users/{new.oid}", new), 200)
    assert row["data"] == {"tenantId": new.tenant, "identifier": name}
