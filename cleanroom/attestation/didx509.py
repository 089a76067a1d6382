"""did:x509 identifiers: a chain under a given CA certificate whose leaf has given properties.

The form is ``did:x509:0:<hash>:<ca fingerprint>::<predicate>:<value>…``. Only the predicate ``eku`` is implemented; an identifier with any
other predicate is rejected. Source: https://github.com/microsoft/did-x509/blob/main/specification.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting
from cleanroom.jose.encoding import b64url

MAX_CHAIN: Final = 6
_PREFIX: Final = "did:x509:0:"
_HASHES: Final = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
_LINK_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


def did_x509(ca: x509.Certificate, eku: str) -> str:
    """Return the identifier of leaves with the extended key usage ``eku`` (dotted OID) under ``ca``."""
    return f"{_PREFIX}sha256:{_fingerprint(ca, 'sha256')}::eku:{eku}"


def load_chain(ders: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Parse an x5chain, leaf first, and verify each link up to the self-signed last certificate.

    Validity is deliberately not checked. The leaves that sign utility-VM endorsements are valid for about a year, and endorsements stay in
    use for longer. An old endorsement is retired by a higher minimum security version number.

    Raises:
        AttestationRejected: ``UvmCertificateChainInvalid``.
    """
    if not 2 <= len(ders) <= MAX_CHAIN:
        raise _invalid(f"The endorsement carries {len(ders)} certificates; 2 to {MAX_CHAIN} are accepted.", f"{len(ders)} certificates")
    with rejecting(Reason.UVM_CHAIN_INVALID, "endorsement certificate chain"):
        chain = tuple(x509.load_der_x509_certificate(der) for der in ders)
        for depth, (child, parent) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
            if not isinstance(child.signature_hash_algorithm, _LINK_HASHES):
                raise _invalid("A certificate of the endorsement is signed with a weak hash.", str(child.signature_hash_algorithm))
            if not _issued_by(child, parent):
                raise _invalid(
                    "A certificate of the endorsement is not issued by the next one, or the last one is not self-signed.",
                    f"certificate {depth} of {len(chain)} does not verify",
                )
            if depth > 0:
                _require_ca(child, below=depth - 1)
    return chain


def _issued_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _require_ca(certificate: x509.Certificate, *, below: int) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
        raise _invalid(
            "An issuer in the endorsement's chain is not a certificate authority, or not one for a chain of this length.", "not a CA"
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise _invalid("An issuer in the endorsement's chain may not sign certificates.", "keyCertSign is not set")


def resolve(did: str, chain: Sequence[x509.Certificate]) -> None:
    """Check that a verified chain satisfies a did:x509.

    Raises:
        AttestationRejected: ``UvmIssuerNotTrusted``.
    """
    head, *predicates = did.split("::")
    algorithm, _, fingerprint = head.removeprefix(_PREFIX).partition(":")
    if not head.startswith(_PREFIX) or algorithm not in _HASHES or not fingerprint or not predicates:
        raise _untrusted("The issuer is not a did:x509 of version 0 with a predicate.", did)
    if all(_fingerprint(ca, algorithm) != fingerprint for ca in chain[1:]):
        raise _untrusted("No authority in the endorsement's chain has the fingerprint that the issuer names.", did)
    for predicate in predicates:
        name, _, value = predicate.partition(":")
        if name != "eku" or value not in _ekus(chain[0]):
            raise _untrusted(f"The endorsement's leaf does not satisfy {predicate!r}.", did)


def _ekus(leaf: x509.Certificate) -> set[str]:
    with rejecting(Reason.UVM_CHAIN_INVALID, "endorsement leaf certificate"):
        try:
            return {usage.dotted_string for usage in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
        except x509.ExtensionNotFound:
            return set()


def _fingerprint(certificate: x509.Certificate, algorithm: str) -> str:
    digest = _HASHES[algorithm](certificate.public_bytes(Encoding.DER)).digest()
    return b64url(digest)


def _invalid(message: str, actual: str) -> AttestationRejected:
    return AttestationRejected(Reason.UVM_CHAIN_INVALID, message, expected="a chain of signed certificates up to its root", actual=actual)


def _untrusted(message: str, did: str) -> AttestationRejected:
    return AttestationRejected(Reason.UVM_ISSUER_NOT_TRUSTED, message, expected="a did:x509 that the chain satisfies", actual=did[:200])
