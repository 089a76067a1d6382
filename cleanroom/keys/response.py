"""Verifies Key Vault's signed release response, before anything is unwrapped.

The response's format, with its source, is in ``docs/facts/key-release.md#response``.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

from cryptography import x509

from cleanroom.errors import CleanRoomError, Refused
from cleanroom.jose import jws
from cleanroom.jose.encoding import b64_any, strict_json
from cleanroom.jose.x5c import read_x5c, verify_chain
from cleanroom.keys.release_policy import ReleasePolicy


@dataclass(frozen=True)
class KeyId:
    """A Key Vault key identifier ``https://host[:port]/keys/name[/version]``."""

    host: str
    """Host and port, lower case, as in the URL."""
    name: str
    version: str | None

    @staticmethod
    def parse(text: str) -> KeyId:
        """Parse an identifier. Raises ValueError."""
        parts = urlsplit(text)
        segments = parts.path.removeprefix("/").rstrip("/").split("/")
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{text!r} is not an https key identifier")
        if segments[0] != "keys" or len(segments) not in {2, 3} or not all(segments):
            raise ValueError(f"{text!r} is not https://<vault>/keys/<name>[/<version>]")
        host = parts.hostname if parts.port in {None, 443} else f"{parts.hostname}:{parts.port}"
        return KeyId(host, segments[1], segments[2] if len(segments) == 3 else None)

    @property
    def dns_name(self) -> str:
        """The host without its port."""
        return urlsplit(f"https://{self.host}").hostname or self.host

    def covers(self, other: KeyId) -> bool:
        """Whether ``other`` is the same key of the same vault and, if this identifier has a version, of the same version."""
        same = self.host == other.host and self.name.lower() == other.name.lower()
        return same and (self.version is None or self.version == other.version)

    def __str__(self) -> str:
        return f"https://{self.host}/keys/{self.name}" + (f"/{self.version}" if self.version else "")


@dataclass(frozen=True)
class ReleaseExpectation:
    """The request that a signed response must match.

    Attributes:
        key_id: The requested key, ``https://<vault>/keys/<name>[/<version>]``.
        nonce: The nonce of the request, or None.
        algorithm: The requested ``enc``.
        wrapping_kid: kid of this guest's wrapping key, as in the attestation token.
        policy: The release policy that the key must have; None accepts any.
    """

    key_id: str
    nonce: str | None
    algorithm: str
    wrapping_kid: str
    policy: ReleasePolicy | None = None


@dataclass(frozen=True)
class VerifiedRelease:
    """A release response with verified signature, chain and content. The key is still wrapped."""

    key_id: str
    """Identifier with version."""
    jwk: Mapping[str, Any]
    """``kty``, ``key_ops``, and the public members of the released key (none for oct)."""
    attributes: Mapping[str, Any]
    policy: ReleasePolicy
    algorithm: str
    ciphertext: bytes = field(repr=False)


def _refuse(reason: str, *, code: str = "ReleaseResponseNotVerified", **details: Any) -> NoReturn:
    raise Refused(
        code,
        f"Key Vault's release response is not acceptable: {reason}.",
        hint="Nothing was unwrapped. Check the vault's address, the trusted roots and any proxy in between; then try again.",
        details=details,
    )


def _member(value: Any, *path: str) -> Mapping[str, Any]:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        _refuse(f"{'.'.join(path)} is not an object")
    return value


def _key_id(value: object, what: str) -> KeyId:
    try:
        return KeyId.parse(value if isinstance(value, str) else "")
    except ValueError as error:
        _refuse(f"{what}: {error}")


def _signed_payload(text: str, host: str, roots: Sequence[x509.Certificate], at: dt.datetime) -> Mapping[str, Any]:
    try:
        parsed = jws.parse(text)
        certificates = read_x5c(parsed.header.get("x5c"))
    except ValueError as error:
        _refuse(str(error))
    try:
        key = verify_chain(certificates, roots, host, at)
    except ValueError as error:
        _refuse(str(error), code="ReleaseCertificateNotTrusted")
    try:
        jws.verify(parsed, key)
    except ValueError as error:
        _refuse(str(error))
    return parsed.payload


