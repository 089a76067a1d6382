"""The certificate chain of a report: leaf (VCEK or VLEK), intermediate (ASK or ASVK), root (ARK).

A web PKI path builder does not accept AMD's leaves: they have serial number 0, no key usage and PSS signatures. So the three links are
verified here, with the signature parameters that AMD fixes. Source: AMD 57230; see ``docs/facts/attestation.md#certificates``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.attestation.amd_certificate import AmdCertificate, common_name, instant
from cleanroom.attestation.cache import VerifiedCache
from cleanroom.attestation.checks import Check, Checklist
from cleanroom.attestation.endorsements import chain_malformed
from cleanroom.attestation.models import construct_unvalidated
from cleanroom.attestation.products import Product, Tcb, encode_tcb, product_from_name
from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting
from cleanroom.attestation.trust import TrustedRoot, TrustStore

# AMD's extensions, by what follows 1.3.6.1.4.1.3704.1.
_PRODUCT_NAME: Final = "2"
_SPL: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
_FMC_SPL: Final = "3.9"
_HW_ID: Final = "4"
_CSP_ID: Final = "5"
_AMD: Final = bytes.fromhex("2b060104019c7801")
_P384: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""The start of the SubjectPublicKeyInfo of a P-384 key: id-ecPublicKey, secp384r1, an uncompressed point (RFC 5480)."""


class LeafKind(StrEnum):
    """The kind of key that signed the report: the chip's own (VCEK), or one that AMD issued to a cloud provider (VLEK)."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True)
class Validity:
    """The time in which all certificates of a chain are valid. ``text`` names those that begin last and end first."""

    not_before: datetime
    not_after: datetime
    text: str

    @staticmethod
    def of(chain: Sequence[AmdCertificate]) -> Validity:
        """Return the common validity of ``chain``."""
        starts, ends = [each.not_before for each in chain], [each.not_after for each in chain]
        start, end = max(starts), min(ends)
        begins, expires = chain[starts.index(start)].common_name, chain[ends.index(end)].common_name
        not_before, not_after = instant(start), instant(end)
        return Validity(not_before, not_after, f"{format_instant(not_before)} ({begins}) to {format_instant(not_after)} ({expires})")


def format_instant(at: datetime) -> str:
    """Return an instant in UTC as text, without fractions of a second."""
    return f"{at.replace(microsecond=0, tzinfo=None).isoformat()}Z"


@dataclass(frozen=True)
class VerifiedChain:
    """The contents of a chain whose signatures are verified. The caller checks validity and revocation."""

    root: TrustedRoot
    kind: LeafKind
    public_key: ec.EllipticCurvePublicKey
    product_name: str
    tcb: Tcb
    tcb_raw: bytes
    """In the form in which a report states it."""
    tcb_text: str
    hw_id: bytes | None
    csp_id: str | None
    validity: Validity
    intermediate: AmdCertificate
    root_certificate: AmdCertificate
    root_key: rsa.RSAPublicKey

    @property
    def product(self) -> Product:
        """The product line of the root."""
        return self.root.product

    @property
    def root_subject(self) -> x509.Name:
        """The issuer that a revocation list of this root names."""
        return self.root_certificate.x509().subject

    def serials(self) -> tuple[tuple[str, int], ...]:
        """Return name and serial number of the two authorities. The leaf's is 0 on every AMD leaf, so no list can name it."""
        authorities = (("intermediate", self.intermediate), ("root", self.root_certificate))
        return tuple((name, each.serial_number) for name, each in authorities)


@dataclass(frozen=True)
class ExaminedChain:
    """A chain that passed, with the checks that were made on it."""

    checks: tuple[Check, ...]
    chain: VerifiedChain


