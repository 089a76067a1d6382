"""The certificate chain of a report: leaf (VCEK or VLEK) ← intermediate (ASK or ASVK) ← root (ARK).

A web-PKI path builder is the wrong tool: the leaves have serial 0, no key usage and PSS signatures. The three links are checked by hand
with the signature parameters that AMD fixes. Source: AMD 57230 (VCEK certificate and KDS interface).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from cleanroom.attestation.checks import Check, Checklist
from cleanroom.attestation.endorsements import chain_malformed
from cleanroom.attestation.endorsements import read_endorsements as read_endorsements  # also found here by readers of chains
from cleanroom.attestation.products import Product, Tcb, product_from_name
from cleanroom.attestation.reasons import AttestationRejected, Reason, hostile
from cleanroom.attestation.trust import TrustedRoot, TrustStore, key_sha256

# AMD's leaves carry serial number 0, of which cryptography warns at every load; nothing here can change AMD's certificates.
warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive", category=CryptographyDeprecationWarning)
# Of an adversary's names it warns too; they are refused, with their reason, and standard error stays ours.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

PSS_OID: Final = "1.2.840.113549.1.1.10"
AMD_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)

_AMD: Final = "1.3.6.1.4.1.3704.1"
_OID_PRODUCT_NAME: Final = f"{_AMD}.2"
_OID_SPL: Final = {"bootloader": f"{_AMD}.3.1", "tee": f"{_AMD}.3.2", "snp": f"{_AMD}.3.3", "microcode": f"{_AMD}.3.8"}
_OID_FMC_SPL: Final = f"{_AMD}.3.9"
_OID_HW_ID: Final = f"{_AMD}.4"
_OID_CSP_ID: Final = f"{_AMD}.5"
_CN: Final = bytes.fromhex("0603550403")
_TEXT_TAGS: Final = (0x0C, 0x13)
"""UTF8String and PrintableString."""


class LeafKind(StrEnum):
    """Whose key signed the report: the chip's own (VCEK) or one lent to a cloud provider (VLEK)."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True)
class Validity:
    """Validity window of one certificate."""

    name: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class VerifiedChain:
    """What a chain of verified signatures says. Its validity windows and revocation are for the caller to judge."""

    root: TrustedRoot
    kind: LeafKind
    public_key: ec.EllipticCurvePublicKey
    product_name: str
    tcb: Tcb
    hw_id: bytes | None
    csp_id: str | None
    validity: tuple[Validity, ...]
    intermediate_serial: int
    root_serial: int
    root_certificate: x509.Certificate
    root_key: rsa.RSAPublicKey

    @property
    def product(self) -> Product:
        return self.root.product

    @property
    def root_subject(self) -> x509.Name:
        """What a revocation list of this root names as its issuer; asked for only when there is one."""
        return self.root_certificate.subject


@dataclass(frozen=True)
class ExaminedChain:
    """The checks made on a chain and, when all passed, what it says."""

    checks: tuple[Check, ...]
    chain: VerifiedChain


class _Named:
    """A certificate with what the checks read more than once: cryptography builds or copies each of these anew at every access."""

    __slots__ = ("_key", "body", "certificate", "cn", "der", "issuer", "signature", "subject")

    def __init__(self, der: bytes) -> None:
        self.der = der
        self.certificate = x509.load_der_x509_certificate(der)
        start = _contents(der, 0)[0]
        self.body = der[start : _contents(der, start)[1]]  # as received; cryptography would encode its parsed form anew
        self.signature = self.certificate.signature
        self.issuer, self.subject = _raw_names(self.body)
        self.cn = _raw_common_name(self.subject) or _common_name(self.certificate.subject)
        self._key: CertificatePublicKeyTypes | None = None

    def key(self) -> CertificatePublicKeyTypes:
        """The certificate's key, loaded once: OpenSSL examines an RSA-4096 key for as long as a signature takes.

        Raises:
            Exception: Whatever cryptography raises for a key that it does not know.
        """
        if self._key is None:
            self._key = self.certificate.public_key()
        return self._key


