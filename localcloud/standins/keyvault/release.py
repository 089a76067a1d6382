"""The release operation: verification of the attestation token, wrapping, and the signed response (docs/facts/key-release.md)."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import BaseModel, ConfigDict

from cleanroom.errors import CleanRoomError
from cleanroom.jose import jws
from cleanroom.jose.encoding import b64url, compact_json
from cleanroom.jose.jwk import public_key
from cleanroom.keys.evaluate import evaluate
from cleanroom.keys.maa import signing_keys, validate_token
from cleanroom.keys.release_policy import ReleasePolicy, same_authority
from cleanroom.keys.wrap import RELEASE_ALGORITHMS, KeyWrapAlgorithm, wrap_key
from cleanroom.keys.wrapping_key import wrapping_jwk
from cleanroom.secret import read_secret_file, write_secret_file
from cleanroom.transport import http_client, ssl_context
from localcloud.standins.keyvault.errors import NOT_MET, NOT_VERIFIED, KeyVaultError, bad_parameter, forbidden
from localcloud.tls import authority_certificate

_LOG = logging.getLogger("localcloud.keyvault")


class AttestationIssuer(BaseModel):
    """An attestation authority whose tokens the service can verify.

    Its keys come from its openid-configuration, or from the JWKS in ``jwks_file`` if set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    authority: str
    ca_file: Path | None = None
    jwks_file: Path | None = None


def _not_verified(why: str) -> KeyVaultError:
    return forbidden(NOT_VERIFIED, "AccessDenied", why=why)


class AssertionVerifier:
    """Verifies the token of a release request. An authority's keys are cached, and fetched again for an unknown ``kid``."""

    def __init__(self, issuers: list[AttestationIssuer]) -> None:
        self._issuers = list(issuers)
        self._keys: dict[str, dict[str, rsa.RSAPublicKey]] = {}
        self._lock = threading.Lock()

    def verify(self, token: str, policy: ReleasePolicy, now: dt.datetime) -> dict[str, Any]:
        """Verify a token and return its claims.

        The issuer must be an authority of the policy *before* any key is fetched. Otherwise the token could choose its verifier.

        Raises:
            KeyVaultError: 403 AccessDenied, always with the same message.
        """
        try:
            parsed = jws.parse(token)
        except ValueError as error:
            raise _not_verified(f"not a JWT: {error}") from error
        issuer = parsed.payload.get("iss")
        if not isinstance(issuer, str) or not policy.blocks_for(issuer):
            raise _not_verified(f"issuer {issuer!r} is not one of the policy's authorities {policy.authorities()}")
        kid = str(parsed.header.get("kid"))
        try:
            return validate_token(token, issuer=issuer, keys=self._signing_keys(issuer, kid), at=now, skew=dt.timedelta(0))
        except CleanRoomError as error:
            raise _not_verified(str(error)) from error

    def _signing_keys(self, issuer: str, kid: str) -> Mapping[str, rsa.RSAPublicKey]:
        trusted = next((entry for entry in self._issuers if same_authority(entry.authority, issuer)), None)
        if trusted is None:
            raise _not_verified(f"issuer {issuer!r} is not a configured attestation authority")
        with self._lock:
            if kid not in self._keys.get(trusted.authority, {}):
                self._keys[trusted.authority] = _fetch(trusted)
            return self._keys[trusted.authority]


