"""Identities and invitations."""

from __future__ import annotations

from typing import Any

from tests.conformance.governance.target import Person, Target, expect, fresh


def invite(cgs: Target, claims: dict[str, Any]) -> str:
    invitation_id = fresh("invitation")
    args = {"invitationId": invitation_id, "type": "add", "accountType": "microsoft", "claims": claims}
    cgs.govern("set_user_invitation_by_jwt_claims", args)
    return invitation_id


def test_registered_identity_is_read_and_listed(cgs: Target) -> None:
    rows = expect(cgs.call("GET", "/app/users/identities", cgs.ann), 200)["value"]
    mine = next(row for row in rows if row["id"] == cgs.bob.oid)
    assert mine["accountType"] == "microsoft"
    assert mine["data"]["tenantId"] == cgs.bob.tenant
    assert expect(cgs.call("POST", f"/app/users/identities/{cgs.bob.oid}", cgs.ann), 200) == mine
    expect(cgs.call("POST", f"/app/users/identities/{fresh('none')}", cgs.ann), 404, "UserIdentityNotFound")


def test_own_status_is_active_or_an_error(cgs: Target) -> None:
    path = "/app/users/identities/self/status"
    assert expect(cgs.call("POST", path, cgs.ann), 200) == {"active": True}
    expect(cgs.call("POST", path, cgs.stranger), 403, "CallerNotAuthorized")
    expect(cgs.call("POST", path, Person(cgs.ann.oid, "other")), 403, "CallerTenantNotAuthorized")
    expect(cgs.call("POST", path), 401, "InvalidAuthenticationInfo")
    error = expect(cgs.call("POST", path, "member"), 401, "InvalidAuthenticationInfo")
    assert [row["auth_policy"] for row in error["details"]] == ["jwt"]


def test_accepted_invitation_is_not_an_active_user(cgs: Target) -> None:
    name = f"{fresh('new')}@example.org"
    new = Person(fresh("new-oid"), cgs.settings.tenant, {"preferred_username": name})
    invitation_id = invite(cgs, {"preferred_username": name})
    path = f"/app/users/invitations/{invitation_id}"
    opened = {"invitationId": invitation_id, "accountType": "microsoft", "claims": {"preferred_username": [name]}, "status": "Open"}
    # Readable by any valid token, registered or not.
    assert expect(cgs.call("POST", path, cgs.stranger), 200) == opened
    assert opened in expect(cgs.call("GET", "/app/users/invitations", cgs.stranger), 200)["value"]

    assert expect(cgs.call("POST", f"{path}/accept", new), 200) is None
    accepted = {**opened, "userInfo": {"userId": new.oid, "data": {"tenantId": new.tenant}}, "status": "Accepted"}
    assert expect(cgs.call("POST", path, new), 200) == accepted
    expect(cgs.call("POST", f"{path}/accept", new), 409, "InvitationNotOpen")
    expect(cgs.call("POST", "/app/users/identities/self/status", new), 403, "CallerNotAuthorized")

    args = {"id": new.oid, "accountType": "microsoft", "invitationId": invitation_id, "data": {"tenantId": new.tenant, "identifier": name}}
    cgs.govern("set_user_identity", args)
    assert expect(cgs.call("POST", "/app/users/identities/self/status", new), 200) == {"active": True}
    assert expect(cgs.call("POST", path, new), 200)["status"] == "Finalized"
    row = expect(cgs.call("POST", f"/app/users/identities/{new.oid}", cgs.ann), 200)
    assert row == {"id": new.oid, **{name: args[name] for name in ("accountType", "invitationId", "data")}}

    cgs.govern("remove_user_identity", {"id": new.oid})
    expect(cgs.call("POST", "/app/users/identities/self/status", new), 403, "CallerNotAuthorized")


def test_token_that_does_not_match_an_invitation_is_rejected(cgs: Target) -> None:
    invitation_id = invite(cgs, {"email": ["a@x", "b@x"], "tid": cgs.settings.tenant})
    path = f"/app/users/invitations/{invitation_id}/accept"
    who = Person(fresh("oid"), cgs.settings.tenant)
    expect(cgs.call("POST", f"/app/users/invitations/{fresh('none')}/accept", who), 404, "InvitationNotFound")
    expect(cgs.call("POST", f"/app/users/invitations/{fresh('none')}", who), 404, "InvitationNotFound")
    expect(cgs.call("POST", path, cgs.token(who, oid=None)), 404, "OidClaimMissing")
    expect(cgs.call("POST", path, who), 403, "TokenClaimMissing")
    expect(cgs.call("POST", path, cgs.token(who, email="c@x")), 403, "TokenClaimMismatch")
    expect(cgs.call("POST", path), 401, "InvalidAuthenticationInfo")
    expect(cgs.call("POST", path, cgs.token(who, email="b@x")), 200)


def test_finalized_invitation_cannot_be_changed(cgs: Target) -> None:
    invitation_id = invite(cgs, {"email": "a@x"})
    oid = fresh("oid")
    cgs.govern("set_user_identity", {"id": oid, "accountType": "microsoft", "invitationId": invitation_id, "data": {"tenantId": "t"}})
    args = {"invitationId": invitation_id, "type": "add", "accountType": "microsoft", "claims": {"email": "b@x"}}
    body = {"actions": [{"name": "set_user_invitation_by_jwt_claims", "args": args}]}
    expect(cgs.proxy("POST", "/proposals/create", json=body), 400, "ProposalFailedToValidate")
    # It can still be accepted, because it has not been accepted before.
    path = f"/app/users/invitations/{invitation_id}"
    assert expect(cgs.call("POST", path, cgs.ann), 200)["status"] == "Finalized"
    expect(cgs.call("POST", f"{path}/accept", cgs.token(cgs.ann, email="a@x")), 200)
    assert expect(cgs.call("POST", path, cgs.ann), 200)["status"] == "Finalized"
    expect(cgs.call("POST", f"{path}/accept", cgs.token(cgs.ann, email="a@x")), 409, "InvitationNotOpen")
    cgs.govern("remove_user_identity", {"id": oid})


def test_an_empty_identity_id_is_accepted(cgs: Target) -> None:
    cgs.govern("set_user_identity", {"id": "", "accountType": "microsoft", "data": {"tenantId": "t"}})
    assert "" in {row["id"] for row in expect(cgs.call("GET", "/app/users/identities", cgs.ann), 200)["value"]}
    body = {"actions": [{"name": "set_user_identity", "args": {"id": 5, "accountType": "microsoft", "data": {"tenantId": "t"}}}]}
    expect(cgs.proxy("POST", "/proposals/create", json=body), 400, "ProposalFailedToValidate")


def test_identity_needs_a_tenant_and_a_microsoft_account(cgs: Target) -> None:
    good = {"id": fresh("oid"), "accountType": "microsoft", "data": {"tenantId": "t"}}
    for change in ({"accountType": "google"}, {"data": {}}, {"id": None}):
        body = {"actions": [{"name": "set_user_identity", "args": {**good, **change}}]}
        expect(cgs.proxy("POST", "/proposals/create", json=body), 400, "ProposalFailedToValidate")
