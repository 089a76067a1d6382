"""Credentials for Azure through ``azure-identity``, and what went wrong when one gave no token.

Everything here is synchronous (the SDKs that read data in Spark tasks are); an ``async`` caller uses :func:`asyncio.to_thread`, or
:class:`AsyncCredential` where an SDK's ``aio`` client wants a credential. Every credential of this module raises our own errors from
``get_token``, with the AADSTS code as ``code``, so that all clients built on it report sign-in failures alike.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import azure.identity as identity
from azure.core.credentials import AccessToken, AccessTokenInfo, TokenCredential, TokenRequestOptions
from azure.core.exceptions import (
    AzureError,
    ServiceRequestError,
    ServiceResponseError,
)
from pydantic import BaseModel, ConfigDict

from cleanroom.errors import CleanRoomError, InvalidInput, PreconditionFailed, Unavailable
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE
from cleanroom.jose.tokens import InvalidToken, unverified_claims
from cleanroom.secret import read_secret_file
from cleanroom.settings import CredentialSettings

PUBLIC_AUTHORITY = "https://login.microsoftonline.com"
PUBLIC_AUTHORITIES = frozenset({PUBLIC_AUTHORITY, "https://login.microsoftonline.us", "https://login.partner.microsoftonline.cn"})
"""Authorities of Microsoft's clouds (azure.identity.AzureAuthorityHosts): TLS by the system's roots."""


def client_options(ca_file: Path | None) -> dict[str, Any]:
    """Pipeline options of every Azure client: our roots, no redirects, few retries (the workflow retries), bounded waits."""
    options: dict[str, Any] = {
        "permit_redirects": False,
        "retry_total": 2,
        "retry_backoff_factor": 0.2,
        "connection_timeout": 10,
        "read_timeout": 60,
    }
    if ca_file is not None:
        options["connection_verify"] = str(ca_file)
    return options


class Federation(BaseModel):
    """The three fields that an external token and a federated credential must have in common, exactly."""

    model_config = ConfigDict(frozen=True)

    issuer: str
    subject: str
    audience: str = TOKEN_EXCHANGE_AUDIENCE


class Credential:
    """A credential of ``azure-identity`` whose failures are ours. Holds for ``TokenCredential`` and ``SupportsTokenInfo``."""

    def __init__(self, inner: Any, translate: Callable[[AzureError], CleanRoomError]) -> None:
        self._inner = inner
        self._translate = translate

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **kwargs: Any
    ) -> AccessToken:
        try:
            token: AccessToken = self._inner.get_token(*scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae, **kwargs)
        except AzureError as error:
            raise self._translate(error) from error
        return token

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        try:
            token: AccessTokenInfo = self._inner.get_token_info(*scopes, options=options)
        except AzureError as error:
            raise self._translate(error) from error
        return token

    def close(self) -> None:
        """Close the HTTP connections of the credential."""
        if hasattr(self._inner, "close"):
            self._inner.close()


class AsyncCredential:
    """A credential of this module for the SDKs' ``aio`` clients: the token is fetched in a thread."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **kwargs: Any
    ) -> AccessToken:
        return await asyncio.to_thread(
            self._credential.get_token, *scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae, **kwargs
        )

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        return await asyncio.to_thread(self._credential.get_token_info, *scopes, options=options)

    async def close(self) -> None:
        self._credential.close()

    async def __aenter__(self) -> AsyncCredential:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def credential(settings: CredentialSettings, *, ca_file: Path | None = None) -> Credential:
    """The credential of a profile.

    Raises:
        InvalidInput: ``CredentialIncomplete`` names the missing setting.
        NotFound, Refused: as :func:`cleanroom.secret.read_secret_file` for the client secret's file.
    """
    options = client_options(ca_file) | {"authority": settings.authority}
    if settings.disable_instance_discovery:
        options["disable_instance_discovery"] = True
    inner: TokenCredential
    if settings.kind == "client-secret":
        file = settings.client_secret_file
        if file is None:
            raise _incomplete("client_secret_file", settings.kind)
        secret = read_secret_file(file, what="credential.client_secret_file").reveal_text().strip()
        inner = identity.ClientSecretCredential(_required(settings, "tenant_id"), _required(settings, "client_id"), secret, **options)
    elif settings.kind == "workload-identity":
        # Absent settings fall back to AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, as the SDK documents.
        named = {"tenant_id": settings.tenant_id, "client_id": settings.client_id, "token_file_path": settings.federated_token_file}
        try:
            inner = identity.WorkloadIdentityCredential(**{k: str(v) for k, v in named.items() if v is not None}, **options)
        except ValueError as error:
            raise _incomplete("tenant_id, client_id or federated_token_file", settings.kind, str(error)) from error
    elif settings.kind == "managed-identity":
        options.pop("authority")
        options.pop("disable_instance_discovery", None)
        inner = identity.ManagedIdentityCredential(client_id=settings.client_id, **options)
    elif settings.kind == "cli":
        inner = identity.AzureCliCredential(tenant_id=settings.tenant_id or "")
    else:
        inner = identity.DefaultAzureCredential(**options)
    return Credential(inner, sign_in_error)


