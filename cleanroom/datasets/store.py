"""What datasets need of an object store. The real ones are :mod:`cleanroom.clients.blob` and :mod:`cleanroom.clients.s3`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, Protocol


class StoredObject(Protocol):
    """One entry of a listing."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


class ObjectStore(Protocol):
    """A container or bucket. Names are whole object names with ``/``; errors are those of :mod:`cleanroom.errors`."""

    def list(self, prefix: str) -> Iterable[StoredObject]:
        """Objects whose name starts with ``prefix``, in any order."""
        ...

    def size(self, name: str) -> int:
        """Stored bytes. Raises NotFound."""
        ...

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, cut at the end. Raises NotFound."""
        ...

    def put(self, name: str, data: bytes | BinaryIO) -> object:
        """Store an object whole, replacing any of that name. A stream is read once, forwards."""
        ...

    def exists(self, name: str) -> bool: ...

    def delete(self, name: str) -> None:
        """Delete an object; one that does not exist is no error."""
        ...


def join(prefix: str, name: str) -> str:
    """Name of the object ``name`` of a dataset that lies below ``prefix``."""
    return f"{prefix.strip('/')}/{name}" if prefix.strip("/") else name


def within(prefix: str, name: str) -> str:
    """The reverse of :func:`join`: the object's path within the dataset, which is what its encryption is bound to."""
    folder = prefix.strip("/")
    return name[len(folder) + 1 :] if folder else name


def read_object(store: ObjectStore, name: str) -> bytes:
    """One small object whole. Raises NotFound."""
    return store.read_range(name, 0, store.size(name))
