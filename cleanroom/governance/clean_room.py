"""The governance client of code inside a clean room: by its own attestation, directly or through the in-guest sidecar."""

from __future__ import annotations

import json
import time
import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from cleanroom.attestation import GuestAttestor
from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import Internal, InvalidInput
from cleanroom.governance.documents import ContractOption, DocumentOption
from cleanroom.governance.envelopes import Enveloper
from cleanroom.governance.http import Channel, Closing, application_url, query_string, segment
from cleanroom.governance.models import Consent, Document, Member, read, rows, text
from cleanroom.secret import Secret

TOKEN_SECONDS: Final = 300
"""Lifetime of an ID token, as the sidecar asks for."""
MAX_SECRET_UNITS: Final = 25_600
FEDERATION_AUDIENCE: Final = "api://AzureADTokenExchange"


def host_data_claims(host_data: Sequence[str]) -> dict[str, Any]:
    """The claims of a policy for these host data values (64 lower-case hex characters each): one of them, and not debuggable.

    Raises:
        InvalidInput: ``InvalidHostData``; comparison at CGS is strict and case-sensitive (trap 14).
    """
    for value in host_data:
        if len(value) != 64 or any(character not in "0123456789abcdef" for character in value):
            raise InvalidInput("InvalidHostData", f"Host data {value!r} is not 64 lower-case hexadecimal characters.")
    if not host_data:
        raise InvalidInput("InvalidHostData", "A policy without host data would admit every clean room; name at least one value.")
    return {IS_DEBUGGABLE: False, HOST_DATA: list(host_data)}


class CleanRoomClient(Closing):
    """CGS as a clean room sees it, for one contract. Make one with :meth:`direct` or :meth:`through_sidecar`.

    Errors are those of :class:`cleanroom.governance.GovernanceUserClient`, and ``Refused`` with ``VerifySnpAttestationFailed`` when
    this clean room does not match the contract's policy (or a delegate's), ``ReportDataMismatch``, ``SignatureMismatch`` or
    ``KeyUnwrapFailed``.
    """

    @staticmethod
    def direct(
        base_url: str,
        contract_id: str,
        attestor: GuestAttestor,
        *,
        ca_file: Path | None = None,
        await_commit: bool = True,
        timeout: float = 30.0,
    ) -> CleanRoomClient:
        """Speak to the CCF application itself with an own RSA-2048 key bound to this guest's report. Every write waits for commit."""
        return _Direct(Channel(application_url(base_url), ca_file=ca_file, timeout=timeout), contract_id, Enveloper(attestor), await_commit)

    @staticmethod
    def through_sidecar(
        base_url: str = "http://localhost:8300", *, contract_id: str | None = None, ca_file: Path | None = None, timeout: float = 90.0
    ) -> CleanRoomClient:
        """Speak to the ``ccr-governance`` sidecar of this guest; ``contract_id`` overrides the contract it was configured with.

        The sidecar retries what CGS answers with 5xx three times, 5 to 20 s apart, before it passes it on: hence the long timeout.
        """
        headers = (
            {} if contract_id is None else {"x-ms-ccr-governance-api-path-prefix": f"app/contracts/{segment('contract id', contract_id)}"}
        )
        return _Sidecar(Channel(base_url, ca_file=ca_file, headers=headers, timeout=timeout, commit_path=None))

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def aclose(self) -> None:
        """Close the connections."""
        await self._channel.aclose()

    @abstractmethod
    async def put_secret(self, name: str, value: Secret) -> str:
        """Store a text secret; returns its id ``cleanroom_<name>``. All clean rooms of a contract share that namespace (trap 17)."""

    @abstractmethod
    async def get_secret(self, secret_id: str) -> Secret:
        """Read a secret by its full id. Raises ``NotFound`` ``SecretNotFound``."""

    @abstractmethod
    async def set_delegate(
        self,
        delegate_type: str,
        delegate_id: str,
        kind: Literal["add", "remove"],
        claims: Mapping[str, Any],
        *,
        policy_type: str | None = None,
    ) -> None:
        """Add to or remove from a delegate policy. *add* is repeatable and accumulates; *remove* of what is absent is ``InternalError``."""

    @abstractmethod
    async def accepted_document(self, document_id: str) -> Document:
        """An accepted document of this contract. Raises ``NotFound`` ``UserDocumentNotFound``, ``Conflict`` ``ContractIdMismatch``."""

    @abstractmethod
    async def document_consent(self, document_id: str, option: DocumentOption = "execution") -> Consent:
        """Whether all approvers of the document consent; a missing document is ``disabled``."""

    @abstractmethod
    async def contract_consent(self, option: ContractOption = "execution") -> Consent:
        """Whether the contract's members consent."""

    @abstractmethod
    async def token(self, subject: str, tenant_id: str, *, audience: str = FEDERATION_AUDIENCE, issuer: str | None = None) -> Secret:
        """An ID token (PS256, five minutes) for a subject that this clean room may use.

        Raises:
            PreconditionFailed: ``SigningKeyNotAvailable``, ``IssuerUrlNotSet``.
        """

    @abstractmethod
    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None, timestamp_ms: int | None = None) -> None:
        """Write an audit event; repeating it adds a second ledger entry."""

    @abstractmethod
    async def require_active_user(self, token: str) -> None:
        """Return when the bearer token belongs to an active user; raises ``Refused`` otherwise."""

    @abstractmethod
    async def members(self) -> list[Member]:
        """The consortium's members."""

    # -- grants -------------------------------------------------------------------------------------------------------------------------

    async def allow_secret(self, secret_id: str, host_data: Sequence[str]) -> None:
        """Let clean rooms with these host data values read one secret."""
        await self.set_delegate("secrets", secret_id, "add", host_data_claims(host_data))

    async def allow_subject(self, subject: str, host_data: Sequence[str]) -> None:
        """Let clean rooms with these host data values get ID tokens for a subject."""
        await self.set_delegate("oauth-federation-subjects", subject, "add", host_data_claims(host_data))

    async def allow_events(self, host_data: Sequence[str]) -> None:
        """Let clean rooms with these host data values write events."""
        await self.set_delegate("events", "writer", "add", host_data_claims(host_data))

    async def revoke(self, delegate_type: str, delegate_id: str, host_data: Sequence[str]) -> None:
        """Take a grant of ``allow_*`` back; repeatable.

        CGS answers 500 to the removal of anything absent (trap 15) and a clean room cannot read delegate policies. So a refused removal
        is made certain by adding the same claims and removing them. Host data and the debug claim always go together: a policy left with
        the debug claim alone would admit every clean room.
        """
        claims = host_data_claims(host_data)
        try:
            await self.set_delegate(delegate_type, delegate_id, "remove", claims)
        except Internal as error:
            if error.code != "InternalError":
                raise
            await self.set_delegate(delegate_type, delegate_id, "add", claims)
            await self.set_delegate(delegate_type, delegate_id, "remove", claims)


