"""The protocol of object stores, which Azure Blob Storage (:mod:`cleanroom.clients.blob`) and S3 (:mod:`cleanroom.clients.s3`) implement.

A store is the location of one dataset: a container or bucket, and an optional prefix. Keys are relative to the prefix, so that they cannot
name anything outside it. Stores are synchronous and thread-safe.
"""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol, runtime_checkable

from cleanroom.errors import InvalidInput, NotFound

BLOCK_BYTES = 8 << 20
"""Bytes of one part of an upload, which a store holds in memory."""

Source = bytes | BinaryIO | Iterable[bytes]
"""Content of an upload: bytes, a binary file, or an iterator of pieces."""

Progress = Callable[[int], None]
"""Called with the number of bytes uploaded so far."""


@dataclass(frozen=True)
class ObjectInfo:
    """A stored object. ``key`` is relative to the store's prefix, and ``size`` is in bytes."""

    key: str
    size: int
    etag: str
    last_modified: datetime | None


@dataclass(frozen=True)
class Stored:
    """The result of an upload: size in bytes, and SHA-256 in lower-case hex."""

    key: str
    size: int
    sha256: str


@runtime_checkable
class ObjectStore(Protocol):
    """The objects of one dataset.

    All methods raise :class:`~cleanroom.errors.NotFound` (``BlobNotFound``, ``ContainerNotFound``, ``NoSuchKey``, ``NoSuchBucket``),
    :class:`~cleanroom.errors.PreconditionFailed` if the service rejects the credential, :class:`~cleanroom.errors.Unavailable` if it
    cannot be reached or throttles, and :class:`~cleanroom.errors.InvalidInput` (``InvalidObjectKey``).
    """

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``, ordered by key."""

    def size(self, key: str) -> int:
        """Return the size in bytes."""

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes from ``offset``: fewer at the end of the object, none beyond it."""

    def read(self, key: str) -> bytes:
        """Read the whole object."""

    def put(self, key: str, source: Source, *, overwrite: bool = True, on_progress: Progress | None = None) -> Stored:
        """Write the object completely or not at all.

        Args:
            key: The object's key.
            source: The content.
            overwrite: Whether to replace an existing object.
            on_progress: Called with the number of bytes uploaded so far.

        Raises:
            Conflict: It exists and ``overwrite`` is false.
        """

    def delete(self, key: str) -> None:
        """Delete the object. A missing one is not an error."""

    def close(self) -> None:
        """Close the connections."""


class BoundedReads(ABC):
    """Shared behavior of stores: existence checks, and reads outside an object."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the size in bytes."""

    @abstractmethod
    def _read_within(self, key: str, offset: int, length: int) -> bytes:
        """Read ``length`` > 0 bytes from ``offset`` >= 0. Raises ``InvalidRange`` beyond the end of the object."""

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        try:
            self.size(key)
        except NotFound:
            # The response to HEAD does not tell whether the object or its container is missing. Either way, the object is.
            return False
        return True

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes from ``offset``: fewer at the end of the object, none beyond it."""
        if offset < 0 or length < 0:
            raise InvalidInput("InvalidRange", f"range: offset {offset} and length {length} must not be negative.")
        if length == 0:
            return b""
        try:
            return self._read_within(key, offset, length)
        except InvalidInput as error:
            if error.code == "InvalidRange":
                return b""
            raise


_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def require_key(key: str, *, what: str = "key") -> str:
    """Return ``key`` if it is relative and normalised.

    Raises:
        InvalidInput: ``InvalidObjectKey`` for an empty key, empty, ``.`` or ``..`` segments, backslashes or control characters.
    """
    if not key or _CONTROL.search(key) or any(part in ("", ".", "..") for part in key.split("/")) or len(key.encode()) > 1024:
        raise InvalidInput(
            "InvalidObjectKey",
            f"{what}: {key!r} is not a normalised object key.",
            hint="Use 'folder/name', without '..', '//' or a leading '/'.",
        )
    return key


def require_prefix(prefix: str) -> str:
    """Normalise a store's prefix to ``""`` or ``"folder/"``.

    Raises:
        InvalidInput: ``InvalidObjectKey``.
    """
    return f"{require_key(prefix.removesuffix('/'), what='prefix')}/" if prefix else ""


def require_list_prefix(prefix: str) -> str:
    """Return the prefix of a listing, which may be any beginning of a valid key.

    Raises:
        InvalidInput: ``InvalidObjectKey``.
    """
    if prefix:
        require_key(f"{prefix}x" if prefix.endswith("/") else prefix, what="prefix")
    return prefix


class Digesting(io.RawIOBase):
    """Presents a source as a readable stream, and counts and hashes the bytes."""

    def __init__(self, source: Source) -> None:
        self._pieces = iter([source]) if isinstance(source, bytes) else _pieces(source)
        self._rest = b""
        self._hash = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read exactly ``size`` bytes, fewer at the end of the source, or everything for -1."""
        taken: list[bytes] = []
        missing = size if size >= 0 else None
        while missing is None or missing > 0:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    break
            piece = self._rest if missing is None else self._rest[:missing]
            self._rest = self._rest[len(piece) :]
            taken.append(piece)
            if missing is not None:
                missing -= len(piece)
        data = taken[0] if len(taken) == 1 else b"".join(taken)
        self._hash.update(data)
        self.size += len(data)
        return data

    def hexdigest(self) -> str:
        """Return the SHA-256 of the bytes that were read."""
        return self._hash.hexdigest()


def _pieces(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    if hasattr(source, "read"):
        while piece := source.read(BLOCK_BYTES):
            yield piece
        return
    for piece in source:
        if piece:
            yield bytes(piece)
