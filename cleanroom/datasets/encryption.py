"""Streaming authenticated encryption of dataset objects in Tink's wire format AES256-GCM-HKDF-1MB.

One object, with all integers big-endian (https://developers.google.com/tink/wire-format, "AES-GCM-HKDF")::

    header        1 byte header length (40) | 32 bytes salt | 7 bytes nonce prefix
    segment 0     AES-256-GCM of the first  1 MiB - 40 - 16 plaintext bytes, with its 16-byte tag
    segment i     AES-256-GCM of the next   1 MiB - 16      plaintext bytes, with its 16-byte tag
    last segment  the rest (empty only if the whole plaintext is empty)

    object key    HKDF-SHA256(dataset key, salt, info = associated data, 32 bytes)
    nonce         7 bytes nonce prefix | 4 bytes segment number | 1 byte: 1 in the last segment, else 0

The associated data is ``<collaboration>/<dataset>/<path>`` (:func:`cleanroom.identifiers.object_context`). Therefore
an operator of the store cannot swap, reorder, truncate or splice objects or segments undetected, also between datasets
and collaborations. Each segment is sealed separately, so a reader can open any range (:class:`SealedObject`); Tink's
Python package cannot. The dataset key is 32 random bytes and serves only as input key of HKDF (RFC 5869).
"""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cleanroom.datasets.streams import ReadOnlyStream
from cleanroom.errors import InvalidInput, Refused
from cleanroom.secret import Secret

KEY_BYTES = 32
SEGMENT_BYTES = 1 << 20
"""Ciphertext bytes of every segment except the last. The first includes the header."""
TAG_BYTES = 16
SALT_BYTES = 32
PREFIX_BYTES = 7
HEADER_BYTES = 1 + SALT_BYTES + PREFIX_BYTES
FIRST_PLAIN_BYTES = SEGMENT_BYTES - HEADER_BYTES - TAG_BYTES
PLAIN_BYTES = SEGMENT_BYTES - TAG_BYTES
"""Plaintext bytes of a full segment that is not the first."""

MAX_SEGMENTS = 1 << 32

ReadRange = Callable[[int, int], bytes]
"""``(offset, length) -> bytes``: reads a range of a stored object."""

_TINK_TYPE = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
# AesGcmHkdfStreamingKey{params{ciphertext_segment_size=1048576, derived_key_size=32, hkdf_hash_type=SHA256}, key_value: 32 bytes}
_TINK_PREFIX = bytes.fromhex("12080880804010201803") + b"\x1a\x20"


def generate_dataset_key() -> Secret:
    """Return a new dataset key: 32 random bytes."""
    return Secret(secrets.token_bytes(KEY_BYTES))


def encode_dataset_key(key: Secret) -> Secret:
    """Return the key as base64 text, the form in which governance and Key Vault store it."""
    return Secret(base64.b64encode(_key_bytes(key)))


def decode_dataset_key(value: Secret) -> Secret:
    """Parse a key in base64; the inverse of :func:`encode_dataset_key`.

    Raises:
        InvalidInput: ``DatasetKeyMalformed``.
    """
    try:
        raw = base64.b64decode(value.reveal(), validate=True)
    except ValueError:
        raise InvalidInput("DatasetKeyMalformed", "dataset key: not 32 bytes in base64.") from None
    key = Secret(raw)
    _key_bytes(key)
    return key


def dataset_key_to_tink(key: Secret, *, key_id: int = 1) -> Secret:
    """Return the key as a cleartext Tink keyset in JSON with one AES256-GCM-HKDF-1MB key, for use with any Tink library.

    Args:
        key: The dataset key.
        key_id: The key's ID within the keyset.
    """
    value = base64.b64encode(_TINK_PREFIX + _key_bytes(key)).decode("ascii")
    keyset = {
        "primaryKeyId": key_id,
        "key": [
            {
                "keyData": {"typeUrl": _TINK_TYPE, "value": value, "keyMaterialType": "SYMMETRIC"},
                "status": "ENABLED",
                "keyId": key_id,
                "outputPrefixType": "RAW",
            }
        ],
    }
    return Secret(json.dumps(keyset).encode("ascii"))