def _check_request(request: Mapping[str, Any], expected: ReleaseExpectation, requested: KeyId) -> None:
    nonce = request.get("nonce")
    if expected.nonce is not None and not (isinstance(nonce, str) and hmac.compare_digest(nonce.encode(), expected.nonce.encode())):
        _refuse("request.nonce is not the nonce of this request; the response is for another one", code="ReleaseNonceMismatch")
    if request.get("enc") != expected.algorithm:
        _refuse(f"request.enc is {request.get('enc')!r}, requested was {expected.algorithm}", code="ReleaseAlgorithmMismatch")
    answered = _key_id(request.get("kid"), "request.kid")
    if not (
        answered.host == requested.host
        and answered.name.lower() == requested.name.lower()
        and answered.version in {None, requested.version}
    ):
        _refuse(f"request.kid is {answered}, requested was {requested}", code="ReleaseKeyMismatch")


def _policy(bundle: Mapping[str, Any], expected: ReleasePolicy | None) -> ReleasePolicy:
    data = _member(bundle, "release_policy").get("data")
    try:
        policy = ReleasePolicy.parse(b64_any(data if isinstance(data, str) else ""))
    except (CleanRoomError, ValueError) as error:
        _refuse(f"release_policy does not parse: {error}")
    if expected is not None and policy != expected:
        _refuse(
            "the key's release policy is not the expected one; it was changed after it was set",
            code="ReleasePolicyMismatch",
            expected=expected.document(),
            actual=policy.document(),
        )
    return policy


def verify_release_response(
    value: str, expected: ReleaseExpectation, *, roots: Sequence[x509.Certificate], at: dt.datetime | None = None
) -> VerifiedRelease:
    """Verify the compact JWS that the operation ``release`` returned.

    Checks, in this order: three canonical segments and RS256; the x5c chain to ``roots`` for the vault's DNS name at ``at`` (default: now);
    the signature by the leaf; nonce, algorithm and key of the request; the released key's identifier, attributes and policy; the
    ``key_hsm`` envelope (schema 1.0, this guest's wrapping kid, the requested algorithm).

    Raises:
        Refused: ``ReleaseResponseNotVerified``, ``ReleaseCertificateNotTrusted``, ``ReleaseNonceMismatch``, ``ReleaseAlgorithmMismatch``,
            ``ReleaseKeyMismatch``, ``ReleasePolicyMismatch``, ``ReleaseKeyDisabled``.
    """
    requested = _key_id(expected.key_id, "the requested key")
    payload = _signed_payload(value, requested.dns_name, roots, at or dt.datetime.now(dt.UTC))
    _check_request(_member(payload, "request"), expected, requested)

    bundle = _member(payload, "response", "key")
    jwk, attributes = _member(bundle, "key"), _member(bundle, "attributes")
    released = _key_id(jwk.get("kid"), "response key kid")
    if released.version is None or not requested.covers(released):
        _refuse(f"the released key is {released}, requested was {requested}", code="ReleaseKeyMismatch")
    if attributes.get("enabled") is not True:
        _refuse("the released key is not enabled", code="ReleaseKeyDisabled")
    if attributes.get("exportable") is not True:
        _refuse("the released key is not marked exportable")
    policy = _policy(bundle, expected.policy)

    try:
        envelope = strict_json(b64_any(str(jwk.get("key_hsm"))))
        ciphertext = b64_any(str(envelope["ciphertext"]))
    except (ValueError, KeyError, TypeError) as error:
        _refuse(f"key_hsm does not parse: {type(error).__name__}")
    if envelope.get("schema_version") != "1.0":
        _refuse(f"key_hsm.schema_version is {envelope.get('schema_version')!r}, supported is 1.0")
    header = _member(envelope, "header")
    if header.get("kid") != expected.wrapping_kid:
        _refuse("key_hsm.header.kid is not this guest's wrapping key", code="ReleaseKeyMismatch")
    if header.get("alg") != "dir" or header.get("enc") != expected.algorithm:
        _refuse(
            f"key_hsm.header is alg {header.get('alg')!r}, enc {header.get('enc')!r}; requested was dir, {expected.algorithm}",
            code="ReleaseAlgorithmMismatch",
        )
    return VerifiedRelease(
        key_id=str(released),
        jwk={name: member for name, member in jwk.items() if name != "key_hsm"},
        attributes=dict(attributes),
        policy=policy,
        algorithm=expected.algorithm,
        ciphertext=ciphertext,
    )
