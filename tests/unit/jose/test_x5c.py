"""Certificate chains of the header ``x5c``: what may issue, and what the leaf must be for."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cleanroom.jose.x5c import read_x5c, trusted_roots, verify_chain
from tests.unit.keys.test_release_response import HOST, NOW, Pki, certificate, make_pki, usage_of


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


def text_of(entry: x509.Certificate) -> str:
    return base64.b64encode(entry.public_bytes(serialization.Encoding.DER)).decode()


def judge(pki: Pki, leaf: x509.Certificate, *issuers: x509.Certificate) -> str:
    try:
        key = verify_chain([leaf, *(issuers or (pki.issuer,))], [pki.root], HOST, NOW)
    except ValueError as error:
        return str(error)
    assert key == leaf.public_key()
    return "accepted"


def test_roots_are_those_of_the_file_or_the_public_ones(pki: Pki, tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (pki.root, pki.issuer)))
    assert trusted_roots(file) == (pki.root, pki.issuer)
    with warnings.catch_warnings():
        # Some public roots have serial numbers that newer rules forbid. Nobody here can change them.
        warnings.simplefilter("error")
        public = trusted_roots(None)
    assert len(public) == Path(certifi.where()).read_text().count("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(("length", "accepted"), [(0, False), (1, True), (8, True), (9, False)])
def test_chain_has_one_to_eight_certificates(pki: Pki, length: int, accepted: bool) -> None:
    entries = [text_of(pki.leaf)] * length
    if accepted:
        assert read_x5c(entries) == [pki.leaf] * length
        return
    with pytest.raises(ValueError, match="missing, empty or not a list"):
        read_x5c(entries)


@pytest.mark.parametrize("x5c", [None, "text", {}, (), [5], [None, 5]])
def test_header_that_is_no_list_of_text_is_rejected(pki: Pki, x5c: Any) -> None:
    with pytest.raises(ValueError, match="missing, empty or not a list"):
        read_x5c(x5c)
    if isinstance(x5c, list):
        with pytest.raises(ValueError, match="missing, empty or not a list"):
            read_x5c([text_of(pki.leaf), *x5c])


def test_entry_that_is_no_certificate_is_rejected(pki: Pki) -> None:
    text = text_of(pki.issuer)
    for changed in (f"{text[:8]}\n{text[8:]}", f"!{text}", text[:-8], ""):
        with pytest.raises(ValueError, match="not a certificate"):
            read_x5c([text_of(pki.leaf), changed])


def issuer_with(pki: Pki, *, ca: bool = True, key_usage: x509.KeyUsage | None = None) -> tuple[x509.Certificate, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate("other issuer", key, pki.root, pki.root_key, ca=ca, key_usage=key_usage), key


@pytest.mark.parametrize(
    ("ca", "usage", "result"),
    [
        (True, None, "accepted"),
        (True, "key_cert_sign", "accepted"),
        (True, "digital_signature", "an issuer in the chain may not sign certificates"),
        # The library demands the flag of an authority itself.
        (False, None, "basicConstraints.cA must be asserted"),
        (False, "key_cert_sign", "basicConstraints.cA must be asserted"),
    ],
)
def test_issuer_is_an_authority_that_may_sign_certificates(pki: Pki, ca: bool, usage: str | None, result: str) -> None:
    issuer, key = issuer_with(pki, ca=ca, key_usage=None if usage is None else usage_of(usage))
    leaf = certificate("x", pki.leaf_key, issuer, key, names=(HOST,))
    assert result in judge(pki, leaf, issuer)


def leaf_of(pki: Pki, key: Any, **extensions: bool) -> x509.Certificate:
    """A leaf without the extensions that may be absent."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.leaf.subject)
        .issuer_name(pki.issuer.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(pki.leaf.not_valid_before_utc)
        .not_valid_after(pki.leaf.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    )
    if extensions.get("usage"):
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if extensions.get("constraints"):
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(pki.issuer_key, hashes.SHA256())


@pytest.mark.parametrize("extensions", [{}, {"usage": True}, {"constraints": True}, {"usage": True, "constraints": True}])
def test_leaf_may_lack_usage_and_constraints(pki: Pki, extensions: dict[str, bool]) -> None:
    assert judge(pki, leaf_of(pki, pki.leaf_key, **extensions)) == "accepted"


def test_leaf_with_another_kind_of_key_is_rejected(pki: Pki) -> None:
    assert judge(pki, leaf_of(pki, ec.generate_private_key(ec.SECP256R1()))) == "the signing certificate's key is not RSA"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"usage": ExtendedKeyUsageOID.CLIENT_AUTH}, "the leaf is not for server authentication"),
        ({"ca": True}, "the leaf is a certificate authority"),
        ({"key_usage": usage_of("key_encipherment")}, "the leaf's key is not for signatures"),
    ],
)
def test_leaf_for_another_purpose_is_rejected_with_its_reason(pki: Pki, changes: dict[str, Any], reason: str) -> None:
    leaf = certificate("x", pki.leaf_key, pki.issuer, pki.issuer_key, names=(HOST,), **changes)
    assert reason in judge(pki, leaf)
