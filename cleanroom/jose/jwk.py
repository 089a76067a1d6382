"""JSON Web Keys: RSA and EC (RFC 7517, RFC 7518), Ed25519 (RFC 8037), and thumbprints (RFC 7638)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import b64_any, b64uint, b64url, compact_json

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-256K": ec.SECP256K1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_CURVE_NAMES = {curve.name: name for name, curve in CURVES.items()}
_REQUIRED = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "oct": ("k", "kty")}


def base_kty(kty: object) -> str:
    """Return the key type without Key Vault's suffix ``-HSM``."""
    return str(kty).removesuffix("-HSM")


def integer(jwk: Mapping[str, Any], member: str) -> int:
    """Return a JWK integer. Compare integers, not their texts: services differ in leading zeros (``AQAB`` and ``AAEAAQ``).

    Raises:
        InvalidInput: ``InvalidJwk``.
    """
    return int.from_bytes(octets(jwk, member), "big")


def octets(jwk: Mapping[str, Any], member: str) -> bytes:
    """Return a JWK byte string. Raises InvalidInput ``InvalidJwk``."""
    value = jwk.get(member)
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        return b64_any(value)
    except ValueError as error:
        raise InvalidInput("InvalidJwk", f"JWK: member {member!r} is missing or not base64url.") from error


def public_key(jwk: Mapping[str, Any]) -> PublicKey:
    """Return the public key of an RSA or EC JWK (``kty`` with or without ``-HSM``).

    Raises:
        InvalidInput: ``InvalidJwk``.
    """
    try:
        match base_kty(jwk.get("kty")):
            case "RSA":
                return rsa.RSAPublicNumbers(integer(jwk, "e"), integer(jwk, "n")).public_key()
            case "EC" if str(jwk.get("crv")) in CURVES:
                return ec.EllipticCurvePublicNumbers(integer(jwk, "x"), integer(jwk, "y"), CURVES[str(jwk["crv"])]).public_key()
    except ValueError as error:
        raise InvalidInput("InvalidJwk", "JWK: the members are not a valid public key.", cause=str(error)) from error
    raise InvalidInput("InvalidJwk", f"JWK: kty {jwk.get('kty')!r} with crv {jwk.get('crv')!r} is not a supported kind of public key.")


def private_key(jwk: Mapping[str, Any]) -> PrivateKey:
    """Return the private key of an RSA or EC JWK. Absent CRT members of an RSA key are computed.

    Raises:
        InvalidInput: ``InvalidJwk``; its message never contains key material.
    """
    public = public_key(jwk)
    try:
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            d = integer(jwk, "d")
            if "p" in jwk and "q" in jwk:
                p, q = integer(jwk, "p"), integer(jwk, "q")
            else:
                p, q = rsa.rsa_recover_prime_factors(numbers.n, numbers.e, d)
            dmp1 = integer(jwk, "dp") if "dp" in jwk else rsa.rsa_crt_dmp1(d, p)
            dmq1 = integer(jwk, "dq") if "dq" in jwk else rsa.rsa_crt_dmq1(d, q)
            iqmp = integer(jwk, "qi") if "qi" in jwk else rsa.rsa_crt_iqmp(p, q)
            return rsa.RSAPrivateNumbers(p=p, q=q, d=d, dmp1=dmp1, dmq1=dmq1, iqmp=iqmp, public_numbers=numbers).private_key()
        return ec.EllipticCurvePrivateNumbers(integer(jwk, "d"), public.public_numbers()).private_key()
    except ValueError:
        raise InvalidInput("InvalidJwk", "JWK: the private members are absent or do not match the public ones.") from None


def public_jwk(key: PublicKey | PrivateKey, **members: Any) -> dict[str, Any]:
    """Return the JWK of a public key with further ``members`` (``kid``, ``key_ops`` …)."""
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else key
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": b64uint(numbers.n), "e": b64uint(numbers.e), **members}
    point, size = public.public_numbers(), (public.curve.key_size + 7) // 8
    return {
        "kty": "EC",
        "crv": _CURVE_NAMES[public.curve.name],
        "x": b64url(point.x.to_bytes(size, "big")),
        "y": b64url(point.y.to_bytes(size, "big")),
        **members,
    }


def private_jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """Return the full private JWK. It is secret: pass it to the SDK, and never log or store it."""
    jwk = public_jwk(key)
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        for name, value in (("d", numbers.d), ("p", numbers.p), ("q", numbers.q)):
            jwk[name] = b64uint(value)
        for name, value in (("dp", numbers.dmp1), ("dq", numbers.dmq1), ("qi", numbers.iqmp)):
            jwk[name] = b64uint(value)
    else:
        jwk["d"] = b64url(key.private_numbers().private_value.to_bytes((key.curve.key_size + 7) // 8, "big"))
    return {**jwk, **members}


def ed25519_jwk(key: ed25519.Ed25519PublicKey) -> dict[str, str]:
    """Return the OKP JWK of an Ed25519 public key; its ``kid`` is the key's thumbprint."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64url(key.public_bytes_raw())}
    return {**jwk, "kid": thumbprint(jwk)}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the SHA-256 thumbprint (RFC 7638) in base64url. It covers the text of the required members only.

    Raises:
        InvalidInput: ``InvalidJwk`` for an unknown kty, or a member that is missing or not text.
    """
    kty = str(jwk.get("kty"))
    required = _REQUIRED.get(kty)
    if required is None or any(not isinstance(jwk.get(name), str) for name in required):
        raise InvalidInput("InvalidJwk", f"JWK: kty {kty!r} has no thumbprint, or a required member is missing.")
    try:
        members = compact_json({name: jwk[name] for name in required})
    except UnicodeError as error:
        raise InvalidInput("InvalidJwk", "JWK: a member cannot be encoded as UTF-8.") from error
    return b64url(hashlib.sha256(members).digest())
