"""RSA-OAEP-AES-KWP: how CGS wraps what it answers to a clean room (spec/governance.md 2.5; PKCS#11 CKM_RSA_AES_KEY_WRAP).

Layout: RSA-OAEP(SHA-256, MGF1-SHA-256, no label) of a fresh 32-byte AES key, followed by AES key wrap with padding (RFC 5649)
of the plaintext under that key.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding, aes_key_wrap_with_padding

from cleanroom.errors import Refused
from cleanroom.secret import Secret

_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def wrap(key: rsa.RSAPublicKey, plain: bytes) -> bytes:
    """Wrap ``plain`` (1 byte to 2^32) for ``key``. Raises ``ValueError`` for an empty plaintext."""
    if not plain:
        raise ValueError("RFC 5649 cannot wrap an empty plaintext")
    fresh = os.urandom(32)
    return key.encrypt(fresh, _OAEP) + aes_key_wrap_with_padding(fresh, plain)


def unwrap(key: rsa.RSAPrivateKey, blob: bytes) -> Secret:
    """Undo :func:`wrap`.

    Raises:
        Refused: ``UnwrapFailed`` when the blob was not wrapped for this key or was changed.
    """
    size = (key.key_size + 7) // 8
    try:
        return Secret(aes_key_unwrap_with_padding(key.decrypt(blob[:size], _OAEP), blob[size:]))
    except (ValueError, InvalidUnwrap) as error:
        raise Refused(
            "UnwrapFailed",
            f"The answer ({len(blob)} bytes) is not wrapped for this clean room's key, or it was changed on the way.",
            party="operator",
        ) from error
