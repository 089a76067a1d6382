"""The governance client of code inside a clean room, which proves itself by its attestation."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import Internal, InvalidInput
from cleanroom.governance.documents import ContractOption, DocumentOption
from cleanroom.governance.http import AsyncCloseable, HttpChannel
from cleanroom.governance.models import Consent, Document, MemberDocument, read, text
from cleanroom.governance.position import LedgerPosition
from cleanroom.governance.urls import application_url, query_string, segment
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE
from cleanroom.secret import Secret

# Imported on use: users import this package too, and have no attestation.
if TYPE_CHECKING:
    from cleanroom.attestation import GuestAttestor

TOKEN_SECONDS: Final = 300
"""Lifetime of an ID token; the official sidecar requests the same."""
MAX_SECRET_UNITS: Final = 25_600
"""Longest secret in UTF-16 code units."""


def host_data_claims(host_data: Sequence[str]) -> dict[str, Any]:
    """Build the claims of a policy that admits guests with one of these host data values, unless they are debuggable.

    Governance compares strictly and case-sensitively (docs/facts/governance-service.md#policy-match).

    Raises:
        InvalidInput: ``InvalidHostData`` without a value, or for one that is not 64 lower-case hexadecimal characters.
    """
    for value in host_data:
        if len(value) != 64 or any(character not in "0123456789abcdef" for character in value):
            raise InvalidInput("InvalidHostData", f"Host data {value!r} is not 64 lower-case hexadecimal characters.")
    if not host_data:
        raise InvalidInput("InvalidHostData", "A policy without host data would admit every clean room.", hint="Name at least one value.")
    return {IS_DEBUGGABLE: False, HOST_DATA: list(host_data)}


class CleanRoomClient(AsyncCloseable):
    """Governance of one contract, for a guest. It creates one RSA-2048 key, which the guest's report binds.

    Errors are those of :class:`cleanroom.governance.GovernanceUserClient`, and ``Refused`` with ``VerifySnpAttestationFailed`` if this
    guest matches neither the contract's policy nor a delegate policy, ``ReportDataMismatch``, ``SignatureMismatch`` or
    ``KeyUnwrapFailed``. All writes wait until they are committed.

    Args:
        base_url: The CCF application's URL, with or without ``/app``.
        contract_id: The contract.
        attestor: Produces this guest's evidence.
        ca_file: The CCF network's service certificate.
        timeout: Seconds for one request.
        position: What this process has seen in the ledger; see :class:`cleanroom.governance.http.HttpChannel`.
    """

    def __init__(
        self,
        base_url: str,
        contract_id: str,
        attestor: GuestAttestor,
        *,
        ca_file: Path | None = None,
        timeout: float = 30.0,
        position: LedgerPosition | None = None,
    ) -> None:
        self._channel = HttpChannel(application_url(base_url), ca_file=ca_file, timeout=timeout, position=position)
        self._contract = f"/app/contracts/{segment('contract id', contract_id)}"
        from cleanroom.governance.envelopes import Enveloper

        self._enveloper = Enveloper(attestor)

    @property
    def position(self) -> LedgerPosition:
        """What this client has seen in the ledger."""
        return self._channel.position

    async def catch_up(self, hint: str) -> None:
        """Wait until governance shows the transaction ``hint``; see :meth:`HttpChannel.catch_up`."""
        await self._channel.catch_up(hint)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._channel.aclose()

    async def _read(self, path: str) -> Secret:
        envelope = await self._enveloper.read_envelope()
        return await self._enveloper.open(await self._channel.call("POST", self._contract + path, json=envelope))

    async def _read_json(self, path: str) -> Any:
        plain = await self._read(path)
        try:
            return json.loads(plain.reveal())
        except (ValueError, RecursionError):
            # Without the cause, which quotes the document.
            raise Internal("GovernanceAnswerMalformed", "The decrypted document is not JSON.") from None

    async def _put(self, path: str, payload: Any, timestamp_ms: int | None = None) -> Any:
        envelope = await self._enveloper.write_envelope(payload, timestamp_ms=timestamp_ms)
        body, _ = await self._channel.write("PUT", self._contract + path, json=envelope, hide=(envelope["data"],))
        return body

    async def put_secret(self, name: str, value: Secret) -> str:
        """Store a text and return its ID ``cleanroom_<name>``. All clean rooms of a contract share that namespace.

        Raises:
            InvalidInput: ``ValueMissing``, ``ValueTooLarge``.
        """
        content = value.reveal_text()
        units = len(content.encode("utf-16-le")) // 2
        if not 0 < units <= MAX_SECRET_UNITS:
            code = "ValueTooLarge" if units else "ValueMissing"
            raise InvalidInput(code, f"A secret must have 1 to {MAX_SECRET_UNITS} UTF-16 code units; this one has {units}.")
        body = await self._put(f"/secrets/{segment('secret name', name)}", {"value": content})
        return text(body, "secretId")

    async def get_secret(self, secret_id: str) -> Secret:
        """Read a secret by its full ID.

        Raises:
            NotFound: ``SecretNotFound``.
        """
        return await self._read(f"/secrets/{segment('secret id', secret_id)}")

    async def set_delegate(self, delegate_type: str, delegate_id: str, kind: Literal["add", "remove"], claims: Mapping[str, Any]) -> None:
        """Add claims to a delegate policy, or remove them.

        ``add`` is idempotent and accumulates. Removing a value that is absent is ``Internal`` with ``InternalError``
        (docs/facts/governance-service.md#delegate-policies).
        """
        path = f"/cleanroompolicy/delegates/{segment('delegate type', delegate_type)}/{segment('delegate id', delegate_id)}"
        await self._put(path, {"type": kind, "claims": dict(claims)})

    async def accepted_document(self, document_id: str) -> Document:
        """Read an accepted document of this contract.

        Raises:
            NotFound: ``UserDocumentNotFound``.
            Conflict: ``ContractIdMismatch``.
        """
        return read(Document, await self._read_json(f"/userdocuments/accepted/{segment('document id', document_id)}"))

    async def accepted_member_document(self, document_id: str) -> MemberDocument:
        """Read a document of this contract that the members of the consortium accepted.

        Raises:
            NotFound: ``DocumentNotFound``.
            InvalidInput: ``ContractIdMismatch``.
        """
        return read(MemberDocument, await self._read_json(f"/memberdocuments/accepted/{segment('document id', document_id)}"))

    async def document_consent(self, document_id: str, option: DocumentOption = "execution") -> Consent:
        """Read whether all approvers of a document consent. A missing document is ``disabled``."""
        path = f"{self._contract}/userdocuments/{segment('document id', document_id)}/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", path, json=await self._enveloper.consent_envelope()))

    async def contract_consent(self, option: ContractOption = "execution") -> Consent:
        """Read whether the contract's members consent."""
        path = f"{self._contract}/runtimeoptions/{option}/status"
        return read(Consent, await self._channel.call("POST", path, json=await self._enveloper.consent_envelope()))

    async def token(self, subject: str, tenant_id: str, *, audience: str = TOKEN_EXCHANGE_AUDIENCE, issuer: str | None = None) -> Secret:
        """Obtain an ID token (PS256, five minutes) for a subject that this guest may use.

        Args:
            subject: The ``sub`` claim.
            tenant_id: Selects the issuer URL.
            audience: The ``aud`` claim.
            issuer: The ``iss`` claim. Without it, the issuer URL of the tenant.

        Raises:
            PreconditionFailed: ``SigningKeyNotAvailable``, ``IssuerUrlNotSet``.
        """
        now = int(time.time())
        times: dict[str, str | int | None] = {"nbf": now, "exp": now + TOKEN_SECONDS, "iat": now, "jti": uuid.uuid4().hex}
        query = query_string({**times, "sub": subject, "tid": tenant_id, "aud": audience, "iss": issuer})
        return await self._read(f"/oauth/token{query}")

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None, timestamp_ms: int | None = None) -> None:
        """Write an audit event. A repeated call adds a second ledger entry.

        Args:
            data: Any JSON value.
            event_id: The ID that the event is stored under. Without it, the contract's.
            scope: Separates events with the same ID.
            timestamp_ms: The sender's clock in milliseconds. Without it, now.
        """
        await self._put("/events" + query_string({"id": event_id, "scope": scope}), data, timestamp_ms)
