"""Put local files into an object store, sealed unless the store encrypts: schema checked first, in bounded memory, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO, Literal, cast

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.check import check_file
from cleanroom.datasets.encryption import HEADER_BYTES, SEGMENT_BYTES, seal_stream, sealed_size
from cleanroom.datasets.files import SUFFIXES
from cleanroom.datasets.manifest import MANIFEST_NAME, Manifest, ManifestObject, read_manifest, write_manifest
from cleanroom.documents.dataset import DatasetSchema
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, Refused
from cleanroom.secret import Secret

_DAY = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_MANIFEST_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class SourceFile:
    """One local file and the path that it gets within the dataset."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class UploadProgress:
    """Told after every piece of work; ``done`` and ``total`` are plaintext bytes over all files."""

    stage: Literal["check", "upload", "skip"]
    name: str
    done: int
    total: int


@dataclass(frozen=True)
class UploadResult:
    """What lies in the store now. Nothing in it is secret."""

    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    rows: int
    stored_bytes: int


OnProgress = Callable[[UploadProgress], None]


def find_sources(sources: Sequence[Path], schema: DatasetSchema) -> list[SourceFile]:
    """The files behind ``sources``: a file keeps its name, a folder's files their paths below it. Hidden ones are left out.

    Raises:
        NotFound: ``SourceNotFound``.
        InvalidInput: ``SourceEmpty``, ``SourceFormatMismatch`` (ending is not the schema's format),
            ``SourceNotDayPartitioned`` (a file outside of ``yyyy-MM-dd/``), ``SourceNameTwice``.
    """
    found: dict[str, SourceFile] = {}
    for source in sources:
        if source.is_dir():
            files = [(path, path.relative_to(source).as_posix()) for path in sorted(source.rglob("*")) if path.is_file()]
        elif source.is_file():
            # A day's folder given through one of its files keeps its day.
            keeps_day = schema.partitioned_by == "day" and _DAY.fullmatch(source.parent.name)
            files = [(source, f"{source.parent.name}/{source.name}" if keeps_day else source.name)]
        else:
            raise NotFound("SourceNotFound", f"source: there is no file or folder {source}.", hint="Name a file or folder that exists.")
        for path, name in files:
            if any(part.startswith((".", "_")) for part in name.split("/")):
                continue
            _require_name(name, path, schema)
            if name in found:
                raise InvalidInput("SourceNameTwice", f"source: {path} and {found[name].path} would both become {name!r}.")
            found[name] = SourceFile(path, name, path.stat().st_size)
    if not found:
        raise InvalidInput("SourceEmpty", "source: there is no data file in what was named.", hint="Name files or folders that hold some.")
    return list(found.values())


def _require_name(name: str, path: Path, schema: DatasetSchema) -> None:
    if not name.lower().endswith(SUFFIXES[schema.format]):
        raise InvalidInput(
            "SourceFormatMismatch",
            f"source: {path} does not end in {' or '.join(SUFFIXES[schema.format])}, as format {schema.format!r} asks.",
            hint="Rename it, or name another format.",
        )
    if schema.partitioned_by == "day" and not is_day(name.split("/")[0] if "/" in name else ""):
        raise InvalidInput(
            "SourceNotDayPartitioned",
            f"source: {path} would become {name!r}, which is not in a folder yyyy-MM-dd, as the dataset is partitioned by day.",
            hint="Lay the files out as 2013-01-31/part.csv and name the folder above.",
        )


