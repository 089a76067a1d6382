"""Recognises blocks of CSV text whose rows match a schema beyond doubt, several times as fast as Arrow parses them.

The pattern accepts less than :func:`cleanroom.datasets.csv_text.read_csv` does: common spellings of values, without line breaks in them.
A block that it does not accept may still be valid, and is parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom.datasets.csv_spellings import row_pattern
from cleanroom.datasets.row_blocks import BOM, is_utf8
from cleanroom.documents.dataset import CsvDialect, FieldType

MOST_COLUMNS: Final = 100
"""The automaton of a longer pattern may not fit RE2's memory, and would be slower than Arrow."""

_MISSES: Final = 4


class CsvPattern:
    """The pattern of the rows of a schema.

    Args:
        kinds: The types of the columns in file order.
        dialect: How the text deviates from RFC 4180; None if it does not.
    """

    def __init__(self, kinds: Sequence[FieldType], dialect: CsvDialect | None) -> None:
        row = row_pattern(kinds, dialect or CsvDialect())
        self._misses = 0 if row is not None and len(kinds) <= MOST_COLUMNS else _MISSES
        self._pattern = rf"^(?:{row})*\z"

    def count_rows(self, block: bytes) -> int | None:
        """Return the number of rows of a block of whole rows, or None if only a parser can tell whether they match the schema."""
        if self._misses >= _MISSES or not block.endswith(b"\n") or block.startswith(BOM):
            return None
        ends = pa.py_buffer(np.array([0, len(block)], np.int32))
        values = pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(block)])
        if pc.match_substring_regex(values, self._pattern)[0].as_py() and is_utf8(block):
            self._misses = 0
            return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
        # A text of other spellings would be read twice to its end.
        self._misses += 1
        return None
