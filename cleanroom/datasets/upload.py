"""Uploads local files to an object store: checks them against the schema, seals them, and resumes after an interruption.

Files are sealed unless the store encrypts. Memory use is bounded, whatever the size of the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.check import check_file
from cleanroom.datasets.encryption import HEADER_BYTES, SEGMENT_BYTES, seal_stream, sealed_size
from cleanroom.datasets.manifest import MANIFEST_NAME, Manifest, ManifestObject, read_manifest, write_manifest
from cleanroom.datasets.sources import SourceFile, find_sources
from cleanroom.datasets.streams import ReadOnlyStream
from cleanroom.documents.dataset import CsvDialect, DatasetSchema
from cleanroom.errors import CleanRoomError, Conflict, Refused
from cleanroom.identifiers import object_context
from cleanroom.secret import Secret

_SAVE_EVERY_SECONDS = 5.0

Stage = Literal["check", "upload", "skip"]


@dataclass(frozen=True)
class UploadProgress:
    """Progress after a piece of work. ``done`` and ``total`` count plaintext bytes of all files, twice: for check and upload."""

    stage: Stage
    name: str
    done: int
    total: int


@dataclass(frozen=True)
class UploadResult:
    """What an upload changed, and what the store contains now. Nothing in it is secret."""

    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    rows: int
    stored_bytes: int


OnProgress = Callable[[UploadProgress], None]


def upload_dataset(
    store: ObjectStore,
    key: Secret | None,
    *,
    collaboration: str,
    dataset: str,
    schema: DatasetSchema,
    sources: Sequence[Path],
    replace: bool = False,
    on_progress: OnProgress | None = None,
) -> UploadResult:
    """Check all source files, then seal and store those that are not in the store yet.

    Idempotent: after an interruption, files whose content the manifest already lists are skipped. Earlier objects
    stay unless ``replace`` is set.

    Args:
        store: The dataset's place in a store.
        key: The dataset key, or None if the store encrypts (SSE, CPK).
        collaboration: The collaboration for which the objects are sealed.
        dataset: The dataset's name, recorded in the manifest.
        schema: All rows must match it before anything is stored.
        sources: Files and folders. With day partitions, folders named ``yyyy-MM-dd`` below one of them.
        replace: Delete objects of the dataset that are not among the sources.
        on_progress: Called after each piece of work.

    Raises:
        InvalidInput: As :func:`cleanroom.datasets.sources.find_sources`; ``SchemaMismatch``.
        Conflict: ``SourceChanged`` if a file changed while it was read; ``ManifestOfAnotherDataset``;
            ``StoredUnderAnotherKey`` (also if the objects are sealed although the store should encrypt, or the
            reverse).
        Unavailable, Refused: From the store.
    """
    files = find_sources(sources, schema)
    upload = Upload(store, key, collaboration, dataset, files, replace=replace, on_progress=on_progress)
    upload.check(schema)
    upload.load_manifest()
    upload.seal()
    return upload.finish()


@dataclass(frozen=True)
class _Checked:
    digest: str
    rows: int
    splittable: bool
    csv: CsvDialect | None


class Upload:
    """One upload. Call :meth:`check`, :meth:`load_manifest`, :meth:`seal` and :meth:`finish`, in this order.

    Args:
        store: The dataset's place in a store.
        key: The dataset key, or None if the store encrypts.
        collaboration: The collaboration for which the objects are sealed.
        dataset: The dataset's name.
        files: The files to upload.
        replace: Delete objects that are not among ``files``.
        on_progress: Called after each piece of work.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: Secret | None,
        collaboration: str,
        dataset: str,
        files: Sequence[SourceFile],
        *,
        replace: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._collaboration = collaboration
        self._store, self._key, self._dataset, self._files, self._replace = store, key, dataset, files, replace
        self._on_progress = on_progress
        self._done, self._total = 0, 2 * sum(file.size for file in files)
        self._checked: dict[str, _Checked] = {}
        self._before = Manifest(dataset=dataset, complete=False)
        self._objects: dict[str, ManifestObject] = {}
        self._stored: dict[str, int] = {}
        self._uploaded: list[str] = []
        self._unchanged: list[str] = []

    def check(self, schema: DatasetSchema) -> None:
        """Read every file to its end and compare all rows with ``schema``.

        Raises:
            InvalidInput: ``SchemaMismatch``.
        """
        for file in self._files:
            result = check_file(file.path, schema)
            # The digest is computed after the check, and compared with the bytes that are sealed.
            dialect = (schema.csv_dialect or CsvDialect()) if schema.format == "csv" else None
            self._checked[file.name] = _Checked(_digest(file.path), result.rows, result.splittable, dialect)
            self._progress("check", file.name, file.size)

    def load_manifest(self) -> None:
        """Read the manifest of an earlier upload and list the stored objects.

        Raises:
            Conflict: ``ManifestOfAnotherDataset``, ``StoredUnderAnotherKey``.
        """
        try:
            self._before = read_manifest(self._store, self._key, collaboration=self._collaboration, dataset=self._dataset) or self._before
        except Refused as error:
            if not self._replace:
                raise Conflict(
                    "StoredUnderAnotherKey",
                    f"dataset {self._dataset!r}: the stored objects were sealed with another key or in another way, or were altered.",
                    cause=error.message,
                    hint="Use the key of the earlier upload, or replace the stored objects.",
                ) from error
        if self._before.dataset != self._dataset:
            raise Conflict(
                "ManifestOfAnotherDataset",
                f"manifest: the stored objects belong to dataset {self._before.dataset!r}, not {self._dataset!r}.",
                hint="Use another subdirectory for each dataset.",
            )
        self._objects = dict(self._before.objects)
        self._stored = {item.key: item.size for item in self._store.list()}

    def seal(self) -> None:
        """Seal and store the files that the manifest does not list with their current content.

        Raises:
            Conflict: ``SourceChanged``.
        """
        saved = time.monotonic()
        try:
            for file in self._files:
                if self._is_stored(file):
                    checked = self._checked[file.name]
                    facts = {"rows": checked.rows, "splittable": checked.splittable, "csv": checked.csv}
                    self._objects[file.name] = self._objects[file.name].model_copy(update=facts)
                    self._unchanged.append(file.name)
                    self._progress("skip", file.name, file.size)
                    continue
                if not self._uploaded:
                    self._save(complete=False)
                self._seal_file(file)
                if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                    self._save(complete=False)
                    saved = time.monotonic()
        except Exception:
            # Save progress so that a retry can resume; then re-raise the original error.
            with contextlib.suppress(CleanRoomError):
                self._save(complete=False)
            raise

    def finish(self) -> UploadResult:
        """Save the complete manifest, prune replaced objects, and return the result."""
        removed: list[str] = []
        if self._replace:
            names = {file.name for file in self._files}
            removed = [name for name in self._stored if name not in names and name != MANIFEST_NAME]
            self._objects = {name: entry for name, entry in self._objects.items() if name in names}
        complete = self._manifest(complete=True)
        if complete != self._before:
            # Before pruning, so that every object in the manifest exists at any time.
            self._save(complete=True)
        for name in removed:
            self._store.delete(name)
        return UploadResult(
            uploaded=tuple(self._uploaded),
            unchanged=tuple(self._unchanged),
            removed=tuple(removed),
            rows=complete.rows(),
            stored_bytes=sum(entry.size for entry in self._objects.values()),
        )

    def _is_stored(self, file: SourceFile) -> bool:
        entry = self._objects.get(file.name)
        return entry is not None and entry.plain_sha256 == self._checked[file.name].digest and self._stored.get(file.name) == entry.size

    def _seal_file(self, file: SourceFile) -> None:
        checked = self._checked[file.name]
        with file.path.open("rb") as raw:
            context = object_context(self._collaboration, self._dataset, file.name)
            stream = SealingStream(
                raw, self._key, context, size=file.size, on_plain=lambda count: self._progress("upload", file.name, count)
            )
            self._store.put(file.name, cast(BinaryIO, stream))
        if stream.plain_sha256() != checked.digest:
            self._objects.pop(file.name, None)
            self._store.delete(file.name)
            raise Conflict(
                "SourceChanged",
                f"{file.path}: changed during the upload.",
                hint="Upload again when no process writes to the file.",
                retryable=True,
            )
        self._objects[file.name] = ManifestObject(
            size=stream.stored,
            sha256=stream.stored_sha256(),
            header=None if self._key is None else stream.header.hex(),
            plain_sha256=checked.digest,
            rows=checked.rows,
            splittable=checked.splittable,
            csv=checked.csv,
        )
        self._uploaded.append(file.name)

    def _manifest(self, *, complete: bool) -> Manifest:
        return Manifest(dataset=self._dataset, complete=complete, objects=self._objects)

    def _save(self, *, complete: bool) -> None:
        write_manifest(self._store, self._key, self._manifest(complete=complete), collaboration=self._collaboration)

    def _progress(self, stage: Stage, name: str, count: int) -> None:
        self._done += count
        if self._on_progress:
            self._on_progress(UploadProgress(stage, name, self._done, self._total))


