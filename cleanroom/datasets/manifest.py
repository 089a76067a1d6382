"""The manifest: a list of a dataset's objects, sealed if they are.

An upload resumes with its help. A reader detects missing, added and outdated objects, which the sealing of single
objects does not reveal.
"""

from __future__ import annotations

import json

from pydantic import ConfigDict, Field, ValidationError

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.encryption import open_bytes, seal_bytes
from cleanroom.documents.dataset import CsvDialect
from cleanroom.errors import Refused
from cleanroom.identifiers import HexDigest, canonical_json, object_context, sha256_hex
from cleanroom.models import CamelModel
from cleanroom.secret import Secret

MANIFEST_NAME = "_cleanroom/manifest"
"""The manifest's path within the dataset. Objects with names that begin with ``_`` or ``.`` are never data."""


class ManifestObject(CamelModel):
    """A stored object of the dataset."""

    model_config = ConfigDict(extra="ignore")

    size: int = Field(ge=0)
    """Stored bytes."""
    header: str | None = Field(default=None, pattern=r"^[0-9a-f]{80}$")
    """The first 40 stored bytes of a sealed object in hex. They identify the object to a reader of any part of it."""
    plain_sha256: HexDigest
    """Digest of the plaintext, by which an upload recognises a file that is stored already."""
    rows: int = Field(ge=0)
    splittable: bool = True
    """Whether a reader may start after any line break of the text."""
    csv: CsvDialect | None = None
    """The dialect in which the upload verified the CSV text, so that readers need not; None if it was not verified."""


class Manifest(CamelModel):
    """The list of a dataset's objects, by path within the dataset."""

    model_config = ConfigDict(extra="ignore")

    version: int = 1
    dataset: str
    complete: bool
    """False while an upload is in progress."""
    objects: dict[str, ManifestObject] = {}

    def rows(self) -> int:
        """Return the number of rows of all objects."""
        return sum(entry.rows for entry in self.objects.values())

    def stored_bytes(self) -> int:
        """Return the stored size of all objects."""
        return sum(entry.size for entry in self.objects.values())

    def digest(self) -> str:
        """Return the hex SHA-256 of the canonical JSON (RFC 8785). It identifies these stored objects, however the manifest is sealed."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", by_alias=True)))


def read_manifest(store: ObjectStore, key: Secret | None, *, collaboration: str, dataset: str) -> Manifest | None:
    """Read the manifest; return None if the dataset has none because another tool uploaded it.

    Args:
        store: The dataset's place in a store.
        key: The dataset key, or None if the store encrypts (SSE, CPK) and the manifest is plain JSON.
        collaboration: The collaboration for which the dataset was uploaded.
        dataset: The dataset's name.

    Raises:
        Refused: ``CiphertextInvalid``, ``ManifestInvalid``.
    """
    if not store.exists(MANIFEST_NAME):
        return None
    stored = store.read(MANIFEST_NAME)
    plain = stored if key is None else open_bytes(stored, key, object_context(collaboration, dataset, MANIFEST_NAME))
    try:
        return Manifest.model_validate_json(plain)
    except ValidationError as error:
        raise Refused(
            "ManifestInvalid",
            f"{MANIFEST_NAME}: not a manifest in this version's format.",
            cause=f"{error.error_count()} errors",
            hint="Its owner can upload the dataset again.",
        ) from None


def write_manifest(store: ObjectStore, key: Secret | None, manifest: Manifest, *, collaboration: str) -> None:
    """Store the manifest, sealed if ``key`` is given, and replace the previous one."""
    plain = json.dumps(manifest.model_dump(mode="json", by_alias=True), separators=(",", ":")).encode("utf-8")
    context = object_context(collaboration, manifest.dataset, MANIFEST_NAME)
    store.put(MANIFEST_NAME, plain if key is None else seal_bytes(plain, key, context))
