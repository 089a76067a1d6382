"""The governance client of users and members: documents and consent, and beside them secrets, policies, OIDC, identities, events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

from cleanroom.errors import Internal, InvalidInput
from cleanroom.governance.documents import DocumentCalls
from cleanroom.governance.http import query_string, segment
from cleanroom.governance.models import (
    CleanRoomPolicy,
    Contract,
    Delegate,
    Deployment,
    Event,
    EventPage,
    Invitation,
    Member,
    OidcIssuerInfo,
    SigningKey,
    UserIdentity,
    read,
    rows,
    table,
    text,
    whole,
)
from cleanroom.secret import Secret


class GovernanceUserClient(DocumentCalls):
    """CGS as users and members see it. One instance a caller; safe for concurrent use in one event loop.

    Every method raises :class:`cleanroom.errors.CleanRoomError` subclasses that carry CGS's own ``error.code``:
    ``NotFound`` only when CGS itself says so, ``Unavailable`` for no answer, throttling and 5xx of gateways, ``Conflict`` for 409 and 412,
    ``Refused`` for 401 and 403.

    Args:
        As :class:`cleanroom.governance.surface.Surface`.
    """

    # -- secrets (7) ------------------------------------------------------------------------------------------------------------------

    async def put_secret(self, contract_id: str, name: str, value: Secret) -> str:
        """Store a text secret (at most 25,600 UTF-16 units) under the caller's name; returns its full id ``<caller>_<name>``."""
        path = f"/contracts/{segment('contract id', contract_id)}/secrets/{segment('secret name', name)}"
        plain = value.reveal_text()
        body, _ = await self._write("PUT", path, {"value": plain}, hide=(plain,))
        return text(body, "secretId")

    async def list_secrets(self, contract_id: str) -> list[str]:
        """Ids of the contract's secrets; values can only be read by clean rooms."""
        body = await self._get(f"/contracts/{segment('contract id', contract_id)}/secrets")
        return [text(row, "secretId") for row in rows(body)]

    # -- clean room policies (8) ----------------------------------------------------------------------------------------------------------

    async def clean_room_policy(self, contract_id: str) -> CleanRoomPolicy:
        """The contract's policy; an unknown contract has an empty one."""
        return read(CleanRoomPolicy, await self._get(f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy", post=True))

    async def delegate_policy(self, contract_id: str, delegate_type: str, delegate_id: str) -> dict[str, list[Any]]:
        """Claims of a delegate policy; empty when there is none."""
        path = f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy/delegates/"
        path += f"{segment('delegate type', delegate_type)}/{segment('delegate id', delegate_id)}"
        return table(await self._get(path, post=True), "claims")

    async def list_delegates(self, contract_id: str) -> list[Delegate]:
        """Delegate policies that were ever set; those with all claims removed stay listed (trap 19)."""
        body = await self._get(f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy/delegates")
        return [read(Delegate, row) for row in rows(body)]

    # -- OIDC (9) -----------------------------------------------------------------------------------------------------------------------

    async def oidc_issuer_info(self) -> OidcIssuerInfo:
        """Whether the issuer is enabled, its governed URL and the URL of the caller's tenant."""
        return read(OidcIssuerInfo, await self._get("/oidc/issuerInfo", post=True))

    async def set_oidc_issuer_url(self, url: str) -> None:
        """Set the issuer URL of the caller's tenant. Raises ``InvalidInput`` ``InvalidUrl``, ``PreconditionFailed`` ``NoTenantId``."""
        await self._write("POST", "/oidc/setIssuerUrl", {"url": url})

    async def generate_oidc_signing_key(self) -> SigningKey:
        """Members only; once a rotation. Raises ``PreconditionFailed`` ``OidcIssuerNotEnabled``."""
        body, _ = await self._write("POST", "/oidc/generateSigningKey")
        return read(SigningKey, body)

    async def oidc_discovery(self) -> dict[str, Any]:
        """The public discovery document (it advertises RS256 although tokens are PS256, trap 23)."""
        self._only_app("The discovery document")
        return whole(await self._get("/oidc/.well-known/openid-configuration"))

    async def oidc_keys(self) -> dict[str, Any]:
        """The public JWKS. Raises ``PreconditionFailed`` ``SigningKeyNotAvailable``."""
        self._only_app("The JWKS")
        return whole(await self._get("/oidc/keys"))

    # -- users, invitations, members (10) -----------------------------------------------------------------------------------------------

    async def list_identities(self) -> list[UserIdentity]:
        """Registered users."""
        return [read(UserIdentity, row) for row in rows(await self._get("/users/identities"))]

    async def get_identity(self, user_id: str) -> UserIdentity:
        """A registered user by ``oid``. Raises ``NotFound`` ``UserIdentityNotFound``."""
        return read(UserIdentity, await self._get(f"/users/identities/{segment('user id', user_id)}", post=True))

    async def require_active(self) -> None:
        """Return when the caller's token belongs to an active user; raises ``Refused`` (CGS never answers "inactive", trap 28)."""
        self._only_app("The caller's own status")
        await self._channel.call("POST", "/app/users/identities/self/status")

    async def list_invitations(self) -> list[Invitation]:
        """All invitations."""
        return [read(Invitation, row) for row in rows(await self._get("/users/invitations"))]

    async def get_invitation(self, invitation_id: str) -> Invitation:
        """One invitation. Raises ``NotFound`` ``InvitationNotFound``."""
        return read(Invitation, await self._get(f"/users/invitations/{segment('invitation id', invitation_id)}", post=True))

    async def accept_invitation(self, invitation_id: str) -> None:
        """Accept with the caller's token; a member must still register the user. Raises ``Conflict`` ``InvitationNotOpen``, ``Refused``."""
        await self._write("POST", f"/users/invitations/{segment('invitation id', invitation_id)}/accept")

    async def members(self) -> list[Member]:
        """The consortium's members (public)."""
        path = "/members" if self.mode == "cgs-client" else "/gov/service/members?api-version=2024-07-01"
        return [read(Member, row) for row in rows(await self._channel.call("GET", path))]

    # -- contracts and deployments (12) -----------------------------------------------------------------------------------------------

    async def list_contracts(self, state: Literal["Draft", "Proposed", "Accepted"] | None = None) -> list[str]:
        """Ids of the contracts, in one state or all."""
        return [text(row, "id") for row in rows(await self._get("/contracts" + query_string({"state": state})))]

    async def get_contract(self, contract_id: str) -> Contract:
        """A contract. Raises ``NotFound`` ``ContractNotFound``."""
        return read(Contract, await self._get(f"/contracts/{segment('contract id', contract_id)}", post=True))

    async def put_contract(self, contract_id: str, data: Any, *, version: str | None = None) -> str | None:
        """Members only: create or replace the draft; returns its version. Same version rules as documents."""
        body = {"data": data} if version is None else {"data": data, "version": version}
        _, transaction = await self._write("PUT", f"/contracts/{segment('contract id', contract_id)}", body)
        return transaction

    async def deployment_info(self, contract_id: str) -> Deployment:
        """What members have published about the contract's deployment."""
        return read(Deployment, await self._get(f"/contracts/{segment('contract id', contract_id)}/deploymentinfo", post=True))

    async def deployment_spec(self, contract_id: str) -> Deployment:
        """The contract's accepted deployment specification."""
        return read(Deployment, await self._get(f"/contracts/{segment('contract id', contract_id)}/deploymentspec", post=True))

    # -- events (11) --------------------------------------------------------------------------------------------------------------------

    async def latest_event(self, contract_id: str, *, event_id: str | None = None, scope: str | None = None) -> Event | None:
        """The last event of an id (default: the contract's own) in a scope, or ``None``."""
        query = query_string({"id": event_id, "scope": scope})
        body = await self._channel.history(f"{self._root}/contracts/{segment('contract id', contract_id)}/events{query}")
        page = read(EventPage, body)
        return page.value[0] if page.value else None

    async def events(
        self,
        contract_id: str,
        *,
        event_id: str | None = None,
        scope: str | None = None,
        from_seqno: int = 1,
        to_seqno: int | None = None,
        page: int | None = None,
    ) -> AsyncIterator[Event]:
        """All events of an id from the ledger, oldest first; follows pages and waits while the node loads history (202)."""
        query = query_string({"id": event_id, "scope": scope, "from_seqno": from_seqno, "to_seqno": to_seqno, "max_seqno_per_page": page})
        path: str | None = f"{self._root}/contracts/{segment('contract id', contract_id)}/events{query}"
        seen: set[str] = set()
        while path is not None:
            if path in seen:
                raise Internal("GovernanceAnswerMalformed", "The governance service's pages of events lead back to an earlier page.")
            seen.add(path)
            found = read(EventPage, await self._channel.history(path))
            for event in found.value:
                yield event
            path = self._next(found.next_link)

    def _next(self, link: str | None) -> str | None:
        """A page's next link as a path of this surface: the application writes ``/app/...``, the proxy strips it."""
        if not link:
            return None
        if not link.startswith("/") or link.startswith("//"):
            raise InvalidInput("GovernanceLinkInvalid", "The next page's link leaves the governance service.")
        plain = link.removeprefix("/app") if link.startswith("/app/") else link
        return self._root + plain
