"""Certificate revocation lists of AMD's key distribution service.

There is one list per product and kind of key (``/vcek/v1/<product>/crl``, ``/vlek/v1/<product>/crl``). The ARK signs it, and it names
intermediates only: AMD does not revoke single chips, and a minimum TCB excludes old firmware. The caller supplies the lists; nothing is
fetched here. Source: AMD 57230; see ``docs/facts/attestation.md#revocation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from cleanroom.attestation.amd_certificate import is_signed_by
from cleanroom.attestation.chain import VerifiedChain
from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting

MAX_CRL: Final = 1024 * 1024


def check_revocation(chain: VerifiedChain, crls: Sequence[bytes], at: datetime, *, accept_stale: bool = False) -> str:
    """Check a chain against the lists that its root issued, and return the result as text.

    Args:
        chain: A verified chain.
        crls: DER or PEM lists. Lists of other issuers are skipped.
        at: The instant.
        accept_stale: Whether a list past its ``nextUpdate`` is accepted.

    Raises:
        AttestationRejected: ``CertificateRevoked``; ``RevocationStatusUnknown`` when no list applies, or one that applies is malformed,
            wrongly signed, incomplete, not yet valid, or stale.
    """
    applied = 0
    for data in crls:
        with rejecting(Reason.REVOCATION_UNKNOWN, "revocation list"):
            if len(data) > MAX_CRL:
                raise ValueError("too long")
            crl = x509.load_pem_x509_crl(data) if b"-----BEGIN X509 CRL-----" in data else x509.load_der_x509_crl(data)
            if crl.issuer != chain.root_subject:
                continue
            _check_list(crl, chain, at, accept_stale)
        applied += 1
    if not applied:
        raise _unknown("No revocation list of this root was given.", f"{len(crls)} lists of other issuers")
    return f"not revoked by {applied} list{'s' if applied > 1 else ''}"


def _check_list(crl: x509.CertificateRevocationList, chain: VerifiedChain, at: datetime, accept_stale: bool) -> None:
    if not is_signed_by(chain.root_key, crl.public_bytes(Encoding.DER), crl.tbs_certlist_bytes, crl.signature):
        raise _unknown("The revocation list is not signed by the root.", "the signature does not verify")
    _check_extensions(crl)
    start, end = crl.last_update_utc, crl.next_update_utc
    if at < start:
        raise _unknown("The revocation list is not valid yet.", f"valid from {start.isoformat()}")
    if (end is None or at > end) and not accept_stale:
        raise _unknown("The revocation list is stale.", f"valid until {end.isoformat() if end else 'an unstated time'}")
    for name, serial in chain.serials():
        if crl.get_revoked_certificate_by_serial_number(serial) is not None:
            raise AttestationRejected(
                Reason.CERTIFICATE_REVOKED,
                f"The {name} certificate {serial:#x} is revoked.",
                expected="no certificate of the chain on the list",
                actual=f"{name} {serial:#x} is listed",
            )


def _check_extensions(crl: x509.CertificateRevocationList) -> None:
    """Require a complete list. RFC 5280, section 5.2: a list with a critical extension that is not understood says nothing.

    A delta list (``deltaCRLIndicator``) and a partial one (``issuingDistributionPoint``) leave out certificates, and so does any list
    with the extension, critical or not. An entry's critical extension (5.3), such as another certificate issuer, changes its meaning.
    """
    partial = (ExtensionOID.DELTA_CRL_INDICATOR, ExtensionOID.ISSUING_DISTRIBUTION_POINT)
    for extension in crl.extensions:
        if extension.critical or extension.oid in partial:
            raise _unknown("The revocation list has an extension that limits it.", f"extension {extension.oid.dotted_string}")
    for entry in crl:
        for extension in entry.extensions:
            if extension.critical:
                raise _unknown("The revocation list has an entry with a critical extension.", f"extension {extension.oid.dotted_string}")


def _unknown(message: str, actual: str) -> AttestationRejected:
    return AttestationRejected(
        Reason.REVOCATION_UNKNOWN, message, expected="a current revocation list, signed by the root of the chain", actual=actual
    )
