"""The protocol of object stores, which Azure Blob Storage (:mod:`cleanroom.clients.blob`) and S3 (:mod:`cleanroom.clients.s3`) implement.

A store is the location of one dataset: a container or bucket, and an optional prefix. Keys are relative to the prefix, so that they cannot
name anything outside it. Stores are synchronous and thread-safe.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol, Self, runtime_checkable

from cleanroom.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, Unavailable

BLOCK_BYTES = 8 << 20
"""Bytes of one part of an upload, which a store holds in memory. Parts of a very large object are larger; see :class:`UploadLimits`."""

_MIB = 1 << 20

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


class StagedUpload(Protocol):
    """An object that is being written, and that readers see when :meth:`commit` returns.

    A context manager that aborts the upload unless it was committed. See :class:`cleanroom.clients.uploads.PartedUpload`.
    """

    def write(self, data: bytes) -> None:
        """Add bytes."""

    def flush(self) -> None:
        """Send everything that was written. Nothing may be written afterwards."""

    def commit(self) -> None:
        """Make the object visible."""

    def abort(self) -> None:
        """Drop what was sent."""

    def __enter__(self) -> Self:
        """Return the upload."""

    def __exit__(self, *error: object) -> None:
        """Abort the upload unless it was committed."""


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

    def read_range(self, key: str, offset: int, length: int, *, etag: str = "") -> bytes:
        """Read up to ``length`` bytes from ``offset``: fewer at the end of the object, none beyond it.

        Args:
            key: The object's key.
            offset: The first byte.
            length: The number of bytes.
            etag: The version to read, as in :class:`ObjectInfo`; any if it is empty.

        Raises:
            Conflict: ``ObjectChanged`` if the object has another ETag.
            PreconditionFailed: ``RangeIgnored`` if the server sends the whole object instead of the range.
            Unavailable: ``RangeAnswerWrong`` if it sends another range, or not all of it.
        """

    def read(self, key: str) -> bytes:
        """Read the whole object."""

    def put(self, key: str, source: Source, *, overwrite: bool = True, on_progress: Progress | None = None) -> Stored:
        """Write the object completely or not at all.

        Args:
            key: The object's key.
            source: The content. The parts of the upload depend on its size if :func:`source_size` knows it.
            overwrite: Whether to replace an existing object.
            on_progress: Called with the number of bytes uploaded so far.

        Raises:
            Conflict: It exists and ``overwrite`` is false.
            InvalidInput: ``ObjectTooLarge``, before anything is sent if the size is known.
        """

    def stage(self, key: str, size: int | None = None, *, overwrite: bool = True, on_progress: Progress | None = None) -> StagedUpload:
        """Begin to write an object, as :meth:`put` does. The parts depend on ``size``, the number of its bytes, if that is known.

        Raises:
            Conflict, InvalidInput: As :meth:`put`.
        """

    def delete(self, key: str) -> None:
        """Delete the object. A missing one is not an error."""

    def close(self) -> None:
        """Close the connections."""


class StoreBase(ABC):
    """Shared behavior of stores: existence checks, reads outside an object, and writes from a source."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the size in bytes."""

    @abstractmethod
    def _read_within(self, key: str, offset: int, length: int, etag: str) -> bytes:
        """Read ``length`` > 0 bytes from ``offset`` >= 0. Raises ``InvalidRange`` beyond the end of the object."""

    @abstractmethod
    def stage(self, key: str, size: int | None = None, *, overwrite: bool = True, on_progress: Progress | None = None) -> StagedUpload:
        """Begin to write an object; see :class:`ObjectStore`."""

    def put(self, key: str, source: Source, *, overwrite: bool = True, on_progress: Progress | None = None) -> Stored:
        """Write an object; see :class:`ObjectStore`."""
        with self.stage(key, source_size(source), overwrite=overwrite, on_progress=on_progress) as upload:
            size, digest = 0, hashlib.sha256()
            for piece in source_pieces(source):
                digest.update(piece)
                size += len(piece)
                upload.write(piece)
            upload.commit()
        return Stored(key, size, digest.hexdigest())

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        try:
            self.size(key)
        except NotFound:
            # The response to HEAD does not tell whether the object or its container is missing. Either way, the object is.
            return False
        return True

    def read_range(self, key: str, offset: int, length: int, *, etag: str = "") -> bytes:
        """Read a range; see :class:`ObjectStore`."""
        if offset < 0 or length < 0:
            raise InvalidInput("InvalidRange", f"range: offset {offset} and length {length} must not be negative.")
        if length == 0:
            return b""
        try:
            return self._read_within(key, offset, length, etag)
        except InvalidInput as error:
            if error.code == "InvalidRange":
                return b""
            raise


