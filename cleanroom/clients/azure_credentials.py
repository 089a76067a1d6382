"""Entra ID credentials through ``azure-identity``, with errors of :mod:`cleanroom.errors`.

Everything is synchronous, because the SDKs that read data in Spark tasks are. ``async`` callers use :func:`asyncio.to_thread`, or
:class:`AsyncCredential` for an SDK's ``aio`` client. ``get_token`` of every credential raises errors whose code is the AADSTS code, so
that all clients report sign-in failures alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import azure.identity as identity
from azure.core.credentials import AccessToken, AccessTokenInfo, TokenCredential, TokenRequestOptions
from azure.core.exceptions import AzureError, HttpResponseError

from cleanroom import entra_codes
from cleanroom.azure_http import BoundedRetryPolicy, causes, is_connection_error, retry_after_details
from cleanroom.bulkheads import bulkhead
from cleanroom.errors import CleanRoomError, InvalidInput, PreconditionFailed, Unavailable
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE
from cleanroom.jose.tokens import InvalidToken, unverified_claims
from cleanroom.models import FrozenModel
from cleanroom.secret import read_secret_file
from cleanroom.settings import CredentialSettings

PUBLIC_AUTHORITY = "https://login.microsoftonline.com"
"""Entra ID in the public cloud."""
PUBLIC_AUTHORITIES = frozenset({PUBLIC_AUTHORITY, "https://login.microsoftonline.us", "https://login.partner.microsoftonline.cn"})
"""Authorities of Microsoft's clouds (``azure.identity.AzureAuthorityHosts``), whose certificates chain to public roots."""


def client_options(ca_file: Path | None) -> dict[str, Any]:
    """Return options for an Azure SDK client: TLS roots, no redirects, timeouts, and few retries, because the workflow retries."""
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


def _sign_in_options(ca_file: Path | None) -> dict[str, Any]:
    # The SDK's credentials accept the class of a policy, not a policy.
    return client_options(ca_file) | {"retry_policy_class": BoundedRetryPolicy}


class Federation(FrozenModel):
    """The three fields of an external token that a federated credential must equal exactly."""

    issuer: str
    subject: str
    audience: str = TOKEN_EXCHANGE_AUDIENCE


