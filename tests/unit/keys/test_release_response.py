"""Verification of the signed release response: nothing is unwrapped from a changed one."""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom.errors import Refused
from cleanroom.jose.encoding import b64url, compact_json
from cleanroom.jose.jws import sign
from cleanroom.jose.x5c import trusted_roots, verify_chain
from cleanroom.keys import ReleaseExpectation, ReleasePolicy, VerifiedRelease, public_jwk, verify_release_response, wrap_key
from cleanroom.keys.maa import signing_keys
from cleanroom.keys.release import unwrap_release
from tests.shared_keys import rsa_key

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
HOST = "contosso.vault.azure.net"
KEY_ID = f"https://{HOST}/keys/kek"
VERSION = "0" * 31 + "1"
ENC = "RSA_AES_KEY_WRAP_256"
POLICY = ReleasePolicy.for_clean_room("https://sharedneu.neu.attest.azure.net", "ab" * 32)


@dataclasses.dataclass(frozen=True)
class Pki:
    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    issuer: x509.Certificate
    issuer_key: ec.EllipticCurvePrivateKey
    leaf: x509.Certificate
    leaf_key: rsa.RSAPrivateKey


def certificate(
    subject: str,
    key: Any,
    issuer: x509.Certificate | None,
    issuer_key: Any,
    *,
    names: tuple[str, ...] = (),
    ca: bool = False,
    days: tuple[int, int] = (-30, 30),
    usage: Any = ExtendedKeyUsageOID.SERVER_AUTH,
    key_usage: x509.KeyUsage | None = None,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + dt.timedelta(days=days[0]))
        .not_valid_after(NOW + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def usage_of(name: str) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{each: each == name for each in (*names, *others)})


def make_pki() -> Pki:
    root_key, issuer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    leaf_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    root = certificate("root", root_key, None, root_key, ca=True)
    issuer = certificate("issuer", issuer_key, root, root_key, ca=True)
    leaf = certificate("vault.azure.net", leaf_key, issuer, issuer_key, names=("vault.azure.net", "*.vault.azure.net"))
    return Pki(root, root_key, issuer, issuer_key, leaf, leaf_key)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