def _fetch(issuer: AttestationIssuer) -> dict[str, rsa.RSAPublicKey]:
    if issuer.jwks_file is not None:
        return signing_keys(json.loads(issuer.jwks_file.read_text()))
    base = issuer.authority.rstrip("/")
    try:
        with http_client(ssl_context(issuer.ca_file), timeout=10.0) as http:
            metadata = http.get(f"{base}/.well-known/openid-configuration").raise_for_status().json()
            jwks_uri = str(metadata["jwks_uri"])
            if not same_authority(str(metadata["issuer"]), base) or urlsplit(jwks_uri)[:2] != urlsplit(base)[:2]:
                raise _not_verified(f"the metadata of {base} names another issuer or another host for its keys")
            return signing_keys(http.get(jwks_uri).raise_for_status().json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_verified(f"the keys of {base} could not be fetched: {type(error).__name__}") from error


def parse_release_body(body: Mapping[str, Any]) -> tuple[str, str | None, KeyWrapAlgorithm]:
    """Return target, nonce and algorithm of a release request.

    Raises:
        KeyVaultError: 400 if the body is not valid.
    """
    unknown = set(body) - {"target", "nonce", "enc"}
    if unknown:
        raise bad_parameter(f"Unexpected members: {', '.join(sorted(unknown))}.")
    target, nonce, enc = body.get("target"), body.get("nonce"), body.get("enc")
    if not isinstance(target, str) or not target:
        raise bad_parameter("target: the attestation assertion is required.")
    if nonce is not None and (not isinstance(nonce, str) or len(nonce) > 1024):
        raise bad_parameter("nonce must be text of at most 1024 characters.")
    algorithm = KeyWrapAlgorithm.CKM_RSA_AES_KEY_WRAP if enc is None else enc
    if not isinstance(algorithm, str) or algorithm not in RELEASE_ALGORITHMS:
        raise bad_parameter(f"enc: {enc!r} is not supported; use one of {', '.join(sorted(RELEASE_ALGORITHMS))}.")
    return target, nonce, KeyWrapAlgorithm(algorithm)


def wrapped_for(claims: Mapping[str, Any], policy: ReleasePolicy, material: bytes, algorithm: KeyWrapAlgorithm) -> str:
    """Return ``key_hsm``: the key, wrapped with the attested key, if the claims satisfy the policy.

    Raises:
        KeyVaultError: 403 AccessDenied. The failed claims are only logged, because the real service does not name them.
    """
    try:
        target = wrapping_jwk(claims)
        public = public_key(target)
    except CleanRoomError as error:
        raise _not_verified(str(error)) from error
    verdict = evaluate(policy, claims)
    if not verdict.ok:
        failed = "; ".join(f"{row.claim}: policy {row.expected}, token {row.actual}" for row in verdict.failed)
        raise forbidden(NOT_MET, "AccessDenied", why=failed)
    assert isinstance(public, rsa.RSAPublicKey)
    envelope = {
        "schema_version": "1.0",
        "header": {"kid": target["kid"], "alg": "dir", "enc": str(algorithm)},
        "ciphertext": b64url(wrap_key(public, material, algorithm)),
    }
    return b64url(compact_json(envelope))


class ReleaseSigner:
    """The certificate that signs release responses: an RSA leaf for the vault's host, issued by a CA.

    Args:
        state: Folder of the key and the certificates.
        hosts: DNS names and addresses of the leaf.
        authority: Folder of the ``LocalAuthority`` that issues the leaf, so that clients need only one root. If None, the stand-in
            creates a root, ``release-ca.pem`` in ``state``.
        style: Form of the JWS header: that of a vault (x5t and SHA-1 kid) or of a managed HSM.
    """

    def __init__(self, state: Path, hosts: tuple[str, ...], authority: Path | None, style: Literal["vault", "managed-hsm"]) -> None:
        self._style = style
        key_file, chain_file = state / "release-key.pem", state / "release-chain.pem"
        given = None if authority is None else x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
        if not (key_file.exists() and chain_file.exists() and _issued_by(chain_file, given)):
            if authority is not None and given is not None:
                root, root_key = given, _load(read_secret_file(authority / "ca-key.pem", what="local CA key").reveal())
            else:
                root, root_key = _make_root()
                (state / "release-ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            leaf = _make_leaf(key, hosts, root, root_key)
            write_secret_file(key_file, _pem(key))
            chain_file.write_bytes(b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in (leaf, root)))
        loaded = _load(read_secret_file(key_file, what="release signing key").reveal())
        assert isinstance(loaded, rsa.RSAPrivateKey)
        self._key = loaded
        self.chain = x509.load_pem_x509_certificates(chain_file.read_bytes())
        """Leaf first, root last."""

    def sign(self, payload: Mapping[str, Any]) -> str:
        """Sign a payload; return the compact JWS with the certificate chain in its header."""
        der = self.chain[0].public_bytes(serialization.Encoding.DER)
        sha1, sha256 = hashlib.sha1(der, usedforsecurity=False).digest(), hashlib.sha256(der).digest()
        x5c = [base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode("ascii") for cert in self.chain]
        if self._style == "vault":
            header = {"alg": "RS256", "kid": sha1.hex().upper(), "x5t": b64url(sha1), "typ": "JWT", "x5t#S256": b64url(sha256), "x5c": x5c}
        else:
            header = {"alg": "RS256", "kid": b64url(sha256), "x5c": x5c, "x5t#S256": b64url(sha256)}
        return jws.sign(header, payload, self._key)


def _issued_by(chain_file: Path, root: x509.Certificate | None) -> bool:
    return root is None or x509.load_pem_x509_certificates(chain_file.read_bytes())[-1] == root


_CaKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def _pem(key: _CaKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _load(pem: bytes) -> _CaKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key


def _make_root() -> tuple[x509.Certificate, _CaKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    return authority_certificate("Key Vault stand-in release authority (NOT CONFIDENTIAL)", key), key


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _make_leaf(key: rsa.RSAPrivateKey, hosts: tuple[str, ...], root: x509.Certificate, root_key: _CaKey) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    issuer_key = root_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(min(now + dt.timedelta(days=825), root.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    return builder.sign(root_key, hashes.SHA256())
