"""One small protocol over the object stores: Azure Blob Storage (:mod:`cleanroom.clients.blob`) and S3 (:mod:`cleanroom.clients.s3`).

A store is one dataset's place: an account's container or a bucket, below an optional prefix. Keys are relative to that prefix, so that
nothing outside of it can be named. Synchronous and safe to use from several threads.
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
"""Bytes of one part of an upload; what a store holds in memory."""

Source = bytes | BinaryIO | Iterable[bytes]
"""What can be uploaded: bytes, a binary file, or an iterator of pieces."""

Progress = Callable[[int], None]
"""Called with the number of bytes uploaded so far."""


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object; ``key`` is relative to the store's prefix, ``size`` in bytes."""

    key: str
    size: int
    etag: str
    last_modified: datetime | None


@dataclass(frozen=True)
class Stored:
    """What an upload wrote: bytes, and their SHA-256 in lower-case hex."""

    key: str
    size: int
    sha256: str


@runtime_checkable
class ObjectStore(Protocol):
    """Objects of one dataset.

    Errors of every method: :class:`cleanroom.errors.NotFound` (``BlobNotFound``, ``ContainerNotFound``, ``NoSuchKey``, ``NoSuchBucket``),
    :class:`~cleanroom.errors.PreconditionFailed` where the credential is refused, :class:`~cleanroom.errors.Unavailable` where the service
    cannot be reached or asks to wait, :class:`~cleanroom.errors.InvalidInput` (``InvalidObjectKey``).
    """

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with ``prefix``, in the order of their keys."""

    def size(self, key: str) -> int:
        """Size in bytes."""

    def exists(self, key: str) -> bool:
        """Whether the object is there; an unreachable service raises."""

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer where the object ends, none where it has ended."""

    def read(self, key: str) -> bytes:
        """The whole object."""

    def put(self, key: str, source: Source, *, overwrite: bool = True, on_progress: Progress | None = None) -> Stored:
        """Write the object whole or not at all.

        Raises:
            Conflict: when it exists and ``overwrite`` is False.
        """

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens when it is not there."""

    def close(self) -> None:
        """Close connections."""


class BoundedReads(ABC):
    """What every store answers in the same way: whether there is an object, and reads outside of one."""

    @abstractmethod
    def size(self, key: str) -> int: ...

    @abstractmethod
    def _read_within(self, key: str, offset: int, length: int) -> bytes:
        """``length`` > 0 bytes from ``offset`` >= 0; raises ``InvalidRange`` where the object has ended before."""

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFound:
            # A HEAD has no body to say which is missing, the object or its container; either way there is no such object.
            return False
        return True

    def read_range(self, key: str, offset: int, length: int) -> bytes:
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
    """``key`` if it is relative and normalised.

    Raises:
        InvalidInput: ``InvalidObjectKey`` for an empty key, a leading slash, empty, ``.`` or ``..`` parts, backslashes, control characters.
    """
    if not key or _CONTROL.search(key) or any(part in ("", ".", "..") for part in key.split("/")) or len(key.encode()) > 1024:
        raise InvalidInput(
            "InvalidObjectKey",
            f"{what}: {key!r} is not a normalised object key.",
            hint="Use 'folder/name', without '..', '//' or a leading '/'.",
        )
    return key


def require_prefix(prefix: str) -> str:
    """A store's prefix, normalised to ``""`` or ``"folder/"``.

    Raises:
        InvalidInput: ``InvalidObjectKey``.
    """
    return f"{require_key(prefix.removesuffix('/'), what='prefix')}/" if prefix else ""


def require_list_prefix(prefix: str) -> str:
    """The prefix of a listing: any beginning of a valid key.

    Raises:
        InvalidInput: ``InvalidObjectKey``.
    """
    if prefix:
        require_key(f"{prefix}x" if prefix.endswith("/") else prefix, what="prefix")
    return prefix


class Digesting(io.RawIOBase):
    """A source as a readable stream that counts and hashes what passes."""

    def __init__(self, source: Source) -> None:
        self._pieces = iter([source]) if isinstance(source, bytes) else _pieces(source)
        self._rest = b""
        self._hash = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, exactly ``size`` unless the source ends; b"" at its end."""
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
        """SHA-256 of what was read."""
        return self._hash.hexdigest()


def _pieces(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    if hasattr(source, "read"):
        while piece := source.read(BLOCK_BYTES):
            yield piece
        return
    for piece in source:
        if piece:
            yield bytes(piece)
