"""Field types of a dataset document as Arrow types, what may be widened into them, and the error that says where data differ.

Messages name object, column, row and types, never a value: they travel to other parties (design.md, rule 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom.documents.dataset import FieldType
from cleanroom.errors import InvalidInput

ARROW_TYPES: dict[FieldType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
"""What a column of each field type is in memory. Timestamps are UTC; one without a zone is taken as UTC."""

_HAS_ZONE = r"(Z|z|[+-]\d{2}(:?\d{2})?)$"
_HAS_TIME = r"^\d{4}-\d{2}-\d{2}[ T]\d{2}"


def arrow_schema(types: Mapping[str, FieldType], columns: Sequence[str] | None = None) -> pa.Schema:
    """The Arrow schema of ``columns`` (all when None), in the order given."""
    return pa.schema([(name, ARROW_TYPES[types[name]]) for name in (types if columns is None else columns)])


def accepts(field_type: FieldType, actual: pa.DataType) -> bool:
    """Whether a stored column of type ``actual`` may be read as ``field_type`` without losing a value.

    Widening that is allowed: smaller integers into ``integer`` and ``long``; ``float`` and integers of at most 32 bits into
    ``number``; any text layout into ``string``; any unit into ``timestamp`` (finer than a microsecond is cut), zone-less as UTC.
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


def convert(column: pa.Array | pa.ChunkedArray, field_type: FieldType) -> pa.Array | pa.ChunkedArray:
    """``column`` as the Arrow type of ``field_type``; text is parsed where the type is ``date`` or ``timestamp``.

    Raises:
        pyarrow.ArrowInvalid: When a text is not a date or a time, or a time is too far away. Its own message holds the value: do not
            pass it on.
    """
    target = ARROW_TYPES[field_type]
    if column.type == target:
        return column
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if field_type == "timestamp":
        if pa.types.is_string(column.type):
            return _parse_times(column)
        # Only cutting is unsafe by intent: coarser units overflow, which an unsafe cast would not notice.
        safe = column.type.unit != "ns"
        if column.type.tz is None:
            return pc.cast(pc.cast(column, pa.timestamp("us"), safe=safe), target)
        return pc.cast(column, target, safe=safe)
    return pc.cast(column, target)


def _parse_times(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    timed = pc.match_substring_regex(column, _HAS_TIME)
    zoned = pc.and_(timed, pc.match_substring_regex(column, _HAS_ZONE))
    if not _all(zoned):
        with_time = pc.if_else(timed, column, pc.binary_join_element_wise(column, "T00:00:00", ""))
        column = pc.if_else(zoned, column, pc.binary_join_element_wise(with_time, "Z", ""))
    return pc.cast(column, ARROW_TYPES["timestamp"])


def _all(mask: pa.Array | pa.ChunkedArray) -> bool:
    return pc.all(mask).as_py() is not False


def schema_mismatch(where: str, column: str | None, expected: str, actual: str, *, row: int | None = None) -> InvalidInput:
    """The error for data that are not what the dataset's schema says.

    Args:
        where: The file's or object's path.
        column: Its column; None when the whole row or file is meant.
        expected: Expected type, or rule.
        actual: What was found, without any value.
        row: Number of the row in the file, from 1, where it is known.
    """
    place = where + (f", column {column!r}" if column else "") + (f", row {row}" if row is not None else "")
    details = {"object": where, "column": column, "expected": expected, "actual": actual, "row": row}
    return InvalidInput(
        "SchemaMismatch",
        f"{place}: expected {expected}, found {actual}.",
        hint="Correct the file, or publish the dataset with the schema that it has.",
        details={key: value for key, value in details.items() if value is not None},
    )
