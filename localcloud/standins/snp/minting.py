"""Creates certificate chains, signed reports, revocation lists and utility-VM endorsements with development keys.

Their layout is that of AMD's hardware and key service in every respect: names, PSS signatures, extensions, report offsets. Only the keys
differ, and the organisation of every certificate says so. AMD's leaf certificates have the serial number 0; the library does not allow
it, so it is 1 here.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from cleanroom.attestation import LeafKind
from cleanroom.attestation.amd_certificate import AMD_PSS
from cleanroom.attestation.didx509 import did_x509
from cleanroom.attestation.products import Product, Tcb, encode_tcb
from cleanroom.attestation.report import REPORT_SIZE, SIGNED_SIZE

ORGANISATION: Final = "NOT CONFIDENTIAL development"
UVM_EKU: Final = "1.3.6.1.4.1.311.76.59.1.2"
UVM_FEED: Final = "ContainerPlat-AMD-UVM"
POLICY_CACI: Final = 0x3001F
DEBUG_BIT: Final = 1 << 19

_AMD: Final = "1.3.6.1.4.1.3704.1"
_CPUID: Final = {Product.MILAN: (0x19, 0x01, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 0x02, 1)}
_PRODUCT_NAMES: Final = {Product.MILAN: "Milan-B0", Product.GENOA: "Genoa", Product.TURIN: "Turin"}


def current_tcb(product: Product) -> Tcb:
    """Return a TCB of current hardware. Its microcode is above 127, so that the DER INTEGER has two octets."""
    return Tcb(fmc=1 if product.has_fmc else 0, bootloader=4, tee=0, snp=24, microcode=219)


@dataclass(frozen=True)
class LeafPlan:
    """The content of a leaf certificate; the defaults give a valid one."""

    product: Product = Product.MILAN
    kind: LeafKind = LeafKind.VCEK
    tcb: Tcb | None = None
    chip_id: bytes = b""
    csp_id: str = "CN=cc.development.invalid"
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """Common names by role (``leaf``, ``intermediate``, ``root``) that replace AMD's."""
    extensions: Mapping[str, bytes | None] = field(default_factory=dict)
    """Raw values by OID that replace the usual ones; None removes an extension."""
    rsa_bits: int = 2048


@dataclass(frozen=True)
class Hierarchy:
    """A chain with its private keys."""

    plan: LeafPlan
    root_key: rsa.RSAPrivateKey
    root: x509.Certificate
    intermediate_key: rsa.RSAPrivateKey
    intermediate: x509.Certificate
    leaf_key: ec.EllipticCurvePrivateKey
    leaf: x509.Certificate

    @property
    def product(self) -> Product:
        """The product that the leaf is for."""
        return self.plan.product

    @property
    def tcb(self) -> Tcb:
        """The TCB in the leaf."""
        return self.plan.tcb or current_tcb(self.product)

    def chain_pem(self) -> bytes:
        """Return leaf, intermediate and root as PEM."""
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (self.leaf, self.intermediate, self.root))

    def report(self, **fields: Any) -> bytes:
        """Return a signed report that matches this chain; ``fields`` are those of :class:`ReportFields`."""
        flags = 4 if self.plan.kind is LeafKind.VLEK else 0
        chip_id = bytes(64) if self.plan.kind is LeafKind.VLEK else self.plan.chip_id.ljust(64, b"\0")
        defaults: dict[str, Any] = {"product": self.product, "tcb": self.tcb, "chip_id": chip_id, "flags": flags}
        return sign_report(report_body(ReportFields(**(defaults | fields))), self.leaf_key)

    def with_leaf(self, plan: LeafPlan) -> Hierarchy:
        """Return this chain with another leaf certificate and key."""
        leaf_key = ec.generate_private_key(ec.SECP384R1())
        leaf = _leaf(plan, leaf_key, self.intermediate.subject, self.intermediate_key)
        return replace(self, plan=plan, leaf_key=leaf_key, leaf=leaf)

    def crl(
        self,
        revoked: Sequence[int] = (),
        *,
        at: dt.datetime,
        next_update: dt.datetime | None = None,
        key: rsa.RSAPrivateKey | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        entry_extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:
        """Return a revocation list (DER) of this root, or signed by ``key``, that was issued at ``at``.

        ``extensions`` and ``entry_extensions`` are (extension, critical) of the list and of each entry.
        """
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.root.subject).last_update(at)
        builder = builder.next_update(next_update or at + dt.timedelta(days=30))
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
            for extension, critical in entry_extensions:
                entry = entry.add_extension(extension, critical=critical)
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        crl = builder.sign(key or self.root_key, hashes.SHA384(), rsa_padding=AMD_PSS)
        return crl.public_bytes(serialization.Encoding.DER)


