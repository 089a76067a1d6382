"""An object store in a folder, for tests without servers. Spark's Python workers import it too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cleanroom.clients.objects import ObjectInfo, Progress, Source, Stored, require_key, source_pieces
from cleanroom.errors import Conflict, NotFound


@dataclass(frozen=True)
class FolderStore:
    """An object store below ``root``. ``reads`` lists every range that was read: name, offset, length.

    If the file ``<root>.reads`` exists, the ranges that all processes read are appended to it.

    ``staged`` lists every staged upload and its expected size, and ``uploads`` the uploads.
    """

    root: Path
    reads: list[tuple[str, int, int]] = field(default_factory=list, compare=False)
    staged: list[tuple[str, int | None]] = field(default_factory=list, compare=False)

    uploads: list[FolderUpload] = field(default_factory=list, compare=False)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for path in sorted(self.root.rglob("*")):
            key = path.relative_to(self.root).as_posix()
            if path.is_file() and key.startswith(prefix):
                yield ObjectInfo(key, path.stat().st_size, "", None)

    def _path(self, key: str) -> Path:
        path = self.root / require_key(key)
        if not path.is_file():
            raise NotFound("NoSuchKey", f"object {key!r} does not exist.")
        return path

    def size(self, key: str) -> int:
        return self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        self.reads.append((key, offset, length))
        log = self.root.with_name(f"{self.root.name}.reads")
        if log.exists():
            with log.open("a") as file:
                file.write(f"{key} {offset} {length}\n")
        with self._path(key).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def put(self, key: str, source: Source, *, overwrite: bool = True, on_progress: Progress | None = None) -> Stored:
        path = self.root / require_key(key)
        if path.exists() and not overwrite:
            raise Conflict("ObjectExists", f"{key!r} exists.")
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for piece in source_pieces(source):
                file.write(piece)
                digest.update(piece)
            return Stored(key, file.tell(), digest.hexdigest())

    def stage(self, key: str, size: int | None = None, **options: Any) -> FolderUpload:
        self.staged.append((key, size))
        self.uploads.append(FolderUpload(self, key))
        return self.uploads[-1]

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing."""


@dataclass
class FolderUpload:
    """A staged upload, which :meth:`FolderStore.put` stores when it is committed."""

    store: FolderStore
    key: str
    pieces: list[bytes] = field(default_factory=list)
    ended: str = ""

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.pieces.append(data)

    def flush(self) -> None:
        """Do nothing."""

    def commit(self) -> None:
        assert not self.ended
        self.ended = "committed"
        self.store.put(self.key, iter(self.pieces))

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def __enter__(self) -> FolderUpload:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()