class Credential:
    """A credential of ``azure-identity`` that raises :class:`CleanRoomError`; a ``TokenCredential`` and ``SupportsTokenInfo``."""

    def __init__(self, inner: Any, translate: Callable[[AzureError], CleanRoomError]) -> None:
        self._inner = inner
        self._translate = translate

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **kwargs: Any
    ) -> AccessToken:
        """Get a token; see ``azure.core.credentials.TokenCredential``."""
        try:
            token: AccessToken = self._inner.get_token(*scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae, **kwargs)
        except AzureError as error:
            raise self._translate(error) from error
        return token

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Get a token; see ``azure.core.credentials.SupportsTokenInfo``."""
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
    """A :class:`Credential` for an SDK's ``aio`` client. It gets the token in a thread."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **kwargs: Any
    ) -> AccessToken:
        """Get a token; see ``azure.core.credentials_async.AsyncTokenCredential``."""
        return await bulkhead("entra").run(
            self._credential.get_token, *scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae, **kwargs
        )

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Get a token; see ``azure.core.credentials_async.AsyncSupportsTokenInfo``."""
        return await bulkhead("entra").run(self._credential.get_token_info, *scopes, options=options)

    async def close(self) -> None:
        """Close the HTTP connections of the credential."""
        self._credential.close()

    async def __aenter__(self) -> AsyncCredential:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def credential(settings: CredentialSettings, *, ca_file: Path | None = None) -> Credential:
    """Create the credential of a profile.

    Raises:
        InvalidInput: ``CredentialIncomplete``, which names the missing setting.
        NotFound, Refused: From :func:`cleanroom.secret.read_secret_file` for the client secret.
    """
    # The class of the retry policy is passed where the SDK does not choose its own.
    options = _sign_in_options(ca_file) | {"authority": settings.authority}
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
        # The SDK reads missing values from AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE.
        named = {"tenant_id": settings.tenant_id, "client_id": settings.client_id, "token_file_path": settings.federated_token_file}
        try:
            inner = identity.WorkloadIdentityCredential(**{k: str(v) for k, v in named.items() if v is not None}, **options)
        except ValueError as error:
            raise _incomplete("tenant_id, client_id or federated_token_file", settings.kind, str(error)) from error
    elif settings.kind == "managed-identity":
        inner = identity.ManagedIdentityCredential(client_id=settings.client_id, **client_options(ca_file))
    elif settings.kind == "cli":
        inner = identity.AzureCliCredential(tenant_id=settings.tenant_id or "")
    else:
        inner = identity.DefaultAzureCredential(**client_options(ca_file), authority=settings.authority)
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
    """Create a credential of a managed identity that trusts tokens of an external issuer.

    Args:
        tenant_id: The identity's tenant.
        client_id: The identity's client ID.
        assertion_provider: Returns a new external JWT, such as the ID token that governance signs. Called for every new token.
        authority: URL of the Entra ID authority.
        ca_file: PEM roots for TLS.
        registered: The fields of the identity's federated credential. If Entra ID finds no match although the assertion has exactly
            these fields, the credential has not propagated yet and the error is retryable. Otherwise the error names the difference.
    """
    presented: list[Federation | None] = [None]

    def provide() -> str:
        assertion = assertion_provider()
        presented[0] = federation_of(assertion)
        return assertion

    inner = identity.ClientAssertionCredential(tenant_id, client_id, provide, authority=authority, **_sign_in_options(ca_file))
    return Credential(inner, lambda error: sign_in_error(error, presented=presented[0], registered=registered))


def federation_of(assertion: str) -> Federation | None:
    """Read issuer, subject and audience of a JWT without verifying it; ``None`` if it is not a JWT."""
    try:
        claims = unverified_claims(assertion)
    except InvalidToken:
        return None
    audience = claims.get("aud", "")
    text = " ".join(str(item) for item in audience) if isinstance(audience, list) else str(audience)
    return Federation(issuer=str(claims.get("iss", "")), subject=str(claims.get("sub", "")), audience=text)


def sign_in_error(error: AzureError, *, presented: Federation | None = None, registered: Federation | None = None) -> CleanRoomError:
    """Map a failure to get a token. ``code`` is the AADSTS code if there is one; :mod:`cleanroom.entra_codes` classifies it.

    If no federated credential matches, the error is :class:`Unavailable` as long as it may not have propagated yet. Otherwise it is
    :class:`PreconditionFailed` and names the three fields that must match.

    Args:
        error: The SDK's error.
        presented: The fields of the assertion.
        registered: The fields of the federated credential, if known.
    """
    text = str(error)
    chain = list(causes(error))
    # azure-identity replaces the answer to a wrong tenant by a text without its code. The errors before it have the code.
    match = next((found for item in chain if (found := entra_codes.CODE.search(str(item)))), None)
    if match is None:
        return _no_code_error(error, chain, text)
    code = match[0]
    just_registered = presented is not None and presented == registered
    if code in entra_codes.NO_MATCH:
        return _federation_error(code, text, presented, registered)
    if code in entra_codes.NOT_REPLICATED and just_registered:
        return Unavailable(code, "Entra ID does not know the new identity yet.", cause=text, hint="It propagates within minutes.")
    status = getattr(error.response, "status_code", None) if isinstance(error, HttpResponseError) else None
    if code in entra_codes.TRANSIENT or status == 429 or (status or 0) >= 500:
        message = entra_codes.TRANSIENT.get(code, "Entra ID is busy or failed.")
        return Unavailable(code, message, cause=text, details=retry_after_details(error))
    message, hint = entra_codes.PERMANENT.get(code, ("Entra ID refused to issue a token.", None))
    return PreconditionFailed(code, message, cause=text, hint=hint)


def _no_code_error(error: AzureError, chain: Sequence[BaseException], text: str) -> CleanRoomError:
    """Map a failure without an AADSTS code. Every refusal of Entra ID has one, so any other answer is not Entra ID's."""
    if isinstance(error, identity.CredentialUnavailableError) or _NO_CREDENTIAL in text:
        return PreconditionFailed(
            "CredentialUnavailable",
            "No credential is available in this process, so Entra ID was not asked for a token.",
            cause=text,
            hint="Sign in, for example with `az login`, or set credential.kind in cleanroom.toml.",
        )
    # azure-identity wraps errors of its transport, and reports "Authentication failed" for a server that did not answer.
    if any(is_connection_error(item) for item in chain):
        return Unavailable(
            "EntraUnreachable",
            "Entra ID cannot be reached.",
            cause=text,
            hint="Check credential.authority in cleanroom.toml. Locally, `cleanroom ps` shows the running services.",
        )
    if len(chain) > 1 or getattr(error, "response", None) is not None or text.startswith(_NOT_A_TOKEN):
        return Unavailable(
            "EntraAnswerUnexpected",
            "The answer to the sign-in is not from Entra ID, or Entra ID failed.",
            cause=text,
            hint="If this lasts, check credential.authority and any proxy in between.",
            details=retry_after_details(error),
        )
    return PreconditionFailed(
        "AuthenticationFailed", "Entra ID refused to issue a token.", cause=text, hint="Check the section credential."
    )


