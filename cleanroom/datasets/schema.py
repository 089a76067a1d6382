"""Field types of a dataset document as Arrow types, and the conversions into them.

Error messages name object, column, row and types, but never a value, because other collaborators see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.documents.dataset import FieldType

ARROW_TYPES: dict[FieldType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
"""Arrow type per field type, the narrower of two first. Timestamps are in UTC; a timestamp without a zone counts as UTC."""

_HAS_ZONE = r"(Z|z|[+-]\d{2}(:?\d{2})?)$"
_HAS_TIME = r"^\d{4}-\d{2}-\d{2}[ T]\d{2}"


def arrow_schema(types: Mapping[str, FieldType], columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the Arrow schema of ``columns``, or of all columns if None, in the given order."""
    return pa.schema([(name, ARROW_TYPES[types[name]]) for name in (types if columns is None else columns)])


def accepts(field_type: FieldType, actual: pa.DataType) -> bool:
    """Return whether a stored column of type ``actual`` can be read as ``field_type`` without losing a value.

    Allowed conversions: smaller integers to ``integer`` and ``long``; ``float`` and integers of at most 32 bits to
    ``number``; any text layout to ``string``; any unit to ``timestamp``, truncated to microseconds, without a zone
    as UTC.
    """
    if pa.types.is_dictionary(actual):
        actual = actual.value_type
    types = pa.types
    match field_type:
        case "string":
            return bool(types.is_string(actual) or types.is_large_string(actual) or types.is_string_view(actual))
        case "integer":
            return actual in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16())
        case "long":
            return actual in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
        case "number":
            return actual in (pa.float32(), pa.float64(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16())
        case "boolean":
            return bool(types.is_boolean(actual))
        case "date":
            return bool(types.is_date(actual))
        case "timestamp":
            return bool(types.is_timestamp(actual))


def text_type(field_type: FieldType) -> pa.DataType:
    """Return the Arrow type as which a value is read from text; :func:`convert` then converts it.

    Dates and times are read as text, because Arrow's parsers reject either times with a zone or times without one.
    """
    return pa.string() if field_type in ("date", "timestamp") else ARROW_TYPES[field_type]


def convert(column: pa.Array | pa.ChunkedArray, field_type: FieldType) -> pa.Array | pa.ChunkedArray:
    """Convert ``column`` to the Arrow type of ``field_type``. Text is parsed as ``date`` or ``timestamp``.

    Raises:
        pyarrow.ArrowInvalid: If a text is not a date or a time, or a time is out of range. Its message contains the
            value: never show it.
    """
    target = ARROW_TYPES[field_type]
    if column.type == target:
        return column
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if field_type == "timestamp":
        if pa.types.is_string(column.type):
            return _parse_times(column)
        # Nanoseconds are truncated on purpose. Coarser units can overflow, which only a safe cast detects.
        safe = column.type.unit != "ns"
        if column.type.tz is None:
            return pc.cast(pc.cast(column, pa.timestamp("us"), safe=safe), target)
        return pc.cast(column, target, safe=safe)
    return pc.cast(column, target)


def _parse_times(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    # Most columns have times with a zone only, or without a zone only. Arrow's parser accepts one or the other.
    for kind in (ARROW_TYPES["timestamp"], pa.timestamp("us")):
        with contextlib.suppress(pa.ArrowInvalid):
            return pc.cast(pc.cast(column, kind), ARROW_TYPES["timestamp"])
    timed = pc.match_substring_regex(column, _HAS_TIME)
    zoned = pc.and_(timed, pc.match_substring_regex(column, _HAS_ZONE))
    if not _all(zoned):
        with_time = pc.if_else(timed, column, pc.binary_join_element_wise(column, "T00:00:00", ""))
        column = pc.if_else(zoned, column, pc.binary_join_element_wise(with_time, "Z", ""))
    return pc.cast(column, ARROW_TYPES["timestamp"])


def _all(mask: pa.Array | pa.ChunkedArray) -> bool:
    return pc.all(mask).as_py() is not False


def converted(
    batch: pa.RecordBatch, types: Mapping[str, FieldType], columns: Sequence[str], where: str, first_row: int | None
) -> pa.RecordBatch:
    """Return the columns of a batch in the Arrow types of the schema.

    Args:
        batch: Columns as a parser returned them.
        types: Field name to type.
        columns: The columns to return.
        where: The object's path, for error messages.
        first_row: Number of the batch's first row in the file, or None if unknown.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    arrays = []
    for name in columns:
        column = batch.column(name)
        try:
            arrays.append(convert(column, types[name]))
        except pa.ArrowInvalid:
            row = None if first_row is None else _first_bad(column, types[name], first_row)
            raise schema_mismatch(where, name, types[name], f"a value that is not of type {types[name]}", row=row) from None
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(types, columns))


def _first_bad(column: pa.Array, field_type: FieldType, first_row: int) -> int:
    low, high = 0, len(column)  # the first `low` values are valid, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(column.slice(low, middle - low), field_type)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return first_row + low
