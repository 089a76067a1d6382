"""The governance client of users and members: documents, proposals, ballots, consent, secrets, policies, OIDC, identities, events."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from cleanroom.errors import Conflict, Internal, InvalidInput, PreconditionFailed
from cleanroom.governance.http import Channel, TokenProvider, application_url, query_string, read_certificate, segment
from cleanroom.governance.models import (
    Approver,
    CleanRoomPolicy,
    Consent,
    Contract,
    Delegate,
    Deployment,
    Document,
    DocumentSummary,
    Event,
    EventPage,
    Invitation,
    Member,
    OidcIssuerInfo,
    Proposal,
    ProposalStatus,
    SigningKey,
    UserIdentity,
    read,
    rows,
    table,
    text,
    whole,
)
from cleanroom.secret import Secret

Mode = Literal["app", "cgs-client"]
DocumentOption = Literal["execution", "telemetry"]
ContractOption = Literal["execution", "logging", "telemetry"]


class GovernanceUserClient:
    """CGS as users and members see it. One instance a caller; safe for concurrent use in one event loop.

    Every method raises :class:`cleanroom.errors.CleanRoomError` subclasses that carry CGS's own ``error.code``:
    ``NotFound`` only when CGS itself says so, ``Unavailable`` for no answer, throttling and 5xx of gateways, ``Conflict`` for 409 and 412,
    ``Refused`` for 401 and 403.

    Args:
        base_url: The CCF application's URL (with or without ``/app``) or, in mode ``cgs-client``, the proxy's URL.
        token: Bearer token provider. ``None`` for a member who has a client certificate, or for a proxy with its own identity.
        mode: ``app`` speaks the application's routes (spec/governance.md 3); ``cgs-client`` the proxy's (13).
        ca_file: Service certificate or CA of the server.
        client_cert: (certificate, key) PEM files of a member (mode ``app``).
        headers: Extra headers.
        ccf_endpoint, service_cert: Mode ``cgs-client``: the CCF URL and service certificate that the proxy shall use for this request.
        await_commit: Wait for CCF's commit after writes (mode ``app``; the proxy waits by itself).
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: TokenProvider | None = None,
        mode: Mode = "app",
        ca_file: Path | None = None,
        client_cert: tuple[Path, Path] | None = None,
        headers: Mapping[str, str] | None = None,
        ccf_endpoint: str | None = None,
        service_cert: Path | None = None,
        await_commit: bool = True,
        timeout: float = 30.0,
    ) -> None:
        extra = dict(headers or {})
        if mode == "cgs-client":
            if token is not None:
                extra["x-ms-auth-mode"] = "FromAuthHeader"
            if ccf_endpoint is not None:
                extra["x-ms-ccf-endpoint"] = ccf_endpoint
            if service_cert is not None:
                extra["x-ms-service-cert"] = base64.b64encode(read_certificate(service_cert)).decode()
        self.mode: Mode = mode
        self._await_commit = await_commit
        self._root = "/app" if mode == "app" else ""
        self._channel = Channel(
            application_url(base_url) if mode == "app" else base_url,
            token=token,
            ca_file=ca_file,
            client_cert=client_cert,
            headers=extra,
            timeout=timeout,
            commit_path="/app/tx" if mode == "app" else None,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._channel.aclose()

    # -- how the two surfaces differ ------------------------------------------------------------------------------------------------

    async def _get(self, path: str, *, post: bool = False) -> Any:
        """Read ``path``; ``post`` where the application's "get" is a POST and the proxy's is a GET (trap 1)."""
        return await self._channel.call("POST" if post and self.mode == "app" else "GET", self._root + path)

    async def _write(self, method: str, path: str, body: Any = None, *, hide: Sequence[str] = ()) -> tuple[Any, str | None]:
        return await self._channel.write(method, self._root + path, json=body, await_commit=self._await_commit, hide=hide)

    def _only_app(self, what: str) -> None:
        if self.mode != "app":
            raise InvalidInput("NotThroughProxy", f"{what} has no cgs-client route; use the application's URL (mode app).")

    # -- documents (4) ----------------------------------------------------------------------------------------------------------------

    async def get_document(self, document_id: str) -> Document:
        """The document: Accepted, else Proposed, else Draft. Raises ``NotFound`` ``UserDocumentNotFound``."""
        return read(Document, await self._get(f"/userdocuments/{segment('document id', document_id)}"))

    async def list_documents(self, labels: Mapping[str, str] | None = None) -> list[DocumentSummary]:
        """Documents of all contracts, those that carry every one of ``labels``."""
        selector = None
        if labels:
            for name, value in labels.items():
                if not name.strip() or not value.strip() or any(mark in name + value for mark in ":,"):
                    raise InvalidInput("InvalidLabel", f"Label {name!r}={value!r} cannot be selected: no empty text, ':' or ','.")
            selector = ",".join(f"{name}:{value}" for name, value in labels.items())
        body = await self._get("/userdocuments" + query_string({"labelSelector": selector}))
        return [read(DocumentSummary, row) for row in rows(body)]

    async def put_document(
        self,
        document_id: str,
        contract_id: str,
        data: Any,
        *,
        version: str | None = None,
        labels: Mapping[str, str] | None = None,
        approvers: Sequence[Approver] | None = None,
    ) -> str | None:
        """Create (no ``version``) or replace a draft; what is not given is erased (trap 6). Returns the draft's new version.

        Raises:
            Conflict: ``UserDocumentAlreadyExists`` (version missing), ``PreconditionFailed`` (changed meanwhile),
                ``UserDocumentAlreadyAccepted``.
            NotFound: ``ContractNotFound``.
        """
        body: dict[str, Any] = {"contractId": contract_id, "data": data}
        if version is not None:
            body["version"] = version
        if labels is not None:
            body["labels"] = dict(labels)
        if approvers is not None:
            body["approvers"] = [approver.wire() for approver in approvers]
        _, transaction = await self._write("PUT", f"/userdocuments/{segment('document id', document_id)}", body)
        return transaction

    async def propose_document(self, document_id: str, *, version: str, proposal_id: str | None = None) -> str:
        """Propose the draft of exactly this ``version`` to its approvers; returns the proposal's id.

        ``proposal_id`` makes the call repeatable: in mode ``app`` that very proposal counts as done. The proxy chooses its own id; there
        a proposal of this version, open or accepted, counts. Whoever relies on its content or approvers reads them again.

        Raises:
            Conflict: ``UserDocumentModified`` (another version), ``UserDocumentAlreadyProposed``, ``ProposalAlreadyExists``.
            PreconditionFailed: ``ApproversMissing`` when the draft names none.
        """
        if self.mode == "cgs-client":
            try:
                body, _ = await self._write("POST", f"/userdocuments/{segment('document id', document_id)}/propose", {"version": version})
            except Conflict as error:
                if proposal_id is None or error.code not in ("UserDocumentAlreadyProposed", "UserDocumentModified"):
                    raise
                known = await self._proposal_of(await self.get_document(document_id), version)
                if known is None:
                    raise
                return known
            return text(body, "proposalId")
        wanted = proposal_id or uuid.uuid4().hex
        document = await self.get_document(document_id)
        if proposal_id is not None and document.proposal_id == proposal_id and await self._proposal_of(document, version) is not None:
            return proposal_id
        if document.version != version:
            raise Conflict(
                "UserDocumentModified",
                f"Document {document_id} has version {document.version} ({document.state}), not {version}.",
                hint="Read it again, and propose what it says now.",
            )
        if not document.approvers:
            raise PreconditionFailed("ApproversMissing", f"Document {document_id} names no approvers.", hint="Put it again with approvers.")
        snapshot = document.model_dump(by_alias=True, exclude_none=True, include={"contract_id", "version", "data", "labels"})
        return await self.create_proposal(wanted, document_id, snapshot, document.approvers)

    async def _proposal_of(self, document: Document, version: str) -> str | None:
        """Id of the proposal that a document is proposed or accepted by, when it is of this draft version."""
        if document.state == "Draft" or not document.proposal_id:
            return None
        asked = (await self.get_proposal(document.proposal_id)).args.get("document")
        return document.proposal_id if isinstance(asked, dict) and asked.get("version") == version else None

    async def create_proposal(self, proposal_id: str, document_id: str, document: Mapping[str, Any], approvers: Sequence[Approver]) -> str:
        """Create a ``set_user_document`` proposal from a snapshot. CGS does not compare it with the draft (trap 5)."""
        args = {"documentId": document_id, "document": dict(document)}
        body = {"name": "set_user_document", "args": args, "approvers": [approver.wire() for approver in approvers]}
        if self.mode == "cgs-client":
            answer, _ = await self._write("POST", "/users/proposals/create", body)
        else:
            answer, _ = await self._write("PUT", f"/users/proposals/{segment('proposal id', proposal_id)}", body)
        return text(answer, "proposalId")

    async def get_proposal(self, proposal_id: str) -> Proposal:
        """The content of a user proposal. Raises ``NotFound`` ``ProposalNotFound``."""
        return read(Proposal, await self._get(f"/users/proposals/{segment('proposal id', proposal_id)}", post=True))

    async def proposal_status(self, proposal_id: str) -> ProposalStatus:
        """State and ballots of a user proposal. Raises ``NotFound`` ``ProposalNotFound``."""
        return read(ProposalStatus, await self._get(f"/users/proposals/{segment('proposal id', proposal_id)}/status", post=True))

    async def submit_ballot(self, proposal_id: str, *, accept: bool, voter_id: str | None = None) -> ProposalStatus:
        """Vote. With ``voter_id`` (the caller's own id) a repetition of the same ballot counts as done.

        Raises:
            Refused: ``NotProposalApprover``.
            Conflict: ``ProposalNotOpen``, ``BallotAlreadySubmitted`` (a ballot cannot be changed, trap 7).
        """
        path = f"/users/proposals/{segment('proposal id', proposal_id)}/ballots/"
        ballot = "accepted" if accept else "rejected"
        try:
            if self.mode == "cgs-client":
                body, _ = await self._write("POST", path + ("vote_accept" if accept else "vote_reject"))
            else:
                body, _ = await self._write("POST", path + "submit", {"ballot": ballot})
        except Conflict as error:
            if voter_id is None or error.code not in ("BallotAlreadySubmitted", "ProposalNotOpen"):
                raise
            status = await self.proposal_status(proposal_id)
            if not any(cast.approver_id == voter_id and cast.ballot == ballot for cast in status.ballots):
                raise
            return status
        return read(ProposalStatus, body)

    async def withdraw_proposal(self, proposal_id: str) -> ProposalStatus:
        """Withdraw one's own open proposal. Raises ``Refused`` ``NotProposalOwner``, ``Conflict`` ``ProposalNotOpen``."""
        body, _ = await self._write("POST", f"/users/proposals/{segment('proposal id', proposal_id)}/withdraw")
        return read(ProposalStatus, body)

    # -- consent (6) ------------------------------------------------------------------------------------------------------------------

    async def document_consent(self, contract_id: str, document_id: str, option: DocumentOption = "execution") -> Consent:
        """Status of a document's option. A missing document is ``disabled`` here and ``NotFound`` through the proxy (trap 9)."""
        document = f"/userdocuments/{segment('document id', document_id)}"
        if self.mode == "cgs-client":
            return read(Consent, await self._channel.call("POST", f"{document}/checkstatus/{segment('option', option)}"))
        path = f"/app/contracts/{segment('contract id', contract_id)}{document}/runtimeoptions/{segment('option', option)}/status"
        return read(Consent, await self._channel.call("POST", path))

    async def set_document_consent(
        self, contract_id: str, document_id: str, option: DocumentOption = "execution", *, enabled: bool
    ) -> None:
        """Give or withdraw the caller's consent. Raises ``Refused`` ``NotUserDocumentApprover``, ``PreconditionFailed``."""
        verb = "enable" if enabled else "disable"
        path = f"/userdocuments/{segment('document id', document_id)}/runtimeoptions/{segment('option', option)}/{verb}"
        prefix = "" if self.mode == "cgs-client" else f"/contracts/{segment('contract id', contract_id)}"
        await self._write("POST", prefix + path)

    async def contract_consent(self, contract_id: str, option: ContractOption = "execution") -> Consent:
        """Status of a contract's option."""
        path = f"/contracts/{segment('contract id', contract_id)}"
        path += f"/checkstatus/{option}" if self.mode == "cgs-client" else f"/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", self._root + path))

    async def set_contract_execution(self, contract_id: str, *, enabled: bool) -> None:
        """Members only: give or withdraw this member's consent to execution under the contract."""
        verb = "enable" if enabled else "disable"
        path = f"/contracts/{segment('contract id', contract_id)}"
        await self._write("POST", path + (f"/execution/{verb}" if self.mode == "cgs-client" else f"/runtimeoptions/execution/{verb}"))

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
