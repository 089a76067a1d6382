"""The guest's wrapping key: its runtime data, and its selection from an attestation token's claims."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import b64uint
from cleanroom.jose.jwk import public_key
from cleanroom.keys import public_jwk, runtime_data, thumbprint
from cleanroom.keys.wrapping_key import wrapping_jwk
from tests.shared_keys import rsa_key

RSA_KEY = rsa_key()
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def test_the_sidecars_runtime_data_is_what_a_real_report_binds(vectors: Path) -> None:
    raw = (vectors / "skr" / "real-runtime-jwks.json").read_bytes()
    report_data = (vectors / "skr" / "real-runtime-jwks.sha256-as-report-data.txt").read_text().strip()
    assert hashlib.sha256(raw).hexdigest() + "00" * 32 == report_data
    jwk = json.loads(raw)["keys"][0]
    assert thumbprint(jwk) == jwk["kid"]
    key = public_key(jwk)
    assert isinstance(key, rsa.RSAPublicKey)
    assert runtime_data(key) == raw


def test_runtime_data_lists_every_key_in_the_sidecars_form() -> None:
    second = rsa_key("other")
    expected = [
        f'{{"e":"AQAB","key_ops":["encrypt"],"kid":"{thumbprint(public_jwk(key))}","kty":"RSA","n":"{public_jwk(key)["n"]}"}}'
        for key in (RSA_KEY, second)
    ]
    assert runtime_data(RSA_KEY.public_key()).decode() == f'{{"keys":[{expected[0]}]}}'
    assert runtime_data([RSA_KEY.public_key(), second.public_key()]).decode() == f'{{"keys":[{",".join(expected)}]}}'


def test_the_published_sample_with_use_sig_is_selected_by_its_operations(vectors: Path) -> None:
    jwks = json.loads((vectors / "skr" / "cleanroom-public-key-jwks.json").read_text())
    assert wrapping_jwk({"x-ms-runtime": jwks})["kid"] == "96478d5f"


def test_the_wrapping_key_is_the_first_for_encryption() -> None:
    signing = public_jwk(RSA_KEY, kid="s", use="sig")
    curve = public_jwk(EC_KEY, kid="c", use="enc")
    for marks in ({"use": "enc"}, {"key_use": "enc"}, {"key_ops": ["encrypt"]}, {"use": "sig", "key_ops": ["sign", "encrypt"]}):
        wanted = public_jwk(RSA_KEY, kid="e", **marks)
        assert wrapping_jwk({"x-ms-runtime": {"keys": [5, signing, curve, wanted]}}) == wanted
        assert wrapping_jwk({"x-ms-runtime": {"keys": [wanted, public_jwk(RSA_KEY, kid="later", use="enc")]}}) == wanted


def sized(bits: int) -> dict[str, Any]:
    """A JWK with a modulus of this size. Only its length is looked at."""
    return {"kty": "RSA", "e": "AQAB", "n": b64uint((1 << (bits - 1)) + 1), "kid": "k", "use": "enc"}


@pytest.mark.parametrize(("bits", "accepted"), [(2047, False), (2048, True), (8192, True), (8193, False)])
def test_size_of_the_wrapping_key_is_bounded(bits: int, accepted: bool) -> None:
    claims = {"x-ms-runtime": {"keys": [sized(bits)]}}
    if accepted:
        assert wrapping_jwk(claims) == sized(bits)
        return
    with pytest.raises(InvalidInput, match="2048 to 8192 bits") as error:
        wrapping_jwk(claims)
    assert error.value.code == "NoWrappingKey"


@pytest.mark.parametrize("kid", [None, "", 5, ["k"]])
def test_wrapping_key_without_an_identifier_is_rejected(kid: Any) -> None:
    first = {**sized(2048), "kid": kid}
    with pytest.raises(InvalidInput, match="no kid") as error:
        wrapping_jwk({"x-ms-runtime": {"keys": [first, sized(2048)]}})
    assert error.value.code == "NoWrappingKey"


@pytest.mark.parametrize("marks", [{"key_ops": ["sign"]}, {"key_ops": "encrypt"}, {"use": "sig"}, {"key_use": "sig"}, {}])
def test_key_for_another_use_is_no_wrapping_key(marks: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="does not contain an RSA key for encryption"):
        wrapping_jwk({"x-ms-runtime": {"keys": [public_jwk(RSA_KEY, kid="k", **marks)]}})


@pytest.mark.parametrize("runtime", [None, {}, [], "x", {"keys": None}, {"keys": {}}, {"keys": []}, {"keys": [None, "x", []]}])
def test_claims_without_a_usable_wrapping_key_are_rejected(runtime: Any) -> None:
    with pytest.raises(InvalidInput) as error:
        wrapping_jwk({"x-ms-runtime": runtime})
    assert error.value.code == "NoWrappingKey"
