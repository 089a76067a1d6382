"""Uploads local files to an object store: checks them against the schema, seals them, and resumes after an interruption.

Files are sealed unless the store encrypts. Memory use is bounded, whatever the size of the files.

A large text file is read once: its rows are checked while they are sealed and sent. No object becomes visible before all files
are checked. What was sent is lost if the upload is interrupted until then, so at most :data:`STAGED_BYTES` are sent ahead. Other files
are read twice: to check them, and to send them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cleanroom.clients.objects import BLOCK_BYTES, ObjectStore
from cleanroom.datasets.check import CheckedFile, check_file
from cleanroom.datasets.encryption import SEGMENT_BYTES, Sealer, sealed_size
from cleanroom.datasets.manifest import MANIFEST_NAME, Manifest, ManifestObject, read_manifest, write_manifest
from cleanroom.datasets.sources import SourceFile, find_sources, is_data
from cleanroom.documents.dataset import CsvDialect, DatasetSchema
from cleanroom.errors import CleanRoomError, Conflict, Refused
from cleanroom.identifiers import object_context
from cleanroom.secret import Secret

STAGED_BYTES: Final = 8 << 30
"""No further file is sent before all files are checked when this many bytes are."""

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
    kept: tuple[str, ...] = ()
    """Objects of earlier uploads under other names, which belong to the dataset too."""
    unlisted: tuple[str, ...] = ()
    """Objects in the dataset's place that no upload has listed. Runs refuse a dataset that has some."""


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
    with Upload(store, key, collaboration, dataset, files, replace=replace, on_progress=on_progress) as upload:
        upload.load_manifest()
        upload.check(schema)
        upload.seal()
        return upload.finish()


@dataclass(frozen=True)
class _Checked:
    digest: str
    rows: int
    splittable: bool
    csv: CsvDialect | None
    version: tuple[int, int]
    """Of the file before it was read; see :func:`_version`."""