def federated_credential(
    tenant_id: str,
    client_id: str,
    assertion_provider: Callable[[], str],
    *,
    authority: str = PUBLIC_AUTHORITY,
    ca_file: Path | None = None,
    registered: Federation | None = None,
) -> Credential:
    """The credential of a managed identity, obtained with a token of an issuer that the identity trusts.

    Args:
        assertion_provider: Returns a fresh external JWT (for a clean room: the ID token that CGS signs); called for every new token.
        registered: What the identity's federated credential is known to hold. When Entra ID finds no match though the assertion has
            exactly these fields, the credential has not propagated yet and the error is retryable; otherwise it names the difference.
    """
    presented: list[Federation | None] = [None]

    def provide() -> str:
        assertion = assertion_provider()
        presented[0] = federation_of(assertion)
        return assertion

    inner = identity.ClientAssertionCredential(tenant_id, client_id, provide, authority=authority, **client_options(ca_file))
    return Credential(inner, lambda error: sign_in_error(error, presented=presented[0], registered=registered))


def federation_of(assertion: str) -> Federation | None:
    """Issuer, subject and audience that a JWT claims (unverified); None when it is no JWT."""
    try:
        claims = unverified_claims(assertion)
    except InvalidToken:
        return None
    audience = claims.get("aud", "")
    text = " ".join(str(item) for item in audience) if isinstance(audience, list) else str(audience)
    return Federation(issuer=str(claims.get("iss", "")), subject=str(claims.get("sub", "")), audience=text)


_NO_MATCH = {"AADSTS70021", "AADSTS70025", "AADSTS700211", "AADSTS700212", "AADSTS700213", "AADSTS7002138"}
_MAY_PROPAGATE = {"AADSTS70021", "AADSTS70025", "AADSTS700213", "AADSTS7002138"}
_TRANSIENT = {"AADSTS50166", "AADSTS501661", "AADSTS90061", "AADSTS90033", "AADSTS90055", "AADSTS50196"}


