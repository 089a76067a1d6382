"""Routes of user identities and invitations (docs/facts/governance-service.md#users-and-invitations)."""

from __future__ import annotations

from typing import Any

from localcloud.standins.cgs.auth import IDENTITIES, require_active
from localcloud.standins.cgs.http import MEMBER_OR_USER, USER, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import Crash, omit_undefined
from localcloud.standins.cgs.store import Tx

INVITATIONS = "public:ccf.gov.user_invitations"
INVITATIONS_INFO = "public:user_invitations_info"
FINALIZED = "public:ccf.gov.accepted_user_invitations"


def invitation_claims_table(invitation_id: str) -> str:
    """Return the table of an invitation's claims: claim name to allowed values."""
    return f"public:ccf.gov.user_invitations-{invitation_id}"


def list_identities(call: Call, tx: Tx) -> Reply:
    """List the registered users."""
    require_active(call.caller, tx)
    return Reply({"value": [{"id": key, **item} for key, item in tx.items(IDENTITIES)]})


def get_identity(call: Call, tx: Tx) -> Reply:
    """Read a registered user."""
    require_active(call.caller, tx)
    item = tx.get(IDENTITIES, call.params["identityId"])
    if item is None:
        raise Fault(404, "UserIdentityNotFound", f"User {call.params['identityId']} does not exist.")
    return Reply({"id": call.params["identityId"], **item})


def self_status(call: Call, tx: Tx) -> Reply:
    """Read the caller's own status. An inactive user gets 403, never ``active: false``, like in the original."""
    require_active(call.caller, tx)
    return Reply({"active": True})


def read_invitation(tx: Tx, key: str) -> dict[str, Any] | None:
    """Return an invitation with its claims, acceptance and status, or None."""
    item = tx.get(INVITATIONS, key)
    if item is None:
        return None
    info = tx.get(INVITATIONS_INFO, key)
    body: dict[str, Any] = {"invitationId": key, "accountType": item["accountType"], "claims": dict(tx.items(invitation_claims_table(key)))}
    if info is not None:
        body["userInfo"] = info["userInfo"]
    body["status"] = "Finalized" if tx.has(FINALIZED, key) else info["status"] if info is not None else "Open"
    return body


def list_invitations(call: Call, tx: Tx) -> Reply:
    """List the invitations. Any valid token can read them, like in the original."""
    return Reply({"value": [read_invitation(tx, key) for key in tx.keys(INVITATIONS)]})


def get_invitation(call: Call, tx: Tx) -> Reply:
    """Read an invitation."""
    found = read_invitation(tx, call.params["invitationId"])
    if found is None:
        raise Fault(404, "InvitationNotFound", f"Invitation {call.params['invitationId']} does not exist.")
    return Reply(found)


def _entra(claims: dict[str, Any]) -> bool:
    issuer, tenant = str(claims.get("iss")), claims.get("tid")
    return issuer in (f"https://login.microsoftonline.com/{tenant}/v2.0", f"https://sts.windows.net/{tenant}/")


def accept_invitation(call: Call, tx: Tx) -> Reply:
    """Accept an invitation with any valid token that has the invited claims."""
    assert call.caller is not None
    key, token = call.params["invitationId"], call.caller.claims
    found = read_invitation(tx, key)
    if found is None:
        raise Fault(404, "InvitationNotFound", f"Invitation {key} does not exist.")
    if tx.has(INVITATIONS_INFO, key):
        # A member can finalise an invitation that was not accepted. It can still be accepted.
        raise Fault(409, "InvitationNotOpen", f"Invitation {key} is {found['status']}.")
    if "oid" not in token:
        raise Fault(404, "OidClaimMissing", "The token has no oid claim.")
    if not found["claims"]:
        raise Crash("the invitation has no claims")
    for name, values in found["claims"].items():
        source = "upn" if name == "preferred_username" and _entra(token) and token.get("ver") == "1.0" else name
        if source not in token:
            raise Fault(403, "TokenClaimMissing", f"The token has no claim {source}.")
        if token[source] not in values:
            raise Fault(403, "TokenClaimMismatch", f"Claim {source} of the token is {token[source]!r}; the invitation allows {values}.")
    data = omit_undefined(tenantId=token["tid"]) if "tid" in token else {}
    tx.put(INVITATIONS_INFO, key, {"status": "Accepted", "userInfo": {"userId": token["oid"], "data": data}})
    return Reply()


ROUTES = [
    Route("GET", "/users/identities", MEMBER_OR_USER, list_identities),
    Route("POST", "/users/identities/{identityId}", MEMBER_OR_USER, get_identity),
    Route("POST", "/users/identities/self/status", USER, self_status),
    Route("GET", "/users/invitations", MEMBER_OR_USER, list_invitations),
    Route("POST", "/users/invitations/{invitationId}", MEMBER_OR_USER, get_invitation),
    Route("POST", "/users/invitations/{invitationId}/accept", USER, accept_invitation, write=True),
]
