"""How ``cgs-client`` validates and builds the proposals of identities and invitations."""

from __future__ import annotations

import uuid
from typing import Any

from localcloud.standins.cgs.http import Fault
from localcloud.standins.cgs.proxy_session import Session


def _invalid(code: str, message: str) -> Fault:
    return Fault(400, code, message)


async def identity_action(session: Session) -> dict[str, Any]:
    """Return the arguments of ``set_user_identity``.

    The body is ``{objectId, accountType, tenantId, identifier?}`` or ``{acceptedInvitationId}``.
    """
    body = session.body()
    invitation_id = body.get("acceptedInvitationId")
    if invitation_id and body.get("objectId"):
        raise _invalid("TooManyInputs", "Give objectId or acceptedInvitationId, not both.")
    if not invitation_id:
        for name, code in (
            ("objectId", "ObjectIdMissing"),
            ("accountType", "AccountTypeNotSpecified"),
            ("tenantId", "TenantIdNotSpecified"),
        ):
            if not body.get(name):
                raise _invalid(code, f"{name} must be given.")
        data = {"tenantId": body["tenantId"]} | ({"identifier": body["identifier"]} if body.get("identifier") else {})
        return {"id": body["objectId"], "accountType": body["accountType"], "data": data}
    for name, code in (
        ("accountType", "CannotSpecifyAccountType"),
        ("tenantId", "CannotSpecifyTenantId"),
        ("identifier", "CannotSpecifyIdentifier"),
    ):
        if body.get(name):
            raise _invalid(code, f"{name} comes from the invitation and cannot be given.")
    invitation = await session.read("POST", f"/users/invitations/{invitation_id}")
    if invitation["status"] != "Accepted":
        raise _invalid("InvitationNotAccepted", f"Invitation {invitation_id} is {invitation['status']}; the user must accept it first.")
    user = invitation.get("userInfo") or {}
    tenant = (user.get("data") or {}).get("tenantId")
    names = invitation["claims"].get("preferred_username") or invitation["claims"].get("appid")
    for value, code in (
        (invitation.get("accountType"), "AccountTypeNotSetInAcceptedInvitation"),
        (user.get("userId"), "UserIdNotSetInAcceptedInvitation"),
        (tenant, "TenantIdNotSetInAcceptedInvitation"),
        (names, "UsernameClaimNotSetInAcceptedInvitation"),
    ):
        if not value:
            raise _invalid(
                code,
                f"Invitation {invitation_id} lacks a value that an identity needs; the error code names it.",
            )
    head = {"id": user["userId"], "accountType": invitation["accountType"], "invitationId": invitation_id}
    return {**head, "data": {"tenantId": tenant, "identifier": names[0]}}


def invitation_action(body: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``set_user_invitation_by_jwt_claims``.

    A service principal is invited by its application ID and tenant.
    """
    name = body.get("userName")
    if not name:
        raise _invalid("UserNameMissing", "userName must be given.")
    service = body.get("identityType") == "ServicePrincipal"
    if service:
        try:
            uuid.UUID(str(name))
        except ValueError as error:
            raise _invalid("InvalidGuidUserName", "userName of a service principal must be its application id.") from error
        if not body.get("tenantId"):
            raise _invalid("TenantIdMissing", "tenantId must be given for a service principal.")
    elif not isinstance(name, str) or " " in name:
        raise _invalid("InvalidUserName", "userName must be a sign-in name without spaces.")
    claims: dict[str, Any] = {"appid" if service else "preferred_username": name}
    if body.get("tenantId"):
        claims["tid"] = body["tenantId"]
    invitation_id = body.get("invitationId") or uuid.uuid4().hex
    return {"invitationId": invitation_id, "type": "add", "accountType": body.get("accountType", "microsoft"), "claims": claims}
