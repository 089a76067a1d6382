"""The RSA key that a released key is wrapped to: how a guest binds it into its report, and how a token shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import compact_json
from cleanroom.jose.jwk import base_kty, public_jwk, public_key, thumbprint


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