def _check_secret(value: Secret) -> str:
    text = value.reveal_text()
    units = len(text.encode("utf-16-le")) // 2
    if not 0 < units <= MAX_SECRET_UNITS:
        raise InvalidInput(
            "ValueTooLarge" if units else "ValueMissing", f"A secret has 1 to {MAX_SECRET_UNITS} UTF-16 units; this one has {units}."
        )
    return text


class _Direct(CleanRoomClient):
    def __init__(self, channel: Channel, contract_id: str, enveloper: Enveloper, await_commit: bool) -> None:
        super().__init__(channel)
        self._contract = f"/app/contracts/{segment('contract id', contract_id)}"
        self._enveloper = enveloper
        self._await_commit = await_commit

    async def _read(self, path: str) -> Secret:
        return await self._enveloper.open(await self._channel.call("POST", self._contract + path, json=await self._enveloper.reading()))

    async def _put(self, path: str, payload: Any, timestamp_ms: int | None = None) -> Any:
        envelope = await self._enveloper.writing(payload, timestamp_ms=timestamp_ms)
        hide = (envelope["data"],)
        answer, _ = await self._channel.write("PUT", self._contract + path, json=envelope, await_commit=self._await_commit, hide=hide)
        return answer

    async def put_secret(self, name: str, value: Secret) -> str:
        answer = await self._put(f"/secrets/{segment('secret name', name)}", {"value": _check_secret(value)})
        return text(answer, "secretId")

    async def get_secret(self, secret_id: str) -> Secret:
        return await self._read(f"/secrets/{segment('secret id', secret_id)}")

    async def set_delegate(
        self,
        delegate_type: str,
        delegate_id: str,
        kind: Literal["add", "remove"],
        claims: Mapping[str, Any],
        *,
        policy_type: str | None = None,
    ) -> None:
        path = f"/cleanroompolicy/delegates/{segment('delegate type', delegate_type)}/{segment('delegate id', delegate_id)}"
        payload = {"type": kind, "claims": dict(claims)} | ({"policyType": policy_type} if policy_type else {})
        await self._put(path, payload)

    async def accepted_document(self, document_id: str) -> Document:
        plain = await self._read(f"/userdocuments/accepted/{segment('document id', document_id)}")
        try:
            opened = json.loads(plain.reveal())
        except (ValueError, RecursionError):
            # Without the cause, which would quote the document.
            raise Internal("GovernanceAnswerMalformed", "The accepted document that was opened is not JSON.") from None
        return read(Document, opened)

    async def document_consent(self, document_id: str, option: DocumentOption = "execution") -> Consent:
        path = f"{self._contract}/userdocuments/{segment('document id', document_id)}/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", path, json=await self._enveloper.consent()))

    async def contract_consent(self, option: ContractOption = "execution") -> Consent:
        path = f"{self._contract}/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", path, json=await self._enveloper.consent()))

    async def token(self, subject: str, tenant_id: str, *, audience: str = FEDERATION_AUDIENCE, issuer: str | None = None) -> Secret:
        now = int(time.time())
        times: dict[str, str | int | None] = {"nbf": now, "exp": now + TOKEN_SECONDS, "iat": now, "jti": uuid.uuid4().hex}
        query = query_string({**times, "sub": subject, "tid": tenant_id, "aud": audience, "iss": issuer})
        return await self._read(f"/oauth/token{query}")

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None, timestamp_ms: int | None = None) -> None:
        await self._put("/events" + query_string({"id": event_id, "scope": scope}), data, timestamp_ms)

    async def require_active_user(self, token: str) -> None:
        await self._channel.call("POST", "/app/users/identities/self/status", headers={"authorization": f"Bearer {token}"})

    async def members(self) -> list[Member]:
        body = await self._channel.call("GET", "/gov/service/members?api-version=2024-07-01")
        return [read(Member, row) for row in rows(body)]