@pytest.fixture(scope="module")
def wrapping() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def target() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def der(key: Any) -> bytes:
    return bytes(key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def x5c(*chain: x509.Certificate) -> list[str]:
    return [base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in chain]


@pytest.fixture(scope="module")
def payload(wrapping: rsa.RSAPrivateKey, target: rsa.RSAPrivateKey) -> dict[str, Any]:
    envelope = {
        "schema_version": "1.0",
        "header": {"kid": "ours", "alg": "dir", "enc": ENC},
        "ciphertext": b64url(wrap_key(wrapping.public_key(), der(target), ENC)),
    }
    jwk = {**public_jwk(target), "kty": "RSA-HSM", "e": "AAEAAQ", "kid": f"{KEY_ID}/{VERSION}", "key_ops": ["encrypt"]}
    return {
        "request": {"api-version": "7.4", "enc": ENC, "kid": KEY_ID, "nonce": "our-nonce"},
        "response": {
            "key": {
                "key": {**jwk, "key_hsm": b64url(compact_json(envelope))},
                "attributes": {"enabled": True, "exportable": True},
                "release_policy": {"contentType": "application/json; charset=utf-8", "data": b64url(POLICY.encode())},
            }
        },
    }


def header(pki: Pki, **changes: Any) -> dict[str, Any]:
    value = {"alg": "RS256", "kid": "x", "x5c": x5c(pki.leaf, pki.issuer, pki.root), **changes}
    return {name: member for name, member in value.items() if member is not None}


def check(text: str, pki: Pki, **changes: Any) -> VerifiedRelease:
    values: dict[str, Any] = {
        "key_id": KEY_ID,
        "nonce": "our-nonce",
        "algorithm": ENC,
        "wrapping_kid": "ours",
        "policy": POLICY,
        **changes,
    }
    at = values.pop("at", NOW)
    roots = values.pop("roots", [pki.root])
    return verify_release_response(text, ReleaseExpectation(**values), roots=roots, at=at)


def refused(text: str, pki: Pki, code: str, **changes: Any) -> str:
    with pytest.raises(Refused) as error:
        check(text, pki, **changes)
    assert error.value.code == code, error.value
    return error.value.message


@pytest.fixture
def good(pki: Pki, payload: dict[str, Any]) -> str:
    return sign(header(pki), payload, pki.leaf_key)


def test_a_genuine_response_is_accepted(good: str, pki: Pki, wrapping: rsa.RSAPrivateKey, target: rsa.RSAPrivateKey) -> None:
    verified = check(good, pki)
    assert verified.key_id == f"{KEY_ID}/{VERSION}"
    assert unwrap_release(verified, wrapping).secret.reveal() == der(target)
    assert check(good, pki, nonce=None, policy=None)
    assert check(good, pki, key_id=f"https://{HOST.upper()}:443/keys/kek")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_character_is_rejected(good: str, pki: Pki, data: st.DataObject) -> None:
    """Characters rather than bytes, because a tolerant decoder ignores bits of a segment's last character."""
    index = data.draw(st.one_of(st.integers(0, len(good) - 1), st.just(len(good) - 1), st.just(good.rindex(".") - 1)))
    replacement = data.draw(st.sampled_from("ABCDabcd0123_-.=+/ \n\x00é"))
    if good[index] == replacement:
        return
    with pytest.raises(Refused):
        check(good[:index] + replacement + good[index + 1 :], pki)


@pytest.mark.parametrize("how", ["", "=", "\n", ".", ".x", " "])
def test_appended_text_is_rejected(good: str, pki: Pki, how: str) -> None:
    if how:
        refused(good + how, pki, "ReleaseResponseNotVerified")
        refused(how + good, pki, "ReleaseResponseNotVerified")
    refused(good.rpartition(".")[0] + ".", pki, "ReleaseResponseNotVerified")
    refused(good.rpartition(".")[0], pki, "ReleaseResponseNotVerified")


def _segments(head: dict[str, Any], payload: dict[str, Any]) -> str:
    return f"{b64url(compact_json(head))}.{b64url(compact_json(payload))}"


def test_other_algorithms_are_rejected_before_a_key_is_used(pki: Pki, payload: dict[str, Any]) -> None:
    unsigned = _segments(header(pki, alg="none"), payload)
    refused(f"{unsigned}.", pki, "ReleaseResponseNotVerified")
    refused(f"{unsigned}.AA", pki, "ReleaseResponseNotVerified")
    leaf = pki.leaf.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("HS256", "RS512", "PS256", "ES256", "rs256", None):
        text = _segments(header(pki, alg=algorithm), payload)
        refused(f"{text}.{b64url(hmac.digest(leaf, text.encode(), hashlib.sha256))}", pki, "ReleaseResponseNotVerified")


def test_critical_extensions_are_rejected(pki: Pki, payload: dict[str, Any]) -> None:
    refused(sign(header(pki, crit=["b64"], b64=False), payload, pki.leaf_key), pki, "ReleaseResponseNotVerified")


@pytest.mark.parametrize("chain", [None, [], "text", [5], ["!!"], ["AAAA"]])
def test_a_missing_or_malformed_x5c_is_rejected(pki: Pki, payload: dict[str, Any], chain: Any) -> None:
    refused(sign(header(pki, x5c=chain), payload, pki.leaf_key), pki, "ReleaseResponseNotVerified")


def test_a_certificate_of_an_unknown_version_is_rejected(pki: Pki, payload: dict[str, Any]) -> None:
    leaf = pki.leaf.public_bytes(serialization.Encoding.DER)
    version = leaf.index(bytes.fromhex("a003020102")) + 4
    odd = base64.b64encode(leaf[:version] + b"\x01" + leaf[version + 1 :]).decode()
    refused(sign(header(pki, x5c=[odd]), payload, pki.leaf_key), pki, "ReleaseResponseNotVerified")
    assert signing_keys({"keys": [{"kid": "k", "x5c": [odd]}]}) == {}


def test_certificates_of_other_issuers_and_hosts_are_rejected(pki: Pki, payload: dict[str, Any]) -> None:
    other = make_pki()
    own_chain = x5c(other.leaf, other.issuer, other.root)
    refused(sign(header(pki, x5c=own_chain), payload, other.leaf_key), pki, "ReleaseCertificateNotTrusted")
    refused(sign(header(pki, x5c=x5c(other.leaf, pki.issuer, pki.root)), payload, other.leaf_key), pki, "ReleaseCertificateNotTrusted")
    refused(sign(header(pki, x5c=x5c(pki.leaf)), payload, pki.leaf_key), pki, "ReleaseCertificateNotTrusted")
    refused(sign(header(pki, x5c=x5c(pki.issuer, pki.leaf, pki.root)), payload, pki.leaf_key), pki, "ReleaseCertificateNotTrusted")
    # The genuine certificate with a signature by another key.
    refused(sign(header(pki), payload, other.leaf_key), pki, "ReleaseResponseNotVerified")
    refused(sign(header(pki), payload, pki.leaf_key), pki, "ReleaseCertificateNotTrusted", roots=[])


def test_the_order_above_the_leaf_and_an_absent_root_do_not_matter(pki: Pki, payload: dict[str, Any]) -> None:
    assert check(sign(header(pki, x5c=x5c(pki.leaf, pki.root, pki.issuer)), payload, pki.leaf_key), pki)
    assert check(sign(header(pki, x5c=x5c(pki.leaf, pki.issuer)), payload, pki.leaf_key), pki)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=("other.example",)),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=("*.azure.net",)),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=("*.contosso.vault.azure.net",)),
        lambda p: certificate(HOST, p.leaf_key, p.issuer, p.issuer_key),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=(HOST,), days=(-30, -1)),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=(HOST,), days=(1, 30)),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=(HOST,), usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        lambda p: certificate("x", p.leaf_key, p.leaf, p.leaf_key, names=(HOST,)),
        lambda p: certificate("x", p.leaf_key, None, p.leaf_key, names=(HOST,)),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=(HOST,), ca=True),
        lambda p: certificate("x", p.leaf_key, p.issuer, p.issuer_key, names=(HOST,), key_usage=usage_of("key_encipherment")),
    ],
    ids=[
        *("other name", "two labels", "deeper wildcard", "common name only", "expired", "not yet valid", "client only", "leaf as issuer"),
        *("self-signed", "authority as leaf", "not for signatures"),
    ],
)
def test_a_certificate_for_another_purpose_is_rejected(pki: Pki, payload: dict[str, Any], make: Callable[[Pki], x509.Certificate]) -> None:
    text = sign(header(pki, x5c=x5c(make(pki), pki.leaf, pki.issuer, pki.root)), payload, pki.leaf_key)
    refused(text, pki, "ReleaseCertificateNotTrusted")


