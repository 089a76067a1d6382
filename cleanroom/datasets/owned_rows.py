"""Reads rows of a dataset for its owner: from the store, opened with the owner's key, and no more than were asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import BinaryIO, cast

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets import readers
from cleanroom.datasets.csv_header import HEADER_BYTES
from cleanroom.datasets.encryption import SealedFile, SealedObject, SegmentedObject
from cleanroom.datasets.manifest import Manifest
from cleanroom.datasets.plain import PlainObject
from cleanroom.documents.dataset import DatasetSchema
from cleanroom.identifiers import object_context
from cleanroom.secret import Secret


def first_rows(
    store: ObjectStore, key: Secret | None, manifest: Manifest, schema: DatasetSchema, *, collaboration: str, limit: int
) -> readers.Rows:
    """Return the first rows of a dataset, in the order of its objects' names.

    Args:
        store: The dataset's place in a store.
        key: The dataset key, or None if the store encrypts.
        manifest: The dataset's manifest.
        schema: Its schema.
        collaboration: The collaboration for which the dataset was uploaded.
        limit: The number of rows.

    Raises:
        Refused: ``CiphertextInvalid`` if an object was altered, or was sealed with another key.
        InvalidInput: ``SchemaMismatch``.
        NotFound, Unavailable: From the store.
    """
    types = schema.types()
    columns, batches, missing = list(types), list[readers.Rows](), limit
    for name in sorted(manifest.objects):
        if missing <= 0:
            break
        opened = _open(store, key, name, manifest.objects[name].size, object_context(collaboration, manifest.dataset, name))
        for batch in _rows(opened, schema, columns, name):
            batches.append(batch.slice(0, missing))
            missing -= batches[-1].num_rows
            if missing <= 0:
                break
    return readers.joined(batches, types)


def _open(store: ObjectStore, key: Secret | None, name: str, size: int, context: str) -> SegmentedObject:
    read = functools.partial(store.read_range, name)
    return PlainObject(read, size, name) if key is None else SealedObject(read, size, key, context)


def _rows(opened: SegmentedObject, schema: DatasetSchema, columns: Sequence[str], where: str) -> Iterable[readers.Rows]:
    types = schema.types()
    stream = SealedFile(opened)
    if schema.format == "parquet":
        return readers.read_parquet(cast(BinaryIO, stream), types, columns, where=where, by_group=True)
    if schema.format == "json":
        return readers.read_json_lines(stream, types, columns, where=where)
    header = None
    if schema.csv_header:
        header, start = readers.csv_header(opened.read_at(0, HEADER_BYTES), where, schema.csv_dialect)
        stream.seek(start)
    return readers.read_csv(stream, types, columns, where=where, header=header, dialect=schema.csv_dialect)
