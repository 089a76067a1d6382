"""One vault through ``azure-keyvault-keys``: how it is reached, and how its errors become ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.keyvault.keys import KeyClient
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_SKR_CODE = re.compile(r"AKV\.SKR\.\d{4}")
_ENTRA_CODE = re.compile(r"AADSTS\d+")
DELETED_BUT_RECOVERABLE = "ObjectIsDeletedButRecoverable"


class KeyVaultSettings(BaseModel):
    """How to reach a vault or managed HSM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vault_url: str
    """``https://<name>.vault.azure.net`` or ``https://<name>.managedhsm.azure.net``, without a path."""
    ca_file: Path | None = None
    """Roots for TLS; the system's when absent."""
    verify_challenge_resource: bool = True
    """False where the vault's host is not under the resource that its challenge names."""
    release_ca_file: Path | None = None
    """Roots for the certificate chain of the signed release response; ``ca_file``, else the public roots, when absent."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds for one connection and for one answer."""
    retries: int = Field(default=3, ge=0)
    """Attempts after the first, on 429 and 5xx, by the SDK with its own back-off."""

    @field_validator("vault_url")
    @classmethod
    def _https(cls, value: str) -> str:
        if not re.fullmatch(r"https://[^/?#@\s]+/?", value):
            raise ValueError("vault_url must be https://<host>[:port] without a path")
        return value.rstrip("/")

    def key_id(self, name: str, version: str | None = None) -> str:
        """The identifier of a key in this vault."""
        return f"{self.vault_url}/keys/{name}" + (f"/{version}" if version else "")

    def client(self, credential: TokenCredential) -> KeyClient:
        """An unmodified SDK client. Close it, or use it as a context manager."""
        options: dict[str, Any] = {} if self.ca_file is None else {"connection_verify": str(self.ca_file)}
        return KeyClient(
            self.vault_url,
            credential,
            verify_challenge_resource=self.verify_challenge_resource,
            connection_timeout=self.timeout,
            read_timeout=self.timeout,
            retry_total=self.retries,
            # A vault that sends us elsewhere is not the one that was named: neither token nor key goes there.
            permit_redirects=False,
            **options,
        )


def service_error(error: HttpResponseError) -> tuple[str, str | None, str]:
    """``(code, inner code, message)`` of Key Vault's error envelope."""
    try:
        body = error.response.json() if error.response is not None else {}  # type: ignore[attr-defined]
    except (ValueError, AttributeError, TypeError, RecursionError):
        body = {}
    envelope = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(envelope, Mapping):
        inner = envelope.get("innererror")
        inner_code = inner.get("code") if isinstance(inner, Mapping) else None
        return str(envelope.get("code") or ""), inner_code, str(envelope.get("message") or "")
    return "", None, error.message or ""


@contextmanager
def well_formed_answers(what: str) -> Iterator[None]:
    """Run calls of the SDK and read its answers: the SDK trusts their shape, so a malformed one raises whatever comes of it.

    Raises:
        Internal: ``KeyVaultAnswerUnexpected``, retryable where another answer may be better. The SDK's own errors and ours pass.
    """
    try:
        yield
    except (AzureError, CleanRoomError):
        raise
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise Internal(
            "KeyVaultAnswerUnexpected",
            f"{what}: Key Vault's answer is not what its protocol says.",
            cause=f"{type(error).__name__}: {str(error)[:200]}",
            hint="Check the vault's address, who sits between, and (where its host is another) verify_challenge_resource.",
            # A gateway's empty answer may pass; a host that is not the challenge's, which is the SDK's plain ValueError, stays.
            retryable=type(error) is not ValueError,
        ) from error


def translate(error: AzureError, what: str, *, party: str | None = None) -> CleanRoomError:
    """One of the SDK's errors as ours. The service's own code is kept: the inner one where there is one, else the outer.

    Args:
        error: What the SDK raised.
        what: The operation and its object, for the message (``release of key kek-flights``).
        party: Who must act on a refusal, when known.
    """
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return Unavailable("KeyVaultUnreachable", f"{what}: Key Vault could not be reached.", cause=str(error.message))
    if not isinstance(error, HttpResponseError):
        return Internal("KeyVaultClientFailed", f"{what}: the Key Vault client failed.", cause=str(error))
    code, inner, message = service_error(error)
    status = error.status_code
    details: dict[str, Any] = {"status": status, "code": code, "innererror": inner}
    if match := _SKR_CODE.search(message):
        details["skr_code"] = match[0]
    if isinstance(error, ClientAuthenticationError):
        # Without an envelope it is the credential that failed, before anything was asked of the vault.
        entra = _ENTRA_CODE.search(message)
        return Refused(
            code or (entra[0] if entra else "KeyVaultAuthenticationFailed"),
            f"{what}: the vault does not accept who we are, or no token could be obtained.",
            cause=message or str(error.message),
            hint="Check the credential: tenant, client id, secret or federated token, and that the token's audience is the vault's.",
            party=party,
            details=details,
        )
    if status is not None and 300 <= status < 400:
        hint = "Check the vault's address, and who sits between."
        return Refused(
            "KeyVaultRedirected", f"{what}: Key Vault points elsewhere ({status}); nothing was sent there.", hint=hint, details=details
        )
    if status == 403:
        hint = "Check whether the key is enabled, within its validity, and permits the operation."
        if inner == "ForbiddenByRbac":
            hint = "Assign a Key Vault crypto role at the vault to the caller; a new assignment can take minutes to reach the vault."
        return Refused(inner or code or "Forbidden", f"{what}: Key Vault says no.", cause=message, hint=hint, party=party, details=details)
    if status == 404:
        return NotFound(code or "KeyNotFound", f"{what}: there is no such key.", cause=message, details=details)
    if status == 409:
        hint = "Look at the existing key, then choose another name or remove it."
        if inner == DELETED_BUT_RECOVERABLE:
            hint = (
                "The name belongs to a deleted key: az keyvault key recover (to use it again) or az keyvault key purge (to free the name)."
            )
        return Conflict(inner or code or "Conflict", f"{what}: it conflicts with what is there.", cause=message, hint=hint, details=details)
    if status == 429 or (status is not None and status >= 500):
        return Unavailable(code or "KeyVaultUnavailable", f"{what}: Key Vault answered {status}.", cause=message, details=details)
    return InvalidInput(
        code or "BadParameter", f"{what}: Key Vault does not accept the request ({status}).", cause=message, details=details
    )
