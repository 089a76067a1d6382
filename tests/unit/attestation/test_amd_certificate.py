"""Certificates are read as cryptography reads them, and crafted bytes are read or rejected with ``ValueError`` or ``IndexError``."""

from __future__ import annotations

import datetime as dt
import random
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from cleanroom.attestation.amd_certificate import AmdCertificate, instant
from tests.unit.attestation.conftest import Lab

KEY = ec.generate_private_key(ec.SECP384R1())


def made(*extensions: tuple[x509.ExtensionType, bool], until: int = 2040, name: str = "SEV-VCEK") -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "AMD")]))
        .public_key(KEY.public_key())
        .serial_number(2**127 - 1)
        .not_valid_before(dt.datetime(1969, 1, 2, 3, 4, 5, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(until, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(KEY, hashes.SHA384()).public_bytes(Encoding.DER)


def unknown(size: int, suffix: str = "1") -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{suffix}"), bytes(size))


MADE = [
    made(),
    made(until=2050),
    made(until=9999),
    made((x509.BasicConstraints(True, None), True)),
    made((x509.BasicConstraints(True, 3), False), (unknown(0), True)),
    made((x509.BasicConstraints(False, None), True), (unknown(127), False), (unknown(128, "2"), True), (unknown(70_000, "3"), False)),
]


def agrees_with_cryptography(der: bytes) -> None:
    ours = AmdCertificate(der)
    with warnings.catch_warnings(action="ignore"):
        theirs = x509.load_der_x509_certificate(der)
        assert ours.serial_number == theirs.serial_number
        extensions = list(theirs.extensions)
    assert ours.body == theirs.tbs_certificate_bytes
    assert ours.signature == theirs.signature
    assert (ours.subject, ours.issuer) == (theirs.subject.public_bytes(), theirs.issuer.public_bytes())
    assert ours.spki == theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (instant(ours.not_before), instant(ours.not_after)) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    # cryptography re-encodes the extensions that it knows, and some of AMD's are not DER.
    values = {each.value.value for each in extensions if isinstance(each.value, x509.UnrecognizedExtension)}
    assert (len(ours.extensions), values - {*ours.extensions.values()}) == (len(extensions), set())
    constraints = [each.value.ca for each in extensions if isinstance(each.value, x509.BasicConstraints)]
    assert ours.is_authority() is any(constraints)


@pytest.mark.parametrize("der", MADE)
def test_made_certificates_are_read_as_cryptography_reads_them(der: bytes) -> None:
    agrees_with_cryptography(der)


def test_genuine_certificates_are_read_as_cryptography_reads_them(vectors: Path) -> None:
    found = [*vectors.glob("roots/*/*.pem"), *vectors.glob("snp/*/v?ek*.pem"), *vectors.glob("certs/*.der")]
    for path in found:
        data = path.read_bytes()
        agrees_with_cryptography(data if path.suffix == ".der" else _der(data))
    assert len(found) > 40


def _der(pem: bytes) -> bytes:
    with warnings.catch_warnings(action="ignore"):
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def test_a_duplicate_extension_is_rejected() -> None:
    der = made((unknown(5), False), (unknown(5, "2"), False))
    oid = bytes.fromhex("2b060104019c7801")
    twice = der.replace(oid + b"\x02", oid + b"\x01")
    assert len(twice) == len(der)
    with pytest.raises(ValueError, match="duplicate"):
        AmdCertificate(twice)


def test_altered_bytes_never_verify(milan: Lab) -> None:
    ders = [*MADE[:4], *(each.public_bytes(Encoding.DER) for each in (milan.hierarchy.leaf, milan.hierarchy.root))]
    dice = random.Random(7)
    for _ in range(1500):
        der = bytearray(dice.choice(ders))
        for _ in range(dice.choice((1, 1, 2, 5))):
            der[dice.randrange(len(der))] = dice.choice((0, 0x30, 0x7F, 0x80, 0x84, 0xFF, dice.randrange(256)))
        cut = bytes(der[: dice.randrange(len(der))] if dice.random() < 0.2 else der)
        try:
            read = AmdCertificate(cut)
            read.is_authority()
            assert not read.signed_by(AmdCertificate(ders[-1])) or cut in ders
        except (ValueError, IndexError):
            continue
