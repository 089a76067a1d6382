"""A member's part in setting up a collaboration: contract, clean room policy, OIDC issuer, invitations. Every step can be repeated.

A proposal that other members must vote on too stays open; then the step says so, and the same call continues later (spec/governance.md
10 and 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cleanroom.errors import Conflict, NotFound, PreconditionFailed, Refused
from cleanroom.governance import Contract, GovernanceMemberClient, GovernanceProposal, Invitation, host_data_claims
from cleanroom.secret import read_secret_file
from cleanroom.settings import Settings

HOST_DATA_CLAIM = "x-ms-sevsnpvm-hostdata"
StepState = Literal["done", "unchanged", "waiting"]


class Step(BaseModel):
    """What became of one step. ``waiting`` means that other members must vote on ``proposal_id``."""

    model_config = ConfigDict(frozen=True)

    step: str
    state: StepState
    proposal_id: str = ""


def member_client(settings: Settings) -> GovernanceMemberClient:
    """Governance as the member whose proxy the settings name.

    Raises:
        PreconditionFailed: ``NotAMember`` when they name none.
        NotFound, Refused, InvalidInput: from the token file.
    """
    section = settings.governance
    if not section.proxy_url:
        raise PreconditionFailed(
            "NotAMember",
            f"profile {settings.profile!r}: governance.proxy_url is not set, so this profile is no member of the consortium.",
            hint="Use the member's profile (--profile operator in the local cloud), or set it to the URL of your cgs-client.",
            party="operator",
        )
    headers: dict[str, str] = {}
    if section.member_token_file is not None:
        token = read_secret_file(section.member_token_file, what="member token").reveal_text().strip()
        name = section.member_header
        headers[name] = f"Bearer {token}" if name.lower() == "authorization" else token
    return GovernanceMemberClient(section.proxy_url, ca_file=settings.ca_file, headers=headers)


class Onboarding:
    """Steps of one member."""

    def __init__(self, client: GovernanceMemberClient) -> None:
        self._client = client

    async def settle(self, step: str, proposal: GovernanceProposal) -> Step:
        """Give this member's vote to a proposal that is still open.

        Raises:
            Refused: ``ProposalNotAccepted`` when the consortium's rules say no.
        """
        if proposal.proposal_state == "Open":
            proposal = await self._client.vote(proposal.proposal_id, accept=True)
        if proposal.proposal_state == "Accepted":
            return Step(step=step, state="done", proposal_id=proposal.proposal_id)
        if proposal.proposal_state == "Open":
            return Step(step=step, state="waiting", proposal_id=proposal.proposal_id)
        raise Refused(
            "ProposalNotAccepted",
            f"{step}: governance proposal {proposal.proposal_id} is {proposal.proposal_state}.",
            hint="Another member voted no, or the constitution forbids it.",
        )

    async def contract(self, contract_id: str, data: Any | None) -> tuple[Contract, Step]:
        """Bring the contract as far as this member can.

        Args:
            data: What the contract says; None takes what is there (or a plain line for a new one).

        Raises:
            Conflict: ``CollaborationDiffers`` when it exists with other data.
            Refused: as :meth:`settle`.
        """
        step = "contract"
        try:
            contract = await self._client.get_contract(contract_id)
        except NotFound as error:
            if error.code != "ContractNotFound":
                raise
            await self._client.put_contract(contract_id, data if data is not None else f"clean room collaboration {contract_id}")
            contract = await self._client.get_contract(contract_id)
        if data is not None and contract.data != data:
            raise Conflict(
                "CollaborationDiffers",
                f"collaboration {contract_id!r} exists ({contract.state}) with other data than was given.",
                hint="Leave --data out to go on with it as it is, or choose another name.",
            )
        if contract.state == "Accepted":
            return contract, Step(step=step, state="unchanged", proposal_id=contract.proposal_id)
        if contract.state == "Draft":
            assert contract.version is not None
            done = await self.settle(step, await self._client.propose_contract(contract_id, version=contract.version))
        else:
            done = await self.settle(step, GovernanceProposal(proposal_id=contract.proposal_id, proposal_state="Open"))
        return await self._client.get_contract(contract_id), done

    async def clean_room_policy(self, contract_id: str, host_data: Sequence[str]) -> Step:
        """Add clean rooms to the contract's policy; those that are there stay.

        Raises:
            InvalidInput: ``InvalidHostData``.
            Refused: as :meth:`settle`.
        """
        step, claims = "clean-room-policy", host_data_claims(host_data)
        found = await self._client.clean_room_policy(contract_id)
        present = found.policy.get(HOST_DATA_CLAIM, [])
        if all(value in present for value in host_data) and found.policy.get("x-ms-sevsnpvm-is-debuggable") == [False]:
            return Step(step=step, state="unchanged")
        if found.proposal_ids:
            # Whose content it is cannot be told from here: voted on by `collaboration vote`, deliberately.
            return Step(step=step, state="waiting", proposal_id=found.proposal_ids[0])
        return await self.settle(step, await self._client.propose_clean_room_policy(contract_id, claims))

    async def oidc_issuer(self, url: str, kid: str) -> list[Step]:
        """Enable the OIDC issuer, make its signing key, set the governed issuer URL."""
        steps: list[Step] = []
        info = await self._client.oidc_issuer_info()
        if not info.enabled:
            steps.append(await self.settle("oidc-issuer", await self._client.propose("enable_oidc_issuer", {"kid": kid})))
            if steps[-1].state == "waiting":
                return steps
        await self._client.generate_oidc_signing_key()
        if info.issuer_url == url:
            return [*steps, Step(step="oidc-issuer-url", state="unchanged")]
        proposal = await self._client.propose("set_oidc_issuer_url", {"issuer_url": url})
        return [*steps, await self.settle("oidc-issuer-url", proposal)]

    async def invite(
        self, user_name: str, *, invitation_id: str | None = None, tenant_id: str | None = None, service_principal: bool = False
    ) -> tuple[str, Step]:
        """Invite a user by sign-in name, or a service principal by application id and tenant; returns the invitation's id.

        Raises:
            InvalidInput: ``InvalidUserName``, ``InvalidGuidUserName``, ``TenantIdMissing``.
            Refused: as :meth:`settle`.
        """
        found, proposal = await self._client.propose_invitation(
            user_name, invitation_id=invitation_id, tenant_id=tenant_id, service_principal=service_principal
        )
        return found, await self.settle("invitation", proposal)

    async def admit(self, invitation_id: str) -> tuple[Invitation, Step]:
        """Register the user who accepted an invitation: only then is the user active (trap 28).

        Raises:
            NotFound: ``InvitationNotFound``.
            PreconditionFailed: ``InvitationNotAccepted``.
        """
        step, invitation = "identity", await self._client.get_invitation(invitation_id)
        if invitation.status == "Finalized":
            return invitation, Step(step=step, state="unchanged")
        if invitation.status != "Accepted":
            raise PreconditionFailed(
                "InvitationNotAccepted",
                f"invitation {invitation_id}: nobody has accepted it yet.",
                hint=f"The invited user runs `cleanroom accept-invitation {invitation_id}`.",
            )
        done = await self.settle(step, await self._client.propose_identity(accepted_invitation_id=invitation_id))
        return await self._client.get_invitation(invitation_id), done