class _Sidecar(CleanRoomClient):
    async def put_secret(self, name: str, value: Secret) -> str:
        plain = _check_secret(value)
        body = await self._channel.call("PUT", f"/secrets/{segment('secret name', name)}", json={"value": plain}, hide=(plain,))
        return text(body, "secretId")

    async def get_secret(self, secret_id: str) -> Secret:
        body = await self._channel.call("POST", f"/secrets/{segment('secret id', secret_id)}")
        return Secret(text(body, "value").encode())

    async def set_delegate(
        self,
        delegate_type: str,
        delegate_id: str,
        kind: Literal["add", "remove"],
        claims: Mapping[str, Any],
        *,
        policy_type: str | None = None,
    ) -> None:
        # The sidecar does not wait for commit here (trap 39), and tells no transaction id to wait for.
        path = f"/cleanroompolicy/delegates/{segment('delegate type', delegate_type)}/{segment('delegate id', delegate_id)}"
        payload = {"type": kind, "claims": dict(claims)} | ({"policyType": policy_type} if policy_type else {})
        await self._channel.call("POST", path, json=payload)

    async def accepted_document(self, document_id: str) -> Document:
        return read(Document, await self._channel.call("POST", f"/userdocuments/{segment('document id', document_id)}"))

    async def document_consent(self, document_id: str, option: DocumentOption = "execution") -> Consent:
        path = f"/userdocuments/{segment('document id', document_id)}/consentcheck/{option}"
        return read(Consent, await self._channel.call("POST", path))

    async def contract_consent(self, option: ContractOption = "execution") -> Consent:
        return read(Consent, await self._channel.call("POST", f"/consentcheck/{option}"))

    async def token(self, subject: str, tenant_id: str, *, audience: str = FEDERATION_AUDIENCE, issuer: str | None = None) -> Secret:
        query = query_string({"sub": subject, "tenantId": tenant_id, "aud": audience, "iss": issuer})
        body = await self._channel.call("POST", f"/oauth/token{query}")
        return Secret(text(body, "value").encode())

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None, timestamp_ms: int | None = None) -> None:
        # The sidecar stamps events with its own clock.
        if timestamp_ms is not None:
            raise InvalidInput("TimestampNotThroughSidecar", "The sidecar sets the event's timestamp itself.")
        await self._channel.call("PUT", "/events" + query_string({"id": event_id, "scope": scope}), json=data)

    async def require_active_user(self, token: str) -> None:
        await self._channel.call("POST", "/users/isactive", headers={"authorization": f"Bearer {token}"})

    async def members(self) -> list[Member]:
        body = await self._channel.call("POST", "/members")
        return [read(Member, row) for row in rows(body)]
