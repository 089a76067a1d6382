"""The owner's local key store: one file of mode 0600 per dataset key, in folders of mode 0700 below ``Settings.keys_dir``."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cleanroom.datasets.encryption import (
    dataset_key_from_tink,
    dataset_key_to_tink,
    decode_dataset_key,
    encode_dataset_key,
    generate_dataset_key,
)
from cleanroom.errors import Conflict, NotFound
from cleanroom.identifiers import require_name
from cleanroom.joining import hashed
from cleanroom.secret import Secret, make_private_folder, read_secret_file, require_private_folder

_SUFFIX = ".dataset-key"
_WRAPPINGS = ".dataset-key-wrappings"


class KeyStore:
    """The dataset keys of one owner for one collaboration, on the owner's machine, each in base64 in its own file.

    Each collaboration has its own folder, so two datasets of one name in two collaborations never share a key.

    Args:
        folder: The owner's folder of keys. Created with mode 0700 if it does not exist.
        collaboration: The contract ID.
    """

    def __init__(self, folder: Path, collaboration: str) -> None:
        self._root = folder.expanduser()
        self._folder = self._root / hashed("key-store", collaboration, prefix="keys", max_length=100, readable=collaboration)

    def path(self, dataset: str) -> Path:
        """Return the path of the key file of ``dataset``, whether it exists or not."""
        return self._folder / f"{require_name('dataset', dataset)}{_SUFFIX}"

    def get(self, dataset: str) -> Secret:
        """Return the key of ``dataset``.

        Raises:
            NotFound: ``DatasetKeyNotFound``.
            Refused: ``KeyStoreTooOpen``, ``SecretFileTooOpen`` if other users could read the key.
            InvalidInput: ``DatasetKeyMalformed``.
        """
        self._check_folder()
        path = self.path(dataset)
        if not path.exists():
            raise NotFound(
                "DatasetKeyNotFound",
                f"dataset {dataset!r}: key file {path} does not exist.",
                hint="Upload the dataset first, or import its key.",
            )
        return decode_dataset_key(Secret(read_secret_file(path, what=f"key of dataset {dataset!r}").reveal().strip()))

    def get_or_create(self, dataset: str) -> Secret:
        """Return the key of ``dataset``; create it if it does not exist. Concurrent callers get the same key.

        Raises:
            As :meth:`get`.
        """
        if not self.path(dataset).exists():
            with contextlib.suppress(Conflict):  # a concurrent caller created it first
                self._create(dataset, generate_dataset_key())
        return self.get(dataset)

    def put(self, dataset: str, key: Secret) -> None:
        """Store a key that was created elsewhere.

        Raises:
            Conflict: ``DatasetKeyExists`` if another key exists. Overwriting it would lose everything that it sealed.
        """
        try:
            self._create(dataset, key)
        except Conflict:
            if self.get(dataset) != key:
                raise

    def remember_wrapping(self, dataset: str, wrapped: str) -> None:
        """Record that ``wrapped`` is the wrapped key of ``dataset``.

        OAEP (RFC 8017) is randomised, so a wrapped key cannot be recognised by wrapping the key again.
        """
        self._check_folder()
        path = self.path(dataset).with_suffix(_WRAPPINGS)
        # A single short write in append mode is atomic, so concurrent writes do not interleave. On a full disk a write can be torn, so
        # the line starts with its own newline.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as handle:
            handle.write(b"\n" + wrapped.encode("ascii") + b"\n")
            handle.flush()
            os.fsync(handle.fileno())

    def wrappings(self, dataset: str) -> frozenset[str]:
        """Return every recorded wrapping of the key of ``dataset``."""
        path = self.path(dataset).with_suffix(_WRAPPINGS)
        return frozenset(path.read_text("ascii").split()) if path.exists() else frozenset()

    def export_tink(self, dataset: str) -> Secret:
        """Return the key of ``dataset`` as a cleartext Tink keyset in JSON.

        Public API without a command: an owner opens her objects with any Tink library, as ``AES256_GCM_HKDF_1MB``
        streaming AEAD with :func:`cleanroom.identifiers.object_context` as associated data
        (https://developers.google.com/tink/streaming-aead).

        Raises:
            As :meth:`get`.
        """
        return dataset_key_to_tink(self.get(dataset))

    def import_tink(self, dataset: str, keyset: Secret) -> None:
        """Store the primary key of a cleartext Tink keyset in JSON as the key of ``dataset``.

        Public API without a command: an owner publishes objects that she sealed with a Tink library herself, with
        ``manifest: optional``.

        Raises:
            InvalidInput: ``TinkKeysetUnsupported``.
            Conflict: As :meth:`put`.
        """
        self.put(dataset, dataset_key_from_tink(keyset))

    def _create(self, dataset: str, key: Secret) -> None:
        path = self.path(dataset)
        make_private_folder(self._folder)
        self._check_folder()
        # Write to a temporary name and link it, so that the file appears complete or not at all.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as handle:
                handle.write(encode_dataset_key(key).reveal() + b"\n")
                handle.flush()
                os.fsync(handle.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise Conflict(
                    "DatasetKeyExists",
                    f"dataset {dataset!r}: {path} already contains a key.",
                    hint="Data sealed with that key cannot be opened with another. Move the file away only if no such data exists.",
                ) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _check_folder(self) -> None:
        for folder in (self._root, self._folder):
            require_private_folder(folder)