def test_a_leaf_with_digital_signature_usage_is_accepted(pki: Pki, payload: dict[str, Any]) -> None:
    leaf = certificate("x", pki.leaf_key, pki.issuer, pki.issuer_key, names=(HOST,), key_usage=usage_of("digital_signature"))
    assert check(sign(header(pki, x5c=x5c(leaf, pki.issuer)), payload, pki.leaf_key), pki)


def test_a_chain_through_a_leaf_is_rejected(pki: Pki, payload: dict[str, Any]) -> None:
    """The holder of a vault's leaf cannot issue certificates with it."""
    stranger = rsa_key("stranger")
    minted = certificate("x", stranger, pki.leaf, pki.leaf_key, names=(HOST,))
    text = sign(header(pki, x5c=x5c(minted, pki.leaf, pki.issuer, pki.root)), payload, stranger)
    refused(text, pki, "ReleaseCertificateNotTrusted")


def test_certificates_are_checked_for_the_given_instant(good: str, pki: Pki) -> None:
    refused(good, pki, "ReleaseCertificateNotTrusted", at=NOW + dt.timedelta(days=31))
    refused(good, pki, "ReleaseCertificateNotTrusted", at=NOW - dt.timedelta(days=31))


def edit(payload: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(payload)
    *parents, last = path.split("/")
    place = result
    for part in parents:
        place = place[part]
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
    return result


KEY = "response/key/key"


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("request/nonce", "another", "ReleaseNonceMismatch"),
        ("request/nonce", None, "ReleaseNonceMismatch"),
        ("request/nonce", 5, "ReleaseNonceMismatch"),
        ("request/enc", "CKM_RSA_AES_KEY_WRAP", "ReleaseAlgorithmMismatch"),
        ("request/enc", None, "ReleaseAlgorithmMismatch"),
        ("request/kid", f"https://{HOST}/keys/kek2", "ReleaseKeyMismatch"),
        ("request/kid", f"https://{HOST}/keys/ke", "ReleaseKeyMismatch"),
        ("request/kid", "https://litware.vault.azure.net/keys/kek", "ReleaseKeyMismatch"),
        ("request/kid", f"https://{HOST}/keys/kek/{VERSION}", "ReleaseKeyMismatch"),
        ("request/kid", f"http://{HOST}/keys/kek", "ReleaseResponseNotVerified"),
        ("request/kid", None, "ReleaseResponseNotVerified"),
        ("request", None, "ReleaseResponseNotVerified"),
        ("response", None, "ReleaseResponseNotVerified"),
        ("response/key", [], "ReleaseResponseNotVerified"),
        (KEY, None, "ReleaseResponseNotVerified"),
        (f"{KEY}/kid", f"https://{HOST}/keys/other/{VERSION}", "ReleaseKeyMismatch"),
        (f"{KEY}/kid", f"https://litware.vault.azure.net/keys/kek/{VERSION}", "ReleaseKeyMismatch"),
        (f"{KEY}/kid", KEY_ID, "ReleaseKeyMismatch"),
        (f"{KEY}/kid", None, "ReleaseResponseNotVerified"),
        ("response/key/attributes/enabled", False, "ReleaseKeyDisabled"),
        ("response/key/attributes/enabled", None, "ReleaseKeyDisabled"),
        ("response/key/attributes/exportable", False, "ReleaseResponseNotVerified"),
        ("response/key/attributes", None, "ReleaseResponseNotVerified"),
        ("response/key/release_policy", None, "ReleaseResponseNotVerified"),
        ("response/key/release_policy/data", "e30", "ReleaseResponseNotVerified"),
        (
            "response/key/release_policy/data",
            b64url(ReleasePolicy.for_clean_room("https://sharedneu.neu.attest.azure.net", "cd" * 32).encode()),
            "ReleasePolicyMismatch",
        ),
        (f"{KEY}/key_hsm", None, "ReleaseResponseNotVerified"),
        (f"{KEY}/key_hsm", "!!", "ReleaseResponseNotVerified"),
        (f"{KEY}/key_hsm", b64url(b"[]"), "ReleaseResponseNotVerified"),
    ],
)
def test_a_signed_response_to_another_request_is_rejected(pki: Pki, payload: dict[str, Any], path: str, value: Any, code: str) -> None:
    refused(sign(header(pki), edit(payload, path, value), pki.leaf_key), pki, code)


