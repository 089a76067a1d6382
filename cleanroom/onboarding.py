"""A member's steps to set up a collaboration: contract, clean room policy, trust document, OIDC issuer, invitations. All are idempotent.

A proposal that needs the votes of other members stays open. The step then returns ``waiting``, and the same call continues later. The
rules are in docs/facts/governance-service.md#contracts-and-the-consortium.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.governance import Contract, GovernanceMemberClient, GovernanceProposal, Invitation, MemberDocument, host_data_claims
from cleanroom.governance.endpoint import proxy_headers
from cleanroom.models import FrozenModel
from cleanroom.secret import read_secret_file
from cleanroom.settings import Settings

StepState = Literal["done", "unchanged", "waiting"]
"""Outcome of a step. ``waiting`` means that other members must vote."""


class Step(FrozenModel):
    """The outcome of one step, and the governance proposal that belongs to it."""

    step: str
    state: StepState
    proposal_id: str = ""


def require_id(field: str, value: str) -> str:
    """Return ``value`` if it is an ID without characters that need percent-encoding, which CCF does not decode.

    Raises:
        InvalidInput: ``InvalidIdentifier``.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value) or not value.strip("."):
        raise InvalidInput(
            "InvalidIdentifier", f"{field}: {value!r} is not a valid ID.", hint="Use at most 128 letters, digits, '.', '_' and '-'."
        )
    return value


def require_issuer_url(value: str) -> str:
    """Return ``value`` if it is an issuer URL: https (http on a development machine) without query, fragment or user information.

    See OpenID Connect Discovery 1.0, section 3 (https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata).

    Raises:
        InvalidInput: ``InvalidUrl``.
    """
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("https", "http") and bool(parts.hostname) and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f]", value):
        raise InvalidInput(
            "InvalidUrl",
            f"issuer: {value!r} is not an https URL without query, fragment and user information.",
            hint="For example https://issuer.example/oidc.",
        )
    return value


