"""What members do beyond users: they govern the consortium, through ``cgs-client``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from cleanroom.errors import InvalidInput
from cleanroom.governance.models import GovernanceProposal, read, rows, text
from cleanroom.governance.urls import segment
from cleanroom.governance.user import GovernanceUserClient


class GovernanceMemberClient(GovernanceUserClient):
    """A member's client, with the consortium's proposals and votes.

    It needs ``cgs-client``, which signs for the member: CCF's own governance routes take COSE-signed messages
    (docs/facts/governance-service.md#contracts-and-the-consortium).
    """

    def __init__(self, base_url: str, **options: Any) -> None:
        if options.setdefault("mode", "cgs-client") != "cgs-client":
            raise InvalidInput("NotThroughApp", "A member governs through cgs-client.", hint="Use the URL of cgs-client.")
        super().__init__(base_url, **options)

    async def _proposal(self, path: str, body: Any = None) -> GovernanceProposal:
        answer, _ = await self._write("POST", path, body)
        return read(GovernanceProposal, answer)

    async def propose(self, name: str, args: Mapping[str, Any]) -> GovernanceProposal:
        """Propose one governance action, such as ``set_contract`` or ``enable_oidc_issuer``."""
        return await self._proposal("/proposals/create", {"actions": [{"name": name, "args": dict(args)}]})

    async def vote(self, proposal_id: str, *, accept: bool) -> GovernanceProposal:
        """Vote on a governance proposal. Repeating the same vote is allowed."""
        verb = "vote_accept" if accept else "vote_reject"
        return await self._proposal(f"/proposals/{segment('proposal id', proposal_id)}/ballots/{verb}")

    async def open_proposal(self, name: str, matches: Callable[[Mapping[str, Any]], bool]) -> GovernanceProposal | None:
        """Find an open proposal of exactly one action, whose arguments match; None if there is none.

        A member who was interrupted between a proposal and the vote on it continues with this proposal.
        """
        for row in rows(await self._get("/proposals")):
            proposal = read(GovernanceProposal, row)
            if proposal.proposal_state != "Open":
                continue
            actions = (await self._get(f"/proposals/{segment('proposal id', proposal.proposal_id)}/actions")).get("actions")
            match actions:
                case [{"name": found, "args": dict(args)}] if found == name and matches(args):
                    return proposal
        return None

    async def propose_contract(self, contract_id: str, *, version: str) -> GovernanceProposal:
        """Propose the contract's draft of exactly this version.

        Raises:
            Conflict: ``ContractModified``.
        """
        return await self._proposal(f"/contracts/{segment('contract id', contract_id)}/propose", {"version": version})

    async def put_member_document(self, document_id: str, contract_id: str, data: Any, *, version: str | None = None) -> None:
        """Create the draft of a member document, or replace the one of ``version``.

        Raises:
            Conflict: ``DocumentAlreadyExists``, ``PreconditionFailed``, ``DocumentAlreadyAccepted``.
            NotFound: ``ContractNotFound``.
        """
        body = {"contractId": contract_id, "data": data} | ({} if version is None else {"version": version})
        await self._write("PUT", f"/memberdocuments/{segment('document id', document_id)}", body)

    async def propose_member_document(self, document_id: str, *, version: str) -> GovernanceProposal:
        """Propose a member document's draft of exactly this version to the consortium.

        Raises:
            Conflict: ``DocumentModified``.
        """
        return await self._proposal(f"/memberdocuments/{segment('document id', document_id)}/propose", {"version": version})

    async def propose_clean_room_policy(
        self, contract_id: str, claims: Mapping[str, Any], *, kind: Literal["add", "remove"] = "add"
    ) -> GovernanceProposal:
        """Propose to add allowed values of attested claims to the contract's policy, or to remove them."""
        path = f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy/propose"
        return await self._proposal(path, {"type": kind, "claims": dict(claims)})

    async def propose_deployment_info(self, contract_id: str, data: Mapping[str, Any]) -> GovernanceProposal:
        """Propose the information that members publish about the contract's deployment."""
        return await self._proposal(f"/contracts/{segment('contract id', contract_id)}/deploymentinfo/propose", dict(data))

    async def propose_invitation(
        self,
        user_name: str,
        *,
        invitation_id: str | None = None,
        tenant_id: str | None = None,
        service_principal: bool = False,
    ) -> tuple[str, GovernanceProposal]:
        """Invite a user or a service principal, and return (invitation ID, proposal).

        Args:
            user_name: The user's sign-in name, or the service principal's application ID.
            invitation_id: The ID to use. Without it, the proxy generates one.
            tenant_id: The Entra tenant. A service principal needs it.
            service_principal: Whether ``user_name`` is an application ID.
        """
        body: dict[str, Any] = {"userName": user_name, "identityType": "ServicePrincipal" if service_principal else "User"}
        body |= {"accountType": "microsoft"} | {
            name: value for name, value in (("invitationId", invitation_id), ("tenantId", tenant_id)) if value
        }
        answer, _ = await self._write("POST", "/users/invitations/propose", body)
        return text(answer, "invitationId"), read(GovernanceProposal, answer)

    async def propose_identity(self, *, accepted_invitation_id: str) -> GovernanceProposal:
        """Propose to register the user who accepted an invitation.

        Raises:
            PreconditionFailed: ``InvitationNotAccepted``.
        """
        return await self._proposal("/users/identities/add", {"acceptedInvitationId": accepted_invitation_id})