_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def plain_etag(value: str | None) -> str:
    """Return an ETag without quotes and without the mark of a weak one, because listings and answers spell it differently."""
    return (value or "").removeprefix("W/").strip('"')


def check_range(where: str, status: int, headers: Mapping[str, str | None], first: int, last: int, etag: str) -> int:
    """Check an answer to a request for the bytes ``first`` to ``last`` (inclusive), and return the number of bytes that it has.

    A proxy or a server may ignore the header ``Range`` (RFC 9110, section 14.2).

    Args:
        where: The object, for error messages.
        status: The status of a successful answer.
        headers: Its headers ``content-range`` and ``etag``, in lower case.
        first: The first byte.
        last: The last byte. The answer may end earlier if the object does.
        etag: The expected ETag; any if it is empty.

    Raises:
        Conflict, PreconditionFailed, Unavailable: As :meth:`ObjectStore.read_range`.
    """
    found = plain_etag(headers.get("etag"))
    if etag and found and found != etag:
        raise object_changed(where)
    text = headers.get("content-range") or ""
    match = _CONTENT_RANGE.fullmatch(text)
    if status != 206 or match is None:
        raise PreconditionFailed(
            "RangeIgnored",
            f"Could not read bytes {first}-{last} of {where}: the answer (HTTP {status}) is not a range.",
            cause=f"Content-Range: {text or 'absent'}",
            hint="A server or a proxy in between ignores the header Range. Use one that serves ranges.",
        )
    begin, end = int(match[1]), int(match[2])
    whole = last if match[3] == "*" else min(last, int(match[3]) - 1)
    if begin != first or end > last or (match[3] != "*" and end != whole):
        raise Unavailable("RangeAnswerWrong", f"Could not read bytes {first}-{last} of {where}: the answer has bytes {begin}-{end}.")
    return end - begin + 1


def require_length(where: str, data: bytes, length: int) -> bytes:
    """Return ``data`` if it has ``length`` bytes.

    Raises:
        Unavailable: ``RangeAnswerWrong``.
    """
    if len(data) != length:
        raise Unavailable("RangeAnswerWrong", f"Could not read {where}: the answer announces {length} bytes and has {len(data)}.")
    return data


def object_changed(where: str, cause: str | None = None) -> Conflict:
    """Return the error for an object that was replaced while it was read."""
    return Conflict(
        "ObjectChanged", f"{where} was replaced while it was read.", cause=cause, hint="Read again when no upload is in progress."
    )


def source_size(source: Source) -> int | None:
    """Return the number of bytes of a source: of bytes, of a stream with an attribute ``total_size``, or of the rest of a file."""
    if isinstance(source, bytes):
        return len(source)
    total: int | None = getattr(source, "total_size", None)
    if total is None and isinstance(source, io.IOBase) and source.seekable():
        start = source.tell()
        total = source.seek(0, io.SEEK_END) - start
        source.seek(start)
    return total


@dataclass(frozen=True)
class UploadLimits:
    """What a store accepts: the number of parts of an upload, and the bytes of a part and of an object."""

    parts: int
    largest_part: int
    largest_object: int

    def part_bytes(self, size: int | None, where: str) -> int:
        """Return the bytes of a part: :data:`BLOCK_BYTES`, or more if the object has more such parts than the store accepts.

        Args:
            size: The bytes of the object, or None if they are not known.
            where: The object, for error messages.

        Raises:
            InvalidInput: ``ObjectTooLarge``.
        """
        if size is not None and size > self.largest_object:
            raise too_large(where, self.largest_object)
        part = max(BLOCK_BYTES, math.ceil((size or 0) / self.parts / _MIB) * _MIB)
        if part > self.largest_part:
            raise too_large(where, self.parts * self.largest_part)
        return part


def too_large(where: str, limit: int) -> InvalidInput:
    """Return the error for an object of more than ``limit`` bytes."""
    return InvalidInput(
        "ObjectTooLarge",
        f"Could not write {where}: it has more than {limit} bytes, which is the limit of one object.",
        hint="Split the file into several files.",
    )


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


def source_pieces(source: Source) -> Iterator[bytes]:
    """Yield the content of an upload in pieces."""
    if isinstance(source, bytes):
        yield source
    elif hasattr(source, "read"):
        while piece := source.read(_MIB):
            yield piece
    else:
        yield from map(bytes, filter(None, source))
