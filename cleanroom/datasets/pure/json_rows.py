"""JSON lines in Python; the counterpart of :mod:`cleanroom.datasets.json_lines`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.datasets.pure.table import Table
from cleanroom.datasets.pure.values import READERS
from cleanroom.datasets.row_blocks import LineRows, Readable, is_utf8, row_blocks
from cleanroom.documents.dataset import FieldType

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


class JsonNumber(str):
    """The text of a number."""


class _Object(list[tuple[str, Any]]):
    """The members of an object in their order, because a name may occur twice."""


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_float=JsonNumber, parse_int=JsonNumber, parse_constant=_refuse)


def json_objects(block: bytes, where: str, first_row: int) -> Iterator[list[tuple[str, Any]]]:
    """Yield the members of the object in each line that is not blank. Numbers are :class:`JsonNumber`.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    for number, line in enumerate(filter(None, (line.strip() for line in block.split(b"\n"))), first_row):
        if not is_utf8(line):
            raise schema_mismatch(where, None, "UTF-8", "bytes that are not UTF-8", row=number)
        try:
            found = _DECODER.decode(line.decode())
        except (ValueError, RecursionError):
            raise schema_mismatch(where, None, "one JSON object per line", "other text", row=number) from None
        if not isinstance(found, _Object):
            raise schema_mismatch(where, None, "one JSON object per line", "a line that is not one object", row=number)
        yield found


def kind_of(value: Any) -> str:
    """Return JSON's word for the type of a value."""
    for kind, word in ((JsonNumber, "number"), (bool, "boolean"), (str, "string"), (_Object, "object"), (list, "array")):
        if isinstance(value, kind):
            return word
    return "null"


def _value(value: Any, kind: FieldType) -> Any:
    if value is None:
        return None
    if kind == "number" and not isinstance(value, JsonNumber) and value in _NOT_FINITE:
        return float(value)
    expected = {"boolean": "boolean", "integer": "number", "long": "number", "number": "number"}.get(kind, "string")
    if kind_of(value) != expected:
        raise TypeError
    if kind == "boolean":
        return value
    if kind == "string":
        # A lone surrogate is no character.
        str(value).encode()
        return str(value)
    found = READERS[kind](value)
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError
    return found


def read_json_lines(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    at_start: bool = True,
    require_members: bool = False,
) -> Iterator[Table]:
    """Read rows of JSON lines; see :func:`cleanroom.datasets.json_lines.read_json_lines`."""
    wanted, absent, row = set(columns), set(columns) if require_members else set(), 1
    for block in row_blocks(stream, LineRows(), where, at_start=at_start):
        rows = []
        for members in json_objects(block, where, row):
            values: dict[str, Any] = {}
            for name, value in members:
                if name not in wanted:
                    continue
                if name in values:
                    raise schema_mismatch(where, name, types[name], "the member twice in one row", row=row)
                values[name] = _converted(name, value, types[name], where, row)
            absent -= values.keys()
            rows.append([values.get(name) for name in columns])
            row += 1
        yield Table.of_rows(columns, rows)
    if absent and row > 1:
        name = next(name for name in columns if name in absent)
        raise schema_mismatch(where, name, types[name], "no such member in any row")


def _converted(name: str, value: Any, kind: FieldType, where: str, row: int) -> Any:
    try:
        return _value(value, kind)
    except TypeError:
        actual = kind_of(value)
    except ValueError:
        actual = f"a {kind_of(value)} that is not of type {kind}"
    raise schema_mismatch(where, name, kind, actual, row=row)
