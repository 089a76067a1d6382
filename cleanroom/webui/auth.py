"""Who may use the codec server: static bearer tokens, OIDC access tokens, and what stands for one of them: the browser session, and the
login code that starts it.

The Temporal Web UI sends what it has: its own access token as ``Authorization: Bearer`` (codec setting "pass access token", HTTPS
endpoints only) when its server has sign-in, or cookies ("include cross-origin credentials") when it has none. The ``temporal`` command
sends ``--codec-auth "Bearer …"``.
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

from pydantic import BaseModel, ConfigDict

from cleanroom.errors import InvalidInput, Refused, Unavailable
from cleanroom.jose.tokens import InvalidToken, SigningKeysUnavailable, TokenVerifier
from cleanroom.secret import read_secret_file
from cleanroom.transport import jwks_client

COOKIE = "cr-codec"
_MINIMUM_TOKEN = 24
CODE_LIFETIME = 120
"""Seconds that a login code can be used."""
_CODE_PREFIX = "once-"
_MAX_CODES = 100


class OidcSettings(BaseModel):
    """The issuer whose access tokens are accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str
    audience: str
    jwks_uri: str
    required_claims: Mapping[str, str] = {}
    """Claims that must have (or, when they are lists, contain) these values, as ``{"roles": "codec.decode"}``."""
    ca_file: Path | None = None


class Authenticator:
    """Turns a request's credentials into the name of its caller.

    Args:
        tokens_file: JSON ``{name: token}`` or one token alone, mode 0600; tokens have 24 characters or more.
        oidc: Accept access tokens of this issuer too.
        session_lifetime: Seconds that a browser session lasts.
    """

    def __init__(self, tokens_file: Path | None, oidc: OidcSettings | None, *, session_lifetime: float = 8 * 3600) -> None:
        if tokens_file is None and oidc is None:
            raise InvalidInput(
                "CodecServerOpen", "A codec server needs a tokens file or an OIDC issuer; it never serves without authentication."
            )
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
        """The caller named by an ``Authorization`` header.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _refused("a bearer token is needed")
        return await self.token(token)

    async def token(self, token: str) -> str:
        """The caller named by a token; see :meth:`bearer`."""
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for name, known in self._tokens.items():
            # All are compared, in constant time each.
            if hmac.compare_digest(known, digest):
                found = name
        if found is not None:
            return found
        if self._oidc is not None and token.count(".") == 2:
            return await asyncio.to_thread(self._verify, token)
        raise _refused("the bearer token is not known")

    def _verify(self, token: str) -> str:
        assert self._oidc is not None
        assert self._verifier is not None
        try:
            claims = self._verifier.claims(token)
        except SigningKeysUnavailable:
            raise Unavailable(
                "CodecIssuerUnreachable",
                "The keys of the token issuer could not be fetched.",
                hint="Check oidc.jwks_uri.",
                party="operator",
            ) from None
        except InvalidToken as error:
            raise _refused(f"the access token is not valid ({error.reason})") from None
        for claim, wanted in self._oidc.required_claims.items():
            value = claims.get(claim)
            held = value if isinstance(value, list) else str(value or "").split(" ")
            if wanted not in held:
                raise _refused(f"the access token lacks {claim}={wanted}")
        return str(claims.get("preferred_username") or claims.get("sub") or claims.get("oid") or "unnamed")

    def new_code(self, name: str) -> tuple[str, int]:
        """A code that starts one browser session for a caller, and its lifetime in seconds; in memory alone."""
        now = time.monotonic()
        self._codes = {digest: entry for digest, entry in self._codes.items() if entry[1] > now}
        while len(self._codes) >= _MAX_CODES:
            # The oldest goes: who asks for more than anybody can use loses their own.
            del self._codes[next(iter(self._codes))]
        code = _CODE_PREFIX + secrets.token_urlsafe(32)
        self._codes[hashlib.sha256(code.encode()).digest()] = (name, now + CODE_LIFETIME)
        return code, CODE_LIFETIME

    def is_code(self, text: str) -> bool:
        """Whether ``text`` is meant as a login code; says nothing about whether it is one."""
        return text.startswith(_CODE_PREFIX)

    def redeem(self, code: str) -> str:
        """The caller of a login code, which is used up by that.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        # Found by its digest: what the time of the look-up tells is about that, not about the code.
        name, expires = self._codes.pop(hashlib.sha256(code.encode()).digest(), ("", 0.0))
        if time.monotonic() >= expires:
            raise _refused("the login code was used before, has expired, or is of another server")
        return name

    def new_session(self, name: str) -> tuple[str, int]:
        """A cookie value for a caller, and its lifetime in seconds. Sessions end with the process."""
        expires = int(time.time() + self._lifetime)
        body = base64.urlsafe_b64encode(json.dumps([name, expires]).encode()).decode()
        return f"{body}.{self._sign(body)}", int(self._lifetime)

    def session(self, cookie: str) -> str:
        """The caller of a cookie.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        body, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._sign(body).encode(), signature.encode()):
            raise _refused("the session is not of this server")
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
            f"codec server tokens: {path} must hold one token, or JSON {{name: token}}, each of {_MINIMUM_TOKEN} characters or more.",
        )
    return {str(name): hashlib.sha256(token.encode()).digest() for name, token in entries.items()}


def _refused(what: str) -> Refused:
    return Refused(
        "CodecUnauthenticated", f"The codec server refused the caller: {what}.", hint="Sign in, or send a token of its tokens file."
    )