def member_client(settings: Settings) -> GovernanceMemberClient:
    """Create the governance client of a member, from ``governance.proxy_url`` of the profile.

    Raises:
        PreconditionFailed: ``NotAMember`` if the URL is not set.
        NotFound, Refused, InvalidInput: The token file cannot be read.
    """
    section = settings.governance
    if not section.proxy_url:
        raise PreconditionFailed(
            "NotAMember",
            f"profile {settings.profile!r}: governance.proxy_url is not set, so it cannot act as a member of the consortium.",
            hint="Use the member's profile (--profile operator in the local cloud), or set governance.proxy_url to your cgs-client.",
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
    """The steps of one member."""

    def __init__(self, client: GovernanceMemberClient) -> None:
        self._client = client

    async def settle(self, step: str, proposal: GovernanceProposal) -> Step:
        """Vote for a proposal if it is still open.

        Raises:
            Refused: ``ProposalNotAccepted`` if the proposal was rejected.
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
            hint="Another member voted against it, or the constitution does not allow it.",
        )

    async def _propose(self, name: str, args: Mapping[str, Any]) -> GovernanceProposal:
        """Return the open proposal of an action, or propose it."""
        return await self._client.open_proposal(name, lambda found: found == args) or await self._client.propose(name, args)

    async def contract(self, contract_id: str, data: Any | None) -> tuple[Contract, Step]:
        """Create, propose and accept the contract, as far as this member can.

        Args:
            contract_id: The contract's ID.
            data: The contract's content. ``None`` keeps the existing content, or writes a default line.

        Raises:
            Conflict: ``CollaborationDiffers`` if the contract exists with other content.
            InvalidInput: ``InvalidIdentifier``.
            Refused: See :meth:`settle`.
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
                f"collaboration {contract_id!r} exists ({contract.state}) with other data.",
                hint="Omit --data to continue with the existing data, or choose another name.",
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
        """Add host data to the contract's clean room policy. Existing values stay.

        Raises:
            InvalidInput: ``InvalidHostData``.
            Refused: See :meth:`settle`.
        """
        step, claims = "clean-room-policy", host_data_claims(host_data)
        found = await self._client.clean_room_policy(contract_id)
        present = found.policy.get(HOST_DATA, [])
        if all(value in present for value in host_data) and found.policy.get(IS_DEBUGGABLE) == [False]:
            return Step(step=step, state="unchanged")
        own = await self._client.open_proposal(
            "set_clean_room_policy", lambda args: args == {"contractId": contract_id, "type": "add", "claims": claims}
        )
        if own is None and found.proposal_ids:
            # It proposes something else. Members vote on it with `collaboration vote`.
            return Step(step=step, state="waiting", proposal_id=found.proposal_ids[0])
        return await self.settle(step, own or await self._client.propose_clean_room_policy(contract_id, claims))

    async def member_document(self, document_id: str, contract_id: str, data: str) -> Step:
        """Create, propose and accept a member document with exactly this text, as far as this member can.

        Raises:
            Conflict: ``TrustDocumentDiffers`` if the document is proposed or accepted with another text.
            Refused: See :meth:`settle`.
        """
        step, client = "trust-document", self._client
        try:
            found: MemberDocument | None = await client.get_member_document(document_id)
        except NotFound as error:
            if error.code != "DocumentNotFound":
                raise
            found = None
        if found is None or (found.state == "Draft" and found.data != data):
            await client.put_member_document(document_id, contract_id, data, version=found.version if found else None)
            found = await client.get_member_document(document_id)
        if found.data != data or found.contract_id != contract_id:
            raise Conflict(
                "TrustDocumentDiffers",
                f"{document_id} is {found.state} with another text.",
                hint="Give the document the next number (`cleanroom collaboration trust --print`), or vote on the proposal.",
            )
        if found.state == "Accepted":
            return Step(step=step, state="unchanged", proposal_id=found.proposal_id)
        if found.state == "Proposed":
            return await self.settle(step, GovernanceProposal(proposal_id=found.proposal_id, proposal_state="Open"))
        assert found.version is not None
        return await self.settle(step, await client.propose_member_document(document_id, version=found.version))

    async def oidc_issuer(self, url: str, kid: str) -> list[Step]:
        """Enable the OIDC issuer, create its signing key, and set its URL.

        Args:
            url: The issuer URL. Validated here, because the service accepts any text, and tokens would then not verify.
            kid: Prefix of the key ID.

        Raises:
            InvalidInput: ``InvalidUrl``.
            Refused: See :meth:`settle`.
        """
        require_issuer_url(url)
        steps: list[Step] = []
        info = await self._client.oidc_issuer_info()
        if not info.enabled:
            steps.append(await self.settle("oidc-issuer", await self._propose("enable_oidc_issuer", {"kid": kid})))
            if steps[-1].state == "waiting":
                return steps
        await self._client.generate_oidc_signing_key()
        if info.issuer_url == url:
            return [*steps, Step(step="oidc-issuer-url", state="unchanged")]
        proposal = await self._propose("set_oidc_issuer_url", {"issuer_url": url})
        return [*steps, await self.settle("oidc-issuer-url", proposal)]

    async def invite(
        self, user_name: str, *, invitation_id: str | None = None, tenant_id: str | None = None, service_principal: bool = False
    ) -> tuple[str, Step]:
        """Invite a user or a service principal, and return the invitation's ID and the step.

        Args:
            user_name: The user's sign-in name, or the service principal's application ID.
            invitation_id: The ID to use. Without it, the proxy generates one.
            tenant_id: The Entra tenant. A service principal needs it.
            service_principal: Whether ``user_name`` is an application ID.

        Raises:
            InvalidInput: ``InvalidIdentifier``, ``InvalidUserName``, ``InvalidGuidUserName``, ``TenantIdMissing``.
            Conflict: ``InvitationDiffers`` if the ID belongs to another user's invitation. The service would merge both users into it,
                and the first of them to accept would get it.
            Refused: See :meth:`settle`.
        """
        if invitation_id is not None:
            require_id("invitation", invitation_id)
            existing = {item.invitation_id: item for item in await self._client.list_invitations()}.get(invitation_id)
            if existing is not None:
                if not _invites(existing.claims, user_name, tenant_id):
                    names = [value for claim, values in existing.claims.items() if claim != "tid" for value in values]
                    raise Conflict(
                        "InvitationDiffers",
                        f"invitation {invitation_id!r} exists ({existing.status}) for {', '.join(map(str, names)) or 'no user'}.",
                        hint="Omit --invitation, or use another ID.",
                    )
                return invitation_id, Step(step="invitation", state="unchanged")
            proposed = await self._client.open_proposal(
                "set_user_invitation_by_jwt_claims",
                lambda args: (
                    (args.get("invitationId"), args.get("type")) == (invitation_id, "add")
                    and _invites(args.get("claims"), user_name, tenant_id)
                ),
            )
            if proposed is not None:
                return invitation_id, await self.settle("invitation", proposed)
        found, proposal = await self._client.propose_invitation(
            user_name, invitation_id=invitation_id, tenant_id=tenant_id, service_principal=service_principal
        )
        return found, await self.settle("invitation", proposal)

    async def admit(self, invitation_id: str) -> tuple[Invitation, Step]:
        """Register the user who accepted an invitation, which makes the user active.

        Raises:
            NotFound: ``InvitationNotFound``.
            PreconditionFailed: ``InvitationNotAccepted``.
            Refused: See :meth:`settle`.
        """
        step, invitation = "identity", await self._client.get_invitation(invitation_id)
        if invitation.status == "Finalized":
            return invitation, Step(step=step, state="unchanged")
        if invitation.status != "Accepted":
            raise PreconditionFailed(
                "InvitationNotAccepted",
                f"invitation {invitation_id}: it has not been accepted yet.",
                hint=f"The invited user must run `cleanroom accept-invitation {invitation_id}`.",
            )
        user = invitation.user_info
        own = await self._client.open_proposal(
            "set_user_identity",
            lambda args: (
                user is not None
                and (args.get("id"), args.get("invitationId")) == (user.user_id, invitation_id)
                and args.get("data", {}).get("tenantId") == user.data.tenant_id
            ),
        )
        done = await self.settle(step, own or await self._client.propose_identity(accepted_invitation_id=invitation_id))
        return await self._client.get_invitation(invitation_id), done


def _invites(claims: Any, user_name: str, tenant_id: str | None) -> bool:
    """Return whether the claims of an invitation are those of exactly this user."""
    if not isinstance(claims, Mapping):
        return False
    names = [value for claim, values in claims.items() if claim != "tid" for value in values]
    return names == [user_name] and (not tenant_id or claims.get("tid") == [tenant_id])