def _digest(path: Path) -> str:
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


class SealingStream(ReadOnlyStream):
    """The stored form of ``source`` as a stream: sealed with ``key``, or unchanged without a key.

    It holds at most two segments in memory and computes the digests of both forms.

    Args:
        source: The plaintext.
        key: The dataset key, or None.
        context: The object's place, :func:`cleanroom.identifiers.object_context`.
        size: The bytes of the plaintext, if known.
        on_plain: Called with the number of plaintext bytes after each read of ``source``.
    """

    def __init__(
        self,
        source: BinaryIO,
        key: Secret | None,
        context: str,
        *,
        size: int | None = None,
        on_plain: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.total_size = size if size is None or key is None else sealed_size(size)
        """The bytes of the stream, from which a store chooses the parts of the upload."""
        self._plain_hash, self._stored_hash = hashlib.sha256(), hashlib.sha256()
        self._source = _HashingReader(source, self._plain_hash.update, on_plain)
        self._pieces = self._blocks() if key is None else seal_stream(cast(BinaryIO, self._source), key, context)
        self._rest = memoryview(b"")
        self.stored = 0
        """Stored bytes read so far."""
        self.header = b""
        """The first 40 stored bytes."""

    def _blocks(self) -> Iterator[bytes]:
        while block := self._source.read(SEGMENT_BYTES):
            yield block

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes, or fewer only at the end, because uploaders take a short read for the end."""
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
        self._stored_hash.update(data)
        self.header += data[: HEADER_BYTES - len(self.header)]
        self.stored += len(data)
        return data

    def tell(self) -> int:
        """Return the number of stored bytes read so far."""
        return self.stored

    def stored_sha256(self) -> str:
        """Return the digest of the stored bytes read so far."""
        return self._stored_hash.hexdigest()

    def plain_sha256(self) -> str:
        """Return the digest of the plaintext read so far."""
        return self._plain_hash.hexdigest()


class _HashingReader:
    def __init__(self, source: BinaryIO, update: Callable[[bytes], None], on_plain: Callable[[int], None] | None) -> None:
        self._source, self._update, self._on_plain = source, update, on_plain

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._update(data)
        if data and self._on_plain:
            self._on_plain(len(data))
        return data