def envelope_of(payload: dict[str, Any]) -> dict[str, Any]:
    text = payload["response"]["key"]["key"]["key_hsm"]
    return dict(json.loads(base64.urlsafe_b64decode(text + "==")))


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("schema_version", "2.0", "ReleaseResponseNotVerified"),
        ("schema_version", None, "ReleaseResponseNotVerified"),
        ("header", None, "ReleaseResponseNotVerified"),
        ("header/kid", "somebody", "ReleaseKeyMismatch"),
        ("header/enc", "CKM_RSA_AES_KEY_WRAP", "ReleaseAlgorithmMismatch"),
        ("header/alg", "RSA-OAEP", "ReleaseAlgorithmMismatch"),
        ("ciphertext", None, "ReleaseResponseNotVerified"),
    ],
)
def test_an_envelope_for_another_key_is_rejected(pki: Pki, payload: dict[str, Any], path: str, value: Any, code: str) -> None:
    changed = b64url(compact_json(edit(envelope_of(payload), path, value)))
    refused(sign(header(pki), edit(payload, f"{KEY}/key_hsm", changed), pki.leaf_key), pki, code)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 264, 271, -1, -8])
def test_a_truncated_ciphertext_does_not_unwrap(pki: Pki, payload: dict[str, Any], wrapping: rsa.RSAPrivateKey, length: int) -> None:
    envelope = envelope_of(payload)
    blob = base64.urlsafe_b64decode(envelope["ciphertext"] + "==")[:length]
    changed = b64url(compact_json({**envelope, "ciphertext": b64url(blob)}))
    verified = check(sign(header(pki), edit(payload, f"{KEY}/key_hsm", changed), pki.leaf_key), pki)
    with pytest.raises(Refused) as error:
        unwrap_release(verified, wrapping)
    assert error.value.code == "KeyUnwrapFailed"


