"""A member's part in setting up a collaboration: contract, clean room policy, OIDC issuer, invitations. Every step can be repeated.

A proposal that other members must vote on too stays open; then the step says so, and the same call continues later (spec/governance.md
10 and 12).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.governance import Contract, GovernanceMemberClient, GovernanceProposal, Invitation, host_data_claims
from cleanroom.governance.endpoint import proxy_headers
from cleanroom.secret import read_secret_file
from cleanroom.settings import Settings

StepState = Literal["done", "unchanged", "waiting"]


class Step(BaseModel):
    """What became of one step. ``waiting`` means that other members must vote on ``proposal_id``."""

    model_config = ConfigDict(frozen=True)

    step: str
    state: StepState
    proposal_id: str = ""


def require_id(field: str, value: str) -> str:
    """An id that governance, tools and people all read alike: CCF compares path segments as they were sent (spec/governance.md 17).

    Raises:
        InvalidInput: ``InvalidIdentifier``.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value) or not value.strip("."):
        raise InvalidInput(
            "InvalidIdentifier", f"{field}: {value!r} cannot be an id.", hint="Use letters, digits, '.', '_' and '-', at most 128 of them."
        )
    return value


def require_issuer_url(value: str) -> str:
    """An issuer URL as OpenID Connect has it: https (http for a development machine), no query, no fragment, no user.

    Raises:
        InvalidInput: ``InvalidUrl``.
    """
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("https", "http") and bool(parts.hostname) and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        good = False
    if not good or re.search(r"[\s\x00-\x1f]", value):
        raise InvalidInput("InvalidUrl", f"issuer: {value!r} is not an https URL without query and fragment.")
    return value


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
    headers = proxy_headers(section.ccf_endpoint, section.service_cert_file)
    if section.member_token_file is not None:
        token = read_secret_file(section.member_token_file, what="member token").reveal_text().strip()
        name = section.member_header
        headers[name] = f"Bearer {token}" if name.lower() == "authorization" else token
    return GovernanceMemberClient(
        section.proxy_url,
        ca_file=settings.ca_file,
        headers=headers,
    )


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
            InvalidInput: ``InvalidIdentifier``.
            Refused: as :meth:`settle`.
        """
        step = "contract"
        require_id("collaboration", contract_id)
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
        present = found.policy.get(HOST_DATA, [])
        if all(value in present for value in host_data) and found.policy.get(IS_DEBUGGABLE) == [False]:
            return Step(step=step, state="unchanged")
        if found.proposal_ids:
            # Whose content it is cannot be told from here: voted on by `collaboration vote`, deliberately.
            return Step(step=step, state="waiting", proposal_id=found.proposal_ids[0])
        return await self.settle(step, await self._client.propose_clean_room_policy(contract_id, claims))

    async def oidc_issuer(self, url: str, kid: str) -> list[Step]:
        """Enable the OIDC issuer, make its signing key, set the governed issuer URL.

        Raises:
            InvalidInput: ``InvalidUrl``: the service itself takes any text, and with it nobody's tokens would verify.
            Refused: as :meth:`settle`.
        """
        require_issuer_url(url)
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
            InvalidInput: ``InvalidIdentifier``, ``InvalidUserName``, ``InvalidGuidUserName``, ``TenantIdMissing``.
            Conflict: ``InvitationDiffers``: the id is somebody else's invitation. The service would add this user to it, and whoever of
                the two accepts first would take it.
            Refused: as :meth:`settle`.
        """
        if invitation_id is not None:
            require_id("invitation", invitation_id)
            existing = {item.invitation_id: item for item in await self._client.list_invitations()}.get(invitation_id)
            if existing is not None:
                names = [value for claim, values in existing.claims.items() if claim != "tid" for value in values]
                if names != [user_name] or (tenant_id and existing.claims.get("tid") != [tenant_id]):
                    raise Conflict(
                        "InvitationDiffers",
                        f"invitation {invitation_id!r} exists ({existing.status}) for {', '.join(map(str, names)) or 'nobody'}.",
                        hint="Leave --invitation out, or name another id.",
                    )
                return invitation_id, Step(step="invitation", state="unchanged")
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