class Upload:
    """One upload. Call :meth:`load_manifest`, :meth:`check`, :meth:`seal` and :meth:`finish`, in this order, in a ``with`` block.

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
        self._staged: dict[str, SealedUpload] = {}
        self._before = Manifest(dataset=dataset, complete=False)
        self._objects: dict[str, ManifestObject] = {}
        self._stored: dict[str, int] = {}
        self._uploaded: list[str] = []
        self._unchanged: list[str] = []

    def __enter__(self) -> Upload:
        """Return the upload."""
        return self

    def __exit__(self, *error: object) -> None:
        """Drop what was sent and did not become visible."""
        for staged in self._staged.values():
            staged.abort()

    def check(self, schema: DatasetSchema) -> None:
        """Read every file to its end and compare all rows with ``schema``. Large text files are sent on the way.

        Raises:
            InvalidInput: ``SchemaMismatch``.
            Unavailable, Refused: From the store.
        """
        dialect = (schema.csv_dialect or CsvDialect()) if schema.format == "csv" else None
        for file in self._files:
            version = _version(file.path)
            result, digest = self._check_file(file, schema)
            self._checked[file.name] = _Checked(digest, result.rows, result.splittable, dialect, version)

    def _check_file(self, file: SourceFile, schema: DatasetSchema) -> tuple[CheckedFile, str]:
        """Check a file, and return the digest of what was checked."""
        if schema.format == "parquet":
            result = check_file(file.path, schema)
            with file.path.open("rb") as raw:
                digest = hashlib.file_digest(raw, "sha256").hexdigest()
            self._progress("check", file.name, file.size)
            return result, digest
        if self._is_sent_ahead(file):
            staged = self._stage(file)

            def send(data: bytes) -> None:
                staged.write(data)
                self._progress("upload", file.name, 2 * len(data))

            result = check_file(file.path, schema, on_data=send)
            staged.finish()
            return result, staged.plain_sha256
        text = hashlib.sha256()

        def hash_text(data: bytes) -> None:
            text.update(data)
            self._progress("check", file.name, len(data))

        return check_file(file.path, schema, on_data=hash_text), text.hexdigest()

    def _is_sent_ahead(self, file: SourceFile) -> bool:
        """Return whether to send a file while it is checked: not if it may be stored already, nor if one request can send it."""
        entry = self._before.objects.get(file.name)
        stored = entry is not None and self._stored.get(file.name) == entry.size == self._stored_size(file)
        sent = sum(each.size for each in self._staged.values())
        return not stored and file.size > BLOCK_BYTES and sent < STAGED_BYTES

    def _stored_size(self, file: SourceFile) -> int:
        return file.size if self._key is None else sealed_size(file.size)

    def _stage(self, file: SourceFile) -> SealedUpload:
        context = object_context(self._collaboration, self._dataset, file.name)
        staged = SealedUpload(self._store, self._key, file.name, context, file.size)
        self._staged[file.name] = staged
        return staged

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
                self._store_file(file)
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
        sources = {file.name for file in self._files}
        extra = set(self._stored) - {*removed, *self._objects, MANIFEST_NAME}
        return UploadResult(
            uploaded=tuple(self._uploaded),
            unchanged=tuple(self._unchanged),
            removed=tuple(removed),
            rows=complete.rows(),
            stored_bytes=complete.stored_bytes(),
            kept=tuple(sorted(set(self._objects) - sources)),
            unlisted=tuple(sorted(filter(is_data, extra))),
        )

    def _is_stored(self, file: SourceFile) -> bool:
        entry = self._objects.get(file.name)
        return entry is not None and entry.plain_sha256 == self._checked[file.name].digest and self._stored.get(file.name) == entry.size

    def _store_file(self, file: SourceFile) -> None:
        checked = self._checked[file.name]
        staged = self._staged.get(file.name)
        if staged is None:
            staged = self._stage(file)
            with file.path.open("rb") as raw:
                while data := raw.read(SEGMENT_BYTES):
                    staged.write(data)
                    self._progress("upload", file.name, len(data))
            staged.finish()
        unchanged = staged.plain_sha256 == checked.digest
        if unchanged:
            staged.commit()
            unchanged = _version(file.path) == checked.version
        del self._staged[file.name]
        if not unchanged:
            staged.abort()
            self._objects.pop(file.name, None)
            self._store.delete(file.name)
            raise Conflict(
                "SourceChanged",
                f"{file.path}: changed during the upload.",
                hint="Upload again when no process writes to the file.",
                retryable=True,
            )
        self._objects[file.name] = ManifestObject(
            size=staged.stored,
            header=staged.header,
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


class SealedUpload:
    """A file on its way to a store: sealed with ``key``, or unchanged without a key.

    Args:
        store: The dataset's place in a store.
        key: The dataset key, or None.
        name: The object's key in the store.
        context: The object's place, :func:`cleanroom.identifiers.object_context`.
        size: The expected bytes of the plaintext, from which the store chooses the parts.
    """

    def __init__(self, store: ObjectStore, key: Secret | None, name: str, context: str, size: int) -> None:
        self._sealer = None if key is None else Sealer(key, context)
        self._upload = store.stage(name, size if key is None else sealed_size(size))
        self._plain = hashlib.sha256()
        self.header = None if self._sealer is None else self._sealer.header.hex()
        """The first 40 stored bytes of a sealed file in hex."""
        self.size = self.stored = 0
        """Plaintext bytes and stored bytes so far."""

    def write(self, data: bytes) -> None:
        """Add plaintext."""
        self._plain.update(data)
        self.size += len(data)
        self._send([data] if self._sealer is None else self._sealer.update(data))

    def finish(self) -> None:
        """Send the rest. The object is not visible yet."""
        if self._sealer is not None:
            self._send([self._sealer.finish()])
        self._upload.flush()

    def commit(self) -> None:
        """Make the object visible."""
        self._upload.commit()

    def abort(self) -> None:
        """Drop what was sent."""
        self._upload.abort()

    def _send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.stored += len(piece)
            self._upload.write(piece)

    @property
    def plain_sha256(self) -> str:
        """The digest of the plaintext so far."""
        return self._plain.hexdigest()


def _version(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file, which differ when a process has written to it."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
