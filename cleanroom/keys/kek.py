"""Data encryption keys (DEK) wrapped with a key encryption key (KEK), in the format of the clean-room samples: RSA-OAEP-SHA-256.

A DEK of 32 bytes fits into one OAEP block. Longer data, such as a serialised keyset, is wrapped in the RSA-OAEP-AES-KWP layout of
:mod:`cleanroom.keys.wrap`. The length of the result tells which of the two it is. See ``docs/facts/key-release.md#dataset-keys``.
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
    """Wrap a DEK. The result is standard base64, and can be published in a dataset descriptor.

    Raises:
        InvalidInput: ``WrappingKeyTooSmall`` for less than 2048 bits, ``NothingToWrap``.
    """
    if kek.key_size < MINIMUM_RSA_BITS:
        raise InvalidInput("WrappingKeyTooSmall", f"KEK: a {kek.key_size}-bit RSA key is too small; use {MINIMUM_RSA_BITS} bits or more.")
    size = (kek.key_size + 7) // 8
    if 0 < len(data_key) <= size - _OVERHEAD:
        return base64.b64encode(kek.encrypt(data_key.reveal(), _OAEP)).decode("ascii")
    return base64.b64encode(wrap_key(kek, data_key.reveal(), KeyWrapAlgorithm.RSA_OAEP_AES_KWP)).decode("ascii")


def unwrap_data_key(kek: rsa.RSAPrivateKey, wrapped: str) -> Secret:
    """Unwrap the result of :func:`wrap_data_key`.

    Raises:
        InvalidInput: ``InvalidWrappedKey`` if the text is not base64.
        Refused: ``KeyUnwrapFailed`` for another KEK or damaged text.
    """
    try:
        blob = base64.b64decode(wrapped, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("InvalidWrappedKey", "wrapped key: it is not standard base64.") from error
    size = (kek.key_size + 7) // 8
    if len(blob) > size:
        return Secret(unwrap_key(kek, blob, KeyWrapAlgorithm.RSA_OAEP_AES_KWP))
    try:
        return Secret(kek.decrypt(blob, _OAEP))
    except ValueError:
        raise Refused(
            "KeyUnwrapFailed",
            f"wrapped key: {len(blob)} bytes do not unwrap with this RSA-{kek.key_size} KEK; wrapped with another key, or damaged.",
        ) from None
