"""Key material: generation, import of JWKs, and cryptographic operations."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from cleanroom.errors import InvalidInput
from cleanroom.jose import jwk as web_key
from cleanroom.jose.encoding import b64_any, b64url
from localcloud.standins.keyvault.errors import bad_parameter, forbidden

MAXIMUM_OCT_BYTES = 64
_RSA_OPERATIONS = ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey")
_DEFAULT_OPERATIONS = {"RSA": _RSA_OPERATIONS, "EC": ("sign", "verify"), "oct": ("encrypt", "decrypt", "wrapKey", "unwrapKey")}
_KNOWN_OPERATIONS = frozenset({*_RSA_OPERATIONS, "import", "export"})
_CURVE_OF = {256: "P-256", 384: "P-384", 521: "P-521"}


@dataclass(frozen=True)
class Material:
    """A key: its public JWK, and its private bytes (PKCS#8 DER, or raw for oct)."""

    jwk: dict[str, Any]
    private: bytes

    def __repr__(self) -> str:
        return f"Material({self.jwk.get('kty')}, ***)"


def _from_private(key: web_key.PrivateKey, kty: str) -> Material:
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Material({**web_key.public_jwk(key), "kty": kty}, der)


def _from_octets(value: bytes, kty: str) -> Material:
    return Material({"kty": kty, "key_size": 8 * len(value)}, value)


def generate(kty: str, body: Mapping[str, Any]) -> Material:
    """Generate a key of type ``kty``; the body of the create request has ``key_size``, ``crv`` and ``public_exponent``."""
    size, curve = body.get("key_size"), body.get("crv")
    match web_key.base_kty(kty):
        case "RSA":
            bits = 2048 if size is None else size
            if bits not in (2048, 3072, 4096):
                raise bad_parameter(f"Key size is not supported: {bits}. Supported sizes are 2048, 3072 and 4096.")
            exponent = body.get("public_exponent") or 65537
            if exponent not in (3, 65537):
                raise bad_parameter(f"The public exponent {exponent} is not supported.")
            return _from_private(rsa.generate_private_key(public_exponent=exponent, key_size=bits), kty)
        case "EC":
            name = str(curve or _CURVE_OF.get(size if isinstance(size, int) else 256, ""))
            if name not in web_key.CURVES:
                raise bad_parameter(f"The curve {name!r} is not supported.")
            return _from_private(ec.generate_private_key(web_key.CURVES[name]), kty)
    bits = 256 if size is None else size
    if bits not in (128, 192, 256):
        raise bad_parameter(f"Key size is not supported: {bits}. Supported sizes are 128, 192 and 256.")
    return _from_octets(secrets.token_bytes(bits // 8), kty)


def read_import(key: Mapping[str, Any], kty: str) -> Material:
    """Return the key of an import request's JWK."""
    try:
        if web_key.base_kty(kty) == "oct":
            value = web_key.octets(key, "k")
            if len(value) > MAXIMUM_OCT_BYTES:
                raise bad_parameter("JSON Web Key: k property of oct key is too large, maximum size is 64")
            size = key.get("key_size")
            if size is not None and size != 8 * len(value):
                raise bad_parameter(f"JSON Web Key: key_size {size} does not fit k")
            return _from_octets(value, kty)
        private = web_key.private_key(key)
    except InvalidInput as error:
        raise bad_parameter(f"JSON Web Key: {error.message}") from None
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size not in (2048, 3072, 4096):
        raise bad_parameter(f"Key size is not supported: {private.key_size}. Supported sizes are 2048, 3072 and 4096.")
    return _from_private(private, kty)


def operations(kty: str, requested: Any) -> tuple[str, ...]:
    """Return the permitted operations of a new key: the requested ones, else the defaults of its type."""
    if requested is None:
        return _DEFAULT_OPERATIONS[web_key.base_kty(kty)]
    if not isinstance(requested, list) or not all(isinstance(name, str) and name in _KNOWN_OPERATIONS for name in requested):
        raise bad_parameter(f"key_ops is {requested!r}; it must be an array of {', '.join(sorted(_KNOWN_OPERATIONS))}.")
    return tuple(requested)


# Using a key


def _sha(bits: str) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    match bits:
        case "256":
            return hashes.SHA256()
        case "384":
            return hashes.SHA384()
    return hashes.SHA512()


def _encryption_padding(algorithm: str) -> padding.AsymmetricPadding:
    match algorithm:
        case "RSA1_5":
            return padding.PKCS1v15()
        case "RSA-OAEP":
            return padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 -- the wire name means SHA-1
        case "RSA-OAEP-256":
            return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    raise bad_parameter(f"Algorithm {algorithm!r} is not supported by this key.")


_NEEDS = {"wrapkey": "wrapKey", "unwrapkey": "unwrapKey"}


def use(operation: str, private: bytes, kty: str, permitted: tuple[str, ...], body: Mapping[str, Any]) -> dict[str, Any]:
    """Perform encrypt, decrypt, wrapkey, unwrapkey, sign or verify; return the response without ``kid``.

    Raises:
        KeyVaultError: 403 if the key does not permit the operation, 400 if the input is not valid.
    """
    if _NEEDS.get(operation, operation) not in permitted:
        raise forbidden(f"Operation {operation} is not permitted on this key.", "KeyOperationForbidden")
    if web_key.base_kty(kty) == "oct":
        raise bad_parameter("This stand-in supports only release for oct keys.")
    algorithm = body.get("alg")
    key = serialization.load_der_private_key(private, None)
    if not isinstance(algorithm, str) or not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise bad_parameter(f"alg is {algorithm!r}; an algorithm name is required.")
    if operation == "verify":
        return {"value": _verify(key, algorithm, _value(body, "digest"), _value(body, "value"))}
    value = _value(body, "value")
    if operation == "sign":
        return {"value": b64url(_sign(key, algorithm, value))}
    if not isinstance(key, rsa.RSAPrivateKey):
        raise bad_parameter(f"Operation {operation} needs an RSA key.")
    chosen = _encryption_padding(algorithm)
    try:
        encrypting = operation in {"encrypt", "wrapkey"}
        return {"value": b64url(key.public_key().encrypt(value, chosen) if encrypting else key.decrypt(value, chosen))}
    except ValueError:
        raise bad_parameter("The parameter is incorrect.") from None


def _value(body: Mapping[str, Any], name: str) -> bytes:
    value = body.get(name)
    try:
        if not isinstance(value, str):
            raise ValueError
        return b64_any(value)
    except ValueError:
        raise bad_parameter(f"{name} is required and must be base64url.") from None


def _signature_scheme(key: web_key.PrivateKey, algorithm: str, digest: bytes) -> tuple[Any, Any]:
    family, bits = algorithm[:2], algorithm[2:]
    fits = isinstance(key, ec.EllipticCurvePrivateKey) == (family == "ES")
    if family not in {"RS", "PS", "ES"} or bits not in {"256", "384", "512"} or not fits:
        raise bad_parameter(f"Algorithm {algorithm!r} is not supported by this key.")
    sha = _sha(bits)
    if len(digest) != sha.digest_size:
        raise bad_parameter(f"The digest has {len(digest)} bytes; {algorithm} requires {sha.digest_size}.")
    if family == "RS":
        return padding.PKCS1v15(), utils.Prehashed(sha)
    return padding.PSS(padding.MGF1(sha), sha.digest_size), utils.Prehashed(sha)


def _sign(key: web_key.PrivateKey, algorithm: str, digest: bytes) -> bytes:
    scheme, hashed = _signature_scheme(key, algorithm, digest)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, scheme, hashed)
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(hashed)))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _verify(key: web_key.PrivateKey, algorithm: str, digest: bytes, signature: bytes) -> bool:
    scheme, hashed = _signature_scheme(key, algorithm, digest)
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            key.public_key().verify(signature, digest, scheme, hashed)
        else:
            half = len(signature) // 2
            numbers = (int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
            key.public_key().verify(utils.encode_dss_signature(*numbers), digest, ec.ECDSA(hashed))
    except InvalidSignature:
        return False
    return True
