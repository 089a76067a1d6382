"""What members do beyond users: govern. Through cgs-client, which holds or is handed the member's identity (spec/governance.md 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cleanroom.errors import InvalidInput
from cleanroom.governance.http import segment
from cleanroom.governance.models import GovernanceProposal, read, rows, text
from cleanroom.governance.user import GovernanceUserClient


class GovernanceMemberClient(GovernanceUserClient):
    """A member's client: proposals and votes of the consortium. Mode ``cgs-client`` only; ``/gov`` itself wants COSE signatures."""

    def __init__(self, base_url: str, **options: Any) -> None:
        if options.setdefault("mode", "cgs-client") != "cgs-client":
            raise InvalidInput("NotThroughApp", "Members govern through cgs-client; give its URL.")
        super().__init__(base_url, **options)

    async def _proposal(self, path: str, body: Any = None) -> GovernanceProposal:
        answer, _ = await self._write("POST", path, body)
        return read(GovernanceProposal, answer)

    async def propose(self, name: str, args: Mapping[str, Any]) -> GovernanceProposal:
        """Propose one governance action (``set_contract``, ``enable_oidc_issuer`` …)."""
        return await self._proposal("/proposals/create", {"actions": [{"name": name, "args": dict(args)}]})

    async def vote(self, proposal_id: str, *, accept: bool) -> GovernanceProposal:
        """Vote on any governance proposal; the same vote again is fine."""
        verb = "vote_accept" if accept else "vote_reject"
        return await self._proposal(f"/proposals/{segment('proposal id', proposal_id)}/ballots/{verb}")

    async def pass_action(self, name: str, args: Mapping[str, Any]) -> GovernanceProposal:
        """Propose an action and, if it is still open, accept it. The result may be Open when other members must vote too."""
        proposal = await self.propose(name, args)
        return proposal if proposal.proposal_state != "Open" else await self.vote(proposal.proposal_id, accept=True)

    async def propose_contract(self, contract_id: str, *, version: str) -> GovernanceProposal:
        """Propose the contract's draft of exactly this version. Raises ``Conflict`` ``ContractModified``."""
        return await self._proposal(f"/contracts/{segment('contract id', contract_id)}/propose", {"version": version})

    async def vote_contract(self, contract_id: str, proposal_id: str, *, accept: bool) -> GovernanceProposal:
        """Vote on the contract's open proposal."""
        verb = "vote_accept" if accept else "vote_reject"
        return await self._proposal(f"/contracts/{segment('contract id', contract_id)}/{verb}", {"proposalId": proposal_id})

    async def propose_clean_room_policy(
        self, contract_id: str, claims: Mapping[str, Any], *, kind: Literal["add", "remove"] = "add"
    ) -> GovernanceProposal:
        """Propose to add or remove allowed values of attested claims (spec 8.1: *add* accumulates)."""
        path = f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy/propose"
        return await self._proposal(path, {"type": kind, "claims": dict(claims)})

    async def propose_deployment_info(self, contract_id: str, data: Mapping[str, Any]) -> GovernanceProposal:
        """Propose what is published about the contract's deployment."""
        return await self._proposal(f"/contracts/{segment('contract id', contract_id)}/deploymentinfo/propose", dict(data))

    async def propose_invitation(
        self,
        user_name: str,
        *,
        invitation_id: str | None = None,
        tenant_id: str | None = None,
        service_principal: bool = False,
    ) -> tuple[str, GovernanceProposal]:
        """Invite a user by sign-in name, or a service principal by application id and tenant; returns (invitation id, proposal)."""
        body: dict[str, Any] = {"userName": user_name, "identityType": "ServicePrincipal" if service_principal else "User"}
        body |= {"accountType": "microsoft"} | {
            name: value for name, value in (("invitationId", invitation_id), ("tenantId", tenant_id)) if value
        }
        answer, _ = await self._write("POST", "/users/invitations/propose", body)
        return text(answer, "invitationId"), read(GovernanceProposal, answer)

    async def propose_identity(self, *, accepted_invitation_id: str) -> GovernanceProposal:
        """Register the user who accepted an invitation. Raises ``PreconditionFailed`` ``InvitationNotAccepted``."""
        return await self._proposal("/users/identities/add", {"acceptedInvitationId": accepted_invitation_id})

    async def propose_user(self, user_id: str, tenant_id: str, *, identifier: str | None = None) -> GovernanceProposal:
        """Register a user by ``oid`` and tenant without an invitation."""
        body = {"objectId": user_id, "accountType": "microsoft", "tenantId": tenant_id}
        return await self._proposal("/users/identities/add", body | ({"identifier": identifier} if identifier else {}))

    async def proposals(self) -> Sequence[GovernanceProposal]:
        """Governance proposals that have not been erased (a resolved one goes when a later one resolves, trap 38)."""
        body = await self._get("/proposals")
        return [read(GovernanceProposal, row) for row in rows(body)]
