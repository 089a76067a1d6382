"""Compact JWS (RFC 7515) over JSON objects, parsed strictly.

:func:`parse` is our own, since PyJWT accepts non-canonical base64url (flipping an unused bit leaves the signature valid) and duplicate
members. PyJWT supplies the algorithms themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import InvalidKeyError

from cleanroom.jose.encoding import b64url, b64url_strict, compact_json, strict_json

MAXIMUM_BYTES = 256 * 1024
MINIMUM_RSA_BITS = 2048
"""RFC 7518 section 3.3."""

Name = Literal["RS256", "ES256", "EdDSA"]
VerificationKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_RS256: Final[tuple[Name, ...]] = ("RS256",)
_ALGORITHMS: Mapping[object, Algorithm] = {name: get_default_algorithms()[name] for name in ("RS256", "ES256", "EdDSA")}


@dataclass(frozen=True)
class CompactJws:
    """A compact JWS whose payload is a JSON object: parsed, not verified."""

    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    payload_bytes: bytes
    signing_input: bytes
    signature: bytes


def parse(text: str, algorithms: Collection[Name] | None = _RS256, *, maximum: int = MAXIMUM_BYTES) -> CompactJws:
    """Split and decode a compact JWS with exactly three segments.

    Args:
        text: The JWS.
        algorithms: Accepted values of ``alg``. Every other one, ``none`` and HMAC included, is rejected before any key is chosen.
            None accepts any value and an empty signature, for a caller that reads the content first and checks ``alg`` itself.
        maximum: Greatest length of ``text``.

    Raises:
        ValueError: With one short reason.
    """
    if len(text) > maximum:
        raise ValueError(f"longer than {maximum} bytes")
    segments = text.split(".")
    if len(segments) != 3 or (algorithms is not None and not segments[2]):
        raise ValueError("a compact JWS has three non-empty segments")
    header, payload_bytes = strict_json(b64url_strict(segments[0])), b64url_strict(segments[1])
    payload = strict_json(payload_bytes)
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise ValueError("header and payload must be JSON objects")
    if algorithms is not None and header.get("alg") not in algorithms:
        raise ValueError(f"alg is {header.get('alg')!r}; only {' or '.join(algorithms)} is accepted")
    if "crit" in header:
        raise ValueError("crit names an extension that is not understood")
    return CompactJws(header, payload, payload_bytes, f"{segments[0]}.{segments[1]}".encode("ascii"), b64url_strict(segments[2]))


def verify(jws: CompactJws, key: VerificationKey) -> None:
    """Verify the signature with ``key``, which the caller trusts; never with a key that the header names.

    Raises:
        ValueError: The signature does not verify, the key is of another kind than ``alg`` needs, or it is an RSA key of under 2048 bits.
    """
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MINIMUM_RSA_BITS:
        raise ValueError(f"the signing key has {key.key_size} bits; RSA signatures need {MINIMUM_RSA_BITS} or more")
    name = jws.header.get("alg")
    try:
        algorithm = _ALGORITHMS[name]
        verified = algorithm.verify(jws.signing_input, algorithm.prepare_key(key), jws.signature)
    except (InvalidKeyError, LookupError, TypeError) as error:
        raise ValueError(f"alg {name!r} is unknown, or needs another kind of key") from error
    if not verified:
        raise ValueError("the signature does not verify")


def sign(header: Mapping[str, Any], payload: Mapping[str, Any] | bytes, key: SigningKey, algorithm: Name = "RS256") -> str:
    """Return the compact JWS of ``payload`` (an object, or its JSON text); ``alg`` is added to ``header``."""
    body = payload if isinstance(payload, bytes) else compact_json(payload)
    signing_input = f"{b64url(compact_json({'alg': algorithm, **header}))}.{b64url(body)}"
    return f"{signing_input}.{b64url(_ALGORITHMS[algorithm].sign(signing_input.encode('ascii'), key))}"
