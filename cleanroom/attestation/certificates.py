"""The certificate chain of a report: leaf (VCEK or VLEK) ← intermediate (ASK or ASVK) ← root (ARK).

A web-PKI path builder is the wrong tool: the leaves have serial 0, no key usage and PSS signatures. The three links are checked by hand
with the signature parameters that AMD fixes. Source: AMD 57230 (VCEK certificate and KDS interface).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.attestation.checks import Check, Checklist
from cleanroom.attestation.endorsements import chain_malformed
from cleanroom.attestation.endorsements import read_endorsements as read_endorsements  # also found here by readers of chains
from cleanroom.attestation.models import unchecked
from cleanroom.attestation.parsed import AMD_PSS as AMD_PSS  # as AMD signs everything: certificates and revocation lists
from cleanroom.attestation.parsed import ParsedCertificate, common_name, instant, parsed
from cleanroom.attestation.products import Product, Tcb, encode_tcb, product_from_name
from cleanroom.attestation.reasons import AttestationRejected, Reason, hostile
from cleanroom.attestation.trust import TrustedRoot, TrustStore

# AMD's extensions, by what follows 1.3.6.1.4.1.3704.1.
_PRODUCT_NAME: Final = "2"
_SPL: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
_FMC_SPL: Final = "3.9"
_HW_ID: Final = "4"
_CSP_ID: Final = "5"
_AMD: Final = bytes.fromhex("2b060104019c7801")
_P384: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""How the SubjectPublicKeyInfo of a P-384 key starts: id-ecPublicKey, secp384r1, an uncompressed point (RFC 5480)."""
_OIDS: Final = {name: _AMD + bytes(map(int, name.split("."))) for name in (_PRODUCT_NAME, *_SPL.values(), _FMC_SPL, _HW_ID, _CSP_ID)}
_INTEGERS: Final = {bytes((0x02, 1, n) if n < 0x80 else (0x02, 2, 0, n)): n for n in range(256)}
"""DER of 0 to 255. Values from 128 on take two content octets."""


class LeafKind(StrEnum):
    """Whose key signed the report: the chip's own (VCEK) or one lent to a cloud provider (VLEK)."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True)
class Validity:
    """The time in which all of a chain's certificates are valid. ``text`` names the ones that begin last and end first."""

    not_before: datetime
    not_after: datetime
    text: str

    @staticmethod
    def of(chain: Sequence[ParsedCertificate]) -> Validity:
        starts, ends = [each.not_before for each in chain], [each.not_after for each in chain]
        start, end = max(starts), min(ends)
        begins, expires = chain[starts.index(start)].cn, chain[ends.index(end)].cn
        not_before, not_after = instant(start), instant(end)
        return Validity(not_before, not_after, f"{moment(not_before)} ({begins}) to {moment(not_after)} ({expires})")


def moment(at: datetime) -> str:
    """An instant in UTC as text."""
    return f"{at.replace(microsecond=0, tzinfo=None).isoformat()}Z"


@dataclass(frozen=True)
class VerifiedChain:
    """What a chain of verified signatures says. Its validity windows and revocation are for the caller to judge."""

    root: TrustedRoot
    kind: LeafKind
    public_key: ec.EllipticCurvePublicKey
    product_name: str
    tcb: Tcb
    tcb_raw: bytes
    """As a report would state it."""
    tcb_text: str
    hw_id: bytes | None
    csp_id: str | None
    validity: Validity
    intermediate: ParsedCertificate
    root_certificate: ParsedCertificate
    root_key: rsa.RSAPublicKey

    @property
    def product(self) -> Product:
        return self.root.product

    @property
    def root_subject(self) -> x509.Name:
        """What a revocation list of this root names as its issuer; asked for only when there is one."""
        return self.root_certificate.certificate().subject

    def serials(self) -> tuple[tuple[str, int], ...]:
        """Name and serial number of the authorities. Not the leaf's: it is 0 on every AMD leaf, and reading it warns."""
        authorities = (("intermediate", self.intermediate), ("root", self.root_certificate))
        return tuple((name, each.serial_number) for name, each in authorities)


@dataclass(frozen=True)
class ExaminedChain:
    """The checks made on a chain and, when all passed, what it says."""

    checks: tuple[Check, ...]
    chain: VerifiedChain


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
        show=lambda found: f"{found.product_name} TCB {found.tcb_text}",
    )


