"""The guest's RSA key that a released key is wrapped to: its form in the report's runtime data, and in an attestation token.

See ``docs/facts/key-release.md#wrapping-key``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from cleanroom.claims import RUNTIME
from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import compact_json
from cleanroom.jose.jwk import base_kty, public_jwk, public_key, thumbprint


def runtime_data(keys: Sequence[rsa.RSAPublicKey] | rsa.RSAPublicKey) -> bytes:
    """Return the JWKS document that a guest binds into report_data, in the sidecar's form.

    The form is ``{"keys":[{"e","key_ops":["encrypt"],"kid","kty":"RSA","n"}]}``, where ``kid`` is the thumbprint. The report holds the
    digest of exactly these bytes, so send them unchanged.
    """
    listed = [keys] if isinstance(keys, rsa.RSAPublicKey) else list(keys)
    result = []
    for key in listed:
        jwk = public_jwk(key)
        result.append(dict(sorted({**jwk, "kid": thumbprint(jwk), "key_ops": ["encrypt"]}.items())))
    return compact_json({"keys": result})


def wrapping_jwk(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the JWK that a release wraps to: the first RSA key for encryption in ``x-ms-runtime.keys`` of an attestation token.

    A key for encryption has ``use`` or ``key_use`` enc, *or* ``key_ops`` with encrypt; genuine keys combine ``use: sig`` with ``key_ops:
    [encrypt]``. It must have a kid and 2048 to 8192 bits.

    Raises:
        InvalidInput: ``NoWrappingKey``.
    """
    runtime = claims.get(RUNTIME)
    keys = runtime.get("keys") if isinstance(runtime, Mapping) else None
    if not isinstance(keys, list):
        raise InvalidInput("NoWrappingKey", "token: x-ms-runtime.keys is not a JWKS with a key to wrap to.")
    for jwk in keys:
        if not isinstance(jwk, Mapping) or base_kty(jwk.get("kty")) != "RSA":
            continue
        operations = jwk.get("key_ops")
        listed = isinstance(operations, list) and "encrypt" in operations
        if not (jwk.get("use") == "enc" or jwk.get("key_use") == "enc" or listed):
            continue
        if not isinstance(jwk.get("kid"), str) or not jwk["kid"]:
            raise InvalidInput("NoWrappingKey", "token: the encryption key under x-ms-runtime.keys has no kid.")
        if not 2048 <= public_key(jwk).key_size <= 8192:
            raise InvalidInput("NoWrappingKey", "token: the encryption key under x-ms-runtime.keys must be RSA of 2048 to 8192 bits.")
        return jwk
    raise InvalidInput("NoWrappingKey", "token: x-ms-runtime.keys does not contain an RSA key for encryption.")
