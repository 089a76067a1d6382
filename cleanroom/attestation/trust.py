"""The trusted issuers: AMD's root keys, pinned by fingerprint, and the issuers of utility-VM endorsements.

The key is pinned rather than the certificate, because a re-issued ARK certificate keeps its key. A fingerprint is SHA-256 over the DER
SubjectPublicKeyInfo of AMD's ARK certificate (https://kdsintf.amd.com/vcek/v1/Milan/cert_chain; see
``docs/facts/attestation.md#certificates``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from pydantic import AfterValidator, ValidationError

from cleanroom.attestation.products import Product, product_from_name
from cleanroom.errors import InvalidInput, NotFound
from cleanroom.models import FrozenModel

TRUST_FILE_FORMAT: Final = "cleanroom-attestation-trust/1"


def _fingerprint(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value.lower()):
        raise ValueError(f"{value[:80]!r} is not a SHA-256 as 64 hex digits")
    return value.lower()


class TrustedRoot(FrozenModel):
    """One root key. Every verdict that rests on a ``development`` root is marked as such."""

    spki_sha256: Annotated[str, AfterValidator(_fingerprint)]
    """SHA-256 of the DER SubjectPublicKeyInfo, 64 lower-case hex digits."""
    product: Product
    development: bool = False


class UvmIssuer(FrozenModel):
    """An accepted issuer of utility-VM endorsements: a did:x509, a feed, and the minimum security version."""

    issuer: str
    feed: str
    minimum_svn: int
    development: bool = False


AMD_ROOTS: Final = (
    TrustedRoot(spki_sha256="9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9", product=Product.MILAN),
    TrustedRoot(spki_sha256="429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831", product=Product.GENOA),
    TrustedRoot(spki_sha256="4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08", product=Product.TURIN),
)

_MICROSOFT_SUPPLY_CHAIN: Final = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1"
ACI_UVM: Final = UvmIssuer(issuer=f"{_MICROSOFT_SUPPLY_CHAIN}.2", feed="ContainerPlat-AMD-UVM", minimum_svn=100)
"""Azure Container Instances and virtual nodes."""
AKS_UVM: Final = UvmIssuer(issuer=f"{_MICROSOFT_SUPPLY_CHAIN}.5", feed="ConfAKS-AMD-UVM", minimum_svn=1)
"""Confidential AKS node pools; not trusted by default."""


class _TrustFile(FrozenModel):
    """The JSON form of a trust file. Its rows are always marked as development."""

    format: str
    note: str = ""
    roots: tuple[TrustedRoot, ...] = ()
    uvm: tuple[UvmIssuer, ...] = ()


@dataclass(frozen=True, init=False)
class TrustStore:
    """The trusted roots and endorsement issuers: a value, equal to another one with the same content.

    Args:
        roots: Root keys. The first one of a key wins, so no file turns a genuine root into one of another product.
        uvm: Issuers of utility-VM endorsements.
    """

    roots: tuple[TrustedRoot, ...]
    uvm: tuple[UvmIssuer, ...]

    def __init__(self, roots: Iterable[TrustedRoot], uvm: Iterable[UvmIssuer] = ()) -> None:
        by_key: dict[str, TrustedRoot] = {}
        for root in roots:
            by_key.setdefault(root.spki_sha256, root)
        object.__setattr__(self, "roots", tuple(by_key.values()))
        object.__setattr__(self, "uvm", tuple(uvm))

    @staticmethod
    def amd() -> TrustStore:
        """Return a store of AMD's Milan, Genoa and Turin roots, and of the ACI issuer of utility-VM endorsements."""
        return TrustStore(AMD_ROOTS, (ACI_UVM,))

    @staticmethod
    def load(*, amd: bool = True, root_files: Sequence[Path] = (), uvm_rows: Sequence[UvmIssuer] = ()) -> TrustStore:
        """Return a store of AMD's roots (unless ``amd`` is false) and the contents of trust files.

        Args:
            amd: Whether AMD's roots and the ACI row are trusted.
            root_files: Trust files as JSON, or PEM certificates named ``ARK-<product>``. Their contents are marked as development.
            uvm_rows: Further issuers of utility-VM endorsements.

        Raises:
            NotFound: ``TrustFileNotFound``.
            InvalidInput: ``TrustFileInvalid``.
        """
        roots: list[TrustedRoot] = list(AMD_ROOTS) if amd else []
        uvm: list[UvmIssuer] = [ACI_UVM] if amd else []
        for path in root_files:
            more_roots, more_uvm = _read_trust_file(Path(path))
            roots += more_roots
            uvm += more_uvm
        return TrustStore(roots, (*uvm, *uvm_rows))

    def root(self, spki_sha256: str) -> TrustedRoot | None:
        """Return the trusted root with this key, or None."""
        return next((root for root in self.roots if root.spki_sha256 == spki_sha256), None)

    def uvm_issuer(self, issuer: str, feed: str) -> UvmIssuer | None:
        """Return the row for this issuer and feed, or None."""
        return next((row for row in self.uvm if row.issuer == issuer and row.feed == feed), None)


def spki_sha256(certificate: x509.Certificate) -> str:
    """Return the fingerprint of a certificate's key: SHA-256 of the DER SubjectPublicKeyInfo, in hex."""
    return hashlib.sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def trust_file_text(roots: Sequence[TrustedRoot], uvm: Sequence[UvmIssuer], note: str = "") -> str:
    """Return the JSON text of a trust file for :meth:`TrustStore.load`."""
    value = _TrustFile(format=TRUST_FILE_FORMAT, note=note, roots=tuple(roots), uvm=tuple(uvm))
    return value.model_dump_json(indent=2) + "\n"


def _read_trust_file(path: Path) -> tuple[list[TrustedRoot], list[UvmIssuer]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound("TrustFileNotFound", f"The trust file {path} does not exist.") from error
    except OSError as error:
        raise InvalidInput("TrustFileInvalid", f"The trust file {path} cannot be read.", cause=error.strerror) from error
    try:
        if b"-----BEGIN" in data and not data.lstrip().startswith(b"{"):
            return [_root_from_certificate(each) for each in x509.load_pem_x509_certificates(data)], []
        parsed = _TrustFile.model_validate(json.loads(data))
        if parsed.format != TRUST_FILE_FORMAT:
            raise ValueError(f"format is {parsed.format!r}, expected {TRUST_FILE_FORMAT!r}")
    except (ValueError, RecursionError, ValidationError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            "TrustFileInvalid",
            f"The trust file {path} is neither JSON of format {TRUST_FILE_FORMAT} nor PEM certificates named ARK-<product>.",
            cause=str(error),
        ) from error
    return (
        [root.model_copy(update={"development": True}) for root in parsed.roots],
        [row.model_copy(update={"development": True}) for row in parsed.uvm],
    )


def _root_from_certificate(certificate: x509.Certificate) -> TrustedRoot:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else ""
    product = product_from_name(name.removeprefix("ARK-")) if name.startswith("ARK-") else None
    if product is None:
        raise ValueError(f"the certificate is named {name!r}, not ARK-Milan, ARK-Genoa or ARK-Turin")
    return TrustedRoot(spki_sha256=spki_sha256(certificate), product=product, development=True)