def with_target(payload: dict[str, Any], wrapping: rsa.RSAPrivateKey, private: bytes, jwk: dict[str, Any]) -> dict[str, Any]:
    envelope = {**envelope_of(payload), "ciphertext": b64url(wrap_key(wrapping.public_key(), private, ENC))}
    members = {"kid": f"{KEY_ID}/{VERSION}", "key_ops": [], "key_hsm": b64url(compact_json(envelope)), **jwk}
    return edit(payload, KEY, members)


_P256, _UNKNOWN_CURVE = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")


def test_the_unwrapped_key_must_match_the_stated_public_key(
    pki: Pki, payload: dict[str, Any], wrapping: rsa.RSAPrivateKey, target: rsa.RSAPrivateKey
) -> None:
    other = rsa_key("other")
    curve = ec.generate_private_key(ec.SECP256R1())
    cases = [
        (der(other), public_jwk(target)),
        (der(curve), public_jwk(target)),
        (der(target), public_jwk(curve)),
        (der(target), {"kty": "RSA"}),
        (der(target)[:-1], public_jwk(target)),
        (b"x" * 32, public_jwk(target)),
        (der(ec.generate_private_key(ec.SECP256R1())).replace(_P256, _UNKNOWN_CURVE), public_jwk(target)),
        (b"x" * 16, {"kty": "oct-HSM", "key_size": 256}),
    ]
    for private, jwk in cases:
        verified = check(sign(header(pki), with_target(payload, wrapping, private, jwk), pki.leaf_key), pki)
        with pytest.raises(Refused) as error:
            unwrap_release(verified, wrapping)
        assert error.value.code == "ReleasedKeyInconsistent"


def test_oct_and_ec_keys_are_unwrapped(pki: Pki, payload: dict[str, Any], wrapping: rsa.RSAPrivateKey) -> None:
    curve = ec.generate_private_key(ec.SECP521R1())
    verified = check(
        sign(header(pki), with_target(payload, wrapping, der(curve), {**public_jwk(curve), "kty": "EC-HSM"}), pki.leaf_key), pki
    )
    assert unwrap_release(verified, wrapping).kind == "EC"
    verified = check(sign(header(pki), with_target(payload, wrapping, b"x" * 32, {"kty": "oct-HSM"}), pki.leaf_key), pki)
    released = unwrap_release(verified, wrapping)
    assert (released.kind, released.secret.reveal()) == ("oct", b"x" * 32)


# Genuine certificates


def chain_of(vectors: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((vectors / "skr" / "mhsm-x5c-chain-expired.pem").read_bytes())


def test_a_genuine_managed_hsm_chain_is_valid_for_its_time_and_names(vectors: Path) -> None:
    chain, then = chain_of(vectors), dt.datetime(2022, 6, 1, tzinfo=dt.UTC)
    host = "svolos-myhsm-01.managedhsm.azure.net"
    assert verify_chain(chain, [chain[-1]], host, then).key_size == 2048
    assert verify_chain(chain[:2], trusted_roots(None), f"region.{host}", then)
    for wrong in ("vault.azure.net", "svolos-myhsm-02.managedhsm.azure.net", f"a.b.{host}", "managedhsm.azure.net"):
        with pytest.raises(ValueError, match="does not chain"):
            verify_chain(chain, [chain[-1]], wrong, then)
    with pytest.raises(ValueError, match="not valid"):
        verify_chain(chain, [chain[-1]], host, dt.datetime(2026, 11, 23, tzinfo=dt.UTC))
    with pytest.raises(ValueError, match="does not chain"):
        verify_chain([chain[0], chain[2]], [chain[-1]], host, then)


def test_a_genuine_leaf_without_its_issuer_is_rejected(vectors: Path) -> None:
    leaf = x509.load_pem_x509_certificates((vectors / "skr" / "akv-x5c-leaf-sample.pem").read_bytes())
    with pytest.raises(ValueError, match="does not chain"):
        verify_chain(leaf, trusted_roots(None), "svolos-hsm.managedhsm.azure.net", dt.datetime(2022, 1, 1, tzinfo=dt.UTC))
