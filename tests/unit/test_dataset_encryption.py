"""The sealed format: compatible with Tink in both directions, and every alteration is rejected."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tink import json_proto_keyset_format, secret_key_access, streaming_aead

from cleanroom.datasets import encryption
from cleanroom.datasets.encryption import (
    FIRST_PLAIN_BYTES,
    PLAIN_BYTES,
    SEGMENT_BYTES,
    SealedFile,
    SealedObject,
    dataset_key_from_tink,
    dataset_key_to_tink,
    decode_dataset_key,
    encode_dataset_key,
    generate_dataset_key,
    open_bytes,
    plain_size,
    seal_bytes,
    sealed_size,
)
from cleanroom.errors import InvalidInput, Refused
from cleanroom.secret import Secret

KEY = Secret(bytes(range(32)))
PATH = "2013-01-01/flights.csv"
SIZES = [0, 1, FIRST_PLAIN_BYTES - 1, FIRST_PLAIN_BYTES, FIRST_PLAIN_BYTES + 1, FIRST_PLAIN_BYTES + PLAIN_BYTES, 3_500_000]
LARGE = random.Random(7).randbytes(3_500_000)
SEALED = seal_bytes(LARGE, KEY, PATH)

streaming_aead.register()


class KeepOpen(io.BytesIO):
    def close(self) -> None:
        """Stay open: Tink closes its destination, and the test still reads it."""


def tink_primitive(key: Secret) -> streaming_aead.StreamingAead:
    handle = json_proto_keyset_format.parse(dataset_key_to_tink(key).reveal_text(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


@pytest.mark.parametrize("size", SIZES)
def test_sealed_objects_are_interchangeable_with_tinks(size: int) -> None:
    plain = LARGE[:size]
    aead = tink_primitive(KEY)

    ours = seal_bytes(plain, KEY, PATH)
    assert len(ours) == sealed_size(size)
    assert plain_size(len(ours)) == size
    with aead.new_decrypting_stream(io.BytesIO(ours), PATH.encode()) as stream:
        assert stream.read() == plain

    theirs = KeepOpen()
    with aead.new_encrypting_stream(theirs, PATH.encode()) as stream:
        stream.write(plain)
    assert open_bytes(theirs.getvalue(), KEY, PATH) == plain


def test_key_is_converted_to_base64_and_tink_keyset_and_back() -> None:
    key = generate_dataset_key()
    assert decode_dataset_key(encode_dataset_key(key)) == key
    assert dataset_key_from_tink(dataset_key_to_tink(key, key_id=99)) == key
    made_by_tink = json_proto_keyset_format.serialize(
        streaming_aead_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB), secret_key_access.TOKEN
    )
    assert len(dataset_key_from_tink(Secret(made_by_tink.encode()))) == 32


def streaming_aead_handle(template: object) -> object:
    from tink import new_keyset_handle

    return new_keyset_handle(template)


@pytest.mark.parametrize("template", ["AES256_GCM_HKDF_4KB", "AES128_GCM_HKDF_1MB", "AES256_CTR_HMAC_SHA256_1MB"])
def test_key_of_another_tink_template_is_rejected(template: str) -> None:
    handle = streaming_aead_handle(getattr(streaming_aead.streaming_aead_key_templates, template))
    keyset = json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    with pytest.raises(InvalidInput, match="TinkKeysetUnsupported"):
        dataset_key_from_tink(Secret(keyset.encode()))


@pytest.mark.parametrize("value", [b"", b"{}", b"AAAA", b"not base64!", b"A" * 43])
def test_malformed_key_is_rejected(value: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_dataset_key(Secret(value))
    with pytest.raises(InvalidInput):
        dataset_key_from_tink(Secret(value))


@given(offset=st.integers(0, len(LARGE) + 10), length=st.integers(0, 2_200_000))
@settings(max_examples=40, deadline=None)
def test_range_read_equals_a_slice_and_fetches_only_its_segments(offset: int, length: int) -> None:
    fetched: list[tuple[int, int]] = []

    def read_range(start: int, size: int) -> bytes:
        fetched.append((start, size))
        return SEALED[start : start + size]

    sealed = SealedObject(read_range, len(SEALED), KEY, PATH)
    assert sealed.size == len(LARGE)
    fetched.clear()
    assert sealed.read_at(offset, length) == LARGE[offset : offset + length]
    assert sum(size for _, size in fetched) <= length + 2 * SEGMENT_BYTES


@given(steps=st.lists(st.tuples(st.integers(-10, len(LARGE)), st.integers(0, 300_000)), max_size=8))
@settings(max_examples=30, deadline=None)
def test_sealed_file_behaves_as_a_file(steps: list[tuple[int, int]]) -> None:
    ours = SealedFile(SealedObject(lambda o, n: SEALED[o : o + n], len(SEALED), KEY, PATH))
    plain = io.BytesIO(LARGE)
    for position, size in steps:
        whence = io.SEEK_END if position < 0 else io.SEEK_SET
        assert ours.seek(position, whence) == plain.seek(position, whence)
        assert ours.read(size) == plain.read(size)
        assert ours.tell() == plain.tell()


@given(position=st.integers(0, len(SEALED) - 1), mask=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_altered_byte_is_rejected(position: int, mask: int) -> None:
    altered = bytearray(SEALED)
    altered[position] ^= mask
    with pytest.raises(Refused, match="CiphertextInvalid"):
        open_bytes(bytes(altered), KEY, PATH)


@given(keep=st.integers(0, len(SEALED) - 1))
@settings(max_examples=60, deadline=None)
def test_truncated_object_is_rejected(keep: int) -> None:
    with pytest.raises(Refused, match="CiphertextInvalid"):
        open_bytes(SEALED[:keep], KEY, PATH)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_truncation_at_a_segment_boundary_is_rejected(keep: int) -> None:
    with pytest.raises(Refused, match="CiphertextInvalid"):
        open_bytes(SEALED[: keep * SEGMENT_BYTES], KEY, PATH)


@given(order=st.permutations(range(4)).filter(lambda order: order != sorted(order)))
@settings(max_examples=20, deadline=None)
def test_reordered_segments_are_rejected(order: list[int]) -> None:
    parts = [SEALED[i * SEGMENT_BYTES : (i + 1) * SEGMENT_BYTES] for i in range(4)]
    with pytest.raises(Refused, match="CiphertextInvalid"):
        open_bytes(b"".join(parts[i] for i in order), KEY, PATH)


def test_spliced_or_extended_object_other_path_and_other_key_are_rejected() -> None:
    other = seal_bytes(LARGE, KEY, PATH)
    grafted = SEALED[:SEGMENT_BYTES] + other[SEGMENT_BYTES:]
    for sealed, key, path in [
        (grafted, KEY, PATH),
        (SEALED + b"\0", KEY, PATH),
        (SEALED + SEALED[-SEGMENT_BYTES:], KEY, PATH),
        (SEALED, KEY, "2013-01-02/flights.csv"),
        (SEALED, generate_dataset_key(), PATH),
    ]:
        with pytest.raises(Refused, match="CiphertextInvalid") as caught:
            open_bytes(sealed, key, path)
        assert path in caught.value.message


def test_sealing_holds_two_segments_in_memory_and_uses_a_new_salt() -> None:
    class Endless(io.RawIOBase):
        left = 40 * SEGMENT_BYTES
        most = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= SEGMENT_BYTES
            size = min(size, self.left)
            self.left -= size
            return b"\0" * size

    assert all(len(piece) <= SEGMENT_BYTES for piece in encryption.seal_stream(Endless(), KEY, PATH))
    assert len({seal_bytes(b"x", KEY, PATH)[:40] for _ in range(50)}) == 50