def _names(chain: Iterable[ParsedCertificate]) -> str:
    return " <- ".join(each.cn for each in chain)


def _assign_roles(ders: Sequence[bytes]) -> tuple[ParsedCertificate, ParsedCertificate, ParsedCertificate]:
    if len(ders) != 3:
        raise chain_malformed(f"The endorsements hold {len(ders)} certificates; exactly three are needed.", f"{len(ders)} certificates")
    with hostile(Reason.CHAIN_MALFORMED, "certificate"):
        certificates = [parsed(der) for der in ders]
        roots = [each for each in certificates if each.subject == each.issuer]
        others = [each for each in certificates if each.subject != each.issuer]
        if len(roots) == 1:
            for leaf, intermediate in (others, others[::-1]):
                if leaf.issuer == intermediate.subject and intermediate.issuer == roots[0].subject:
                    return leaf, intermediate, roots[0]
        actual = ", ".join(f"{each.cn} issued by {common_name(each.certificate().issuer)}" for each in certificates)
    raise chain_malformed("The three certificates do not link: each one's issuer must be the next one's subject.", actual)


def _trusted_root(root: ParsedCertificate, trust: TrustStore) -> TrustedRoot:
    with hostile(Reason.ROOT_NOT_TRUSTED, "root certificate's key"):
        fingerprint = root.key_sha256
    found = trust.root(fingerprint)
    if found is None or not _link_verifies(root, root, trust):
        raise AttestationRejected(
            Reason.ROOT_NOT_TRUSTED,
            f"The root {root.cn} is not trusted: its key is not among the pinned ones, or it has not signed its own certificate.",
            expected=", ".join(f"{each.product} {each.spki_sha256[:16]}…" for each in trust.roots) or "no root at all",
            actual=f"{root.cn} {fingerprint[:16]}…",
        )
    return found


def _link_verifies(child: ParsedCertificate, parent: ParsedCertificate, trust: TrustStore) -> bool:
    """``signed_by``, remembered in the trust store: every chip of a product brings the same root and intermediate."""
    key = child.der, parent.der
    if trust.links.get(key):
        return True
    verifies = child.signed_by(parent)
    if verifies:
        trust.links.put(key, True)
    return verifies


def _leaf_kind(leaf: ParsedCertificate, intermediate: ParsedCertificate, root: ParsedCertificate, product: Product) -> LeafKind:
    with hostile(Reason.CHAIN_MALFORMED, "certificate extension"):
        names, ark = (leaf.cn, intermediate.cn, root.cn), f"ARK-{product}"
        if names == ("SEV-VCEK", f"SEV-{product}", ark):
            kind = LeafKind.VCEK
        elif names == ("SEV-VLEK", f"SEV-VLEK-{product}", ark):
            kind = LeafKind.VLEK
        else:
            raise chain_malformed("The certificates' names do not fit together.", _names((leaf, intermediate, root)))
        if not root.is_authority() or not intermediate.is_authority() or leaf.is_authority():
            raise chain_malformed("Root and intermediate must be certificate authorities, and the leaf must not be one.", "other CA flags")
    return kind


def _read_leaf(
    leaf: ParsedCertificate, intermediate: ParsedCertificate, root: ParsedCertificate, trusted: TrustedRoot, kind: LeafKind
) -> VerifiedChain:
    product = trusted.product
    with hostile(Reason.CHAIN_MALFORMED, "leaf certificate"):
        key = leaf.key()
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
        tcb = unchecked(Tcb, fmc=fmc, **{component: _spl(values, oid) for component, oid in _SPL.items()})
        hw_id = csp_id = None
        if kind is LeafKind.VCEK:
            hw_id = _hw_id(values.get(_OIDS[_HW_ID]), product)
        else:
            csp_id = _ia5(values, _CSP_ID, "CSP_ID")
        root_key = root.key()
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


def _spl(values: Mapping[bytes, bytes], name: str) -> int:
    """A security version number: a DER INTEGER of 0 to 255."""
    raw = values.get(_OIDS[name])
    number = _INTEGERS.get(raw) if raw is not None else None
    if number is None:
        actual = "absent" if raw is None else raw[:16].hex()
        raise chain_malformed(f"The leaf certificate's extension 1.3.6.1.4.1.3704.1.{name} is no DER INTEGER of 0 to 255.", actual)
    return number


def _ia5(values: Mapping[bytes, bytes], oid: str, name: str) -> str:
    raw = values.get(_OIDS[oid])
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
