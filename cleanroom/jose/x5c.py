"""Certificate chains in JOSE headers (``x5c``, RFC 7515 section 4.1.6), verified up to trusted roots for an instant and a DNS name."""

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
    """Return the certificates of a PEM file; by default the public roots of certifi."""
    with warnings.catch_warnings():
        # Some public roots have serial numbers that newer rules forbid. Only their keys matter here.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return tuple(x509.load_pem_x509_certificates((file or Path(certifi.where())).read_bytes()))


def read_x5c(x5c: object) -> list[x509.Certificate]:
    """Return the certificates of an ``x5c`` header: DER in standard base64, leaf first.

    Raises:
        ValueError: It is not a list of certificates.
    """
    if not isinstance(x5c, list) or not 1 <= len(x5c) <= _MAXIMUM_CHAIN or not all(isinstance(entry, str) for entry in x5c):
        raise ValueError("x5c is missing, empty or not a list of base64 certificates")
    try:
        return [x509.load_der_x509_certificate(base64.b64decode(entry, validate=True)) for entry in x5c]
    except (ValueError, x509.InvalidVersion) as error:
        raise ValueError("x5c contains a member that is not a certificate") from error


def _issuer_key_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer in the chain may not sign certificates")


def _server_usage(policy: Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise ValueError("the leaf is not for server authentication")


def _leaf_is_not_authority(policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("the leaf is a certificate authority")


def _leaf_key_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the leaf's key is not for signatures")


def verify_chain(
    certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], host: str, at: dt.datetime
) -> rsa.RSAPublicKey:
    """Verify a chain and return the leaf's key.

    Key Vault's issuing CAs are public TLS authorities, so the rules of TLS apply: signature and validity of every link, path lengths, CA
    flags, name constraints, one-label wildcards, and subject alternative names only.

    Args:
        certificates: The chain, leaf first.
        roots: The trusted roots.
        host: DNS name or IP address that the leaf must be valid for.
        at: The instant of the check.

    Raises:
        ValueError: With the reason.
    """
    try:
        subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host.lower())
    issuers = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _issuer_key_usage)
    )
    leaf = (
        ExtensionPolicy.permit_all()
        .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _server_usage)
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _leaf_is_not_authority)
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
