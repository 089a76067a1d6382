"""The keys of the payload codec: the current key encrypts, and retired keys still decrypt old histories.

The keyring file has mode 0600::

    {"current": "5d1c…", "keys": {"5d1c…": "<base64, 32 bytes>", "a07f…": "<base64, 32 bytes>"}}

The ID of a generated key is its fingerprint, so two keyrings never use one ID for two keys, and an ID in a history says which key it needs.

To rotate, first add a key without making it current and restart all processes. Then make it current and restart them again: every
process must have the key before one of them encrypts with it. A retired key can be removed when no history that it encrypted is left.
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

from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed
from cleanroom.secret import Secret, read_secret_file, write_secret_file

KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def fingerprint(key: Secret) -> str:
    """Return the ID of a key: 16 hex digits that HKDF-SHA256 derives from it, from which the key cannot be computed."""
    return HKDF(hashes.SHA256(), 8, salt=None, info=b"cleanroom payload codec key id v1").derive(key.reveal()).hex()


class KeyringMissing(LookupError):
    """This process has no keyring and received an encrypted payload.

    It is not a :class:`~cleanroom.errors.CleanRoomError`, because that would fail a workflow, and a worker that was started without its
    keyring must only delay it.
    """


class CodecKeyUnknown(KeyringMissing):
    """This process has a keyring without the key of a payload. The arguments are message and hint."""


class Keyring:
    """Named AES-256 keys. The ``repr`` shows key IDs only, and a keyring cannot be pickled.

    Args:
        current: The ID of the key that encrypts.
        keys: 32 secret bytes by key ID.

    Raises:
        InvalidInput: ``KeyringMalformed`` for an invalid ID, a wrong length, or a current ID without a key.
    """

    __slots__ = ("_ciphers", "_keys", "current")

    def __init__(self, current: str, keys: Mapping[str, Secret]) -> None:
        for key_id, key in keys.items():
            if not isinstance(key_id, str) or not _KEY_ID.match(key_id):
                raise _malformed("a key ID must have 1 to 64 characters out of letters, digits, '.', '_' and '-'")
            if len(key) != KEY_BYTES:
                raise _malformed(f"the key {key_id!r} has {len(key)} bytes instead of {KEY_BYTES}")
        if current not in keys:
            raise _malformed(f"the current key {str(current)[:64]!r} is not among the keys")
        self.current = current
        self._keys = dict(keys)
        self._ciphers: dict[tuple[str, str], AESGCM] = {}

    @classmethod
    def generate(cls, key_id: str | None = None) -> Self:
        """Create a keyring with one random key; its ID is by default its fingerprint."""
        key = Secret(os.urandom(KEY_BYTES))
        key_id = key_id or fingerprint(key)
        return cls(key_id, {key_id: key})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a keyring file.

        Raises:
            NotFound, Refused: As :func:`cleanroom.secret.read_secret_file` (missing file, unsafe mode).
            InvalidInput: ``KeyringMalformed``. The message never quotes the file.
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

    def rotated(self, key_id: str | None = None, *, make_current: bool = True) -> Keyring:
        """Return a copy with one more random key; its ID is by default its fingerprint."""
        key = Secret(os.urandom(KEY_BYTES))
        key_id = key_id or fingerprint(key)
        if key_id in self._keys:
            raise _malformed(f"the key {key_id!r} already exists, and a key ID must not be reused")
        keys = {**self._keys, key_id: key}
        return Keyring(key_id if make_current else self.current, keys)

    def using(self, key_id: str) -> Keyring:
        """Return a copy whose current key is ``key_id``.

        Raises:
            NotFound: ``CodecKeyNotFound``.
        """
        if key_id not in self._keys:
            known = ", ".join(self._keys)
            raise NotFound("CodecKeyNotFound", f"the keyring has no key {key_id[:64]!r}.", hint=f"Its keys: {known}. `--add` adds one.")
        return Keyring(key_id, self._keys)

    def private_label(self, purpose: str) -> str:
        """Return 20 hex digits that only holders of this keyring know, for a name that must not be guessed. Rotation keeps it."""
        first = next(iter(self._keys.values()))
        info = b"cleanroom private label v1\0" + purpose.encode()
        return HKDF(hashes.SHA256(), 10, salt=None, info=info).derive(first.reveal()).hex()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All key IDs, including the current one."""
        return tuple(self._keys)

    def cipher(self, key_id: str, namespace: str) -> AESGCM:
        """Return the AES-256-GCM cipher of a key for a namespace.

        The key is derived per namespace with HKDF-SHA256 (RFC 5869). So several namespaces can share a keyring file without sharing
        nonces, and a payload that was moved to another namespace cannot be decrypted there.

        Raises:
            PreconditionFailed: ``CodecKeyUnknown``, retryable: the operator must add the retired key to the keyring file.
        """
        cipher = self._ciphers.get((key_id, namespace))
        if cipher is None:
            key = self._keys.get(key_id)
            if key is None:
                raise PreconditionFailed(
                    "CodecKeyUnknown",
                    f"A payload is encrypted with the codec key {key_id[:64]!r}, which is not in this keyring ({', '.join(self._keys)}).",
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
        raise TypeError("a Keyring cannot be pickled or copied")


def _malformed(what: str) -> InvalidInput:
    return InvalidInput("KeyringMalformed", f"codec keyring: {what}.", hint="Create a keyring with `cleanroom codec-keys FILE`.")
