"""Numbers in CSV text that Arrow reads in another way than other readers do, and that are therefore refused.

Arrow reads hexadecimal integers as two's complement (``0xFFFFFFFF`` as -1), and a number beyond the range of a double as infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom.datasets.mismatch import schema_mismatch
from cleanroom.documents.dataset import FieldType

_INTEGERS: tuple[FieldType, ...] = ("integer", "long")
_HEXADECIMAL = r"(?i)^\s*[+-]?0x"
_WITHIN_WORD = np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)])
_FINITE = r"(?i)^[^a-z]*(e[+-]?[0-9]+)?\s*$"


def require_plain_numbers(
    block: bytes,
    table: pa.Table,
    as_text: Callable[[Sequence[str]], pa.Table],
    types: Mapping[str, FieldType],
    where: str,
    first_row: int | None,
) -> None:
    """Refuse hexadecimal integers, and numbers that are too large for a double.

    Args:
        block: The text of the table.
        table: The parsed columns.
        as_text: Parses columns of the block again, as text. It is called only for columns that may have such a number.
        types: Field name to type.
        where: The object's path, for error messages.
        first_row: Number of the first row of the block in the file, or None if unknown.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    suspects = [name for name in table.column_names if types[name] in _INTEGERS]
    if suspects and not _may_have_hexadecimal(block):
        suspects = []
    suspects += [name for name in table.column_names if types[name] == "number" and pc.any(pc.is_inf(table.column(name))).as_py()]
    if not suspects:
        return
    text = as_text(suspects)
    for name in suspects:
        column = text.column(name)
        bad = pc.match_substring_regex(column, _HEXADECIMAL)
        if types[name] == "number":
            bad = pc.and_(pc.is_inf(table.column(name)), pc.match_substring_regex(column, _FINITE))
        place = pc.index(bad, True).as_py()
        if place >= 0:
            actual = f"a value that is not of type {types[name]}"
            raise schema_mismatch(where, name, types[name], actual, row=None if first_row is None else first_row + place)


def _may_have_hexadecimal(block: bytes) -> bool:
    """Return whether ``0x`` occurs where a value may begin: not after a letter, a digit or a byte of another character."""
    data = np.frombuffer(block, np.uint8)
    for letter in b"xX":
        if letter in block:
            places = np.flatnonzero(data == letter)
            places = places[(places > 0) & (data[places - 1] == ord("0"))]
            if np.any((places == 1) | ~_WITHIN_WORD[data[places - 2]]):
                return True
    return False
