"""Authentication of members (by a token header) and of users (by JWT); docs/facts/governance-service.md#callers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import jwt
from pydantic import BaseModel, ConfigDict

from cleanroom.transport import async_http_client, ssl_context
from localcloud.standins.cgs.callers import MEMBER_HEADER, Caller, MemberConfig
from localcloud.standins.cgs.http import Fault
from localcloud.standins.cgs.javascript import UNDEFINED
from localcloud.standins.cgs.store import Store, Tx

KEYS = "public:ccf.gov.jwt.public_signing_keys"
IDENTITIES = "public:ccf.gov.user_identities"
_ALGORITHMS = ["RS256", "ES256"]
_TOKEN_ROWS = 4096
"""Maximum number of verified tokens in the cache. They stay until they expire."""
_log = logging.getLogger("localcloud.cgs")


class IssuerConfig(BaseModel):
    """A trusted issuer of user tokens, with its JWKS at a URL or in a file. The audience is verified only if ``audience`` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str
    jwks_uri: str | None = None
    jwks_file: Path | None = None
    ca_file: Path | None = None
    audience: str | None = None


def require_active(caller: Caller | None, tx: Tx) -> None:
    """Require a member, or a registered user whose token has the registered tenant; ``validateCallerAuthorized`` in the original."""
    if caller is None or caller.policy == "no_auth":
        raise Fault(400, "UnknownAuthenticationPolicy", "Only members and users can make this call.")
    if caller.policy != "jwt":
        return
    user = tx.get(IDENTITIES, caller.id)
    if user is None:
        raise Fault(403, "CallerNotAuthorized", f"User {caller.id} is not registered here.")
    if user["data"]["tenantId"] != caller.claims.get("tid", UNDEFINED):
        raise Fault(403, "CallerTenantNotAuthorized", f"User {caller.id} is registered with another tenant than the token's.")


class _BadToken(Exception):
    """A credential was not accepted."""


class IssuerKeysUnavailable(Exception):
    """The issuer's keys could not be fetched, so the token can be neither accepted nor rejected."""


