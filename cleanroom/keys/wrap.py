"""Key wrap: RSA-OAEP over a new AES-256 key, followed by AES-KWP (RFC 5649) over the target.

This is the layout of PKCS#11's ``CKM_RSA_AES_KEY_WRAP``. Key Vault uses it for released keys, and the governance service for secrets (under
the name ``RSA-OAEP-AES-KWP``, with SHA-256)::

    ciphertext = RSA-OAEP(public, K)  ||  AES-KWP(K, target)
                 modulus bytes            8 + 8 * ceil(len(target) / 8) bytes

The target of a symmetric key is its raw bytes, and that of an RSA or EC key its unencrypted PKCS#8 DER. See
``docs/facts/key-release.md#key-wrap``.
"""

from __future__ import annotations

import os
from enum import StrEnum

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.errors import InvalidInput, Refused

MINIMUM_RSA_BITS = 2048
# PKCS#11 lets the wrapping party choose the AES key size; every AES size unwraps. We and the services use 256 bits.
_KEK_BYTES = 32
# A released key is at most an RSA-4096 PKCS#8 (2.4 KB); a governance secret may be a whole document.
_MAXIMUM_TARGET = 16 * 1024 * 1024


class KeyWrapAlgorithm(StrEnum):
    """The ``enc`` values of Key Vault's release operation, and governance's name for the SHA-256 layout."""

    CKM_RSA_AES_KEY_WRAP = "CKM_RSA_AES_KEY_WRAP"
    RSA_AES_KEY_WRAP_256 = "RSA_AES_KEY_WRAP_256"
    RSA_AES_KEY_WRAP_384 = "RSA_AES_KEY_WRAP_384"
    RSA_OAEP_AES_KWP = "RSA-OAEP-AES-KWP"


RELEASE_ALGORITHMS = frozenset(
    {KeyWrapAlgorithm.CKM_RSA_AES_KEY_WRAP, KeyWrapAlgorithm.RSA_AES_KEY_WRAP_256, KeyWrapAlgorithm.RSA_AES_KEY_WRAP_384}
)


def _algorithm(name: str) -> KeyWrapAlgorithm:
    try:
        return KeyWrapAlgorithm(name)
    except ValueError as error:
        known = ", ".join(KeyWrapAlgorithm)
        raise InvalidInput("UnsupportedKeyWrapAlgorithm", f"enc: {name!r} is not a key wrap algorithm; use one of {known}.") from error


def _oaep(algorithm: KeyWrapAlgorithm) -> padding.OAEP:
    digest: hashes.HashAlgorithm
    match algorithm:
        case KeyWrapAlgorithm.CKM_RSA_AES_KEY_WRAP:
            digest = hashes.SHA1()  # noqa: S303 -- prescribed by the format; OAEP does not require collision resistance
        case KeyWrapAlgorithm.RSA_AES_KEY_WRAP_384:
            digest = hashes.SHA384()
        case _:
            digest = hashes.SHA256()
    return padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)


def _check_size(bits: int) -> None:
    if bits < MINIMUM_RSA_BITS:
        raise InvalidInput("WrappingKeyTooSmall", f"RSA: a {bits}-bit wrapping key is too small; use {MINIMUM_RSA_BITS} bits or more.")


def wrap_key(public: rsa.RSAPublicKey, data: bytes, algorithm: str = KeyWrapAlgorithm.RSA_AES_KEY_WRAP_256) -> bytes:
    """Wrap ``data`` (1 byte or more) to ``public`` (2048 bits or more).

    Raises:
        InvalidInput: ``UnsupportedKeyWrapAlgorithm``, ``WrappingKeyTooSmall``, ``NothingToWrap``, ``WrapTargetTooLarge``.
    """
    chosen = _algorithm(algorithm)
    _check_size(public.key_size)
    if not data:
        raise InvalidInput("NothingToWrap", "data: AES-KWP (RFC 5649) wraps one byte or more; got none.")
    if len(data) > _MAXIMUM_TARGET:
        raise InvalidInput("WrapTargetTooLarge", f"data: {len(data)} bytes exceed the maximum of {_MAXIMUM_TARGET}.")
    kek = os.urandom(_KEK_BYTES)
    return public.encrypt(kek, _oaep(chosen)) + keywrap.aes_key_wrap_with_padding(kek, data)


def unwrap_key(private: rsa.RSAPrivateKey, blob: bytes, algorithm: str = KeyWrapAlgorithm.RSA_AES_KEY_WRAP_256) -> bytes:
    """Unwrap the result of :func:`wrap_key`. Put the result into a :class:`~cleanroom.secret.Secret` immediately.

    Raises:
        InvalidInput: ``UnsupportedKeyWrapAlgorithm``, ``WrappingKeyTooSmall``.
        Refused: ``KeyUnwrapFailed`` for a wrong key, a wrong algorithm or a damaged blob. The error does not distinguish these, so it
            cannot serve as a padding oracle.
    """
    chosen = _algorithm(algorithm)
    _check_size(private.key_size)
    size = (private.key_size + 7) // 8
    head, tail = blob[:size], blob[size:]
    try:
        return keywrap.aes_key_unwrap_with_padding(private.decrypt(head, _oaep(chosen)), tail)
    except (ValueError, keywrap.InvalidUnwrap):
        raise Refused(
            "KeyUnwrapFailed",
            f"ciphertext: {len(blob)} bytes do not unwrap with this RSA-{private.key_size} key under {chosen}; "
            "the blob is damaged, or was wrapped for another key or algorithm.",
        ) from None
