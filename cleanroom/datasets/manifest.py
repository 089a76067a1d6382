"""The list of a dataset's objects, sealed where they are: it lets an upload go on where it stopped, and lets a reader notice that an
object is missing, added, or older than the rest, which sealing single objects cannot show."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.encryption import open_bytes, seal_bytes
from cleanroom.errors import Refused
from cleanroom.identifiers import HexDigest, canonical_json, sha256_hex
from cleanroom.secret import Secret

MANIFEST_NAME = "_cleanroom/manifest"
"""Path within the dataset. Names that begin with ``_`` or ``.`` are never data."""


class ManifestObject(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    size: int = Field(ge=0)
    """Stored bytes."""
    sha256: HexDigest
    """Of the stored bytes."""
    header: str | None = Field(default=None, pattern=r"^[0-9a-f]{80}$")
    """Hex of the first 40 stored bytes of a sealed object: whoever reads any part of it sees whether it is this one."""
    plain_sha256: HexDigest
    rows: int = Field(ge=0)
    splittable: bool = True
    """Whether a reader may begin at any line break of its text."""


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    version: int = 1
    dataset: str
    complete: bool
    """False while an upload is under way."""
    objects: dict[str, ManifestObject] = {}

    def rows(self) -> int:
        return sum(entry.rows for entry in self.objects.values())

    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON (RFC 8785) of what is in it: it names exactly these stored objects, whatever seals the list."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", by_alias=True)))


def read_manifest(store: ObjectStore, key: Secret | None) -> Manifest | None:
    """The dataset's manifest, or None when there is none (data that other tools uploaded). Without a key (SSE, CPK) it is plain JSON.

    Raises:
        Refused: ``CiphertextInvalid``, ``ManifestInvalid``.
    """
    if not store.exists(MANIFEST_NAME):
        return None
    stored = store.read(MANIFEST_NAME)
    plain = stored if key is None else open_bytes(stored, key, MANIFEST_NAME)
    try:
        return Manifest.model_validate_json(plain)
    except ValidationError as error:
        raise Refused(
            "ManifestInvalid", f"{MANIFEST_NAME}: not a manifest of this version.", cause=f"{error.error_count()} errors"
        ) from None


def write_manifest(store: ObjectStore, key: Secret | None, manifest: Manifest) -> None:
    """Store the manifest, sealed where there is a key, replacing the one that is there."""
    plain = json.dumps(manifest.model_dump(mode="json", by_alias=True), separators=(",", ":")).encode("utf-8")
    store.put(MANIFEST_NAME, plain if key is None else seal_bytes(plain, key, MANIFEST_NAME))