def _raw_names(body: bytes) -> tuple[bytes, bytes]:
    """DER of issuer and subject in a signed body that parsed as a certificate: fields 4 and 6 (RFC 5280 4.1); compared byte by byte."""
    fields, place = [], _contents(body, 0)[0]
    for _ in range(6):
        end = _contents(body, place)[1]
        fields.append(body[place:end])
        place = end
    return fields[3], fields[5]


def _raw_common_name(name: bytes) -> str | None:
    """The first common name in the DER of a plain name; None leaves any other to cryptography, which takes far longer."""
    place, end = _contents(name, 0)
    while place < end:
        attribute, behind = _contents(name, place)
        start, stop = _contents(name, attribute)
        if stop != behind:
            return None  # two attributes in one
        if name.startswith(_CN, start):
            value = start + len(_CN)
            text = name[slice(*_contents(name, value))]
            return text.decode("ascii")[:64] if name[value] in _TEXT_TAGS and text.isascii() else None
        place = behind
    return None


def _contents(der: bytes, place: int) -> tuple[int, int]:
    """Where the contents of the DER value at ``place`` start and end."""
    length, start = der[place + 1], place + 2
    if length >= 0x80:
        octets = length & 0x7F
        length, start = int.from_bytes(der[start : start + octets], "big"), start + octets
    return start, start + length


def examine_chain(ders: Sequence[bytes], trust: TrustStore, checklist: Checklist) -> VerifiedChain:
    """Verify three certificates up to a trusted root, noting each check; what depends on the time is left out.

    Raises:
        Stop: A check failed; it is the last in ``checklist``.
    """
    roles = checklist.run("chain-format", lambda: _assign_roles(ders), expected="leaf, intermediate and root", show=_names)
    leaf, intermediate, root = roles
    trusted = checklist.run(
        "root-trusted",
        lambda: _trusted_root(root, trust),
        expected="a root key that is pinned and has signed itself",
        show=lambda found: f"{'development' if found.development else 'AMD'} {found.product} {found.spki_sha256[:16]}…",
    )
    links = [(child, _link_verifies(child, parent, trust)) for child, parent in ((intermediate, root), (leaf, intermediate))]
    checklist.require(
        "chain-signatures",
        all(verifies for _, verifies in links),
        expected="RSASSA-PSS SHA-384 signatures of root over intermediate and of intermediate over leaf",
        actual=", ".join(f"{child.cn} {'verifies' if verifies else 'does not verify'}" for child, verifies in links),
        reason=Reason.CHAIN_SIGNATURE_INVALID,
        message="A certificate of the chain is not signed by the next one; certificates of different chains may have been mixed.",
    )
    kind = checklist.run(
        "chain-roles",
        lambda: _leaf_kind(leaf, intermediate, root, trusted.product),
        expected=f"SEV-VCEK under SEV-{trusted.product} or SEV-VLEK under SEV-VLEK-{trusted.product}, CA flags accordingly",
        show=lambda found: f"{found} of {trusted.product}",
    )
    return checklist.run(
        "leaf-certificate",
        lambda: _read_leaf(leaf, intermediate, root, trusted, kind),
        expected=f"a P-384 key and AMD's extensions of {trusted.product}",
        show=lambda found: f"{found.product_name} TCB {found.tcb.text(found.product)}",
    )


@lru_cache(maxsize=256)
def _named(der: bytes) -> _Named:
    """Parsed certificates are shared: every chip of a product brings the same intermediate and root. Parsing is no trust."""
    return _Named(der)


def parse_certificates(ders: Iterable[bytes]) -> None:
    """Parse certificates ahead of their use, such as a product's intermediate and root.

    Raises:
        ValueError: One is no certificate.
    """
    for der in ders:
        _named(der)


def forget_parsed() -> None:
    """Forget all parsed certificates (for measurements)."""
    _named.cache_clear()


def _names(chain: Iterable[_Named]) -> str:
    return " <- ".join(each.cn for each in chain)


