"""Certificates, keys and kubeconfigs of one cluster: one certificate authority, everything in one private folder."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cleanroom.secret import write_secret_file
from localcloud.tls import authority_certificate, general_name

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_LIFETIME = dt.timedelta(days=2)


class Certificates:
    """Issues certificates into ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        authority = authority_certificate("test-cluster", self._key, _LIFETIME)
        self._issuer = authority.subject
        self._write_key("ca", self._key)
        self.certificate("ca").write_bytes(authority.public_bytes(Encoding.PEM))

    def certificate(self, file: str) -> Path:
        """Return the path of the certificate called ``file``."""
        return self.folder / f"{file}.crt"

    def key(self, file: str) -> Path:
        """Return the path of the key called ``file``."""
        return self.folder / f"{file}.key"

    def issue(self, file: str, name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> None:
        """Issue a certificate for a client, a server, or both.

        Args:
            file: The name of the files.
            name: The user to Kubernetes.
            groups: The user's groups.
            hosts: DNS names and IP addresses of a server.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [*(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups), x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._issuer,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - dt.timedelta(minutes=5),
            not_valid_after=now + _LIFETIME,
        ).add_extension(usages, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(general_name, hosts)), critical=False)
        self._write_key(file, key)
        self.certificate(file).write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue_token_key(self) -> None:
        """Create the key with which the API server signs the tokens of service accounts, as ``tokens.key`` and ``tokens.crt``."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._write_key("tokens", key)
        self.certificate("tokens").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def kubeconfig(self, path: Path, server: str, namespace: str, *, file: str | None = None, token: str | None = None) -> Path:
        """Write a kubeconfig that contains its credentials, and return its path.

        Args:
            path: The file to write.
            server: The URL of the API server.
            namespace: The default namespace.
            file: Use this client certificate.
            token: Use this token of a service account.
        """
        user = (
            {"token": token} if token else {"client-certificate": str(self.certificate(str(file))), "client-key": str(self.key(str(file)))}
        )
        cluster = {"server": server, "certificate-authority": str(self.certificate("ca"))}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        write_secret_file(path, json.dumps(content).encode())
        return path

    def _write_key(self, file: str, key: _PrivateKey) -> None:
        write_secret_file(self.key(file), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
