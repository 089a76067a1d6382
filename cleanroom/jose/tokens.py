"""JSON Web Tokens (RFC 7519) that an OpenID Connect issuer signs, verified with the keys that the issuer publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jwt

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LEEWAY: Final = 30
"""Seconds that the issuer's clock and ours may differ."""


class InvalidToken(ValueError):
    """The token is not valid. ``reason`` is a short name without any content of the token (``ExpiredSignatureError``)."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class SigningKeysUnavailable(Exception):
    """The issuer's key set could not be fetched, so nothing is known about the token."""


class TokenVerifier:
    """Verifies the tokens of one issuer for one audience.

    Args:
        issuer: Required value of ``iss``.
        audience: Required value of ``aud``, or one of its values.
        keys: Client of the issuer's key set (:func:`cleanroom.transport.jwks_client`).
    """

    def __init__(self, issuer: str, audience: str, keys: jwt.PyJWKClient) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token. Blocks while it fetches the issuer's keys.

        Raises:
            InvalidToken: Signature, algorithm, ``iss``, ``aud``, ``exp`` or ``nbf`` do not hold, or one of the first four is absent.
            SigningKeysUnavailable: The issuer did not answer.
        """
        try:
            return jwt.decode(
                token,
                self._keys.get_signing_key_from_jwt(token),
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp"]},
                leeway=_LEEWAY,
            )
        except jwt.PyJWKClientConnectionError:
            raise SigningKeysUnavailable from None
        except jwt.PyJWTError as error:
            raise InvalidToken(type(error).__name__) from None


def unverified_claims(token: str) -> Mapping[str, Any]:
    """Return what a JWT claims, without any verification: for explanations only.

    Raises:
        InvalidToken: It is not a JWT.
    """
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise InvalidToken(type(error).__name__) from None