def sign_in_error(error: AzureError, *, presented: Federation | None = None, registered: Federation | None = None) -> CleanRoomError:
    """A failure to get a token as our error; ``code`` is the AADSTS code where there is one.

    A federation that matches nothing is :class:`Unavailable` (retryable) while it may only be that Entra ID does not know it yet, and
    :class:`PreconditionFailed` with the three fields that must match when it cannot be that.
    """
    text = str(error)
    match = re.search(r"AADSTS\d+", text)
    code = match[0] if match else None
    if code is None:
        # azure-identity wraps what its own transport raised: "Authentication failed: " is then said of a server that never answered.
        if any(isinstance(item, ServiceRequestError | ServiceResponseError) for item in (error, error.__cause__)):
            return Unavailable(
                "EntraUnreachable",
                "Entra ID could not be asked for a token.",
                cause=text,
                hint="Check credential.authority in cleanroom.toml; locally, `cleanroom ps` shows what runs.",
            )
        if isinstance(error, identity.CredentialUnavailableError):
            return PreconditionFailed(
                "CredentialUnavailable", "No credential is available here.", cause=text, hint="Sign in, or set credential.kind."
            )
        return PreconditionFailed("AuthenticationFailed", "Entra ID refused to issue a token.", cause=text)
    if code in _NO_MATCH:
        return _federation_error(code, text, presented, registered)
    if code in _TRANSIENT:
        return Unavailable(code, "Entra ID could not read the external issuer's metadata, or asked to wait.", cause=text)
    message, hint = _SIGN_IN.get(code, ("Entra ID refused to issue a token.", None))
    return PreconditionFailed(code, message, cause=text, hint=hint)


def _federation_error(code: str, cause: str, presented: Federation | None, registered: Federation | None) -> CleanRoomError:
    details: dict[str, Any] = {}
    if presented is not None:
        details["presented"] = presented.model_dump()
    if registered is not None:
        details["registered"] = registered.model_dump()
    shown = (
        f" (presented: issuer {presented.issuer!r}, subject {presented.subject!r}, audience {presented.audience!r})" if presented else ""
    )
    if (presented is not None and presented == registered) or (registered is None and code in _MAY_PROPAGATE):
        return Unavailable(
            code,
            f"Entra ID does not know a federated credential for this token yet{shown}.",
            cause=cause,
            hint="A new federated credential takes up to some minutes; if it stays so, compare issuer, subject and audience byte by byte.",
            details=details,
        )
    wrong = [
        field
        for field in ("issuer", "subject", "audience")
        if presented and registered and getattr(presented, field) != getattr(registered, field)
    ]
    return PreconditionFailed(
        code,
        f"The identity's federated credential does not match the token{shown}; differing: {', '.join(wrong) or 'unknown which'}.",
        cause=cause,
        hint="The federated credential's issuer, subject and audience must equal the token's iss, sub and aud, case included.",
        details=details,
    )


_SIGN_IN: Final[Mapping[str, tuple[str, str | None]]] = {
    "AADSTS7000215": ("The client secret is not valid.", "Write the secret's value (not its id) to credential.client_secret_file."),
    "AADSTS7000222": (
        "The client secret has expired.",
        "Add a new secret to the application and write it to credential.client_secret_file.",
    ),
    "AADSTS700016": ("The application is not known in this tenant.", "Check credential.client_id and credential.tenant_id."),
    "AADSTS90002": ("The tenant does not exist.", "Check credential.tenant_id and credential.authority."),
    "AADSTS70011": ("The scope is not valid.", "Ask for '<resource>/.default'."),
    "AADSTS500011": ("The resource is not known in this tenant.", "Check the scope, and that its application is registered."),
    "AADSTS700024": ("The assertion is not within its lifetime.", "Get a new ID token, and check this machine's clock."),
    "AADSTS700027": ("The assertion's signature is not valid.", "The issuer's published keys must hold the key that signed the token."),
    "AADSTS7000272": (
        "The key that signed the assertion is not among the issuer's published keys.",
        "Publish the issuer's current key set.",
    ),
}


def _required(settings: CredentialSettings, field: str) -> str:
    value = getattr(settings, field)
    if not value:
        raise _incomplete(field, settings.kind)
    return str(value)


def _incomplete(field: str, kind: str, cause: str | None = None) -> InvalidInput:
    return InvalidInput(
        "CredentialIncomplete", f"credential.{field} is missing, and kind {kind!r} needs it.", cause=cause, hint="Set it in the profile."
    )
