"""Access tokens of Entra ID, and the errors of its token endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.responses import JSONResponse

from localcloud.standins.directory import Account

STORAGE = "https://storage.azure.com"
KNOWN_RESOURCES = frozenset(
    {
        STORAGE,
        "https://management.azure.com",
        "https://management.core.windows.net",
        "https://vault.azure.net",
        "https://attest.azure.net",
        "api://cleanroom-governance",
    }
)
"""Resources for which tokens are issued; the configuration can add some."""


class EntraError(Exception):
    """An error of the token endpoint: the numeric AADSTS code, the OAuth error code, and Entra ID's message."""

    def __init__(self, code: int, error: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.error = error
        self.text = text

    def response(self, authority: str, correlation_id: str | None) -> JSONResponse:
        """Return Entra ID's JSON: ``error``, ``error_description`` with trace and correlation IDs, ``error_codes`` and others."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        trace, correlation = str(uuid.uuid4()), correlation_id or str(uuid.uuid4())
        body = {
            "error": self.error,
            "error_description": f"AADSTS{self.code}: {self.text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {stamp}",
            "error_codes": [self.code],
            "timestamp": stamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{authority}/error?code={self.code}",
        }
        return JSONResponse(body, 401 if self.error == "invalid_client" else 400, headers={"Cache-Control": "no-store"})


class TokenSigner:
    """The signing key of all tenants: RSA-2048, created in ``folder`` at first use."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / "signing-key.pem"
        if not file.exists():
            pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
                handle.write(pem)
        key = serialization.load_pem_private_key(file.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._key = key
        public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.kid = hashlib.sha256(public).hexdigest()[:32]

    def jwks(self, issuer: str) -> dict[str, Any]:
        """Return the key set. As in Entra ID, a key has an ``issuer`` and no ``alg``."""
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return {
            "keys": [{"kty": "RSA", "use": "sig", "kid": self.kid, "x5t": self.kid, "n": public["n"], "e": public["e"], "issuer": issuer}]
        }

    def verify(self, token: str, audiences: frozenset[str]) -> dict[str, Any]:
        """Verify a token that this key signed for one of ``audiences``, and return its claims.

        Raises:
            jwt.PyJWTError: The token is not valid.
        """
        return jwt.decode(
            token,
            self._key.public_key(),
            algorithms=["RS256"],
            audience=audiences,
            options={"require": ["exp", "nbf", "aud", "iss", "oid"]},
        )

    def issue(self, account: Account, *, authority: str, resource: str, lifetime: int) -> str:
        """Issue an access token for ``resource``: version 1 for storage (``iss https://sts.windows.net/<tid>/``), else version 2."""
        now = int(time.time())
        v1 = resource == STORAGE or resource.endswith(".blob.core.windows.net")
        claims: dict[str, Any] = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{account.tenant_id}/" if v1 else f"{authority}/{account.tenant_id}/v2.0",
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "appid": account.client_id,
            "azp": account.client_id,
            "oid": account.object_id,
            "sub": account.object_id,
            "tid": account.tenant_id,
            "idtyp": "user" if account.kind == "user" else "app",
            "name": account.name,
            "uti": uuid.uuid4().hex,
            "ver": "1.0" if v1 else "2.0",
        }
        if account.username is not None:
            claims |= {"preferred_username": account.username, "upn": account.username, "scp": "user_impersonation"}
        if account.identity_id is not None:
            claims["xms_mirid"] = account.identity_id
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.kid})
