"""Which types of a query's result fit a column of the output dataset: one table for the query gate and for the pod."""

from __future__ import annotations

from cleanroom.documents.dataset import FieldType

_INTEGERS = frozenset({"tinyint", "smallint", "integer"})

RESULT_TYPES: dict[FieldType, frozenset[str]] = {
    "string": frozenset({"string"}),
    "integer": _INTEGERS,
    "long": _INTEGERS | {"long"},
    "number": _INTEGERS | {"float", "number", "decimal"},
    "boolean": frozenset({"boolean"}),
    "date": frozenset({"date"}),
    "timestamp": frozenset({"timestamp"}),
}
"""The result types that each field type accepts, by the names that the query gate uses.

``long`` is not accepted as ``number``, because large values would lose digits. ``decimal`` as ``number`` is rounded to
the nearest double. Other types need a CAST in the SQL."""

_SPARK_NAMES = {"int": "integer", "bigint": "long", "double": "number", "timestamp_ntz": "timestamp"}


def result_type_fits(field_type: FieldType, result_type: str) -> bool:
    """Return whether a result of a type, by the query gate's or by Spark's name, fits a column of the output dataset.

    ``timestamp_ntz`` counts as UTC.
    """
    name = result_type.split("(", maxsplit=1)[0]
    return _SPARK_NAMES.get(name, name) in RESULT_TYPES[field_type]