def mint_hierarchy(plan: LeafPlan | None = None) -> Hierarchy:
    """Create a root, an intermediate and a leaf with new keys."""
    plan = plan or LeafPlan(chip_id=bytes(range(1, 65)))
    root_key = rsa.generate_private_key(65537, plan.rsa_bits)
    intermediate_key = rsa.generate_private_key(65537, plan.rsa_bits)
    suffix = "" if plan.kind is LeafKind.VCEK else "VLEK-"
    root_name = _name(plan.names.get("root", f"ARK-{plan.product}"))
    intermediate_name = _name(plan.names.get("intermediate", f"SEV-{suffix}{plan.product}"))
    root = _authority(root_name, root_key, root_name, root_key, 0x7F000, None)
    intermediate = _authority(intermediate_name, intermediate_key, root_name, root_key, 0x7F001, 0)
    leaf_key = ec.generate_private_key(ec.SECP384R1())
    leaf = _leaf(plan, leaf_key, intermediate_name, intermediate_key)
    return Hierarchy(plan, root_key, root, intermediate_key, intermediate, leaf_key, leaf)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _authority(
    subject: x509.Name, key: rsa.RSAPrivateKey, issuer: x509.Name, issuer_key: rsa.RSAPrivateKey, serial: int, path_length: int | None
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - dt.timedelta(days=365))
        .not_valid_after(now + dt.timedelta(days=25 * 365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
    )
    return builder.sign(issuer_key, hashes.SHA384(), rsa_padding=AMD_PSS)


def _leaf(plan: LeafPlan, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: rsa.RSAPrivateKey) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    lifetime = dt.timedelta(days=7 * 365 if plan.kind is LeafKind.VCEK else 365)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(plan.names.get("leaf", f"SEV-{plan.kind}")))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(plan.not_before or now - dt.timedelta(days=1))
        .not_valid_after(plan.not_after or now + lifetime)
    )
    for oid, value in _leaf_extensions(plan).items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(issuer_key, hashes.SHA384(), rsa_padding=AMD_PSS)


def _leaf_extensions(plan: LeafPlan) -> dict[str, bytes]:
    tcb = plan.tcb or current_tcb(plan.product)
    name = _PRODUCT_NAMES[plan.product] if plan.kind is LeafKind.VCEK else str(plan.product)
    values: dict[str, bytes | None] = {
        f"{_AMD}.1": der_integer(1 if plan.product is Product.TURIN else 0),
        f"{_AMD}.2": _ia5(name),
        f"{_AMD}.3.1": der_integer(tcb.bootloader),
        f"{_AMD}.3.2": der_integer(tcb.tee),
        f"{_AMD}.3.3": der_integer(tcb.snp),
        f"{_AMD}.3.8": der_integer(tcb.microcode),
    }
    if plan.product.has_fmc:
        values[f"{_AMD}.3.9"] = der_integer(tcb.fmc)
    if plan.kind is LeafKind.VCEK:
        values[f"{_AMD}.4"] = plan.chip_id
    else:
        values[f"{_AMD}.5"] = _ia5(plan.csp_id)
    values |= plan.extensions
    return {oid: value for oid, value in values.items() if value is not None}


def der_integer(value: int) -> bytes:
    """Encode a small non-negative INTEGER in DER."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((0x02, len(content))) + content


def _ia5(text: str) -> bytes:
    return bytes((0x16, len(text))) + text.encode("ascii")


@dataclass(frozen=True)
class ReportFields:
    """The fields of an attestation report (AMD SEV-SNP firmware ABI, table ATTESTATION_REPORT).

    Raises:
        ValueError: A byte field has the wrong length.
    """

    product: Product = Product.MILAN
    tcb: Tcb | None = None
    """Current, reported, committed and launch TCB; that of today's hardware if None."""
    version: int = 3
    guest_svn: int = 2
    policy: int = POLICY_CACI
    family_id: bytes = b"\x01".ljust(16, b"\0")
    image_id: bytes = b"\x02".ljust(16, b"\0")
    vmpl: int = 0
    signature_algorithm: int = 1
    platform_info: int = 0x25
    flags: int = 0
    report_data: bytes = bytes(64)
    measurement: bytes = bytes(48)
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = bytes(32)
    reported_tcb: bytes | None = None
    """Raw encoding of the reported TCB (8 bytes), instead of ``tcb``."""
    cpuid: tuple[int, int, int] | None = None
    """CPU family, model and stepping; those of the product if None."""
    chip_id: bytes = bytes(64)

    def __post_init__(self) -> None:
        sizes = {"report_data": 64, "measurement": 48, "host_data": 32, "report_id": 32, "chip_id": 64}
        for name, size in sizes.items():
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} bytes; it must have {size}")


