"""Parquet objects that Spark's own reader reads as well as ours does, through :mod:`sparkapp.object_server`.

Our reader (:func:`cleanroom.datasets.parquet.read_parquet`) converts types, and refuses values that a dataset's schema
cannot hold. Spark's is several times faster, because its rows need not pass through a Python process. A dataset may
be read by Spark if both readers return the same rows: every column that the query needs has exactly the type of the
schema, no value needs a check that the owner's upload did not make, and Spark has a fast path for its encoding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow.parquet as pq

from cleanroom.datasets.encryption import SealedFile
from cleanroom.datasets.parquet import in_old_calendar, open_parquet
from cleanroom.documents.dataset import FieldType
from sparkapp.jvm import jar
from sparkapp.listing import DatasetListing
from sparkapp.object_server import object_url
from sparkapp.pod import Pod
from sparkapp.reading import ddl
from sparkapp.splits import OBJECTS_AT_ONCE, open_object, whole_object

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ENCODINGS = frozenset({"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"})
_COMPRESSIONS = frozenset({"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"})
_NONE: dict[str, object] = {"Type": "None"}
_STORED: dict[FieldType, tuple[tuple[str, dict[str, object]], ...]] = {
    "string": (("BYTE_ARRAY", {"Type": "String"}),),
    "integer": (("INT32", _NONE), ("INT32", {"Type": "Int", "bitWidth": 32, "isSigned": True})),
    "long": (("INT64", _NONE), ("INT64", {"Type": "Int", "bitWidth": 64, "isSigned": True})),
    "number": (("DOUBLE", _NONE),),
    "boolean": (("BOOLEAN", _NONE),),
    "date": (("INT32", {"Type": "Date"}),),
    "timestamp": (("INT64", {"Type": "Timestamp", "isAdjustedToUTC": True, "timeUnit": "microseconds"}),),
}
"""Physical and logical types (https://github.com/apache/parquet-format/blob/master/LogicalTypes.md) that need no conversion."""
OPTIONS = {
    # Dates and times are taken as they are. Our reader refuses files in Spark's old calendar.
    "datetimeRebaseMode": "CORRECTED",
    "int96RebaseMode": "CORRECTED",
    # An object that cannot be read ends the run.
    "ignoreCorruptFiles": "false",
    "ignoreMissingFiles": "false",
    "mergeSchema": "false",
}
"""Options of Spark's reader. None may come from the session."""


@dataclass(frozen=True)
class NativeParquet:
    """A dataset that Spark reads itself: the URLs of its objects, and the number of rows in their footers."""

    listing: DatasetListing
    columns: tuple[str, ...]
    urls: tuple[str, ...]
    rows: int

    def frame(self, spark: SparkSession) -> DataFrame:
        """Return the dataset as a lazy DataFrame."""
        return spark.read.options(**OPTIONS).schema(ddl(self.listing.dataset, self.columns)).parquet(*self.urls)


def native_parquet(pod: Pod, listing: DatasetListing, columns: Sequence[str]) -> NativeParquet | None:
    """Return how Spark itself reads a dataset, or None if only our reader may read it. Reads the footers of all objects.

    Only objects in a manifest qualify: the owner's upload has verified their values, such as the encoding of texts.

    Raises:
        InvalidInput: ``SchemaMismatch``.
        Refused: ``CiphertextInvalid``, ``DatasetTampered``.
    """
    if listing.dataset.format != "parquet" or listing.rows is None or not listing.objects or not jar().exists():
        return None

    def footer(name: str) -> tuple[str, int] | None:
        split = whole_object(listing, name)
        opened = open_object(pod, listing.dataset, split)
        types, where = listing.dataset.schema_fields, f"{listing.dataset.name}/{name}"
        parquet = open_parquet(cast(BinaryIO, SealedFile(opened)), types, columns, where=where)
        if not is_native(parquet, {column: types[column] for column in columns}):
            return None
        return object_url(listing.dataset, split, opened.size), parquet.metadata.num_rows

    with ThreadPoolExecutor(max_workers=OBJECTS_AT_ONCE) as pool:
        found = list(pool.map(footer, listing.objects))
    native = [item for item in found if item is not None]
    if len(native) < len(found):
        return None
    rows = sum(count for _, count in native)
    listing.require_rows(rows)
    return NativeParquet(listing, tuple(columns), tuple(url for url, _ in native), rows)


def is_native(parquet: pq.ParquetFile, types: dict[str, FieldType]) -> bool:
    """Return whether Spark reads the columns of a file exactly as our reader does.

    Args:
        parquet: The file, from :func:`cleanroom.datasets.parquet.open_parquet`.
        types: The columns and their types in the dataset's schema.
    """
    metadata, fields = parquet.metadata, parquet.schema_arrow
    dated = any(kind in ("date", "timestamp") for kind in types.values())
    if dated and in_old_calendar(metadata.metadata or {}, int96=False):
        return False
    places = {metadata.schema.column(number).path: number for number in range(metadata.num_columns)}
    for name, kind in types.items():
        # Spark compares names without case.
        if [field.name.lower() for field in fields].count(name.lower()) != 1 or name not in places:
            return False
        column = metadata.schema.column(places[name])
        logical = {name: value for name, value in json.loads(column.logical_type.to_json()).items() if "converted" not in name}
        if (column.physical_type, logical) not in _STORED[kind]:
            return False
        chunks = (metadata.row_group(group).column(places[name]) for group in range(metadata.num_row_groups))
        if not all(chunk.compression in _COMPRESSIONS and set(chunk.encodings) <= _ENCODINGS for chunk in chunks):
            return False
    return True
