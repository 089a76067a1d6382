"""An object store in a folder: what the tests of datasets use where no server is needed. Spark's Python workers import it too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cleanroom.errors import NotFound


@dataclass(frozen=True)
class Item:
    name: str
    size: int


@dataclass(frozen=True)
class FolderStore:
    root: Path
    reads: list[tuple[str, int, int]] = field(default_factory=list, compare=False)

    def list(self, prefix: str) -> Iterator[Item]:
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and name.startswith(prefix):
                yield Item(name, path.stat().st_size)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise NotFound("ObjectNotFound", f"there is no object {name!r}.")
        return path

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        self.reads.append((name, offset, length))
        with self._path(name).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def put(self, name: str, data: bytes | BinaryIO) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                while piece := data.read(1_000_003):
                    file.write(piece)

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)