def dataset_key_from_tink(keyset: Secret) -> Secret:
    """Return the primary key of a cleartext Tink keyset in JSON.

    Raises:
        InvalidInput: ``TinkKeysetUnsupported`` if it is not a keyset, or its primary key is not of type
            AES256-GCM-HKDF-1MB.
    """
    try:
        value = json.loads(keyset.reveal())
        primary = next(entry for entry in value["key"] if entry["keyId"] == value["primaryKeyId"])
        type_url = primary["keyData"]["typeUrl"]
        raw = base64.b64decode(primary["keyData"]["value"], validate=True)
    except (ValueError, KeyError, TypeError, StopIteration):
        raise InvalidInput("TinkKeysetUnsupported", "keyset: not a cleartext Tink keyset in JSON with a primary key.") from None
    if type_url != _TINK_TYPE or not raw.startswith(_TINK_PREFIX) or len(raw) != len(_TINK_PREFIX) + KEY_BYTES:
        raise InvalidInput("TinkKeysetUnsupported", "keyset: the primary key does not have the template AES256_GCM_HKDF_1MB.")
    return Secret(raw[len(_TINK_PREFIX) :])


def sealed_size(plain_size: int) -> int:
    """Return the stored size of a plaintext of ``plain_size`` bytes."""
    return plain_size + HEADER_BYTES + TAG_BYTES * _segments_of_plain(plain_size)


def plain_size(sealed: int) -> int:
    """Return the plaintext size of an object of ``sealed`` stored bytes, or -1 if no plaintext has that stored size."""
    size = sealed - HEADER_BYTES - TAG_BYTES * segment_count(sealed)
    return size if size >= 0 and sealed_size(size) == sealed else -1