def report_body(fields: ReportFields) -> bytes:
    """Encode the 672 signed bytes of a report."""
    tcb = encode_tcb(fields.tcb or current_tcb(fields.product), fields.product)
    family, model, stepping = fields.cpuid or (_CPUID[fields.product] if fields.version >= 3 else (0, 0, 0))
    head = struct.pack(
        "<IIQ16s16sII8sQII64s48s32s48s48s32s32s8s3B21x64s8s",
        fields.version,
        fields.guest_svn,
        fields.policy,
        fields.family_id,
        fields.image_id,
        fields.vmpl,
        fields.signature_algorithm,
        tcb,
        fields.platform_info,
        fields.flags,
        0,
        fields.report_data,
        fields.measurement,
        fields.host_data,
        fields.id_key_digest,
        fields.author_key_digest,
        fields.report_id,
        b"\xff" * 32,
        tcb if fields.reported_tcb is None else fields.reported_tcb,
        family,
        model,
        stepping,
        fields.chip_id,
        tcb,
    )
    firmware = bytes((29, 55, 1, 0))  # build, minor, major: 1.55.29
    return (head + firmware + firmware + tcb).ljust(SIGNED_SIZE, b"\0")


def sign_report(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the 1184 bytes of a report: body, R and S (little-endian, 72 bytes each), zeros."""
    r, s = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA384())))
    return (body + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(REPORT_SIZE, b"\0")


@dataclass(frozen=True)
class EndorsementIssuer:
    """An issuer of utility-VM endorsements, with its chain (leaf, then root)."""

    leaf_key: rsa.RSAPrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def did(self) -> str:
        """The issuer's did:x509, from the root's fingerprint and the leaf's extended key usage."""
        return did_x509(self.chain[-1], UVM_EKU)

    def endorse(self, measurement: bytes, svn: int, *, feed: str = UVM_FEED) -> bytes:
        """Return a COSE_Sign1 over the reference info of ``measurement`` (48 bytes) with security version ``svn``."""
        payload = {"x-ms-sevsnpvm-guestsvn": str(svn), "x-ms-sevsnpvm-launchmeasurement": measurement.hex()}
        return self.sign({3: "application/json", "iss": self.did, "feed": feed}, json.dumps(payload, indent=2).encode())

    def endorse_envelope(self, measurement: bytes, svn: int, *, feed: str = UVM_FEED, issued: int | None = None) -> bytes:
        """Return an endorsement in the newer format: CWT claims in the header, the raw measurement as payload."""
        claims: dict[Any, Any] = {1: self.did, 2: feed, "svn": svn} | ({} if issued is None else {6: issued})
        return self.sign({15: claims, 258: -43, 259: "application/octet-stream"}, measurement)

    def sign(self, header: Mapping[Any, Any], payload: bytes, *, algorithm: int = -38) -> bytes:
        """Return a PS384 COSE_Sign1 with ``header`` and this issuer's chain in the protected header."""
        ders = [each.public_bytes(serialization.Encoding.DER) for each in self.chain]
        protected = cbor2.dumps({1: algorithm, 33: ders, 34: [-16, hashlib.sha256(ders[0]).digest()], **header})
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        signature = self.leaf_key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
        return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signature]))


def mint_endorsement_issuer(*, eku: str = UVM_EKU, rsa_bits: int = 2048) -> EndorsementIssuer:
    """Create a root and a leaf with the extended key usage ``eku``."""
    now = dt.datetime.now(dt.UTC)
    root_key, leaf_key = rsa.generate_private_key(65537, rsa_bits), rsa.generate_private_key(65537, rsa_bits)
    root_name, leaf_name = _name("Utility VM endorsement root"), _name("ContainerPlat")
    root = _endorser(root_name, root_key, root_name, root_key, now).add_extension(x509.BasicConstraints(True, None), critical=True)
    leaf = (
        _endorser(leaf_name, leaf_key, root_name, root_key, now)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(eku)]), critical=False)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
    )
    return EndorsementIssuer(leaf_key, (leaf.sign(root_key, hashes.SHA384()), root.sign(root_key, hashes.SHA384())))


def _endorser(
    subject: x509.Name, key: rsa.RSAPrivateKey, issuer: x509.Name, issuer_key: rsa.RSAPrivateKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=3650))
    )
