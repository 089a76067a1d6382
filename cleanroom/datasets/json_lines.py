"""Reads JSON lines as Arrow record batches of a dataset's schema, as strictly as :mod:`cleanroom.datasets.csv_text`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.json as pajson

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.datasets.row_blocks import LineRows, Readable, row_blocks
from cleanroom.datasets.schema import converted, text_type
from cleanroom.documents.dataset import FieldType
from cleanroom.errors import InvalidInput

_JSON_KIND = re.compile(r"Column\(/(.+?)\) changed from \w+ to (\w+)")
_STRING = rb'"(?:[^"\\]|\\.)*"'
_ESCAPED_NAME = re.compile(rb'("[^"\\]*\\(?:[^"\\]|\\.)*")\s*:')
_NOT_FINITE = re.compile(rb"(" + _STRING + rb')(\s*:\s*"(NaN|-?Infinity)")?')


def read_json_lines(
    stream: Readable,
    types: Mapping[str, FieldType],
    columns: Sequence[str],
    *,
    where: str,
    first_row: int | None = 1,
    at_start: bool = True,
    require_members: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Read rows of JSON lines in UTF-8. ``null`` and an absent member are null.

    A ``number`` may be one of the strings ``NaN``, ``Infinity`` and ``-Infinity``, as Spark writes them.

    Args:
        stream: The text, from the start of a row.
        types: Field name to type.
        columns: The columns to return, a subset of ``types``.
        where: The object's path, for error messages.
        first_row: Number of the first row in the file, or None if unknown.
        at_start: Whether this is the start of the object. If so, a byte order mark is dropped.
        require_members: Whether a column that no row of the stream contains is an error.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    schema = pa.schema([(name, text_type(types[name])) for name in columns])
    absent = list(columns) if require_members else []
    done = 0
    for block in row_blocks(stream, LineRows(), where, at_start=at_start):
        if not block.strip():
            continue
        row = None if first_row is None else first_row + done
        _require_utf8(block, where, row)
        lines = _json_lines(block, where, row)
        absent = [name for name in absent if not _mentions(block, name)]
        try:
            table = _parse_json(block, schema)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _json_mismatch(error, block, schema, types, where, row) from None
        if table.num_rows != lines:
            raise schema_mismatch(where, None, "one JSON object per line", "several objects in a line")
        for batch in table.to_batches():
            yield converted(batch, types, columns, where, None if first_row is None else first_row + done)
            done += batch.num_rows
    if absent and done:
        raise schema_mismatch(where, absent[0], types[absent[0]], "no such member in any row")


def _require_utf8(block: bytes, where: str, first_row: int | None) -> None:
    if block.isascii():
        return
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        row = None if first_row is None else first_row + sum(1 for line in block[: error.start].split(b"\n")[:-1] if line.strip())
        raise schema_mismatch(where, None, "UTF-8", "bytes that are not UTF-8", row=row) from None


def _json_lines(block: bytes, where: str, first_row: int | None) -> int:
    """Return the number of lines that are not blank. Each must begin and end an object, so that no object covers two lines."""
    text = block.strip()
    breaks = text.count(b"\n")
    if text.startswith(b"{") and text.endswith(b"}") and breaks == text.count(b"}\n{") + text.count(b"}\r\n{"):
        return breaks + 1
    number = 0
    for line in filter(None, (line.strip() for line in block.split(b"\n"))):
        if not (line.startswith(b"{") and line.endswith(b"}")):
            row = None if first_row is None else first_row + number
            raise schema_mismatch(where, None, "one JSON object per line", "a line that is not one object", row=row)
        number += 1
    return number


def _parse_json(block: bytes, schema: pa.Schema) -> pa.Table:
    try:
        return _arrow_json(block, schema)
    except pa.ArrowInvalid:
        numbers = {field.name for field in schema if pa.types.is_floating(field.type)}
        if not numbers or not (b'"NaN"' in block or b'Infinity"' in block):
            raise
        return _arrow_json(_bare_numbers(block, numbers), schema)


def _arrow_json(block: bytes, schema: pa.Schema) -> pa.Table:
    return pajson.read_json(
        pa.BufferReader(block),
        read_options=pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _bare_numbers(block: bytes, numbers: set[str]) -> bytes:
    """Remove the quotes around numbers that are not finite, which Arrow reads only without quotes."""

    def bare(match: re.Match[bytes]) -> bytes:
        if match[3] is None or json.loads(match[1]) not in numbers:
            return match[0]
        return match[1] + b":" + match[3]

    return _NOT_FINITE.sub(bare, block)


def _json_mismatch(
    error: Exception, block: bytes, schema: pa.Schema, types: Mapping[str, FieldType], where: str, first_row: int | None
) -> InvalidInput:
    for field in schema:
        try:
            _parse_json(block, pa.schema([field]))
        except pa.ArrowInvalid as single:
            text = str(single)
            if kind := _JSON_KIND.search(text):
                actual = kind[2]
            elif "specified twice" in text:
                actual = "the member twice in one row"
            elif "couldn't parse" in text or "Number too big" in text:
                actual = f"a number that is not of type {types[field.name]}"
            else:
                break  # the text itself is not JSON
            row = next(_bad_rows(block, pa.schema([field])), None)
            return schema_mismatch(
                where, field.name, types[field.name], actual, row=None if row is None or first_row is None else first_row + row
            )
    del error
    row = next(_bad_rows(block, pa.schema([])), None)
    return schema_mismatch(
        where, None, "one JSON object per line", "other text", row=None if row is None or first_row is None else first_row + row
    )


def _bad_rows(block: bytes, schema: pa.Schema) -> Iterator[int]:
    for number, line in enumerate(line for line in block.split(b"\n") if line.strip()):
        try:
            _parse_json(line, schema)
        except pa.ArrowInvalid:
            yield number


def _mentions(block: bytes, name: str) -> bool:
    if any(json.dumps(name, ensure_ascii=ascii_only).encode() in block for ascii_only in (False, True)):
        return True
    return b"\\" in block and any(_json_text(match[1]) == name for match in _ESCAPED_NAME.finditer(block))


def _json_text(literal: bytes) -> str | None:
    try:
        return str(json.loads(literal))
    except ValueError:
        return None