def segment_count(sealed: int) -> int:
    """Return the number of segments of an object of ``sealed`` stored bytes."""
    return max(1, -(-sealed // SEGMENT_BYTES))


def _segments_of_plain(size: int) -> int:
    return 1 if size <= FIRST_PLAIN_BYTES else 1 + -(-(size - FIRST_PLAIN_BYTES) // PLAIN_BYTES)


def _key_bytes(key: Secret) -> bytes:
    raw = key.reveal()
    if len(raw) != KEY_BYTES:
        raise InvalidInput("DatasetKeyMalformed", f"dataset key: {len(raw)} bytes; {KEY_BYTES} are required.")
    return raw


def _object_cipher(key: Secret, salt: bytes, associated_data: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=associated_data).derive(_key_bytes(key)))


def _nonce(prefix: bytes, index: int, last: bool) -> bytes:
    return prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


class Sealer:
    """Seals a plaintext that arrives in pieces. It holds at most one segment of it.

    Args:
        key: The dataset key.
        context: The object's place, :func:`cleanroom.identifiers.object_context`, which is the associated data.
    """

    def __init__(self, key: Secret, context: str) -> None:
        salt, self._prefix = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(PREFIX_BYTES)
        self._cipher = _object_cipher(key, salt, context.encode("utf-8"))
        self._context, self._index, self._rest = context, 0, b""
        self.header = bytes([HEADER_BYTES]) + salt + self._prefix
        """The first 40 stored bytes."""

    def update(self, data: bytes) -> list[bytes]:
        """Add plaintext, and return the stored bytes of the segments that are complete, at most 1 MiB each.

        Raises:
            InvalidInput: ``ObjectTooLarge``.
        """
        text, start, sealed = memoryview(self._rest + data), 0, []
        # A full segment waits for the next byte, because the last segment is sealed as such.
        while len(text) - start > (length := self._segment_bytes()):
            sealed.append(self._seal(text[start : start + length], last=False))
            start += length
        self._rest = bytes(text[start:])
        return sealed

    def finish(self) -> bytes:
        """Return the stored bytes of the last segment."""
        return self._seal(memoryview(self._rest), last=True)

    def _segment_bytes(self) -> int:
        return PLAIN_BYTES if self._index else FIRST_PLAIN_BYTES

    def _seal(self, piece: memoryview, *, last: bool) -> bytes:
        if self._index == MAX_SEGMENTS:
            raise InvalidInput("ObjectTooLarge", f"{self._context}: an object can have at most {MAX_SEGMENTS} segments of 1 MiB.")
        sealed = self._cipher.encrypt(_nonce(self._prefix, self._index, last), piece, None)
        self._index += 1
        return sealed if self._index > 1 else self.header + sealed


def seal_stream(source: BinaryIO, key: Secret, context: str) -> Iterator[bytes]:
    """Seal ``source``, read once from its current position, and yield the stored bytes. See :class:`Sealer`."""
    sealer = Sealer(key, context)
    while piece := source.read(SEGMENT_BYTES):
        yield from sealer.update(piece)
    yield sealer.finish()


def seal_bytes(data: bytes, key: Secret, context: str) -> bytes:
    """Seal plaintext that is in memory; see :func:`seal_stream`."""
    return b"".join(seal_stream(io.BytesIO(data), key, context))


def open_bytes(sealed: bytes, key: Secret, context: str) -> bytes:
    """Return the plaintext of a whole object that is in memory.

    Raises:
        Refused: ``CiphertextInvalid``.
    """
    return SealedObject(lambda offset, length: sealed[offset : offset + length], len(sealed), key, context).read_all()


class SealedObject:
    """A stored object with random access. A read fetches and decrypts only the segments that it touches.

    Args:
        read_range: Reads stored bytes; a short answer is an error.
        size: Stored size in bytes. It determines which segment is the last, and that segment authenticates it.
        key: The dataset key.
        context: The object's place, as for :class:`Sealer`.
        header: The object's first 40 bytes, if known; they are then not read. They are random and every segment depends
            on them, so no segment of another object sealed under the same key and context opens.

    Raises:
        Refused: ``CiphertextInvalid`` if the size, the header or (later) a segment is not what the owner sealed
            under this key and context:
            altered, truncated, spliced, swapped, or sealed with another key.
    """

    def __init__(self, read_range: ReadRange, size: int, key: Secret, context: str, *, header: bytes | None = None) -> None:
        self._read_range = read_range
        self._context = context
        self._stored = size
        self.size = plain_size(size)
        """Plaintext size in bytes. It is authentic once the last segment was opened."""
        self.segments = segment_count(size)
        if self.size < 0:
            raise self._invalid("sealing cannot produce its size; it was truncated or is not sealed")
        self._listed = header is not None
        found = self._stored_bytes(0, HEADER_BYTES) if header is None else header
        if (len(found), found[0]) != (HEADER_BYTES, HEADER_BYTES):
            raise self._invalid("its header does not have the format AES256-GCM-HKDF-1MB")
        self._prefix = found[1 + SALT_BYTES :]
        self._cipher = _object_cipher(key, found[1 : 1 + SALT_BYTES], context.encode("utf-8"))

    def open_segments(self, first: int, stop: int) -> list[bytes]:
        """Return the plaintext of segments ``first`` (inclusive) to ``stop`` (exclusive), fetched in one ranged read."""
        stop = min(stop, self.segments)
        if first >= stop:
            return []
        start = first * SEGMENT_BYTES
        sealed = memoryview(self._stored_bytes(start, min(stop * SEGMENT_BYTES, self._stored) - start))
        plain = []
        for index in range(first, stop):
            offset = index * SEGMENT_BYTES - start
            piece = sealed[offset + (HEADER_BYTES if index == 0 else 0) : offset + SEGMENT_BYTES]
            try:
                plain.append(self._cipher.decrypt(_nonce(self._prefix, index, last=index == self.segments - 1), piece, None))
            except InvalidTag:
                other = "; it was altered, or is an older or another object than the manifest lists" if self._listed else ""
                raise self._invalid(f"segment {index} of {self.segments} does not authenticate{other}") from None
        return plain

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the plaintext bytes ``[offset, offset + length)``, limited to the end of the object."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = self.segment_of(offset), self.segment_of(end - 1)
        plain = b"".join(self.open_segments(first, last + 1))
        start = offset - self.segment_start(first)
        return plain[start : start + end - offset]

    def segment_of(self, offset: int) -> int:
        """Return the number of the segment that contains the plaintext byte at ``offset``."""
        return 0 if offset < FIRST_PLAIN_BYTES else 1 + (offset - FIRST_PLAIN_BYTES) // PLAIN_BYTES

    def segment_start(self, index: int) -> int:
        """Return the plaintext offset at which segment ``index`` begins."""
        return 0 if index == 0 else FIRST_PLAIN_BYTES + (index - 1) * PLAIN_BYTES

    def read_all(self) -> bytes:
        """Return the whole plaintext."""
        return b"".join(self.open_segments(0, self.segments))

    def _stored_bytes(self, offset: int, length: int) -> bytes:
        data = self._read_range(offset, length)
        if len(data) != length:
            raise self._invalid(f"the store returned {len(data)} of {length} bytes at offset {offset}")
        return data

    def _invalid(self, why: str) -> Refused:
        return Refused(
            "CiphertextInvalid",
            f"object {self._context!r}: {why}.",
            hint="The object was altered or moved in the store, or the key belongs to another dataset. Its owner can upload it again.",
            details={"object": self._context},
        )


class SegmentedObject(Protocol):
    """An object that is opened segment by segment. See :class:`SealedObject` for each member."""

    size: int
    segments: int

    def open_segments(self, first: int, stop: int) -> list[bytes]:
        """Return the plaintext of segments ``first`` to ``stop`` (exclusive)."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the plaintext bytes ``[offset, offset + length)``."""
        ...

    def segment_of(self, offset: int) -> int:
        """Return the segment that contains the byte at ``offset``."""
        ...

    def segment_start(self, index: int) -> int:
        """Return the offset at which segment ``index`` begins."""
        ...


class SealedFile(ReadOnlyStream):
    """A seekable, read-only file over a :class:`SealedObject`. A Parquet reader fetches only the footer and the row groups that it needs.

    It caches the last opened segments, because reads of neighbouring column chunks share them.
    """

    _CACHED = 8

    def __init__(self, sealed: SegmentedObject) -> None:
        super().__init__()
        self._sealed = sealed
        self._position = 0
        self._cache: dict[int, bytes] = {}

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the plaintext."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the plaintext and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._sealed.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes. Unlike a raw read, the result is only short at the end of the object."""
        end = self._sealed.size if size is None or size < 0 else min(self._position + size, self._sealed.size)
        if self._position >= end:
            return b""
        first, last = self._sealed.segment_of(self._position), self._sealed.segment_of(end - 1)
        plain = b"".join(self._segments(first, last + 1))
        start = self._position - self._sealed.segment_start(first)
        data = plain[start : start + end - self._position]
        self._position = end
        return data

    def _segments(self, first: int, stop: int) -> list[bytes]:
        missing = [index for index in range(first, stop) if index not in self._cache]
        opened: dict[int, bytes] = {}
        if missing:
            low, high = missing[0], missing[-1] + 1
            opened = dict(zip(range(low, high), self._sealed.open_segments(low, high), strict=True))
        result = [opened[index] if index in opened else self._cache[index] for index in range(first, stop)]
        self._cache |= opened
        while len(self._cache) > self._CACHED:
            del self._cache[next(iter(self._cache))]
        return result