def _assign_roles(ders: Sequence[bytes]) -> tuple[_Named, _Named, _Named]:
    if len(ders) != 3:
        raise chain_malformed(f"The endorsements hold {len(ders)} certificates; exactly three are needed.", f"{len(ders)} certificates")
    with hostile(Reason.CHAIN_MALFORMED, "certificate"):
        certificates = [_named(der) for der in ders]
        roots = [each for each in certificates if each.subject == each.issuer]
        others = [each for each in certificates if each.subject != each.issuer]
        if len(roots) == 1:
            for leaf, intermediate in (others, others[::-1]):
                if leaf.issuer == intermediate.subject and intermediate.issuer == roots[0].subject:
                    return leaf, intermediate, roots[0]
        actual = ", ".join(f"{each.cn} issued by {_common_name(each.certificate.issuer)}" for each in certificates)
    raise chain_malformed("The three certificates do not link: each one's issuer must be the next one's subject.", actual)


def _trusted_root(root: _Named, trust: TrustStore) -> TrustedRoot:
    with hostile(Reason.ROOT_NOT_TRUSTED, "root certificate's key"):
        fingerprint = key_sha256(root.key())
    found = trust.root(fingerprint)
    if found is None or not _link_verifies(root, root, trust):
        raise AttestationRejected(
            Reason.ROOT_NOT_TRUSTED,
            f"The root {root.cn} is not trusted: its key is not among the pinned ones, or it has not signed its own certificate.",
            expected=", ".join(f"{each.product} {each.spki_sha256[:16]}…" for each in trust.roots) or "no root at all",
            actual=f"{root.cn} {fingerprint[:16]}…",
        )
    return found


def _link_verifies(child: _Named, parent: _Named, trust: TrustStore) -> bool:
    """:func:`_signed_by`, remembered in the trust store: every chip of a product brings the same root and intermediate."""
    key = trust.links.key(child.der + parent.der)
    if trust.links.get(key):
        return True
    verifies = _signed_by(child, parent)
    if verifies:
        trust.links.put(key, True)
    return verifies


def _signed_by(child: _Named, parent: _Named) -> bool:
    """RSASSA-PSS with SHA-384, MGF1-SHA-384 and a salt of 48 bytes: fixed by AMD, so never read from the certificate."""
    try:
        key = parent.key()
        if not isinstance(key, rsa.RSAPublicKey) or child.certificate.signature_algorithm_oid.dotted_string != PSS_OID:
            return False
        key.verify(child.signature, child.body, AMD_PSS, hashes.SHA384())
        return _nothing_unsigned(child)
    except (InvalidSignature, ValueError, TypeError):
        return False
    except Exception:  # an unsupported key type of a crafted certificate: no signature of ours
        return False


def _nothing_unsigned(named: _Named) -> bool:
    """Whether a certificate is its signed body, the signature algorithm as the body states it, the signature, and no other bit.

    RFC 5280 4.1.1.2 asks that the algorithm outside equals the one inside; it is the one part of a certificate that nothing signs.
    """
    framing = 4  # tag, 82 and two length octets: certificate and RSA signature both have 256 bytes or more, and less than 64 KiB
    algorithm = named.der[framing + len(named.body) : len(named.der) - len(named.signature) - framing - 1]
    rest = named.body + algorithm + b"\x03\x82" + (len(named.signature) + 1).to_bytes(2, "big") + b"\0" + named.signature
    return algorithm in named.body and named.der == b"\x30\x82" + len(rest).to_bytes(2, "big") + rest


def _leaf_kind(leaf: _Named, intermediate: _Named, root: _Named, product: Product) -> LeafKind:
    with hostile(Reason.CHAIN_MALFORMED, "certificate extension"):
        for kind, issuer in ((LeafKind.VCEK, f"SEV-{product}"), (LeafKind.VLEK, f"SEV-VLEK-{product}")):
            if (leaf.cn, intermediate.cn, root.cn) == (f"SEV-{kind}", issuer, f"ARK-{product}"):
                break
        else:
            raise chain_malformed("The certificates' names do not fit together.", _names((leaf, intermediate, root)))
        if not _is_ca(root) or not _is_ca(intermediate) or _is_ca(leaf):
            raise chain_malformed("Root and intermediate must be certificate authorities, and the leaf must not be one.", "other CA flags")
    return kind


