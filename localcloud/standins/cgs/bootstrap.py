"""Prepares a governance service for a collaboration, on behalf of its members. Idempotent.

It uses the routes of ``cgs-client``, so it works with the original proxy as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import NotFound, PreconditionFailed
from cleanroom.governance import Contract, GovernanceMemberClient, GovernanceProposal, MemberDocument, host_data_claims
from cleanroom.trust import TrustDocument, TrustSource
from localcloud.standins.cgs.callers import MEMBER_HEADER


class User(BaseModel):
    """A user to register: ``oid`` and ``tid`` of its tokens, and a display name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    oid: str
    tenant_id: str
    identifier: str | None = None


class Bootstrapped(BaseModel):
    """The state of the prepared collaboration."""

    model_config = ConfigDict(frozen=True)

    contract_id: str
    contract_version: str
    oidc_issuer_url: str | None
    oidc_kid: str
    host_data: tuple[str, ...]
    users: tuple[str, ...]


class _Consortium:
    """The members of the consortium. The first one proposes, and all accept."""

    def __init__(self, clients: Sequence[GovernanceMemberClient]) -> None:
        self.clients = clients
        self.first = clients[0]

    async def settle(self, proposal: GovernanceProposal) -> None:
        for client in self.clients:
            if proposal.proposal_state != "Open":
                break
            proposal = await client.vote(proposal.proposal_id, accept=True)
        if proposal.proposal_state != "Accepted":
            raise PreconditionFailed(
                "ProposalNotAccepted",
                f"Governance proposal {proposal.proposal_id} is {proposal.proposal_state} after {len(self.clients)} member(s) accepted it.",
                hint="Pass the tokens of all active members.",
            )

    async def govern(self, name: str, args: Mapping[str, Any]) -> None:
        await self.settle(await self.first.propose(name, args))


async def bootstrap(
    base_url: str,
    ca_file: Path | None,
    member_token: str | Sequence[str],
    contract_id: str,
    users: Sequence[User],
    clean_room_host_data: Sequence[str],
    oidc_issuer_url: str | None = None,
    *,
    contract_data: Any = "clean room collaboration",
    deployment_info: Mapping[str, Any] | None = None,
    oidc_kid: str = "cleanroom",
    trust: Callable[[int], TrustDocument] | None = None,
) -> Bootstrapped:
    """Accept the contract and its trust document, set its clean room policy, enable the OIDC issuer, and register the users.

    Args:
        base_url: URL of the stand-in; ``/cgs-client`` is appended.
        ca_file: Root certificate of the server.
        member_token: Token of the member, or of all active members.
        contract_id: ID of the contract.
        users: Users to register.
        clean_room_host_data: Allowed host data, 64 lower-case hex digits each. Other values are removed from the policy.
        oidc_issuer_url: Issuer URL of ID tokens (default: the service's own public routes, ``<base_url>/oidc``).
        contract_data: Data of a new contract.
        deployment_info: Deployment information to propose.
        oidc_kid: Key ID prefix of the issuer.
        trust: Returns the trust document with a number. It is accepted unless it is the one in force.

    Raises:
        PreconditionFailed: ``ProposalNotAccepted`` if a token of an active member is missing.
        CleanRoomError: An error of the governance service, with its code.
    """
    tokens = [member_token] if isinstance(member_token, str) else list(member_token)
    base = base_url.rstrip("/")
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(GovernanceMemberClient(f"{base}/cgs-client", ca_file=ca_file, headers={MEMBER_HEADER: token}))
            for token in tokens
        ]
        consortium = _Consortium(clients)
        contract = await _contract(consortium, contract_id, contract_data)
        await _policy(consortium, contract_id, clean_room_host_data)
        if trust is not None:
            await _trust(consortium, contract_id, trust)
        kid, issuer = await _oidc(consortium, oidc_issuer_url or f"{base}/oidc", oidc_kid)
        await _users(consortium, users)
        if deployment_info is not None and (await consortium.first.deployment_info(contract_id)).data != dict(deployment_info):
            await consortium.settle(await consortium.first.propose_deployment_info(contract_id, deployment_info))
    return Bootstrapped(
        contract_id=contract_id,
        contract_version=contract.version or "",
        oidc_issuer_url=issuer,
        oidc_kid=kid,
        host_data=tuple(clean_room_host_data),
        users=tuple(user.oid for user in users),
    )


async def _contract(consortium: _Consortium, contract_id: str, data: Any) -> Contract:
    client = consortium.first
    try:
        contract = await client.get_contract(contract_id)
    except NotFound:
        await client.put_contract(contract_id, data)
        contract = await client.get_contract(contract_id)
    if contract.state == "Draft":
        assert contract.version is not None
        await consortium.settle(await client.propose_contract(contract_id, version=contract.version))
    elif contract.state == "Proposed":
        await consortium.settle(GovernanceProposal(proposal_id=contract.proposal_id, proposal_state="Open"))
    return await client.get_contract(contract_id)


async def _policy(consortium: _Consortium, contract_id: str, wanted: Sequence[str]) -> None:
    client = consortium.first
    policy = (await client.clean_room_policy(contract_id)).policy
    present = policy.get(HOST_DATA, [])
    missing = [value for value in wanted if value not in present]
    if missing or policy.get(IS_DEBUGGABLE) != [False]:
        await consortium.settle(await client.propose_clean_room_policy(contract_id, host_data_claims(wanted)))
    stale = [value for value in present if value not in wanted]
    if stale:
        await consortium.settle(await client.propose_clean_room_policy(contract_id, {HOST_DATA: stale}, kind="remove"))


async def _trust(consortium: _Consortium, contract_id: str, trust: Callable[[int], TrustDocument]) -> None:
    client, number = consortium.first, 1
    source = TrustSource(client.get_member_document, contract_id, development=True)
    try:
        current = await source.in_force()
        if trust(current.document.number).digest == current.digest:
            return
        number = current.document.number + 1
    except PreconditionFailed:
        pass
    document = trust(number)
    try:
        found: MemberDocument | None = await client.get_member_document(document.id)
    except NotFound:
        found = None
    if found is not None and found.state == "Proposed" and found.data == document.to_data():
        await consortium.settle(GovernanceProposal(proposal_id=found.proposal_id, proposal_state="Open"))
        return
    await client.put_member_document(document.id, contract_id, document.to_data(), version=found.version if found else None)
    draft = await client.get_member_document(document.id)
    assert draft.version is not None
    await consortium.settle(await client.propose_member_document(document.id, version=draft.version))


async def _oidc(consortium: _Consortium, url: str, kid: str) -> tuple[str, str]:
    client = consortium.first
    info = await client.oidc_issuer_info()
    if not info.enabled:
        await consortium.govern("enable_oidc_issuer", {"kid": kid})
    key = await client.generate_oidc_signing_key()
    if info.issuer_url != url:
        await consortium.govern("set_oidc_issuer_url", {"issuer_url": url})
    return key.kid, url


async def _users(consortium: _Consortium, users: Sequence[User]) -> None:
    known = {identity.id: identity for identity in await consortium.first.list_identities()}
    for user in users:
        found = known.get(user.oid)
        if found is None or found.data.tenant_id != user.tenant_id or found.data.identifier != user.identifier:
            data = {"tenantId": user.tenant_id} | ({"identifier": user.identifier} if user.identifier else {})
            await consortium.govern("set_user_identity", {"id": user.oid, "accountType": "microsoft", "data": data})
