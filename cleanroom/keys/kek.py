"""Data keys (DEK) under a key encryption key (KEK): RSA-OAEP-SHA-256, as the upstream clean room stores them.

A DEK of 32 bytes is one OAEP block. Anything that does not fit one block (a serialised keyset under an RSA-2048 KEK) takes the
RSA-OAEP-AES-KWP layout of :mod:`cleanroom.keys.wrap`; the two are told apart by length, which is unambiguous.
"""

from __future__ import annotations

import base64
import binascii

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.errors import InvalidInput, Refused
from cleanroom.keys.wrap import MINIMUM_RSA_BITS, KeyWrapAlgorithm, unwrap_key, wrap_key
from cleanroom.secret import Secret

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_OVERHEAD = 2 * 32 + 2


def wrap_data_key(kek: rsa.RSAPublicKey, data_key: Secret) -> str:
    """Wrap a DEK; the result is standard base64, safe to publish in a dataset descriptor.

    Raises:
        InvalidInput: ``WrappingKeyTooSmall`` under 2048 bits, ``NothingToWrap``.
    """
    if kek.key_size < MINIMUM_RSA_BITS:
        raise InvalidInput("WrappingKeyTooSmall", f"KEK: a {kek.key_size}-bit RSA key is too small; use {MINIMUM_RSA_BITS} bits or more.")
    size = (kek.key_size + 7) // 8
    if 0 < len(data_key) <= size - _OVERHEAD:
        return base64.b64encode(kek.encrypt(data_key.reveal(), _OAEP)).decode("ascii")
    return base64.b64encode(wrap_key(kek, data_key.reveal(), KeyWrapAlgorithm.RSA_OAEP_AES_KWP)).decode("ascii")


def unwrap_data_key(kek: rsa.RSAPrivateKey, wrapped: str) -> Secret:
    """Undo :func:`wrap_data_key`.

    Raises:
        InvalidInput: ``InvalidWrappedKey`` when the text is not base64.
        Refused: ``KeyUnwrapFailed`` for another KEK or a damaged wrap.
    """
    try:
        blob = base64.b64decode(wrapped, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("InvalidWrappedKey", "wrapped key: it is not standard base64.") from error
    size = (kek.key_size + 7) // 8
    if len(blob) > size:
        return Secret(unwrap_key(kek, blob, KeyWrapAlgorithm.RSA_OAEP_AES_KWP))
    try:
        if len(blob) != size:
            raise ValueError("length")
        return Secret(kek.decrypt(blob, _OAEP))
    except ValueError:
        raise Refused(
            "KeyUnwrapFailed",
            f"wrapped key: {len(blob)} bytes do not unwrap with this RSA-{kek.key_size} KEK; it is another key's, or damaged.",
        ) from None