def _is_ca(named: _Named) -> bool:
    try:
        return named.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _read_leaf(leaf: _Named, intermediate: _Named, root: _Named, trusted: TrustedRoot, kind: LeafKind) -> VerifiedChain:
    product = trusted.product
    with hostile(Reason.CHAIN_MALFORMED, "leaf certificate"):
        key = leaf.key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise chain_malformed("The leaf's key is not a P-384 key.", type(key).__name__)
        values = {
            each.oid.dotted_string: each.value.value
            for each in leaf.certificate.extensions
            if isinstance(each.value, x509.UnrecognizedExtension)
        }
        name = _ia5(values, _OID_PRODUCT_NAME, "productName")
        if product_from_name(name) is not product:
            raise AttestationRejected(
                Reason.PRODUCT_MISMATCH,
                f"The leaf certificate is for {name!r}, its root for {product}.",
                expected=str(product),
                actual=name,
            )
        components = {component: _spl(values, oid) for component, oid in _OID_SPL.items()}
        if product.has_fmc:
            components["fmc"] = _spl(values, _OID_FMC_SPL)
        hw_id = csp_id = None
        if kind is LeafKind.VCEK:
            hw_id = _hw_id(values.get(_OID_HW_ID), product)
        else:
            csp_id = _ia5(values, _OID_CSP_ID, "CSP_ID")
        root_key = root.key()
        assert isinstance(root_key, rsa.RSAPublicKey)
        return VerifiedChain(
            root=trusted,
            kind=kind,
            public_key=key,
            product_name=name,
            tcb=Tcb(**components),
            hw_id=hw_id,
            csp_id=csp_id,
            validity=tuple(
                Validity(each.cn, each.certificate.not_valid_before_utc, each.certificate.not_valid_after_utc)
                for each in (leaf, intermediate, root)
            ),
            # Not the leaf's: it is 0 on every AMD leaf, and reading it warns.
            intermediate_serial=intermediate.certificate.serial_number,
            root_serial=root.certificate.serial_number,
            root_certificate=root.certificate,
            root_key=root_key,
        )


def _spl(values: dict[str, bytes], oid: str) -> int:
    """A security version number: a DER INTEGER of 0 to 255. Values from 128 on take two content octets."""
    raw = values.get(oid)
    if raw is None:
        raise chain_malformed(f"The leaf certificate lacks the extension {oid}.", "absent")
    well_formed = len(raw) == 3 and raw[:2] == b"\x02\x01" and raw[2] < 0x80
    well_formed_high = len(raw) == 4 and raw[:3] == b"\x02\x02\x00" and raw[3] >= 0x80
    if not well_formed and not well_formed_high:
        raise chain_malformed(f"The extension {oid} is not a DER INTEGER of 0 to 255.", raw[:16].hex())
    return raw[-1]


def _ia5(values: dict[str, bytes], oid: str, name: str) -> str:
    raw = values.get(oid)
    if raw is None or len(raw) < 3 or raw[0] != 0x16 or raw[1] >= 0x80 or raw[1] != len(raw) - 2:
        raise chain_malformed(f"The leaf certificate's {name} is absent or no IA5String.", "absent" if raw is None else raw[:16].hex())
    return raw[2:].decode("ascii")


def _hw_id(raw: bytes | None, product: Product) -> bytes:
    length = product.chip_id_length
    if raw is not None and len(raw) == length + 2 and raw[:2] == bytes((0x04, length)):
        raw = raw[2:]  # wrapped in an OCTET STRING, which AMD's own certificates are not
    if raw is None or len(raw) != length:
        raise chain_malformed(
            f"The leaf certificate's hwID must have {length} bytes on {product}.", f"{len(raw)} bytes" if raw else "absent"
        )
    return raw


def _common_name(name: x509.Name) -> str:
    attributes = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value)[:64] if attributes else "(no name)"
