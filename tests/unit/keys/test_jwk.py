"""JSON Web Keys, thumbprints and the runtime data of a guest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import b64_any, b64uint, b64url, b64url_strict
from cleanroom.jose.jwk import private_key, public_key
from cleanroom.keys import private_jwk, public_jwk, runtime_data, thumbprint
from cleanroom.keys.wrapping_key import wrapping_jwk

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


def test_the_sidecars_runtime_data_is_what_a_real_report_binds(vectors: Path) -> None:
    raw = (vectors / "skr" / "real-runtime-jwks.json").read_bytes()
    report_data = (vectors / "skr" / "real-runtime-jwks.sha256-as-report-data.txt").read_text().strip()
    assert hashlib.sha256(raw).hexdigest() + "00" * 32 == report_data
    jwk = json.loads(raw)["keys"][0]
    assert thumbprint(jwk) == jwk["kid"]
    key = public_key(jwk)
    assert isinstance(key, rsa.RSAPublicKey)
    assert runtime_data(key) == raw


def test_the_published_sample_with_use_sig_is_selected_by_its_operations(vectors: Path) -> None:
    jwks = json.loads((vectors / "skr" / "cleanroom-public-key-jwks.json").read_text())
    assert wrapping_jwk({"x-ms-runtime": jwks})["kid"] == "96478d5f"


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


def test_the_wrapping_key_is_the_first_for_encryption(keys: list[Any]) -> None:
    signing = public_jwk(keys[0], kid="s", use="sig")
    curve = public_jwk(keys[1], kid="c", use="enc")
    for marks in ({"use": "enc"}, {"key_use": "enc"}, {"key_ops": ["encrypt"]}, {"use": "sig", "key_ops": ["sign", "encrypt"]}):
        wanted = public_jwk(keys[0], kid="e", **marks)
        assert wrapping_jwk({"x-ms-runtime": {"keys": [5, signing, curve, wanted]}}) == wanted


@pytest.mark.parametrize("runtime", [None, {}, [], "x", {"keys": None}, {"keys": {}}, {"keys": []}, {"keys": [None, "x", []]}])
def test_claims_without_a_usable_wrapping_key_are_rejected(runtime: Any) -> None:
    with pytest.raises(InvalidInput) as error:
        wrapping_jwk({"x-ms-runtime": runtime})
    assert error.value.code == "NoWrappingKey"


@given(value=st.integers(0, 2**521))
def test_integers_round_trip(value: int) -> None:
    assert int.from_bytes(b64_any(b64uint(value)), "big") == value


@given(data=st.binary(max_size=50))
def test_strict_base64url_accepts_canonical_text_only(data: bytes) -> None:
    text = b64url(data)
    assert b64url_strict(text) == data
    for alphabet in "ABEIMQZaz09-_":
        other = text[:-1] + alphabet
        if text and other != text:
            try:
                assert b64url_strict(other) != data
            except ValueError:
                continue
    for bad in (f"{text}=", f"{text} ", f"\n{text}", f"{text}+"):
        with pytest.raises(ValueError, match="base64url"):
            b64url_strict(bad)
