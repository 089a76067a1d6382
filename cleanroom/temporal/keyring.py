"""The keys of the payload codec: one current key that seals, and retired keys that still open old histories.

File (mode 0600, read with :func:`cleanroom.secret.read_secret_file`)::

    {"current": "2026-11", "keys": {"2026-11": "<base64, 32 bytes>", "2026-05": "<base64, 32 bytes>"}}

To rotate: :meth:`Keyring.rotated`, write the file, restart the workers (all processes must hold the new key before one of them seals with
it: add it first, make it current afterwards). A retired key may be removed once no history sealed under it is kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cleanroom.errors import InvalidInput, PreconditionFailed
from cleanroom.secret import Secret, read_secret_file, write_secret_file

KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Keyring:
    """Named AES-256 keys. Holds secrets: its ``repr`` shows key ids only, and it cannot be pickled.

    Args:
        current: The id of the key that seals.
        keys: Key id to 32 secret bytes.

    Raises:
        InvalidInput: ``KeyringMalformed`` for a bad id, a wrong length, or a current id without its key.
    """

    __slots__ = ("_ciphers", "_keys", "current")

    def __init__(self, current: str, keys: Mapping[str, Secret]) -> None:
        for key_id, key in keys.items():
            if not isinstance(key_id, str) or not _KEY_ID.match(key_id):
                raise _malformed("a key id must be 1 to 64 of letters, digits, '.', '_' and '-'")
            if len(key) != KEY_BYTES:
                raise _malformed(f"the key {key_id!r} has {len(key)} bytes instead of {KEY_BYTES}")
        if current not in keys:
            raise _malformed(f"the current key {str(current)[:64]!r} is not among the keys")
        self.current = current
        self._keys = dict(keys)
        self._ciphers: dict[tuple[str, str], AESGCM] = {}

    @classmethod
    def generate(cls, key_id: str = "k1") -> Self:
        """A keyring with one new random key."""
        return cls(key_id, {key_id: Secret(os.urandom(KEY_BYTES))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a keyring file.

        Raises:
            NotFound, Refused: As :func:`cleanroom.secret.read_secret_file` (missing file, unsafe mode).
            InvalidInput: ``KeyringMalformed``; the message never holds the file's content.
        """
        try:
            document: Any = json.loads(read_secret_file(path, what="codec keyring").reveal())
            current, keys = document["current"], document["keys"]
            decoded = {key_id: Secret(base64.b64decode(text, validate=True)) for key_id, text in keys.items()}
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            raise _malformed(f"{path} is not JSON of the form {{current, keys: {{id: base64}}}}") from None
        return cls(current, decoded)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the keyring file atomically with mode 0600."""
        keys = {key_id: base64.b64encode(key.reveal()).decode() for key_id, key in self._keys.items()}
        write_secret_file(Path(path), json.dumps({"current": self.current, "keys": keys}, indent=2).encode() + b"\n")

    def rotated(self, key_id: str, *, make_current: bool = True) -> Keyring:
        """A copy with one more random key, which becomes the current one unless told otherwise."""
        if key_id in self._keys:
            raise _malformed(f"there is a key {key_id!r} already; a key id is never used twice")
        keys = {**self._keys, key_id: Secret(os.urandom(KEY_BYTES))}
        return Keyring(key_id if make_current else self.current, keys)

    def using(self, key_id: str) -> Keyring:
        """A copy whose current key is ``key_id``, one of its keys."""
        return Keyring(key_id, self._keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All key ids, the current one included."""
        return tuple(self._keys)

    def cipher(self, key_id: str, namespace: str) -> AESGCM:
        """The AES-256-GCM cipher of a key in a namespace.

        Each namespace has its own key, HKDF-SHA256 (RFC 5869) of the named one, so that one keyring file serves several collaborations
        without sharing a nonce space, and a payload carried to another namespace does not open there.

        Raises:
            PreconditionFailed: ``CodecKeyUnknown``, retryable: the operator must add the retired key to the keyring file.
        """
        cipher = self._ciphers.get((key_id, namespace))
        if cipher is None:
            key = self._keys.get(key_id)
            if key is None:
                raise PreconditionFailed(
                    "CodecKeyUnknown",
                    f"a payload is sealed under the codec key {key_id[:64]!r}, which this keyring does not hold "
                    f"(it holds {', '.join(self._keys)}).",
                    hint="Add the retired key to the keyring file and restart this process.",
                    party="operator",
                    retryable=True,
                )
            derived = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"cleanroom payload codec v1\0" + namespace.encode()).derive(
                key.reveal()
            )
            cipher = AESGCM(derived)
            if len(self._ciphers) >= 1024:
                self._ciphers.clear()
            self._ciphers[(key_id, namespace)] = cipher
        return cipher

    def __repr__(self) -> str:
        return f"Keyring(current={self.current!r}, key_ids={self.key_ids!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a Keyring refuses to be pickled or copied")


def _malformed(what: str) -> InvalidInput:
    return InvalidInput("KeyringMalformed", f"codec keyring: {what}.", hint="Make one with `cleanroom codec-keys FILE`.")
