"""Workload identity federation: exchanges a JWT of a registered external issuer for a token of an identity.

The assertion is verified with the keys of the *registered* issuer. Key locations in the assertion are ignored. Issuer, subject and
audience must match exactly, including case, as in Entra ID since 2025.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt

from localcloud.standins.directory import FederatedCredential
from localcloud.standins.tokens import EntraError

_DOCUMENTATION = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
_SKEW = 300
_ALGORITHMS = ("PS256", "RS256")


async def check_assertion(
    assertion: str, *, client_id: str, name: str, credentials: Sequence[FederatedCredential], http: httpx.AsyncClient
) -> FederatedCredential:
    """Verify an assertion and return the federated credential that it matches.

    Raises:
        EntraError: 50027: malformed; 70025: no credential configured; 700211, 700213, 700212: issuer, subject or audience do not match;
            700024: outside of its validity; 50166: the issuer's metadata cannot be fetched; 7000272: unknown key; 700027: wrong
            signature.
    """
    try:
        header = jwt.get_unverified_header(assertion)
        claims = jwt.decode(assertion, options={"verify_signature": False, "verify_exp": False, "verify_aud": False})
    except jwt.PyJWTError as error:
        raise EntraError(50027, "invalid_request", "JWT token is invalid or malformed.") from error
    matched = _match(claims, client_id, name, credentials)
    _check_lifetime(claims)
    key = await _signing_key(matched.issuer, header, http)
    try:
        jwt.decode(
            assertion,
            key,
            algorithms=_ALGORITHMS,
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_sub": False},
        )
    except jwt.PyJWTError as error:
        raise EntraError(
            700027, "invalid_client", f"The federated assertion failed signature validation. [Reason - {type(error).__name__}.]"
        ) from error
    return matched


def _match(claims: Mapping[str, Any], client_id: str, name: str, credentials: Sequence[FederatedCredential]) -> FederatedCredential:
    if not credentials:
        raise EntraError(70025, "invalid_client", f"The client '{client_id}'({name}) has no configured federated identity credentials.")
    issuer, subject = str(claims.get("iss", "")), str(claims.get("sub", ""))
    audiences = claims.get("aud", "")
    presented = [str(item) for item in audiences] if isinstance(audiences, list) else [str(audiences)]
    effective = [item for item in credentials if item.effective_at <= time.time()]
    # Until it has propagated, a credential is unknown, as in Azure.
    by_issuer = [item for item in effective if item.issuer == issuer]
    pending = [item for item in credentials if item.issuer == issuer and item not in effective]
    if not by_issuer and not pending:
        raise _no_match(700211, "issuer", issuer)
    by_subject = [item for item in by_issuer if item.subject == subject]
    if not by_subject:
        raise _no_match(700213, "subject", subject)
    for item in by_subject:
        if set(item.audiences) & set(presented):
            return item
    raise _no_match(700212, "audience", " ".join(presented))


def _no_match(code: int, field: str, value: str) -> EntraError:
    return EntraError(
        code,
        "invalid_client",
        f"No matching federated identity record found for presented assertion {field} '{value}'. Check your federated identity credential"
        f" Subject, Audience and Issuer against the presented assertion. {_DOCUMENTATION}",
    )


def _check_lifetime(claims: Mapping[str, Any]) -> None:
    # The governance service writes exp, nbf and iat as strings (docs/facts/governance-service.md#oidc-issuer).
    try:
        expires = int(claims["exp"])
        valid_from = int(claims.get("nbf", claims.get("iat", 0)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EntraError(50027, "invalid_request", "JWT token is invalid or malformed: no usable 'exp'.") from error
    now = time.time()
    if not valid_from - _SKEW <= now < expires:
        raise EntraError(
            700024,
            "invalid_client",
            f"Client assertion is not within its valid time range. Current time: {_iso(now)}, assertion valid from {_iso(valid_from)},"
            f" expiry time of assertion {_iso(expires)}.",
        )


async def _signing_key(issuer: str, header: Mapping[str, Any], http: httpx.AsyncClient) -> Any:
    try:
        discovery = await _fetch(http, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if discovery.get("issuer") != issuer:
            raise EntraError(50166, "invalid_request", "Request to External OIDC endpoint failed: the document names another issuer.")
        keys = (await _fetch(http, str(discovery["jwks_uri"])))["keys"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise EntraError(50166, "invalid_request", "Request to External OIDC endpoint failed.") from error
    kid = header.get("kid")
    try:
        for jwk in keys:
            if jwk.get("kid") == kid and jwk.get("kty") == "RSA":
                # The governance service signs PS256, but its JWKS names RS256 (docs/facts/governance-service.md#oidc-issuer). Ignore "alg".
                return jwt.algorithms.RSAAlgorithm.from_jwk({k: jwk[k] for k in ("kty", "n", "e")})
    except (jwt.PyJWTError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EntraError(50166, "invalid_request", "Request to External OIDC endpoint failed: its keys cannot be read.") from error
    raise EntraError(
        7000272,
        "invalid_client",
        f"The certificate with identifier {kid} used to sign the federated credential could not be found in the metadata of identity"
        f" provider {issuer}. Please validate that your Identity Provider's metadata exposes the key used to sign the incoming token.",
    )


async def _fetch(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    response = await http.get(url)
    response.raise_for_status()
    if response.is_redirect:
        raise ValueError("redirect")
    value = response.json()
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _iso(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
