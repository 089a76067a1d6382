"""JSON Web Keys and thumbprints."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.errors import InvalidInput
from cleanroom.jose.jwk import private_jwk, private_key, public_jwk, public_key, thumbprint

EXAMPLE = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"
    "-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyr"
    "dkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}


def test_the_thumbprint_of_rfc_7638() -> None:
    assert thumbprint(EXAMPLE) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.fixture(scope="module")
def keys() -> list[Any]:
    curves = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1())
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048), *(ec.generate_private_key(curve) for curve in curves)]


def test_a_thumbprint_of_a_member_that_is_not_text_is_rejected() -> None:
    for wrong in ("\ud800", 5, None):
        with pytest.raises(InvalidInput, match="InvalidJwk"):
            thumbprint({**EXAMPLE, "n": wrong})


def test_private_keys_round_trip_as_jwk(keys: list[Any]) -> None:
    for key in keys:
        jwk = private_jwk(key)
        assert private_key(jwk).private_numbers() == key.private_numbers()
        assert public_key({**jwk, "kty": f"{jwk['kty']}-HSM"}).public_numbers() == key.public_key().public_numbers()
        assert not {"d", "p", "q"} & set(public_jwk(key))


def test_missing_crt_members_are_computed(keys: list[Any]) -> None:
    jwk = private_jwk(keys[0])
    assert private_key({name: jwk[name] for name in ("kty", "n", "e", "d")}).public_key() == keys[0].public_key()


def test_integers_are_compared_not_texts(keys: list[Any]) -> None:
    jwk = public_jwk(keys[0])
    assert public_key({**jwk, "e": "AAEAAQ"}) == public_key({**jwk, "e": "AQAB"}) == keys[0].public_key()


@pytest.mark.parametrize(
    "change",
    [
        {"n": None},
        {"n": "!"},
        {"n": 5},
        {"e": ""},
        {"kty": "oct"},
        {"kty": None},
        {"kty": "EC", "crv": "P-256"},
        {"d": "AQAB"},
        {"p": "AQAB", "q": "AQAB"},
    ],
)
def test_broken_keys_raise_the_typed_error_without_their_members(keys: list[Any], change: dict[str, Any]) -> None:
    jwk = {name: value for name, value in {**private_jwk(keys[0]), **change}.items() if value is not None}
    with pytest.raises(InvalidInput) as error:
        private_key(jwk)
    assert error.value.code == "InvalidJwk"
    assert private_jwk(keys[0])["d"][:20] not in str(error.value.to_dict())
