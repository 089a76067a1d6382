"""JSON Web Keys (RFC 7517, 7518): parsing, thumbprints (RFC 7638), and the JWKS that a guest binds into its report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.errors import InvalidInput
from cleanroom.keys.encoding import b64_any, b64uint, b64url, compact_json

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-256K": ec.SECP256K1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_CURVE_NAMES = {curve.name: name for name, curve in CURVES.items()}
_REQUIRED = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "oct": ("k", "kty")}


def base_kty(kty: object) -> str:
    """``RSA-HSM`` → ``RSA``: the key type without its protection suffix."""
    return str(kty).removesuffix("-HSM")


def integer(jwk: Mapping[str, Any], member: str) -> int:
    """A JWK integer. Services differ in leading zeros (``AQAB`` and ``AAEAAQ``), so integers are compared, never texts.

    Raises:
        InvalidInput: ``InvalidJwk``.
    """
    value = jwk.get(member)
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        return int.from_bytes(b64_any(value), "big")
    except ValueError as error:
        raise InvalidInput("InvalidJwk", f"JWK: member {member!r} is missing or not base64url.") from error


def octets(jwk: Mapping[str, Any], member: str) -> bytes:
    """A JWK byte string. Raises InvalidInput ``InvalidJwk``."""
    value = jwk.get(member)
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        return b64_any(value)
    except ValueError as error:
        raise InvalidInput("InvalidJwk", f"JWK: member {member!r} is missing or not base64url.") from error


def public_key(jwk: Mapping[str, Any]) -> PublicKey:
    """The public key of an RSA or EC JWK (``kty`` with or without ``-HSM``).

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
        raise InvalidInput("InvalidJwk", "JWK: the members do not make a public key.", cause=str(error)) from error
    raise InvalidInput("InvalidJwk", f"JWK: kty {jwk.get('kty')!r} with crv {jwk.get('crv')!r} is not a public key of a known kind.")


def private_key(jwk: Mapping[str, Any]) -> PrivateKey:
    """The private key of an RSA or EC JWK; for RSA the CRT members may be absent and are then computed.

    Raises:
        InvalidInput: ``InvalidJwk``; its text never holds key material.
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
        raise InvalidInput("InvalidJwk", "JWK: the private members are absent or do not fit the public ones.") from None


def public_jwk(key: PublicKey | PrivateKey, **members: Any) -> dict[str, Any]:
    """The JWK of a public key, extra ``members`` (``kid``, ``key_ops`` …) included."""
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
    """The full private JWK. Secret: hand it to the SDK, never log or keep it."""
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


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """RFC 7638 SHA-256 thumbprint, base64url. Only the required members count, as they are spelled.

    Raises:
        InvalidInput: ``InvalidJwk`` for an unknown kty, or a member that is missing or no text.
    """
    kty = str(jwk.get("kty"))
    required = _REQUIRED.get(kty)
    if required is None or any(not isinstance(jwk.get(name), str) for name in required):
        raise InvalidInput("InvalidJwk", f"JWK: kty {kty!r} has no thumbprint, or a required member is missing.")
    try:
        members = compact_json({name: jwk[name] for name in required})
    except UnicodeError as error:
        raise InvalidInput("InvalidJwk", "JWK: a member holds something that is no character.") from error
    return b64url(hashlib.sha256(members).digest())


def runtime_data(keys: Sequence[rsa.RSAPublicKey] | rsa.RSAPublicKey) -> bytes:
    """The JWKS document that a guest binds into report_data, in the sidecar's own form (spec/skr.md section 2).

    ``{"keys":[{"e","key_ops":["encrypt"],"kid","kty":"RSA","n"}]}``, ``kid`` = thumbprint. The report holds the hash of these
    very bytes, so send them as they are.
    """
    listed = [keys] if isinstance(keys, rsa.RSAPublicKey) else list(keys)
    result = []
    for key in listed:
        jwk = public_jwk(key)
        result.append(dict(sorted({**jwk, "kid": thumbprint(jwk), "key_ops": ["encrypt"]}.items())))
    return compact_json({"keys": result})


def wrapping_jwk(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JWK that a release wraps to: the first RSA key for encryption in ``x-ms-runtime.keys`` of an attestation token.

    ``use``/``key_use`` = enc *or* ``key_ops`` containing encrypt selects it (a real sample says ``use: sig`` and
    ``key_ops: [encrypt]``). It must have a kid and 2048 bits or more.

    Raises:
        InvalidInput: ``NoWrappingKey``.
    """
    runtime = claims.get("x-ms-runtime")
    keys = runtime.get("keys") if isinstance(runtime, Mapping) else None
    if not isinstance(keys, list):
        raise InvalidInput("NoWrappingKey", "token: there is no JWKS under x-ms-runtime.keys to wrap to.")
    for jwk in keys:
        if not isinstance(jwk, Mapping) or base_kty(jwk.get("kty")) != "RSA":
            continue
        operations = jwk.get("key_ops")
        listed = isinstance(operations, list) and "encrypt" in operations
        if not (jwk.get("use") == "enc" or jwk.get("key_use") == "enc" or listed):
            continue
        key = public_key(jwk)
        if not isinstance(jwk.get("kid"), str) or not jwk["kid"]:
            raise InvalidInput("NoWrappingKey", "token: the encryption key under x-ms-runtime.keys has no kid.")
        if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 8192:
            raise InvalidInput("NoWrappingKey", "token: the encryption key under x-ms-runtime.keys must be RSA of 2048 to 8192 bits.")
        return jwk
    raise InvalidInput("NoWrappingKey", "token: x-ms-runtime.keys holds no RSA key for encryption.")