def examine_chain(ders: Sequence[bytes], trust: TrustStore, checklist: Checklist, links: VerifiedCache[bool]) -> VerifiedChain:
    """Verify three certificates up to a trusted root. Whatever depends on the time is not checked here.

    Args:
        ders: The certificates in any order.
        trust: The trusted roots.
        checklist: Receives each check.
        links: Verified pairs of certificate and issuer. Every chip of a product has the same intermediate and root.

    Raises:
        Stop: A check failed; it is the last in ``checklist``.
    """
    roles = checklist.run("chain-format", lambda: _assign_roles(ders), expected="leaf, intermediate and root", show=_names)
    leaf, intermediate, root = roles
    trusted = checklist.run(
        "root-trusted",
        lambda: _trusted_root(root, trust, links),
        expected="a pinned root key that signed its own certificate",
        show=lambda found: f"{'development' if found.development else 'AMD'} {found.product} {found.spki_sha256[:16]}…",
    )
    signatures = [(child, _link_verifies(child, parent, links)) for child, parent in ((intermediate, root), (leaf, intermediate))]
    checklist.require(
        "chain-signatures",
        all(verifies for _, verifies in signatures),
        expected="RSASSA-PSS SHA-384 signatures of root over intermediate and of intermediate over leaf",
        actual=", ".join(f"{child.common_name} {'verifies' if verifies else 'does not verify'}" for child, verifies in signatures),
        reason=Reason.CHAIN_SIGNATURE_INVALID,
        message="A certificate of the chain is not signed by the next one; certificates of different chains may be mixed.",
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
        show=lambda found: f"{found.product_name} TCB {found.tcb_text}",
    )


def _names(chain: Iterable[AmdCertificate]) -> str:
    return " <- ".join(each.common_name for each in chain)


def _assign_roles(ders: Sequence[bytes]) -> tuple[AmdCertificate, AmdCertificate, AmdCertificate]:
    if len(ders) != 3:
        raise chain_malformed(f"The endorsements hold {len(ders)} certificates; exactly three are needed.", f"{len(ders)} certificates")
    with rejecting(Reason.CHAIN_MALFORMED, "certificate"):
        certificates = [AmdCertificate(der) for der in ders]
        roots = [each for each in certificates if each.subject == each.issuer]
        others = [each for each in certificates if each.subject != each.issuer]
        if len(roots) == 1:
            for leaf, intermediate in (others, others[::-1]):
                if leaf.issuer == intermediate.subject and intermediate.issuer == roots[0].subject:
                    return leaf, intermediate, roots[0]
        actual = ", ".join(f"{each.common_name} issued by {common_name(each.x509().issuer)}" for each in certificates)
    raise chain_malformed("The three certificates do not link: each one's issuer must be the next one's subject.", actual)


def _trusted_root(root: AmdCertificate, trust: TrustStore, links: VerifiedCache[bool]) -> TrustedRoot:
    with rejecting(Reason.ROOT_NOT_TRUSTED, "root certificate's key"):
        fingerprint = root.key_sha256
    found = trust.root(fingerprint)
    if found is None or not _link_verifies(root, root, links):
        raise AttestationRejected(
            Reason.ROOT_NOT_TRUSTED,
            f"The root {root.common_name} is not trusted: its key is not pinned, or did not sign its own certificate.",
            expected=", ".join(f"{each.product} {each.spki_sha256[:16]}…" for each in trust.roots) or "no root at all",
            actual=f"{root.common_name} {fingerprint[:16]}…",
        )
    return found


def _link_verifies(child: AmdCertificate, parent: AmdCertificate, links: VerifiedCache[bool]) -> bool:
    pair = child.der, parent.der
    if links.get(pair):
        return True
    verifies = child.signed_by(parent)
    if verifies:
        links.put(pair, True)
    return verifies


