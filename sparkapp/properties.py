"""Java's ``.properties`` format, which Spark reads and writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cleanroom.errors import InvalidInput

_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_SEPARATOR = re.compile(r"[ \t\f]*(?:[=:][ \t\f]*|[ \t\f]|$)")


def parse_properties(text: str) -> dict[str, str]:
    """Names and values as ``java.util.Properties`` reads them; a name that comes twice has its last value.

    Raises:
        InvalidInput: ``SparkPropertiesInvalid``.
    """
    result = {}
    for line in _logical_lines(text):
        name, position = _until_separator(line)
        match = _SEPARATOR.match(line, position)
        result[name] = _unescape(line[match.end() if match else position :])
    return result


def render_properties(values: Mapping[str, str]) -> str:
    """ASCII text that reads back as ``values``, sorted by name."""
    return "".join(f"{_escape(name, r' =:#!')}={_escape(value, '')}\n" for name, value in sorted(values.items()))


def _logical_lines(text: str) -> Iterator[str]:
    held = ""
    for raw in re.split(r"\r\n|\r|\n", text):
        line = raw.lstrip(" \t\f")
        if not held and (not line or line[0] in "#!"):
            continue
        held += line
        if (len(held) - len(held.rstrip("\\"))) % 2:
            held = held[:-1]
            continue
        yield held
        held = ""
    if held:
        yield held


def _until_separator(line: str) -> tuple[str, int]:
    match = re.match(r"(?:\\.|[^\\=: \t\f])*", line, re.DOTALL)
    assert match is not None
    return _unescape(match[0]), match.end()


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        token = match[1]
        if token[0] != "u":
            return _ESCAPED.get(token, token)
        if len(token) != 5:
            raise InvalidInput("SparkPropertiesInvalid", "spark.properties: malformed \\uxxxx.")
        return chr(int(token[1:], 16))

    plain = re.sub(r"\\(u[0-9A-Fa-f]{4}|.)", replace, text, flags=re.DOTALL)
    # Java writes what lies outside of 16 bits as two.
    return plain.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")


def _escape(text: str, special: str) -> str:
    def one(position: int, char: str) -> str:
        if char in "\\" + special or (position == 0 and char == " "):
            return "\\" + char
        if char in "\t\n\r\f":
            return "\\" + {value: name for name, value in _ESCAPED.items()}[char]
        if " " <= char <= "~":
            return char
        return "".join(f"\\u{unit:04x}" for unit in _utf16(char))

    return "".join(one(position, char) for position, char in enumerate(text))


def _utf16(char: str) -> list[int]:
    data = char.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2)]
