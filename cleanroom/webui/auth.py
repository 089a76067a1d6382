"""Authentication of the codec server and the gateway: bearer tokens, OIDC access tokens, login codes and browser sessions.

The Temporal Web UI sends its own access token as ``Authorization: Bearer`` if its server has sign-in (codec setting "pass access token",
HTTPS endpoints only), and otherwise cookies ("include cross-origin credentials"). The ``temporal`` command sends the header that
``--codec-auth "Bearer …"`` sets. See https://docs.temporal.io/production-deployment/data-encryption#codec-server-setup.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleanroom.errors import InvalidInput, Refused, Unavailable
from cleanroom.jose.tokens import InvalidToken, SigningKeysUnavailable, TokenVerifier
from cleanroom.models import FrozenModel
from cleanroom.secret import read_secret_file
from cleanroom.transport import jwks_client

COOKIE = "cr-codec"
"""Session cookie of a codec server without a gateway."""
_MINIMUM_TOKEN = 24
CODE_LIFETIME = 120
"""Seconds for which a login code is valid."""
_CODE_PREFIX = "once-"
_MAX_CODES = 100


class OidcSettings(FrozenModel):
    """The issuer whose access tokens are accepted."""

    issuer: str
    """Required ``iss`` claim."""
    audience: str
    """Required ``aud`` claim."""
    jwks_uri: str
    """URL of the issuer's key set."""
    required_claims: Mapping[str, str] = {}
    """Claims that must equal these values, or contain them if they are lists, such as ``{"roles": "codec.decode"}``."""
    ca_file: Path | None = None
    """PEM roots for TLS with the issuer; without it, the operating system's."""


class Authenticator:
    """Maps the credentials of a request to the name of its caller.

    Args:
        tokens_file: File of mode 0600 with JSON ``{name: token}``, or one token. Tokens have at least 24 characters.
        oidc: The issuer whose access tokens are accepted too.
        session_lifetime: Lifetime of a browser session in seconds.

    Raises:
        InvalidInput: ``CodecServerOpen`` if neither tokens nor an issuer are given, ``CodecTokensMalformed``.
    """

    def __init__(self, tokens_file: Path | None, oidc: OidcSettings | None, *, session_lifetime: float = 8 * 3600) -> None:
        if tokens_file is None and oidc is None:
            raise InvalidInput("CodecServerOpen", "The codec server has no authentication.", hint="Set a tokens file or an OIDC issuer.")
        self._tokens = _read_tokens(tokens_file) if tokens_file else {}
        self._oidc = oidc
        self._lifetime = session_lifetime
        self._session_key = os.urandom(32)
        self._codes: dict[bytes, tuple[str, float]] = {}
        self._verifier = None
        if oidc is not None:
            keys = jwks_client(oidc.jwks_uri, oidc.ca_file, cache_keys=True, lifespan=600, timeout=10)
            self._verifier = TokenVerifier(oidc.issuer, oidc.audience, keys)

    async def bearer(self, header: str | None) -> str:
        """Return the caller that an ``Authorization`` header identifies.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _refused("a bearer token is required")
        return await self.token(token)

    async def token(self, token: str) -> str:
        """Return the caller that a token identifies.

        Raises:
            Refused: ``CodecUnauthenticated``.
            Unavailable: ``CodecIssuerUnreachable``.
        """
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for name, known in self._tokens.items():
            # Compare with all tokens, each in constant time.
            if hmac.compare_digest(known, digest):
                found = name
        if found is not None:
            return found
        if self._oidc is not None and token.count(".") == 2:
            return await asyncio.to_thread(self._verify, token)
        raise _refused("the bearer token is unknown")

    def _verify(self, token: str) -> str:
        assert self._oidc is not None
        assert self._verifier is not None
        try:
            claims = self._verifier.claims(token)
        except SigningKeysUnavailable:
            raise Unavailable(
                "CodecIssuerUnreachable",
                "The key set of the token issuer cannot be fetched.",
                hint="Check oidc.jwks_uri.",
                party="operator",
            ) from None
        except InvalidToken as error:
            raise _refused(f"the access token is not valid ({error.reason})") from None
        for claim, wanted in self._oidc.required_claims.items():
            value = claims.get(claim)
            held = value if isinstance(value, list) else str(value or "").split(" ")
            if wanted not in held:
                raise _refused(f"the access token does not have {claim}={wanted}")
        return str(claims.get("preferred_username") or claims.get("sub") or claims.get("oid") or "unnamed")

    def new_code(self, name: str) -> tuple[str, int]:
        """Create a code that starts one browser session for a caller, and return it with its lifetime in seconds."""
        now = time.monotonic()
        self._codes = {digest: entry for digest, entry in self._codes.items() if entry[1] > now}
        while len(self._codes) >= _MAX_CODES:
            # Remove the oldest.
            del self._codes[next(iter(self._codes))]
        code = _CODE_PREFIX + secrets.token_urlsafe(32)
        self._codes[hashlib.sha256(code.encode()).digest()] = (name, now + CODE_LIFETIME)
        return code, CODE_LIFETIME

    def is_code(self, text: str) -> bool:
        """Return whether ``text`` has the form of a login code. It may still be invalid."""
        return text.startswith(_CODE_PREFIX)

    def redeem(self, code: str) -> str:
        """Return the caller of a login code, and invalidate the code.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        # Looked up by digest, so that the timing of the look-up reveals nothing about the code.
        name, expires = self._codes.pop(hashlib.sha256(code.encode()).digest(), ("", 0.0))
        if time.monotonic() >= expires:
            raise _refused("the login code was already used, has expired, or belongs to another server")
        return name

    def new_session(self, name: str) -> tuple[str, int]:
        """Create a session and return (cookie value, lifetime in seconds). Sessions end with the process."""
        expires = int(time.time() + self._lifetime)
        body = base64.urlsafe_b64encode(json.dumps([name, expires]).encode()).decode()
        return f"{body}.{self._sign(body)}", int(self._lifetime)

    def session(self, cookie: str) -> str:
        """Return the caller of a session cookie.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        body, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._sign(body).encode(), signature.encode()):
            raise _refused("the session belongs to another server")
        name, expires = json.loads(base64.urlsafe_b64decode(body))
        if time.time() >= expires:
            raise _refused("the session has expired")
        return str(name)

    def _sign(self, body: str) -> str:
        return hmac.new(self._session_key, body.encode(), hashlib.sha256).hexdigest()


def _read_tokens(path: Path) -> dict[str, bytes]:
    text = read_secret_file(path, what="codec server tokens").reveal_text().strip()
    try:
        entries: Any = json.loads(text) if text.startswith("{") else {"token": text}
    except ValueError:
        entries = None
    if not isinstance(entries, dict) or not entries or not all(isinstance(t, str) and len(t) >= _MINIMUM_TOKEN for t in entries.values()):
        raise InvalidInput(
            "CodecTokensMalformed",
            f"codec server tokens: {path} must contain one token or JSON {{name: token}}, each with at least {_MINIMUM_TOKEN} characters.",
        )
    return {str(name): hashlib.sha256(token.encode()).digest() for name, token in entries.items()}


def _refused(what: str) -> Refused:
    return Refused(
        "CodecUnauthenticated", f"The codec server rejected the request: {what}.", hint="Sign in, or send a token from its tokens file."
    )
