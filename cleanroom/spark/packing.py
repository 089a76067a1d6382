"""Packs a long text for a measured variable, so that every verifier computes the same characters.

The result is a DEFLATE stream (RFC 1951), which any zlib reads. zlib does not promise the same stream in every version, and host data
depends on each character. So this module encodes by a fixed rule: one block of fixed Huffman codes, and at each position the latest
earlier occurrence of the next four bytes.
"""

from __future__ import annotations

import base64
import binascii
import zlib

from cleanroom.errors import InvalidInput

PREFIX = "deflate:"
MAX_UNPACKED = 1 << 20
"""Longest text that is unpacked, in bytes."""
_WINDOW = 32_768
_SHORTEST, _LONGEST = 4, 258


def _classes(first: int, codes: int, per_extra: int) -> list[tuple[int, int]]:
    """Return the base value and the number of extra bits of each length or distance code (RFC 1951, section 3.2.5)."""
    found: list[tuple[int, int]] = []
    value = first
    for code in range(codes):
        extra = max(0, code // per_extra - 1)
        found.append((value, extra))
        value += 1 << extra
    return found


_LENGTH_CODES = [*_classes(3, 28, 4), (258, 0)]
_DISTANCE_CODES = _classes(1, 30, 2)


class _Bits:
    """Bits, least significant first, as DEFLATE writes them."""

    def __init__(self) -> None:
        self._value = self._count = 0
        self._bytes = bytearray()

    def add(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count
        while self._count >= 8:
            self._bytes.append(self._value & 255)
            self._value >>= 8
            self._count -= 8

    def code(self, value: int, count: int) -> None:
        """Add a Huffman code, whose most significant bit comes first."""
        self.add(int(f"{value:0{count}b}"[::-1], 2), count)

    def symbol(self, symbol: int) -> None:
        """Add a literal, the end of the block or a length code (RFC 1951, section 3.2.6)."""
        if symbol < 144:
            self.code(0x30 + symbol, 8)
        elif symbol < 256:
            self.code(0x190 + symbol - 144, 9)
        elif symbol < 280:
            self.code(symbol - 256, 7)
        else:
            self.code(0xC0 + symbol - 280, 8)

    def end(self) -> bytes:
        if self._count:
            self._bytes.append(self._value & 255)
        return bytes(self._bytes)


def _last_class(classes: list[tuple[int, int]], value: int) -> int:
    return max(code for code, (base, _) in enumerate(classes) if base <= value)


def _deflate(data: bytes) -> bytes:
    bits = _Bits()
    bits.add(0b011, 3)  # The last block; fixed Huffman codes.
    latest: dict[bytes, int] = {}
    at = 0
    while at < len(data):
        key = data[at : at + _SHORTEST]
        found = latest.get(key, -1) if len(key) == _SHORTEST else -1
        length = 1
        if found >= 0 and at - found <= _WINDOW:
            length = _SHORTEST
            while length < _LONGEST and at + length < len(data) and data[found + length] == data[at + length]:
                length += 1
            for classes, value, first in ((_LENGTH_CODES, length, 257), (_DISTANCE_CODES, at - found, None)):
                code = _last_class(classes, value)
                bits.symbol(code + first) if first is not None else bits.code(code, 5)
                bits.add(value - classes[code][0], classes[code][1])
        else:
            bits.symbol(data[at])
        for position in range(at, min(at + length, len(data) - _SHORTEST + 1)):
            latest[data[position : position + _SHORTEST]] = position
        at += length
    bits.symbol(256)
    return bits.end()


def pack(data: bytes) -> str:
    """Return ``data`` as :data:`PREFIX` and the base64 of a DEFLATE stream."""
    return PREFIX + base64.b64encode(_deflate(data)).decode("ascii")


def unpack(text: str) -> bytes:
    """Return what :func:`pack` packed.

    Raises:
        InvalidInput: ``PackedTextInvalid``.
    """
    try:
        stream = zlib.decompressobj(wbits=-15)
        data = stream.decompress(base64.b64decode(text.removeprefix(PREFIX), validate=True), MAX_UNPACKED)
    except (zlib.error, binascii.Error, ValueError) as error:
        raise InvalidInput("PackedTextInvalid", "the packed text is no DEFLATE stream in base64.", cause=str(error)) from error
    if not stream.eof or stream.unused_data:
        raise InvalidInput("PackedTextInvalid", f"the packed text is incomplete, or longer than {MAX_UNPACKED} bytes.")
    return data
