"""An issuer of utility-VM endorsements whose chain and message a test builds link by link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.unit.attestation.der import OTHER_KEY, RSA_KEY

EKU = "1.3.6.1.4.1.311.76.59.1.2"
FEED = "ContainerPlat-AMD-UVM"
MEASUREMENT = bytes(range(48))
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
EC_KEY = ec.generate_private_key(ec.SECP384R1())


def link(
    subject: str,
    key: Any,
    issuer: str,
    signer: Any,
    *extensions: x509.ExtensionType,
    digest: hashes.HashAlgorithm | None = None,
    start: datetime = START,
) -> x509.Certificate:
    """Return a certificate from :data:`START` to :data:`END`."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(END)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signer, digest or hashes.SHA256())


def authority(
    subject: str = "root", *extensions: x509.ExtensionType, issuer: str = "root", path: int | None = None, **more: Any
) -> x509.Certificate:
    """Return an authority with the issuer's key."""
    return link(subject, RSA_KEY, issuer, RSA_KEY, x509.BasicConstraints(True, path), *extensions, **more)


def leaf(*usages: str, key: Any = OTHER_KEY, issuer: str = "root", **more: Any) -> x509.Certificate:
    """Return a leaf with the extended key usages, by default :data:`EKU`."""
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(each) for each in usages or (EKU,)])
    return link("leaf", key, issuer, RSA_KEY, usage, **more)


LEAF, ROOT = leaf(), authority()


def ders(*chain: x509.Certificate) -> list[bytes]:
    return [each.public_bytes(Encoding.DER) for each in chain]


def sign(
    header: Mapping[Any, Any],
    payload: bytes,
    key: Any = OTHER_KEY,
    *,
    chain: Sequence[x509.Certificate] = (LEAF, ROOT),
    algorithm: Any = -37,
) -> bytes:
    """Return a COSE_Sign1 with the chain in its protected header."""
    members = {1: algorithm, 33: ders(*chain), **header}
    protected = cbor2.dumps({label: value for label, value in members.items() if value is not None})
    signature = signature_of(key, algorithm, cbor2.dumps(["Signature1", protected, b"", payload]))
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signature]))


def signature_of(key: Any, algorithm: Any, data: bytes) -> bytes:
    """Sign with the algorithm if the key supports it."""
    size = {-37: 256, -257: 256, -7: 256, -38: 384, -258: 384, -35: 384, -39: 512, -259: 512, -36: 512}.get(algorithm, 256)
    digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 512: hashes.SHA512()}[size]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        half = (key.curve.key_size + 7) // 8
        return b"".join(number.to_bytes(half, "big") for number in decode_dss_signature(key.sign(data, ec.ECDSA(digest))))
    assert isinstance(key, rsa.RSAPrivateKey)
    pkcs1 = isinstance(algorithm, int) and algorithm <= -257
    return key.sign(data, padding.PKCS1v15() if pkcs1 else padding.PSS(padding.MGF1(digest), size // 8), digest)