def is_day(text: str) -> bool:
    """Whether ``text`` is a day as partitions spell it: ``yyyy-MM-dd``."""
    if not _DAY.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def upload_dataset(
    store: ObjectStore,
    key: Secret | None,
    *,
    dataset: str,
    schema: DatasetSchema,
    sources: Sequence[Path],
    replace: bool = False,
    on_progress: OnProgress | None = None,
) -> UploadResult:
    """Check every source file, then seal and store those that are not in the store already.

    Safe to repeat after any interruption: files whose content the sealed manifest records with an object of the recorded size are
    left alone. Memory is a few MiB whatever the files' size. Earlier objects stay unless ``replace``.

    Args:
        store: The dataset's place.
        key: The dataset key; None where the store itself encrypts (SSE, CPK), and nothing is sealed here.
        dataset: Its name, recorded in the manifest.
        schema: Every row is held against it before anything is stored.
        sources: Files and folders; with day partitions, folders named ``yyyy-MM-dd`` below one of them.
        replace: Delete objects of the dataset that the sources do not have.
        on_progress: Told as work goes on.

    Raises:
        InvalidInput: As :func:`find_sources`; ``SchemaMismatch``.
        Conflict: ``SourceChanged`` when a file changed while it was read; ``ManifestOfAnotherDataset``; ``StoredUnderAnotherKey``
            (also: sealed, although the store is to encrypt, or the reverse).
        Unavailable, Refused: Of the store.
    """
    files = find_sources(sources, schema)
    tell = _Teller(on_progress, 2 * sum(file.size for file in files))
    checked: dict[str, tuple[str, int, bool]] = {}
    for file in files:
        result = check_file(file.path, schema)
        checked[file.name] = (_digest(file.path), result.rows, result.splittable)
        tell("check", file.name, file.size)

    before = _manifest_before(store, key, dataset, replace)
    if before.dataset != dataset:
        raise Conflict(
            "ManifestOfAnotherDataset",
            f"manifest: the objects there belong to dataset {before.dataset!r}, not {dataset!r}.",
            hint="Use another subdirectory for each dataset.",
        )
    objects = dict(before.objects)
    stored = {item.key: item.size for item in store.list()}
    uploaded: list[str] = []
    unchanged: list[str] = []
    saved = time.monotonic()

    def save(complete: bool) -> None:
        write_manifest(store, key, Manifest(dataset=dataset, complete=complete, objects=objects))

    try:
        for file in files:
            digest, rows, splittable = checked[file.name]
            known = objects.get(file.name)
            if known is not None and known.plain_sha256 == digest and stored.get(file.name) == known.size:
                unchanged.append(file.name)
                tell("skip", file.name, file.size)
                continue
            if not uploaded:
                save(complete=False)
            with file.path.open("rb") as raw:
                stream = SealingStream(raw, key, file.name, on_plain=lambda count, name=file.name: tell("upload", name, count))  # type: ignore[misc]
                store.put(file.name, cast(BinaryIO, stream))
            if stream.plain_sha256() != digest:
                objects.pop(file.name, None)
                store.delete(file.name)
                raise Conflict(
                    "SourceChanged",
                    f"{file.path}: changed while it was uploaded.",
                    hint="Upload again when nothing writes to it.",
                    retryable=True,
                )
            objects[file.name] = ManifestObject(
                size=stream.stored,
                sha256=stream.stored_sha256(),
                header=None if key is None else stream.header.hex(),
                plain_sha256=digest,
                rows=rows,
                splittable=splittable,
            )
            uploaded.append(file.name)
            if time.monotonic() - saved > _MANIFEST_EVERY_SECONDS:
                save(complete=False)
                saved = time.monotonic()
    except Exception:
        # What was stored so far needs not be stored again. The error that stopped us is the one to tell.
        with contextlib.suppress(CleanRoomError):
            save(complete=False)
        raise

    removed: list[str] = []
    if replace:
        names = {file.name for file in files}
        removed = [name for name in stored if name not in names and name != MANIFEST_NAME]
        objects = {name: entry for name, entry in objects.items() if name in names}
    complete = Manifest(dataset=dataset, complete=True, objects=objects)
    if complete != before:
        # The list first: a reader then misses nothing that the list has.
        save(complete=True)
    for name in removed:
        store.delete(name)
    return UploadResult(
        uploaded=tuple(uploaded),
        unchanged=tuple(unchanged),
        removed=tuple(removed),
        rows=complete.rows(),
        stored_bytes=sum(entry.size for entry in objects.values()),
    )


def _manifest_before(store: ObjectStore, key: Secret | None, dataset: str, replace: bool) -> Manifest:
    try:
        return read_manifest(store, key) or Manifest(dataset=dataset, complete=False)
    except Refused as error:
        if replace:
            return Manifest(dataset=dataset, complete=False)
        raise Conflict(
            "StoredUnderAnotherKey",
            f"dataset {dataset!r}: what lies at its place was sealed with another key or in another way, or was altered.",
            cause=error.message,
            hint="Use the key of the earlier upload, or replace what is there.",
        ) from error


class _Teller:
    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0

    def __call__(self, stage: Literal["check", "upload", "skip"], name: str, count: int) -> None:
        self._done += count
        if self._on_progress:
            self._on_progress(UploadProgress(stage, name, self._done, self._total))


def _digest(path: Path) -> str:
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


class SealingStream(io.RawIOBase):
    """What is stored of ``source`` as a stream that an uploader reads: its sealed form, or itself without a key. At most two segments in
    memory, digests of both sides."""

    def __init__(self, source: BinaryIO, key: Secret | None, path: str, *, on_plain: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self._source = _Hashing(source, on_plain)
        self._pieces = (
            iter(lambda: self._source.read(SEGMENT_BYTES), b"") if key is None else seal_stream(self._source, key, path)  # type: ignore[arg-type]
        )
        self._rest = memoryview(b"")
        self._hash = hashlib.sha256()
        self.stored = 0
        """Bytes given out so far."""
        self.header = b""
        """The first 40 bytes of them."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Never short before the end: uploaders take a short read for the end."""
        wanted = size if size is not None and size >= 0 else None
        pieces: list[memoryview] = []
        have = 0
        while wanted is None or have < wanted:
            if not self._rest:
                following = next(self._pieces, None)
                if following is None:
                    break
                self._rest = memoryview(following)
            piece = self._rest if wanted is None else self._rest[: wanted - have]
            self._rest = self._rest[len(piece) :]
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        self._hash.update(data)
        self.header += data[: HEADER_BYTES - len(self.header)]
        self.stored += len(data)
        return data

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self.stored

    def stored_sha256(self) -> str:
        return self._hash.hexdigest()

    def plain_sha256(self) -> str:
        return self._source.hash.hexdigest()

    @staticmethod
    def length(plain: int) -> int:
        """Stored bytes that a source of ``plain`` bytes will give."""
        return sealed_size(plain)


class _Hashing:
    def __init__(self, source: BinaryIO, on_plain: Callable[[int], None] | None) -> None:
        self._source = source
        self._on_plain = on_plain
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        if data and self._on_plain:
            self._on_plain(len(data))
        return data
