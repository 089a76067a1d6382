"""The certificate chain of a signed release response: leaf to trusted roots, at an instant, for a DNS name."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import warnings
from collections.abc import Sequence
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

_MAXIMUM_CHAIN = 8


def trusted_roots(file: Path | None) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file; without one, the public roots that the HTTP clients trust too (certifi)."""
    with warnings.catch_warnings():
        # Some public roots carry serial numbers that newer rules forbid; they are trusted as keys, their serials are not used.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return tuple(x509.load_pem_x509_certificates((file or Path(certifi.where())).read_bytes()))


def read_x5c(x5c: object) -> list[x509.Certificate]:
    """The certificates of an ``x5c`` header: standard base64 DER, leaf first (RFC 7515 section 4.1.6).

    Raises:
        ValueError: when there is none, or one does not parse.
    """
    if not isinstance(x5c, list) or not 1 <= len(x5c) <= _MAXIMUM_CHAIN or not all(isinstance(entry, str) for entry in x5c):
        raise ValueError("x5c is missing, empty or not a list of base64 certificates")
    try:
        return [x509.load_der_x509_certificate(base64.b64decode(entry, validate=True)) for entry in x5c]
    except (ValueError, x509.InvalidVersion) as error:
        raise ValueError("x5c holds something that is not a certificate") from error


def _issuer_may_sign(policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an issuer in the chain is not a certificate authority")


def _issuer_key_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer in the chain may not sign certificates")


def _server_usage(policy: Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise ValueError("the leaf is not for server authentication")


def _leaf_is_no_authority(policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("the leaf is a certificate authority")


def _leaf_key_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the leaf's key is not for signatures")


def verify_chain(
    certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], host: str, at: dt.datetime
) -> rsa.RSAPublicKey:
    """Check ``certificates`` (leaf first) up to ``roots`` at ``at`` for the DNS name or address ``host``; return the leaf's key.

    The vaults' issuing CAs are public TLS authorities, so the rules are TLS's: every link's signature and validity, path
    lengths, CA flags, name constraints, one-label wildcards, subject alternative names only.

    Raises:
        ValueError: with the reason.
    """
    try:
        subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host.lower())
    issuers = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _issuer_may_sign)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _issuer_key_usage)
    )
    leaf = (
        ExtensionPolicy.permit_all()
        .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _server_usage)
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _leaf_is_no_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _leaf_key_usage)
    )
    try:
        builder = (
            PolicyBuilder().store(Store(list(roots))).time(at.astimezone(dt.UTC)).extension_policies(ca_policy=issuers, ee_policy=leaf)
        )
        builder.build_server_verifier(subject).verify(certificates[0], list(certificates[1:]))
    except (VerificationError, ValueError) as error:
        raise ValueError(f"the signing certificate does not chain to a trusted root for {host} at {at.isoformat()}: {error}") from error
    key = certificates[0].public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("the signing certificate's key is not RSA")
    return key
