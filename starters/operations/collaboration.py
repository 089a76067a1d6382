"""Sets up a collaboration in governance: contract, clean room policy, OIDC issuer, users.

Two kinds of identity use these functions. A user acts with the credential of a profile. A member of the consortium acts through its
``cgs-client`` proxy (``governance.proxy_url``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cleanroom.claims import HOST_DATA
from cleanroom.errors import Conflict, InvalidInput, NotFound
from cleanroom.governance import GovernanceUserClient, Invitation, host_data_claims
from cleanroom.onboarding import Onboarding, member_client, require_id, require_issuer_url
from starters.operations.session import Session

# Imported on use: the trust document's rules are those of attestation, which most commands do not need.
if TYPE_CHECKING:
    from cleanroom.trust import AcceptedTrust, TrustDocument, TrustSource


def is_member(session: Session) -> bool:
    """Return whether the profile belongs to a member of the consortium rather than to a user."""
    return session.settings.party is None and bool(session.settings.governance.proxy_url)


def user_governance(session: Session) -> GovernanceUserClient:
    """Create a governance client that acts as the user of the profile.

    Raises:
        InvalidInput: ``ProfileIsNoPerson`` for a member's profile, which has no user credential.
    """
    if is_member(session):
        session.party  # noqa: B018 - raises an error that lists the collaborators
    return session.governance()


@asynccontextmanager
async def governance_reader(session: Session) -> AsyncIterator[GovernanceUserClient]:
    """Open a governance client for reading, as a member or as a user, whichever the profile is."""
    async with member_client(session.settings) if is_member(session) else session.governance() as client:
        yield client


async def create_collaboration(
    session: Session,
    name: str,
    data: str | None,
    host_data: list[str],
    oidc_issuer: str | None,
    oidc_kid: str = "cleanroom",
    *,
    trust: TrustDocument | None = None,
) -> dict[str, Any]:
    """Take every set-up step that this member can take now.

    Invalid input is rejected before anything changes. A step that needs the votes of other members has the state ``waiting``. Later
    steps follow when the function is called again after the votes; it is idempotent.

    Args:
        session: Session of a member.
        name: ID of the contract.
        data: Text of the contract.
        host_data: Host data of the clean rooms to admit, in hex.
        oidc_issuer: URL of the issuer of the clean rooms' ID tokens.
        oidc_kid: Key ID of the issuer's first signing key.
        trust: Trust document to propose.

    Returns:
        The contract's ID, state and version, and the steps.
    """
    require_id("collaboration", name)
    if host_data:
        host_data_claims(host_data)
    if oidc_issuer:
        require_issuer_url(oidc_issuer)
    if trust is not None and trust.contract_id != name:
        raise InvalidInput("TrustDocumentMismatch", f"--trust: the document is for contract {trust.contract_id!r}, not {name!r}.")
    async with member_client(session.settings) as client:
        onboarding = Onboarding(client)
        contract, first = await onboarding.contract(name, data)
        steps = [first]
        if contract.state == "Accepted":
            if host_data:
                steps.append(await onboarding.clean_room_policy(name, host_data))
            if trust is not None:
                await _require_next(client, trust)
                steps.append(await onboarding.member_document(trust.id, name, trust.to_data()))
            if oidc_issuer:
                steps += await onboarding.oidc_issuer(oidc_issuer, oidc_kid)
        return {
            "collaboration": contract.id,
            "state": contract.state,
            "version": contract.version,
            "steps": [step.model_dump(mode="json") for step in steps],
        }


def trust_source(client: GovernanceUserClient, name: str) -> TrustSource:
    """Return the trust documents of a collaboration."""
    from cleanroom.trust import TrustSource

    return TrustSource(client.get_member_document, name, development=True)


async def _require_next(client: GovernanceUserClient, trust: TrustDocument) -> None:
    source = trust_source(client, trust.contract_id)
    following = await source.next_number()
    same = any(each.digest == trust.digest for each in await source.accepted())
    if trust.number != following and not same:
        raise Conflict(
            "TrustDocumentDiffers",
            f"--trust: the document has number {trust.number}; the next one of {trust.contract_id!r} is {following}.",
            hint="Accepted documents never change. Set `number`.",
        )


async def show_trust(session: Session, name: str) -> dict[str, Any]:
    """Return the trust document in force, with its digest and the members who voted for it.

    Raises:
        NotFound: ``TrustDocumentMissing``.
    """
    async with governance_reader(session) as client:
        accepted = await trust_source(client, name).accepted()
        if not accepted:
            raise NotFound("TrustDocumentMissing", f"the members of {name!r} have accepted no trust document.")
        found = await client.get_member_document(accepted[-1].id)
    votes = [vote.member_id for vote in found.final_votes or () if vote.vote]
    return {**_trust_record(accepted[-1]), "acceptedBy": votes, "content": accepted[-1].document.model_dump(mode="json", exclude_none=True)}


async def trust_template(session: Session, name: str) -> dict[str, Any]:
    """Return the trust document in force with the next number, or a template for the first one."""
    async with governance_reader(session) as client:
        source = trust_source(client, name)
        accepted, number = await source.accepted(), await source.next_number()
    if accepted:
        current = accepted[-1].document
        return current.model_copy(update={"number": number}).model_dump(mode="json", exclude_none=True)
    return {
        "schema_version": 1,
        "contract_id": name,
        "number": number,
        "spark_service_host_data": ["SHA-256 of the Spark service's container policy"],
        "pods": {
            "image": "registry.example/cleanroom/spark@sha256:DIGEST",
            "layers": ["dm-verity root hash of each layer, bottom first; printed by deploy/build.sh"],
            "sidecars": [{"name": "attestation", "image": "IMAGE@sha256:DIGEST", "layers": ["ROOT HASH"], "command": ["/bin/skr"]}],
        },
        "attestation": {"minimum_report_version": 3, "require_crl": False},
        "storage_hosts": list(session.settings.storage_hosts),
    }


async def cast_vote(session: Session, proposal: str, *, accept: bool) -> dict[str, Any]:
    """Vote as a member on a proposal of the consortium."""
    async with member_client(session.settings) as client:
        answer = await client.vote(proposal, accept=accept)
        return {"proposalId": answer.proposal_id, "state": answer.proposal_state, "ballots": answer.ballot_count}


async def show_collaboration(session: Session, name: str) -> dict[str, Any]:
    """Return the collaboration as governance holds it."""
    async with governance_reader(session) as client:
        contract = await client.get_contract(name)
        policy = await client.clean_room_policy(name)
        issuer = await client.oidc_issuer_info()
        consent = await client.contract_consent(name)
        accepted = await trust_source(client, name).accepted()
        members, users = await client.members(), await client.list_identities()
    return {
        "collaboration": contract.id,
        "state": contract.state,
        "version": contract.version,
        "data": contract.data,
        "cleanRooms": policy.policy.get(HOST_DATA, []),
        "openPolicyProposals": list(policy.proposal_ids),
        "trust": _trust_record(accepted[-1]) if accepted else None,
        "issuer": {"enabled": issuer.enabled, "url": issuer.issuer_url},
        "execution": consent.status,
        "members": len(members),
        "users": len(users),
    }


def _trust_record(trust: AcceptedTrust) -> dict[str, Any]:
    document = trust.document
    return {
        "document": trust.id,
        "digest": trust.digest,
        "confidential": document.development is None,
        "image": document.pods.image,
        "sparkServices": list(document.spark_service_host_data),
        "attestation": document.attestation.model_dump(mode="json", exclude_none=True),
        "storageHosts": list(document.storage_hosts),
    }


async def invite_user(
    session: Session, user_name: str, *, invitation_id: str | None, tenant: str | None, service_principal: bool
) -> dict[str, Any]:
    """Create an invitation as a member.

    Args:
        session: Session of a member.
        user_name: Sign-in name, or the application ID of a service principal.
        invitation_id: ID of the invitation; generated by default.
        tenant: Entra ID tenant of the user.
        service_principal: Whether to invite an application.
    """
    async with member_client(session.settings) as client:
        found, step = await Onboarding(client).invite(
            user_name, invitation_id=invitation_id, tenant_id=tenant, service_principal=service_principal
        )
    return {"invitation": found, "userName": user_name, **step.model_dump(mode="json")}


async def accept(session: Session, invitation_id: str) -> dict[str, Any]:
    """Accept an invitation as a user. Idempotent for the same user.

    Raises:
        Conflict: ``InvitationNotOpen`` when another user has accepted it.
        Refused: ``TokenClaimMissing``, ``TokenClaimMismatch`` when the invitation is for another user.
        InvalidInput: ``ProfileIsNoPerson``.
    """
    async with user_governance(session) as client:
        try:
            await client.accept_invitation(invitation_id)
        except Conflict as error:
            found = await client.get_invitation(invitation_id)
            own_id = session.settings.parties.get(session.settings.party or "")
            if error.code != "InvitationNotOpen" or found.user_info is None or found.user_info.user_id != own_id:
                raise
        return _invitation_record(await client.get_invitation(invitation_id))


async def admit_user(session: Session, invitation_id: str) -> dict[str, Any]:
    """Register, as a member, the user who accepted an invitation."""
    async with member_client(session.settings) as client:
        found, step = await Onboarding(client).admit(invitation_id)
    return {**_invitation_record(found), **step.model_dump(mode="json")}


def _invitation_record(invitation: Invitation) -> dict[str, Any]:
    user = invitation.user_info
    return {
        "invitation": invitation.invitation_id,
        "status": invitation.status,
        "claims": invitation.claims,
        "user": user.user_id if user else None,
        "tenant": user.data.tenant_id if user else None,
    }


async def list_members(session: Session) -> list[dict[str, Any]]:
    """Return rows ``{kind, id, name, party, status}``; ``kind`` is ``member``, ``user`` or ``invitation``."""
    parties = session.settings.user_names
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