def _leaf_kind(leaf: AmdCertificate, intermediate: AmdCertificate, root: AmdCertificate, product: Product) -> LeafKind:
    with rejecting(Reason.CHAIN_MALFORMED, "certificate extension"):
        names, ark = (leaf.common_name, intermediate.common_name, root.common_name), f"ARK-{product}"
        if names == ("SEV-VCEK", f"SEV-{product}", ark):
            kind = LeafKind.VCEK
        elif names == ("SEV-VLEK", f"SEV-VLEK-{product}", ark):
            kind = LeafKind.VLEK
        else:
            raise chain_malformed("The certificates' names do not belong to one chain.", _names((leaf, intermediate, root)))
        if not root.is_authority() or not intermediate.is_authority() or leaf.is_authority():
            raise chain_malformed("Root and intermediate must be certificate authorities, and the leaf must not be one.", "other CA flags")
    return kind


def _read_leaf(
    leaf: AmdCertificate, intermediate: AmdCertificate, root: AmdCertificate, trusted: TrustedRoot, kind: LeafKind
) -> VerifiedChain:
    product = trusted.product
    with rejecting(Reason.CHAIN_MALFORMED, "leaf certificate"):
        key = leaf.key
        if not leaf.spki.startswith(_P384) or not isinstance(key, ec.EllipticCurvePublicKey):
            raise chain_malformed("The leaf's key is not a P-384 key.", type(key).__name__)
        values = leaf.extensions
        name = _ia5(values, _PRODUCT_NAME, "productName")
        if product_from_name(name) is not product:
            raise AttestationRejected(
                Reason.PRODUCT_MISMATCH,
                f"The leaf certificate is for {name!r}, its root for {product}.",
                expected=str(product),
                actual=name,
            )
        fmc = _spl(values, _FMC_SPL) if product.has_fmc else 0
        tcb = construct_unvalidated(Tcb, fmc=fmc, **{component: _spl(values, oid) for component, oid in _SPL.items()})
        hw_id = csp_id = None
        if kind is LeafKind.VCEK:
            hw_id = _hw_id(_amd_extension(values, _HW_ID), product)
        else:
            csp_id = _ia5(values, _CSP_ID, "CSP_ID")
        root_key = root.key
        assert isinstance(root_key, rsa.RSAPublicKey)
        return VerifiedChain(
            root=trusted,
            kind=kind,
            public_key=key,
            product_name=name,
            tcb=tcb,
            tcb_raw=encode_tcb(tcb, product),
            tcb_text=tcb.text(product),
            hw_id=hw_id,
            csp_id=csp_id,
            validity=Validity.of((leaf, intermediate, root)),
            intermediate=intermediate,
            root_certificate=root,
            root_key=root_key,
        )


def _amd_extension(values: Mapping[bytes, bytes], suffix: str) -> bytes | None:
    return values.get(_AMD + bytes(map(int, suffix.split("."))))


def _spl(values: Mapping[bytes, bytes], oid: str) -> int:
    """Read a security version number: a DER INTEGER of 0 to 255."""
    raw = _amd_extension(values, oid)
    number = asn1.decode_der(int, raw) if raw is not None and raw[:1] == b"\x02" else -1
    if not 0 <= number < 256:
        actual = "absent" if raw is None else raw[:16].hex()
        raise chain_malformed(f"The leaf certificate's extension 1.3.6.1.4.1.3704.1.{oid} is not a DER INTEGER of 0 to 255.", actual)
    return number


def _ia5(values: Mapping[bytes, bytes], oid: str, name: str) -> str:
    raw = _amd_extension(values, oid)
    if raw is None or len(raw) < 3 or raw[:1] != b"\x16":
        raise chain_malformed(f"The leaf certificate's {name} is absent or not an IA5String.", "absent" if raw is None else raw[:16].hex())
    return asn1.decode_der(asn1.IA5String, raw).as_str()


def _hw_id(raw: bytes | None, product: Product) -> bytes:
    length = product.chip_id_length
    if raw is not None and len(raw) == length + 2 and raw[:2] == bytes((0x04, length)):
        raw = raw[2:]  # wrapped in an OCTET STRING, as some issuers do; AMD does not
    if raw is None or len(raw) != length:
        raise chain_malformed(
            f"The leaf certificate's hwID must have {length} bytes on {product}.", f"{len(raw)} bytes" if raw else "absent"
        )
    return raw
