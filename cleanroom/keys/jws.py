"""Compact JWS (RFC 7515), RS256 only, parsed strictly.

Why not a JWT library: the parser must refuse non-canonical base64url (a flipped unused bit would otherwise still
verify), take the instant of the check as an argument, and verify with a certificate's key that the caller trusts,
never with one that the header names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.keys.encoding import b64url, b64url_strict, compact_json, strict_json

MAXIMUM_BYTES = 256 * 1024


@dataclass(frozen=True)
class CompactJws:
    """A parsed, not yet verified, compact JWS whose payload is a JSON object."""

    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    signing_input: bytes
    signature: bytes


def parse(text: str) -> CompactJws:
    """Split and decode a compact JWS with exactly three segments and ``alg`` RS256.

    Raises:
        ValueError: with one short reason; ``none``, HMAC and every other algorithm are refused here, before any key is chosen.
    """
    if len(text) > MAXIMUM_BYTES:
        raise ValueError(f"longer than {MAXIMUM_BYTES} bytes")
    segments = text.split(".")
    if len(segments) != 3 or not all(segments):
        raise ValueError("a compact JWS has three non-empty segments")
    header = strict_json(b64url_strict(segments[0]))
    payload = strict_json(b64url_strict(segments[1]))
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise ValueError("header and payload must be JSON objects")
    if header.get("alg") != "RS256":
        raise ValueError(f"alg is {header.get('alg')!r}; only RS256 is accepted")
    if "crit" in header:
        raise ValueError("crit names an extension that is not understood")
    return CompactJws(header, payload, f"{segments[0]}.{segments[1]}".encode("ascii"), b64url_strict(segments[2]))


def verify(jws: CompactJws, key: rsa.RSAPublicKey) -> None:
    """Check the signature.

    Raises:
        ValueError: when it does not verify, or the key is shorter than 2048 bits.
    """
    if key.key_size < 2048:
        raise ValueError(f"the signing key has {key.key_size} bits; RS256 needs 2048 or more")
    try:
        key.verify(jws.signature, jws.signing_input, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise ValueError("the signature does not verify") from error


def sign(header: Mapping[str, Any], payload: Mapping[str, Any], key: rsa.RSAPrivateKey) -> str:
    """Make a compact JWS; ``alg`` is set to RS256."""
    signing_input = f"{b64url(compact_json({'alg': 'RS256', **header}))}.{b64url(compact_json(payload))}"
    return f"{signing_input}.{b64url(key.sign(signing_input.encode('ascii'), padding.PKCS1v15(), hashes.SHA256()))}"