_NO_CREDENTIAL: Final = "failed to retrieve a token from the included credentials"
"""How a chain of azure-identity, such as the default credential, says that none of its sources has a credential."""
_NOT_A_TOKEN: Final = ("Unexpected response from", "No response content from")
"""How azure-identity begins its errors about answers of the token endpoint that are neither a token nor an error."""

_SAME_RECORD: Final = "AADSTS7002138"
"""Entra ID found the record, so it has propagated, and its subject differs in case."""


def _federation_error(code: str, cause: str, presented: Federation | None, registered: Federation | None) -> CleanRoomError:
    details: dict[str, Any] = {}
    if presented is not None:
        details["presented"] = presented.model_dump()
    if registered is not None:
        details["registered"] = registered.model_dump()
    shown = (
        f" (presented: issuer {presented.issuer!r}, subject {presented.subject!r}, audience {presented.audience!r})" if presented else ""
    )
    if code == _SAME_RECORD:
        return PreconditionFailed(
            code,
            f"The identity's federated credential has the token's subject in another case{shown}.",
            cause=cause,
            hint="Delete the federated credential and register it with exactly the subject in the token.",
            details=details,
        )
    if (presented is not None and presented == registered) or (registered is None and entra_codes.NO_MATCH[code]):
        return Unavailable(
            code,
            f"Entra ID does not find a federated credential for this token yet{shown}.",
            cause=cause,
            hint="A new federated credential propagates within minutes. After that, compare issuer, subject and audience byte by byte.",
            details=details,
        )
    wrong = [
        field
        for field in ("issuer", "subject", "audience")
        if presented and registered and getattr(presented, field) != getattr(registered, field)
    ]
    return PreconditionFailed(
        code,
        f"The identity's federated credential does not match the token{shown}; differing: {', '.join(wrong) or 'unknown'}.",
        cause=cause,
        hint="The federated credential's issuer, subject and audience must equal the token's iss, sub and aud, including case.",
        details=details,
    )


def _required(settings: CredentialSettings, field: str) -> str:
    value = getattr(settings, field)
    if not value:
        raise _incomplete(field, settings.kind)
    return str(value)


def _incomplete(field: str, kind: str, cause: str | None = None) -> InvalidInput:
    return InvalidInput(
        "CredentialIncomplete", f"credential.{field} is not set, and kind {kind!r} needs it.", cause=cause, hint="Set it in the profile."
    )
