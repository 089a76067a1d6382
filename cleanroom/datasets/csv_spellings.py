"""Common spellings of the values of a CSV text as a pattern that both RE2 and Python's ``re`` read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cleanroom.documents.dataset import CsvDialect, FieldType

_DAY: Final = r"(?:1[6-9]|20)[0-9]{2}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_TIME: Final = r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?Z?"
_VALUES: Final[dict[FieldType, str]] = {
    "integer": r"-?[0-9]{1,9}",
    "long": r"-?[0-9]{1,18}",
    "number": r"-?[0-9]{1,15}(?:\.[0-9]{1,17})?(?:[eE][-+]?[0-9]{1,2})?",
    "boolean": r"(?:true|false)",
    "date": _DAY,
    "timestamp": f"{_DAY}(?:{_TIME})?",
}
"""RE2 (https://github.com/google/re2/wiki/Syntax)."""


def row_pattern(kinds: Sequence[FieldType], dialect: CsvDialect) -> str | None:
    """Return the pattern of one row with its line end, or None if the dialect has values that it could confuse.

    Args:
        kinds: The types of the columns in file order.
        dialect: How the text deviates from RFC 4180.
    """
    # Other delimiters may be part of a number or a time.
    supported = (
        dialect.quoting == "rfc4180"
        and dialect.escape_character is None
        and dialect.delimiter in ",;|\t"
        and all(" " <= character <= "~" for character in dialect.null_text)
    )
    if not supported:
        return None
    delimiter, null = re.escape(dialect.delimiter), re.escape(dialect.null_text)
    text = rf'(?:[^"{delimiter}\r\n]*|"(?:[^"\r\n]|"")*")'

    def value(kind: FieldType) -> str:
        return text if kind == "string" else f"(?:{_VALUES[kind]}|{null})"

    return rf"{delimiter.join(map(value, kinds))}\r?\n"
