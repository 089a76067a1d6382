"""JSON Web Keys and thumbprints."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import b64_any, b64url
from cleanroom.jose.jwk import integer, octets, private_jwk, private_key, public_jwk, public_key, thumbprint
from tests.shared_keys import rsa_key

SHORT = rsa_key("short", 1024)
"""Finding the primes of a longer key takes a second."""
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
    return [rsa_key(), *(ec.generate_private_key(curve) for curve in curves)]


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


def numbers_of(jwk: dict[str, Any]) -> dict[str, int]:
    return {name: int.from_bytes(b64_any(value), "big") for name, value in jwk.items() if name not in ("kty", "crv", "kid")}


def test_jwk_has_every_member_of_its_kind(keys: list[Any]) -> None:
    private = keys[0].private_numbers()
    public = {"n": private.public_numbers.n, "e": private.public_numbers.e}
    secret = {"d": private.d, "p": private.p, "q": private.q, "dp": private.dmp1, "dq": private.dmq1, "qi": private.iqmp}
    assert (public_jwk(keys[0], kid="k")["kid"], private_jwk(keys[0], kid="k")["kid"]) == ("k", "k")
    assert numbers_of(public_jwk(keys[0], kid="k")) == public
    assert numbers_of(private_jwk(keys[0], kid="k")) == public | secret
    for key, curve in zip(keys[1:], ("P-256", "P-384", "P-521", "P-256K"), strict=True):
        size = (key.curve.key_size + 7) // 8
        jwk = private_jwk(key, kid="k")
        assert {name: jwk[name] for name in ("kty", "crv", "kid")} == {"kty": "EC", "crv": curve, "kid": "k"}
        assert [len(b64_any(jwk[name])) for name in ("x", "y", "d")] == [size] * 3
        point = key.private_numbers().public_numbers
        assert numbers_of(jwk) == {"x": point.x, "y": point.y, "d": key.private_numbers().private_value}
        assert public_jwk(key, kid="k") == {name: value for name, value in jwk.items() if name != "d"}
        assert public_jwk(key.public_key()) == public_jwk(key)


@pytest.mark.parametrize("member", ["dp", "dq", "qi"])
def test_given_crt_member_must_fit(keys: list[Any], member: str) -> None:
    with pytest.raises(InvalidInput, match="do not match"):
        private_key({**private_jwk(keys[0]), member: "AQAB"})


@pytest.mark.parametrize("value", [None, "", 5, ["AQAB"], "!"])
def test_member_that_is_not_base64_text_is_invalid(value: Any) -> None:
    for read in (integer, octets):
        with pytest.raises(InvalidInput, match="member 'k' is missing or not base64url") as error:
            read({"k": value}, "k")
        assert error.value.code == "InvalidJwk"
    assert (octets({"k": "AAEC"}, "k"), integer({"k": "AAEC"}, "k")) == (b"\0\1\2", 258)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}, "not a valid public key"),
        ({"kty": "EC", "crv": "P-999", "x": "AQ", "y": "AQ"}, "not a supported kind"),
        ({"kty": "EC"}, "not a supported kind"),
        ({"kty": "RSA", "n": "AQ", "e": "AQ"}, "not a valid public key"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AQ"}, "not a supported kind"),
        ({}, "not a supported kind"),
    ],
)
def test_public_key_of_another_kind_or_point_is_invalid(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as error:
        public_key(changes)
    assert error.value.code == "InvalidJwk"


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "RSA", "e": "AQAB", "n": "AQ"},
        {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "Ag"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AQ"},
        {"kty": "oct", "k": "AQ"},
    ],
)
def test_thumbprint_is_the_digest_of_the_required_members_in_order(jwk: dict[str, str]) -> None:
    text = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
    assert thumbprint({**jwk, "alg": "x", "kid": "y"}) == b64url(hashlib.sha256(text.encode()).digest())
    for name in jwk:
        with pytest.raises(InvalidInput, match="InvalidJwk"):
            thumbprint({member: value for member, value in jwk.items() if member != name})
    with pytest.raises(InvalidInput, match="has no thumbprint"):
        thumbprint({**jwk, "kty": "other"})


def test_missing_crt_members_are_computed() -> None:
    jwk = private_jwk(SHORT)
    for names in (("d",), ("d", "p"), ("d", "q"), ("d", "p", "q"), ("d", "p", "q", "dp"), ("d", "p", "q", "dq", "qi")):
        assert private_key({name: jwk[name] for name in ("kty", "n", "e", *names)}).private_numbers() in (
            SHORT.private_numbers(),
            swapped(SHORT.private_numbers()),
        )


def swapped(numbers: rsa.RSAPrivateNumbers) -> rsa.RSAPrivateNumbers:
    """The same key with its primes in the other order, in which they may be found."""
    q, p = numbers.p, numbers.q
    return rsa.RSAPrivateNumbers(
        p=p, q=q, d=numbers.d, dmp1=numbers.dmq1, dmq1=numbers.dmp1, iqmp=rsa.rsa_crt_iqmp(p, q), public_numbers=numbers.public_numbers
    )


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
