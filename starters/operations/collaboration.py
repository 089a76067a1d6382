"""Sets up a collaboration and its users."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cleanroom.claims import HOST_DATA
from cleanroom.errors import Conflict
from cleanroom.governance import GovernanceUserClient, Invitation, host_data_claims
from cleanroom.onboarding import Onboarding, Step, member_client, require_id, require_issuer_url
from starters.operations.session import Session
from starters.terminal.output import print_status, safe


def is_member(session: Session) -> bool:
    """Whether this profile acts as a member of the consortium, and as no user."""
    return session.settings.party is None and bool(session.settings.governance.proxy_url)


def user_governance(session: Session) -> GovernanceUserClient:
    """Governance as the user whose profile this is.

    Raises:
        InvalidInput: ``ProfileIsNoPerson`` for a member's profile: it has no user's credential.
    """
    if is_member(session):
        session.party  # noqa: B018 - raises, naming the people
    return session.governance()


@asynccontextmanager
async def governance_reader(session: Session) -> AsyncIterator[GovernanceUserClient]:
    """Governance as whoever this profile is: a member through the proxy, or a user."""
    async with member_client(session.settings) if is_member(session) else session.governance() as client:
        yield client


async def create_collaboration(
    session: Session, name: str, data: str | None, host_data: list[str], oidc_issuer: str | None, oidc_kid: str = "cleanroom"
) -> dict[str, Any]:
    """All steps that this member can do; stops at a contract that others must accept first. Wrong words change nothing."""
    require_id("collaboration", name)
    if host_data:
        host_data_claims(host_data)
    if oidc_issuer:
        require_issuer_url(oidc_issuer)
    async with member_client(session.settings) as client:
        onboarding = Onboarding(client)
        contract, first = await onboarding.contract(name, data)
        steps = [first]
        if contract.state == "Accepted":
            if host_data:
                steps.append(await onboarding.clean_room_policy(name, host_data))
            if oidc_issuer:
                steps += await onboarding.oidc_issuer(oidc_issuer, oidc_kid)
        print_waiting_steps(steps)
        return {
            "collaboration": contract.id,
            "state": contract.state,
            "version": contract.version,
            "steps": [step.model_dump(mode="json") for step in steps],
        }


def print_waiting_steps(steps: list[Step]) -> None:
    for step in steps:
        if step.state == "waiting":
            print_status(f"{step.step}: other members must vote, then repeat this; each of them runs")
            print_status(f"  [bold]cleanroom collaboration vote {safe(step.proposal_id)}[/bold]")


async def show_collaboration(session: Session, name: str) -> dict[str, Any]:
    """The collaboration as governance has it."""
    async with governance_reader(session) as client:
        contract = await client.get_contract(name)
        policy = await client.clean_room_policy(name)
        issuer = await client.oidc_issuer_info()
        consent = await client.contract_consent(name)
        members, users = await client.members(), await client.list_identities()
    return {
        "collaboration": contract.id,
        "state": contract.state,
        "version": contract.version,
        "data": contract.data,
        "cleanRooms": policy.policy.get(HOST_DATA, []),
        "openPolicyProposals": list(policy.proposal_ids),
        "issuer": {"enabled": issuer.enabled, "url": issuer.issuer_url},
        "execution": consent.status,
        "members": len(members),
        "users": len(users),
    }


async def accept(session: Session, invitation_id: str) -> dict[str, Any]:
    """Accept, or find that this very user accepted before.

    Raises:
        Conflict: ``InvitationNotOpen`` when somebody else did.
        Refused: ``TokenClaimMissing``, ``TokenClaimMismatch``: it is another user's invitation.
        InvalidInput: ``ProfileIsNoPerson``.
    """
    async with user_governance(session) as client:
        try:
            await client.accept_invitation(invitation_id)
        except Conflict as error:
            found = await client.get_invitation(invitation_id)
            mine = session.settings.parties.get(session.settings.party or "")
            if error.code != "InvitationNotOpen" or found.user_info is None or found.user_info.user_id != mine:
                raise
        return invitation_record(await client.get_invitation(invitation_id))


def invitation_record(invitation: Invitation) -> dict[str, Any]:
    user = invitation.user_info
    return {
        "invitation": invitation.invitation_id,
        "status": invitation.status,
        "claims": invitation.claims,
        "user": user.user_id if user else None,
        "tenant": user.data.tenant_id if user else None,
    }


async def list_members(session: Session) -> list[dict[str, Any]]:
    """Rows ``{kind: member|user|invitation, id, name, party, status}``."""
    parties = {user: name for name, user in session.settings.parties.items()}
    async with governance_reader(session) as client:
        found, users, invitations = await client.members(), await client.list_identities(), await client.list_invitations()
    rows: list[dict[str, Any]] = [
        {"kind": "member", "id": item.member_id, "name": (item.member_data or {}).get("identifier", ""), "party": "", "status": item.status}
        for item in found
    ]
    rows += [
        {"kind": "user", "id": item.id, "name": item.data.identifier or "", "party": parties.get(item.id, ""), "status": "Active"}
        for item in users
    ]
    rows += [
        {
            "kind": "invitation",
            "id": item.invitation_id,
            "name": ", ".join(str(value) for values in item.claims.values() for value in values),
            "party": parties.get(item.user_info.user_id, "") if item.user_info else "",
            "status": item.status,
        }
        for item in invitations
        if item.status != "Finalized"
    ]
    return rows
