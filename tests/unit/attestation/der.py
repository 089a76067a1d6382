"""Certificates and lists byte by byte, signed with AMD's parameters, for cases that no library writes.

Root and intermediate of :func:`chain` have the same key, so that a chain takes two signatures and no key generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cleanroom.attestation import AttestationEvidence, Product, TrustedRoot, TrustStore
from cleanroom.attestation.amd_certificate import AMD_PSS, AmdCertificate
from localcloud.standins.snp.minting import ReportFields, der_integer, report_body, sign_report
from tests.shared_keys import rsa_key

RSA_KEY = rsa_key()
OTHER_KEY = rsa_key("other")
LEAF_KEY = ec.generate_private_key(ec.SECP384R1())
CHIP_ID = bytes(range(1, 65))

COMMON_NAME = bytes.fromhex("550403")
ORGANISATION = bytes.fromhex("55040a")
BASIC_CONSTRAINTS = bytes.fromhex("551d13")
AMD = bytes.fromhex("2b060104019c7801")
AUTHORITY = bytes.fromhex("30030101ff")
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode one element with a minimal length."""
    contents = b"".join(parts)
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + contents


def sequence(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def oid(contents: bytes) -> bytes:
    return tlv(0x06, contents)


_SHA384 = sequence(oid(bytes.fromhex("608648016503040202")))
_MGF1 = sequence(oid(bytes.fromhex("2a864886f70d010108")), _SHA384)
PSS = sequence(oid(bytes.fromhex("2a864886f70d01010a")), sequence(tlv(0xA0, _SHA384), tlv(0xA1, _MGF1), tlv(0xA2, b"\x02\x01\x30")))
PKCS1 = sequence(oid(bytes.fromhex("2a864886f70d01010c")), b"\x05\x00")


def spki(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def named(text: str, tag: int = 0x0C) -> bytes:
    """Encode a name with a common name."""
    return sequence(tlv(0x31, sequence(oid(COMMON_NAME), tlv(tag, text.encode()))))


def extension(identifier: bytes, value: bytes, critical: bytes = b"") -> bytes:
    return sequence(oid(identifier), critical, tlv(0x04, value))


def body(
    *,
    subject: bytes,
    issuer: bytes,
    key: bytes,
    extensions: Mapping[bytes, bytes] | bytes = b"",
    version: bytes = bytes.fromhex("a003020102"),
    serial: bytes = b"\x02\x01\x01",
    algorithm: bytes = PSS,
    times: tuple[tuple[int, str], tuple[int, str]] = ((UTC_TIME, "200101000000Z"), (GENERALIZED_TIME, "20500101000000Z")),
) -> bytes:
    """Encode the signed part of a certificate."""
    if not isinstance(extensions, bytes):
        extensions = b"".join(extension(identifier, value) for identifier, value in extensions.items())
    validity = sequence(*(tlv(tag, text.encode()) for tag, text in times))
    rest = tlv(0xA3, sequence(extensions)) if extensions else b""
    return sequence(version, serial, algorithm, issuer, validity, subject, key, rest)


def signed(tbs: bytes, key: rsa.RSAPrivateKey = RSA_KEY, algorithm: bytes = PSS) -> bytes:
    """Sign a body as AMD does; ``algorithm`` is the one outside of the body."""
    return sequence(tbs, algorithm, tlv(0x03, b"\0", key.sign(tbs, AMD_PSS, hashes.SHA384())))


def certificate(**parts: Any) -> bytes:
    """Return a signed certificate of a key of its own; ``parts`` as in :func:`body`, ``signer`` signs."""
    signer = parts.pop("signer", RSA_KEY)
    values = {"subject": named("SEV-VCEK"), "issuer": named("SEV-Milan"), "key": spki(LEAF_KEY)}
    return signed(body(**(values | parts)), signer)


def amd_extensions(**changes: bytes | None) -> dict[bytes, bytes]:
    """Return AMD's extensions of a Milan VCEK by their names; a change of None removes one."""
    suffixes = {"product": "02", "bootloader": "0301", "tee": "0302", "snp": "0303", "microcode": "0308", "fmc": "0309", "hw_id": "04"}
    values: dict[str, bytes | None] = {
        "product": b"\x16\x08Milan-B0",
        **{name: der_integer(value) for name, value in (("bootloader", 4), ("tee", 0), ("snp", 24), ("microcode", 219))},
        "hw_id": CHIP_ID,
    }
    suffixes["csp_id"] = "05"
    return {AMD + bytes.fromhex(suffixes[name]): value for name, value in (values | changes).items() if value is not None}


def chain(
    leaf: Mapping[str, Any] | None = None, intermediate: Mapping[str, Any] | None = None, root: Mapping[str, Any] | None = None
) -> list[bytes]:
    """Return leaf, intermediate and root of Milan; the arguments change members of each."""
    authority = {"key": spki(RSA_KEY), "extensions": {BASIC_CONSTRAINTS: AUTHORITY}, "issuer": named("ARK-Milan")}
    return [
        certificate(**({"extensions": amd_extensions()} | dict(leaf or {}))),
        certificate(**(authority | {"subject": named("SEV-Milan")} | dict(intermediate or {}))),
        certificate(**(authority | {"subject": named("ARK-Milan")} | dict(root or {}))),
    ]


def trust(*keys: rsa.RSAPrivateKey, product: Product = Product.MILAN) -> TrustStore:
    """Return a store that trusts the given keys, or that of :func:`chain`."""
    roots = [AmdCertificate(certificate(key=spki(key))).key_sha256 for key in keys or (RSA_KEY,)]
    return TrustStore([TrustedRoot(spki_sha256=root, product=product) for root in roots])


def evidence(ders: list[bytes] | None = None, **fields: Any) -> AttestationEvidence:
    """Return a report signed by the leaf of :func:`chain`, and a chain."""
    report = sign_report(report_body(ReportFields(**({"chip_id": CHIP_ID} | fields))), LEAF_KEY)
    return AttestationEvidence.of(report, b"".join(chain() if ders is None else ders))
