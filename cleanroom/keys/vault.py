"""Access to one vault through ``azure-keyvault-keys``: settings, client, and conversion of errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.keyvault.keys import KeyClient
from pydantic import Field, field_validator

from cleanroom.azure_http import BoundedRetryPolicy, is_connection_error, retry_after_details
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.models import FrozenModel

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_SKR_CODE = re.compile(r"AKV\.SKR\.\d{4}")
_ENTRA_CODE = re.compile(r"AADSTS\d+")
DELETED_BUT_RECOVERABLE = "ObjectIsDeletedButRecoverable"


class KeyVaultSettings(FrozenModel):
    """How to reach a vault or managed HSM."""

    vault_url: str
    """``https://<name>.vault.azure.net`` or ``https://<name>.managedhsm.azure.net``, without a path."""
    ca_file: Path | None = None
    """PEM roots for TLS; by default the system's."""
    verify_challenge_resource: bool = True
    """False if the vault's host is not under the resource in its authentication challenge."""
    release_ca_file: Path | None = None
    """PEM roots for the certificate chain of the signed release response; by default ``ca_file``, else the public roots."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds to connect, and to wait for a response."""
    retries: int = Field(default=3, ge=0)
    """Retries of the SDK on 429 and 5xx, with its own backoff."""

    @field_validator("vault_url")
    @classmethod
    def _https(cls, value: str) -> str:
        if not re.fullmatch(r"https://[^/?#@\s]+/?", value):
            raise ValueError("vault_url must be https://<host>[:port] without a path")
        return value.rstrip("/")

    def key_id(self, name: str, version: str | None = None) -> str:
        """Return the identifier of a key in this vault."""
        return f"{self.vault_url}/keys/{name}" + (f"/{version}" if version else "")

    def client(self, credential: TokenCredential) -> KeyClient:
        """Create a client of the SDK. Close it, or use it as a context manager."""
        options: dict[str, Any] = {} if self.ca_file is None else {"connection_verify": str(self.ca_file)}
        return KeyClient(
            self.vault_url,
            credential,
            verify_challenge_resource=self.verify_challenge_resource,
            connection_timeout=self.timeout,
            read_timeout=self.timeout,
            retry_policy=BoundedRetryPolicy(retry_total=self.retries),
            # The target of a redirect is not the configured vault, and must receive neither token nor key.
            permit_redirects=False,
            **options,
        )


def service_error(error: HttpResponseError) -> tuple[str, str | None, str]:
    """Return ``(code, inner code, message)`` of Key Vault's error envelope."""
    try:
        body = error.response.json()  # type: ignore[union-attr]
    except (ValueError, AttributeError, TypeError, RecursionError):
        body = {}
    envelope = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(envelope, Mapping):
        inner = envelope.get("innererror")
        inner_code = inner.get("code") if isinstance(inner, Mapping) else None
        return str(envelope.get("code") or ""), inner_code, str(envelope.get("message") or "")
    return "", None, error.message


@contextmanager
def convert_malformed_responses(what: str) -> Iterator[None]:
    """Context manager for calls of the SDK that converts the effects of malformed responses.

    The SDK does not validate responses, so a malformed one raises arbitrary exceptions. The SDK's errors and CleanRoomError pass through.

    Raises:
        Internal: ``KeyVaultAnswerUnexpected``; retryable if a later response may be well-formed.
    """
    try:
        yield
    except (AzureError, CleanRoomError):
        raise
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise Internal(
            "KeyVaultAnswerUnexpected",
            f"{what}: Key Vault's response does not follow its protocol.",
            cause=f"{type(error).__name__}: {str(error)[:200]}",
            hint="Check the vault's address, any proxy in between, and the setting verify_challenge_resource.",
            # The SDK raises a plain ValueError if the host does not match the challenge, which a retry does not change.
            retryable=type(error) is not ValueError,
        ) from error


def convert_error(error: AzureError, what: str, *, party: str | None = None) -> CleanRoomError:
    """Convert an error of the SDK. The service's code is kept: the inner one if present, else the outer one.

    Args:
        error: The SDK's error.
        what: The operation and its object, for the message (``release of key kek-flights``).
        party: The responsible party of a refusal or conflict, if known.
    """
    if is_connection_error(error):
        return Unavailable("KeyVaultUnreachable", f"{what}: Key Vault could not be reached.", cause=str(error))
    if not isinstance(error, HttpResponseError):
        return Internal("KeyVaultClientFailed", f"{what}: the Key Vault client failed.", cause=str(error))
    code, inner, message = service_error(error)
    status = error.status_code
    details: dict[str, Any] = {"status": status, "code": code, "innererror": inner} | retry_after_details(error)
    if match := _SKR_CODE.search(message):
        details["skr_code"] = match[0]
    if status is not None and not code and (status < 300 or 400 <= status < 500) and status not in (408, 429):
        # Key Vault's own refusals have an envelope, and its successes are JSON.
        return Internal(
            "KeyVaultAnswerUnexpected",
            f"{what}: the answer ({status}) is not from Key Vault.",
            cause=message[:200],
            hint="If this lasts, check the vault's address and any proxy in between.",
            details=details,
            retryable=True,
        )
    if isinstance(error, ClientAuthenticationError):
        # Without an envelope, the credential failed before any request to the vault.
        entra = _ENTRA_CODE.search(message)
        return Refused(
            code or (entra[0] if entra else "KeyVaultAuthenticationFailed"),
            f"{what}: the vault rejected the identity, or no token could be obtained.",
            cause=message or str(error.message),
            hint="Check the credential: tenant, client ID, secret or federated token, and the token's audience, which must be the vault's.",
            party=party,
            details=details,
        )
    if status is not None and 300 <= status < 400:
        hint = "Check the vault URL and any proxy in between."
        return Refused(
            "KeyVaultRedirected",
            f"{what}: Key Vault responded with a redirect ({status}), which was not followed.",
            hint=hint,
            details=details,
        )
    if status == 403:
        hint = "Check whether the key is enabled, within its validity, and permits the operation."
        if inner == "ForbiddenByRbac":
            hint = "Assign a Key Vault crypto role at the vault to the caller; a new assignment can take minutes to take effect."
        return Refused(inner or code, f"{what}: Key Vault denied the request.", cause=message, hint=hint, party=party, details=details)
    if status == 404:
        return NotFound(code, f"{what}: the key does not exist.", cause=message, details=details)
    if status == 409:
        hint = "Inspect the existing key, then choose another name or delete it."
        if inner == DELETED_BUT_RECOVERABLE:
            hint = "The name belongs to a deleted key. Run az keyvault key recover to use it again, or az keyvault key purge to free it."
        return Conflict(
            inner or code,
            f"{what}: it conflicts with an existing key.",
            cause=message,
            hint=hint,
            party=party,
            details=details,
        )
    if status in (408, 429) or (status is not None and status >= 500):
        return Unavailable(
            code or "KeyVaultUnavailable", f"{what}: Key Vault responded with status {status}.", cause=message, details=details
        )
    return InvalidInput(code, f"{what}: Key Vault rejected the request ({status}).", cause=message, details=details)
