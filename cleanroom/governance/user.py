"""The governance client of users: documents and consent, secrets, policies, OIDC, identities, contracts and events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from cleanroom.errors import Internal, InvalidInput
from cleanroom.governance.documents import DocumentOperations
from cleanroom.governance.faults import WRONG_SERVICE
from cleanroom.governance.models import (
    CleanRoomPolicy,
    Contract,
    Delegate,
    Deployment,
    Event,
    EventPage,
    Invitation,
    Member,
    MemberDocument,
    OidcIssuerInfo,
    SigningKey,
    UserIdentity,
    read,
    rows,
    table,
    text,
)
from cleanroom.governance.urls import query_string, segment
from cleanroom.secret import Secret


class GovernanceUserClient(DocumentOperations):
    """Governance as users see it. One instance serves one caller, and may be used concurrently in one event loop.

    Every method raises subclasses of :class:`cleanroom.errors.CleanRoomError` that carry the service's own ``error.code``:
    ``NotFound`` only if the service itself reports it, ``Unavailable`` for no response, throttling and gateway errors, ``Conflict``
    for 409 and 412, ``Refused`` for 401 and 403. The arguments are those of :class:`cleanroom.governance.endpoint.Endpoint`.
    """

    # -- member documents ---------------------------------------------------------------------------------------------------------------

    async def get_member_document(self, document_id: str) -> MemberDocument:
        """Read a member document: Accepted, else Proposed, else Draft.

        Raises:
            NotFound: ``DocumentNotFound``.
        """
        return read(MemberDocument, await self._get(f"/memberdocuments/{segment('document id', document_id)}"))

    # -- secrets ------------------------------------------------------------------------------------------------------------------------

    async def put_secret(self, contract_id: str, name: str, value: Secret) -> str:
        """Store a text of at most 25,600 UTF-16 code units under the caller, and return its ID ``<caller>_<name>``."""
        path = f"/contracts/{segment('contract id', contract_id)}/secrets/{segment('secret name', name)}"
        plain = value.reveal_text()
        body, _ = await self._write("PUT", path, {"value": plain}, hide=(plain,))
        return text(body, "secretId")

    async def list_secrets(self, contract_id: str) -> list[str]:
        """List the IDs of the contract's secrets. Only clean rooms can read the values."""
        body = await self._get(f"/contracts/{segment('contract id', contract_id)}/secrets")
        return [text(row, "secretId") for row in rows(body)]

    # -- clean room policies ------------------------------------------------------------------------------------------------------------

    async def clean_room_policy(self, contract_id: str) -> CleanRoomPolicy:
        """Read the contract's policy, which is empty for an unknown contract."""
        return read(CleanRoomPolicy, await self._get(f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy", post=True))

    async def delegate_policy(self, contract_id: str, delegate_type: str, delegate_id: str) -> dict[str, list[Any]]:
        """Read the claims of a delegate policy, which are empty if it does not exist."""
        path = f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy/delegates/"
        path += f"{segment('delegate type', delegate_type)}/{segment('delegate id', delegate_id)}"
        return table(await self._get(path, post=True), "claims")

    async def list_delegates(self, contract_id: str) -> list[Delegate]:
        """List all delegate policies that were ever set. Those whose claims were removed stay in the list."""
        body = await self._get(f"/contracts/{segment('contract id', contract_id)}/cleanroompolicy/delegates")
        return [read(Delegate, row) for row in rows(body)]

    # -- OIDC ---------------------------------------------------------------------------------------------------------------------------

    async def oidc_issuer_info(self) -> OidcIssuerInfo:
        """Read whether the OIDC issuer is enabled, its URL, and the URL of the caller's tenant."""
        return read(OidcIssuerInfo, await self._get("/oidc/issuerInfo", post=True))

    async def generate_oidc_signing_key(self) -> SigningKey:
        """Create the OIDC signing key (members only). Until a rotation is proposed, further calls return the same key.

        Raises:
            PreconditionFailed: ``OidcIssuerNotEnabled``.
        """
        body, _ = await self._write("POST", "/oidc/generateSigningKey")
        return read(SigningKey, body)

    # -- users, invitations, members ----------------------------------------------------------------------------------------------------

    async def list_identities(self) -> list[UserIdentity]:
        """List the registered users."""
        return [read(UserIdentity, row) for row in rows(await self._get("/users/identities"))]

    async def list_invitations(self) -> list[Invitation]:
        """List all invitations."""
        return [read(Invitation, row) for row in rows(await self._get("/users/invitations"))]

    async def get_invitation(self, invitation_id: str) -> Invitation:
        """Read one invitation.

        Raises:
            NotFound: ``InvitationNotFound``.
        """
        return read(Invitation, await self._get(f"/users/invitations/{segment('invitation id', invitation_id)}", post=True))

    async def accept_invitation(self, invitation_id: str) -> None:
        """Accept an invitation with the caller's token. A member must then register the user.

        Raises:
            Conflict: ``InvitationNotOpen``.
            Refused: ``TokenClaimMissing``, ``TokenClaimMismatch``, ``OidClaimMissing``.
        """
        await self._write("POST", f"/users/invitations/{segment('invitation id', invitation_id)}/accept")

    async def members(self) -> list[Member]:
        """List the members of the consortium, which is public."""
        path = "/members" if self.mode == "cgs-client" else "/gov/service/members?api-version=2024-07-01"
        return [read(Member, row) for row in rows(await self._channel.call("GET", path))]

    # -- contracts and deployments ------------------------------------------------------------------------------------------------------

    async def get_contract(self, contract_id: str) -> Contract:
        """Read a contract.

        Raises:
            NotFound: ``ContractNotFound``.
        """
        return read(Contract, await self._get(f"/contracts/{segment('contract id', contract_id)}", post=True))

    async def put_contract(self, contract_id: str, data: Any, *, version: str | None = None) -> str | None:
        """Create or replace a contract's draft (members only), and return its version. Versions work as for documents."""
        body = {"data": data} if version is None else {"data": data, "version": version}
        _, transaction = await self._write("PUT", f"/contracts/{segment('contract id', contract_id)}", body)
        return transaction

    async def deployment_info(self, contract_id: str) -> Deployment:
        """Read what members publish about the contract's deployment."""
        return read(Deployment, await self._get(f"/contracts/{segment('contract id', contract_id)}/deploymentinfo", post=True))

    # -- events -------------------------------------------------------------------------------------------------------------------------

    async def latest_event(self, contract_id: str, *, event_id: str | None = None, scope: str | None = None) -> Event | None:
        """Read the latest event of an ID (by default the contract's) in a scope, or ``None``."""
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
        """Read all events of an ID from the ledger, oldest first, across pages. Waits while the node loads them.

        Args:
            contract_id: The contract.
            event_id: The events' ID. Without it, the contract's.
            scope: The events' scope.
            from_seqno: First ledger position.
            to_seqno: Last ledger position. Without it, the last one of this ID.
            page: Ledger positions per page.

        Raises:
            Unavailable: ``HistoryNotReady``.
            Internal: ``GovernanceAnswerMalformed``.
        """
        query = query_string({"id": event_id, "scope": scope, "from_seqno": from_seqno, "to_seqno": to_seqno, "max_seqno_per_page": page})
        path: str | None = f"{self._root}/contracts/{segment('contract id', contract_id)}/events{query}"
        seen: set[str] = set()
        while path is not None:
            if path in seen:
                raise Internal("GovernanceAnswerMalformed", "A page of events links back to an earlier page.")
            seen.add(path)
            found = read(EventPage, await self._channel.history(path))
            for event in found.value:
                yield event
            path = self._next(found.next_link)

    def _next(self, link: str | None) -> str | None:
        """Return a page's next link as a path of this endpoint. The application's links start with ``/app``, the proxy's do not."""
        if not link:
            return None
        if not link.startswith("/") or link.startswith("//"):
            raise InvalidInput(
                "GovernanceLinkInvalid", f"The link to the next page, {link[:200]!r}, leaves the governance service.", hint=WRONG_SERVICE
            )
        plain = link.removeprefix("/app") if link.startswith("/app/") else link
        return self._root + plain
