"""Tokens of an OpenID Connect issuer: every claim that decides is verified, with the issuer's own keys."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cleanroom.jose.encoding import b64url
from cleanroom.jose.tokens import ALGORITHMS, InvalidToken, SigningKeysUnavailable, TokenVerifier, unverified_claims
from tests.shared_keys import rsa_key

RSA, OTHER_RSA = rsa_key(), rsa_key("other")
EC: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
NOW, DAY = int(time.time()), 86_400
"""The time of collection. Tests run much later, so all distances to it are a day."""
CLAIMS: dict[str, Any] = {"iss": "https://issuer.example", "aud": "codec", "sub": "contosso", "exp": NOW + DAY, "nbf": NOW - DAY}


class Keys(jwt.PyJWKClient):
    """The issuer's key set, without a network."""

    def __init__(self, key: Any, algorithm: str = "RS256", error: Exception | None = None) -> None:
        super().__init__("https://issuer.example/keys")
        self._key, self._algorithm, self._error = key, algorithm, error

    def get_signing_key_from_jwt(self, token: str | bytes) -> jwt.PyJWK:
        if self._error is not None:
            raise self._error
        jwk = jwt.get_algorithm_by_name(self._algorithm).to_jwk(self._key.public_key(), as_dict=True)
        return jwt.PyJWK.from_dict({**jwk, "alg": self._algorithm})


def token(key: Any = RSA, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm)


def verify(text: str, keys: Keys | None = None) -> Any:
    return TokenVerifier("https://issuer.example", "codec", keys or Keys(RSA)).claims(text)


def key_for(algorithm: str) -> Any:
    if algorithm in EC:
        return ec.generate_private_key(EC[algorithm])
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else RSA


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_token_of_every_asymmetric_algorithm_is_accepted(algorithm: str) -> None:
    key = key_for(algorithm)
    assert verify(token(key, algorithm), Keys(key, algorithm)) == CLAIMS


def test_no_other_algorithm_is_accepted() -> None:
    """``none`` and HMAC with the public key as its secret."""
    assert set(ALGORITHMS) == {f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, body = (b64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, CLAIMS))
    forged = f"{head}.{body}.{b64url(hmac.digest(pem, f'{head}.{body}'.encode(), 'sha256'))}"
    for text in (jwt.encode(CLAIMS, None, algorithm="none"), forged):
        with pytest.raises(InvalidToken) as caught:
            verify(text)
        assert caught.value.reason == "InvalidAlgorithmError"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"aud": ["other", "codec"]}, None),
        ({"nbf": None}, None),
        ({"iss": "https://other.example"}, "InvalidIssuerError"),
        ({"iss": "https://issuer.example/"}, "InvalidIssuerError"),
        ({"aud": "other"}, "InvalidAudienceError"),
        ({"aud": ["other"]}, "InvalidAudienceError"),
        ({"exp": NOW - DAY}, "ExpiredSignatureError"),
        ({"nbf": NOW + DAY}, "ImmatureSignatureError"),
        ({"iss": None}, "MissingRequiredClaimError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"exp": None}, "MissingRequiredClaimError"),
    ],
)
def test_every_claim_that_decides_is_verified(changes: dict[str, Any], reason: str | None) -> None:
    if reason is None:
        assert verify(token(**changes))["sub"] == "contosso"
        return
    with pytest.raises(InvalidToken) as caught:
        verify(token(**changes))
    assert (caught.value.reason, str(caught.value)) == (reason, reason)


def test_clocks_may_differ_by_30_seconds() -> None:
    now = int(time.time())
    assert verify(token(exp=now - 20))
    assert verify(token(nbf=now + 20))
    for changes in ({"exp": now - 31}, {"nbf": now + 45}):
        with pytest.raises(InvalidToken):
            verify(token(**changes))


def test_token_of_another_key_is_invalid() -> None:
    with pytest.raises(InvalidToken) as caught:
        verify(token(OTHER_RSA))
    assert caught.value.reason == "InvalidSignatureError"


def test_unknown_key_is_invalid_and_an_unreachable_issuer_says_nothing() -> None:
    with pytest.raises(InvalidToken):
        verify(token(), Keys(RSA, error=jwt.PyJWKClientError("no such key")))
    with pytest.raises(SigningKeysUnavailable):
        verify(token(), Keys(RSA, error=jwt.PyJWKClientConnectionError("no route")))


def test_symmetric_key_in_the_issuers_key_set_verifies_nothing() -> None:
    octets = b"k" * 32
    jwk = jwt.PyJWK.from_dict({"kty": "oct", "k": b64url(octets), "alg": "HS256"})

    class Symmetric(Keys):
        def get_signing_key_from_jwt(self, token: str | bytes) -> jwt.PyJWK:
            return jwk

    with pytest.raises(InvalidToken) as caught:
        verify(jwt.encode(CLAIMS, octets, algorithm="HS256"), Symmetric(RSA))
    assert caught.value.reason == "InvalidAlgorithmError"


def test_claims_of_any_token_can_be_shown_and_other_text_cannot() -> None:
    expired = token(OTHER_RSA, exp=1, nbf=None, aud="other")
    assert unverified_claims(expired) == {"iss": "https://issuer.example", "aud": "other", "sub": "contosso", "exp": 1}
    for text in ("", "a.b.c", "text"):
        with pytest.raises(InvalidToken) as caught:
            unverified_claims(text)
        assert caught.value.reason == "DecodeError"
