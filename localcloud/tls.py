"""The local certificate authority: one root per state folder, one leaf certificate per server. For development only."""

from __future__ import annotations

import datetime as dt
import fcntl
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_LIFETIME = dt.timedelta(days=825)


@dataclass(frozen=True)
class ServerCertificate:
    """Paths of a PEM certificate (leaf and root) and of its private key."""

    cert: Path
    key: Path


def self_signed(
    common_name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, lifetime: dt.timedelta = _LIFETIME
) -> x509.CertificateBuilder:
    """Return a builder of a self-issued certificate for ``key``, valid since an hour ago and without extensions."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + lifetime)
    )


def authority_certificate(common_name: str, key: ec.EllipticCurvePrivateKey, lifetime: dt.timedelta = _LIFETIME) -> x509.Certificate:
    """Create a root certificate that can issue leaf certificates only."""
    return (
        self_signed(common_name, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def general_name(host: str) -> x509.GeneralName:
    """Return a DNS name or an IP address as a certificate names it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class LocalAuthority:
    """A root certificate in ``folder`` (``ca.pem``, ``ca-key.pem``), created at first use, that issues server certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self._key_file = folder / "ca-key.pem"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.ca_file.exists():
                self._create()
        self._cert = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        cert = authority_certificate("cleanroom local authority (NOT CONFIDENTIAL)", key)
        _write_private(self._key_file, key)
        self.ca_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: Sequence[str] = LOOPBACK_HOSTS) -> ServerCertificate:
        """Return a server certificate for DNS names and IP addresses; create ``<name>.pem`` and ``<name>-key.pem`` at first use."""
        result = ServerCertificate(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")
        if result.cert.exists() and result.key.exists():
            return result
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(min(now + _LIFETIME, self._cert.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(map(general_name, hosts)), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        _write_private(result.key, key)
        pem = cert.public_bytes(serialization.Encoding.PEM) + self.ca_file.read_bytes()
        result.cert.write_bytes(pem)
        return result


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(pem)