class Authenticator:
    """Verifies member tokens and user JWTs. Signing keys are fetched from the issuers, stored, and cached in memory."""

    def __init__(self, store: Store, members: Sequence[MemberConfig], issuers: Sequence[IssuerConfig]) -> None:
        self.members = list(members)
        self._store = store
        self._issuers = list(issuers)
        self._keys: dict[tuple[int, str], jwt.PyJWK] = {}
        self._asked: dict[int, float] = {}
        self._tokens: dict[bytes, dict[str, Any]] = {}
        self._lock = asyncio.Lock()
        for row, issuer in enumerate(self._issuers):
            saved, _ = store.read(lambda tx, issuer=issuer: tx.get(KEYS, issuer.issuer))  # type: ignore[misc]
            if saved:
                self._learn(row, saved)

    def member(self, token: str) -> MemberConfig | None:
        """Return the member with this token, or None."""
        found = None
        for candidate in self.members:
            if hmac.compare_digest(candidate.token.encode(), token.encode()):
                found = candidate
        return found

    async def authenticate(self, policies: Sequence[str], headers: Mapping[str, str]) -> Caller | None:
        """Authenticate with the first policy that accepts the request.

        Returns:
            The caller; None if ``policies`` is empty.

        Raises:
            Fault: 401 ``InvalidAuthenticationInfo`` with one detail per tried policy; 503 if an issuer's keys cannot be fetched.
        """
        if not policies:
            return None
        rejections: list[dict[str, str]] = []
        for policy in policies:
            if policy == "no_auth":
                return Caller(policy="no_auth")
            try:
                if policy == "jwt":
                    return Caller(policy="jwt", claims=await self._token(headers.get("authorization", "")))
                if policy == "member_cert":
                    return Caller(policy="member_cert", member=self._present(headers.get(MEMBER_HEADER)))
                raise _BadToken("No user certificate.")
            except _BadToken as error:
                rejections.append({"auth_policy": policy, "code": "InvalidAuthenticationInfo", "message": str(error)})
            except IssuerKeysUnavailable as error:
                if "no_auth" not in policies:
                    raise Fault(503, "IssuerKeysUnavailable", str(error), headers={"retry-after": "1"}) from error
        raise Fault(
            401,
            "InvalidAuthenticationInfo",
            "No credential was accepted; send a member token or a bearer token of a trusted issuer.",
            headers={"www-authenticate": 'Bearer realm="JWT bearer token access", error="invalid_token"'} if "jwt" in policies else {},
            details=rejections,
        )

    def _present(self, token: str | None) -> MemberConfig:
        found = self.member(token) if token else None
        if found is None:
            raise _BadToken("No member certificate.")
        return found

    async def _token(self, authorization: str) -> dict[str, Any]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _BadToken("No bearer token.")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._tokens.get(digest)
        if known is not None and known["exp"] > time.time():
            return known
        claims = await self._verified(token)
        if len(self._tokens) >= _TOKEN_ROWS:
            self._tokens.clear()
        self._tokens[digest] = claims
        return claims

    async def _verified(self, token: str) -> dict[str, Any]:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise _BadToken(f"Malformed token: {error}.") from error
        if not isinstance(kid, str):
            raise _BadToken("The token's header has no kid.")
        reasons: list[str] = []
        for row, issuer in enumerate(self._issuers):
            key = self._keys.get((row, kid)) or await self._fetch(row, kid)
            if key is None:
                continue
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=_ALGORITHMS,
                    issuer=issuer.issuer,
                    audience=issuer.audience,
                    options={
                        "require": ["exp", "iss"],
                        "verify_aud": issuer.audience is not None,
                        "verify_iat": False,
                        "verify_sub": False,
                        "verify_jti": False,
                    },
                )
            except jwt.InvalidTokenError as error:
                reasons.append(str(error))
                continue
            # PyJWT accepts the text "9999"; CCF requires a JSON number.
            if all(isinstance(claims.get(name, 0), int | float) for name in ("exp", "nbf")):
                return claims
            reasons.append("exp and nbf must be numbers")
        raise _BadToken("; ".join(reasons) or f"No trusted issuer has a signing key with kid {kid!r}.")

    async def _fetch(self, row: int, kid: str) -> jwt.PyJWK | None:
        """Fetch the issuer's keys for an unknown ``kid``, at most once per second."""
        issuer = self._issuers[row]
        async with self._lock:
            if (row, kid) in self._keys or time.monotonic() - self._asked.get(row, -10.0) < 1.0:
                return self._keys.get((row, kid))
            try:
                if issuer.jwks_file is not None:
                    answer = httpx.Response(200, content=issuer.jwks_file.read_bytes())
                elif issuer.jwks_uri is not None:
                    async with async_http_client(ssl_context(issuer.ca_file), timeout=5) as client:
                        answer = (await client.get(issuer.jwks_uri)).raise_for_status()
                else:
                    return None
                document = answer.json()
            except (httpx.HTTPError, OSError, ValueError) as error:
                raise IssuerKeysUnavailable(f"The keys of issuer {issuer.issuer} cannot be fetched: {error}; retry later.") from error
            self._asked[row] = time.monotonic()
            self._learn(row, document)
        await self._store.write(lambda tx: tx.put(KEYS, issuer.issuer, document))
        return self._keys.get((row, kid))

    def _learn(self, row: int, document: Mapping[str, Any]) -> None:
        for entry in document.get("keys", []):
            try:
                self._keys[(row, str(entry["kid"]))] = jwt.PyJWK(entry, algorithm=None if entry.get("alg") else _default(entry))
            except (KeyError, jwt.PyJWTError) as error:
                _log.warning("ignored a key of issuer %s: %s", self._issuers[row].issuer, error)


def _default(entry: Mapping[str, Any]) -> str:
    return "ES256" if entry.get("kty") == "EC" else "RS256"
