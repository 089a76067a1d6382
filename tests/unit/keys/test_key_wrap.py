"""Key wrap and unwrap, data keys under a KEK, and the vectors of RFC 5649."""

from __future__ import annotations

import base64
import functools
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom.errors import InvalidInput, Refused
from cleanroom.keys import KeyWrapAlgorithm, unwrap_data_key, unwrap_key, wrap_data_key, wrap_key
from cleanroom.keys.wrap import RELEASE_ALGORITHMS
from cleanroom.secret import Secret
from tests.shared_keys import rsa_key

SIZES = (2048, 3072, 4096)
HASHES = {
    "CKM_RSA_AES_KEY_WRAP": hashes.SHA1,
    "RSA_AES_KEY_WRAP_256": hashes.SHA256,
    "RSA_AES_KEY_WRAP_384": hashes.SHA384,
    "RSA-OAEP-AES-KWP": hashes.SHA256,
}


@functools.cache
def key_of(size: int) -> rsa.RSAPrivateKey:
    return rsa_key(bits=size)


def oaep(name: str) -> padding.OAEP:
    digest = HASHES[name]
    return padding.OAEP(padding.MGF1(digest()), digest(), None)


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=3000), algorithm=st.sampled_from(list(KeyWrapAlgorithm)))
def test_unwrap_undoes_wrap(size: int, data: bytes, algorithm: KeyWrapAlgorithm) -> None:
    private = key_of(size)
    blob = wrap_key(private.public_key(), data, algorithm)
    assert len(blob) == size // 8 + 8 + 8 * -(-len(data) // 8)
    assert unwrap_key(private, blob, algorithm) == data


@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=1, max_size=80), algorithm=st.sampled_from(list(KeyWrapAlgorithm)), draw=st.data())
def test_any_bit_flip_is_rejected(data: bytes, algorithm: KeyWrapAlgorithm, draw: st.DataObject) -> None:
    private = key_of(2048)
    blob = bytearray(wrap_key(private.public_key(), data, algorithm))
    bit = draw.draw(st.integers(0, 8 * len(blob) - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Refused) as error:
        unwrap_key(private, bytes(blob), algorithm)
    assert error.value.code == "KeyUnwrapFailed"


@pytest.mark.parametrize("name", HASHES)
def test_the_layout_is_oaep_of_an_aes_256_key_and_kwp_of_the_target(name: str) -> None:
    """Compared with a wrap that is assembled here in the services' layout."""
    private, target = key_of(3072), os.urandom(1217)
    kek = os.urandom(32)
    by_hand = private.public_key().encrypt(kek, oaep(name)) + keywrap.aes_key_wrap_with_padding(kek, target)
    assert unwrap_key(private, by_hand, name) == target
    ours = wrap_key(private.public_key(), target, name)
    assert keywrap.aes_key_unwrap_with_padding(private.decrypt(ours[:384], oaep(name)), ours[384:]) == target


def test_the_sidecars_vector_unwraps() -> None:
    assert len(wrap_key(key_of(2048).public_key(), bytes(32), "CKM_RSA_AES_KEY_WRAP")) == 256 + 40


@pytest.mark.parametrize("made", [name for name in HASHES if name != "RSA-OAEP-AES-KWP"])
@pytest.mark.parametrize("opened", [name for name in HASHES if name != "RSA-OAEP-AES-KWP"])
def test_another_algorithm_does_not_unwrap(made: str, opened: str) -> None:
    blob = wrap_key(key_of(2048).public_key(), b"k" * 32, made)
    if made == opened:
        assert unwrap_key(key_of(2048), blob, opened) == b"k" * 32
    else:
        with pytest.raises(Refused):
            unwrap_key(key_of(2048), blob, opened)


def test_governance_and_the_256_algorithm_share_one_layout() -> None:
    blob = wrap_key(key_of(2048).public_key(), b"secret", "RSA-OAEP-AES-KWP")
    assert unwrap_key(key_of(2048), blob, "RSA_AES_KEY_WRAP_256") == b"secret"


@pytest.mark.parametrize("cut", [0, 1, 255, 256, 257, 263, 264, 271, 295])
def test_a_truncated_blob_is_rejected(cut: int) -> None:
    blob = wrap_key(key_of(2048).public_key(), b"k" * 32)
    with pytest.raises(Refused) as error:
        unwrap_key(key_of(2048), blob[:cut])
    assert error.value.code == "KeyUnwrapFailed"


def test_another_key_of_any_size_does_not_unwrap() -> None:
    blob = wrap_key(key_of(2048).public_key(), b"k" * 32)
    for other in (rsa_key("other"), key_of(3072), key_of(4096)):
        with pytest.raises(Refused):
            unwrap_key(other, blob)


def test_the_key_inside_is_an_aes_key() -> None:
    for size in (16, 24, 32):
        kek = os.urandom(size)
        blob = key_of(2048).public_key().encrypt(kek, oaep("RSA_AES_KEY_WRAP_256")) + keywrap.aes_key_wrap_with_padding(kek, b"k" * 32)
        assert unwrap_key(key_of(2048), blob) == b"k" * 32
    for size in (0, 1, 20, 33, 64):
        blob = key_of(2048).public_key().encrypt(bytes(size), oaep("RSA_AES_KEY_WRAP_256")) + bytes(40)
        with pytest.raises(Refused) as error:
            unwrap_key(key_of(2048), blob)
        assert error.value.code == "KeyUnwrapFailed"


def test_unwrappable_input_is_rejected_with_its_code() -> None:
    with pytest.raises(InvalidInput) as error:
        wrap_key(key_of(2048).public_key(), b"k", "RSA_AES_KEY_WRAP_512")
    assert error.value.code == "UnsupportedKeyWrapAlgorithm"
    with pytest.raises(InvalidInput) as error:
        wrap_key(key_of(2048).public_key(), b"")
    assert error.value.code == "NothingToWrap"
    with pytest.raises(InvalidInput) as error:
        wrap_key(rsa_key("short", 1024).public_key(), b"k")
    assert error.value.code == "WrappingKeyTooSmall"


def test_unwrapping_with_a_small_key_or_another_algorithm_is_invalid() -> None:
    small = rsa_key("short", 1024)
    with pytest.raises(InvalidInput) as error:
        unwrap_key(small, bytes(200))
    assert error.value.code == "WrappingKeyTooSmall"
    with pytest.raises(InvalidInput) as error:
        unwrap_key(key_of(2048), bytes(300), "RSA_AES_KEY_WRAP_512")
    assert error.value.code == "UnsupportedKeyWrapAlgorithm"


@pytest.mark.parametrize("length", [0, 8, 15, 17, 20, 25, 31])
def test_wrapped_part_of_another_length_is_rejected(length: int) -> None:
    head = key_of(2048).public_key().encrypt(bytes(32), oaep("RSA_AES_KEY_WRAP_256"))
    with pytest.raises(Refused) as error:
        unwrap_key(key_of(2048), head + bytes(length))
    assert error.value.code == "KeyUnwrapFailed"


@pytest.mark.parametrize(("size", "accepted"), [(16 * 1024 * 1024, True), (16 * 1024 * 1024 + 1, False)])
def test_length_of_a_target_is_bounded(monkeypatch: pytest.MonkeyPatch, size: int, accepted: bool) -> None:
    monkeypatch.setattr(keywrap, "aes_key_wrap_with_padding", lambda kek, data: b"wrapped")
    if accepted:
        assert wrap_key(key_of(2048).public_key(), bytes(size)).endswith(b"wrapped")
        return
    with pytest.raises(InvalidInput) as error:
        wrap_key(key_of(2048).public_key(), bytes(size))
    assert error.value.code == "WrapTargetTooLarge"


def test_key_vault_releases_with_its_own_three_algorithms() -> None:
    assert {str(each) for each in RELEASE_ALGORITHMS} == {"CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"}
    for each in RELEASE_ALGORITHMS:
        assert unwrap_key(key_of(2048), wrap_key(key_of(2048).public_key(), b"k", each), each) == b"k"


def test_the_vectors_of_rfc_5649(vectors: Path) -> None:
    document = json.loads((vectors / "skr" / "rfc5649-kwp.json").read_text())
    for vector in document["vectors"]:
        kek, plain, wrapped = (bytes.fromhex(vector[name]) for name in ("kek", "plaintext", "wrapped"))
        assert keywrap.aes_key_wrap_with_padding(kek, plain) == wrapped
        assert keywrap.aes_key_unwrap_with_padding(kek, wrapped) == plain
    wrong = document["wrong_kek"]
    with pytest.raises(keywrap.InvalidUnwrap):
        keywrap.aes_key_unwrap_with_padding(bytes.fromhex(wrong["kek"]), bytes.fromhex(wrong["wrapped"]))


# Data keys


@pytest.mark.parametrize("size", [2048, 3072])
@settings(max_examples=15, deadline=None)
@given(data=st.binary(min_size=1, max_size=2000))
def test_a_data_key_of_any_length_round_trips(size: int, data: bytes) -> None:
    wrapped = wrap_data_key(key_of(size).public_key(), Secret(data))
    assert unwrap_data_key(key_of(size), wrapped) == Secret(data)


def test_a_32_byte_data_key_is_one_oaep_sha256_block_as_upstream_stores_it() -> None:
    data_key = os.urandom(32)
    block = base64.b64decode(wrap_data_key(key_of(2048).public_key(), Secret(data_key)))
    assert len(block) == 256
    assert key_of(2048).decrypt(block, oaep("RSA_AES_KEY_WRAP_256")) == data_key
    upstream = base64.b64encode(key_of(2048).public_key().encrypt(data_key, oaep("RSA_AES_KEY_WRAP_256"))).decode()
    assert unwrap_data_key(key_of(2048), upstream) == Secret(data_key)


def test_a_damaged_data_key_is_rejected() -> None:
    wrapped = wrap_data_key(key_of(2048).public_key(), Secret(b"k" * 32))
    with pytest.raises(Refused) as error:
        unwrap_data_key(key_of(3072), wrapped)
    assert error.value.code == "KeyUnwrapFailed"
    with pytest.raises(Refused):
        unwrap_data_key(key_of(2048), base64.b64encode(bytes(256)).decode())
    for text in ("not base64 !", f"{wrapped[:4]}!{wrapped[4:]}", f"{wrapped}\n", "é"):
        with pytest.raises(InvalidInput) as invalid:
            unwrap_data_key(key_of(2048), text)
        assert invalid.value.code == "InvalidWrappedKey"


@pytest.mark.parametrize(
    ("size", "length"), [(1, 256), (189, 256), (190, 256), (191, 256 + 8 + 192), (192, 256 + 8 + 192), (193, 256 + 8 + 200)]
)
def test_longest_data_key_of_one_oaep_block_has_190_bytes(size: int, length: int) -> None:
    wrapped = wrap_data_key(key_of(2048).public_key(), Secret(b"k" * size))
    assert len(base64.b64decode(wrapped)) == length
    assert unwrap_data_key(key_of(2048), wrapped) == Secret(b"k" * size)


@pytest.mark.parametrize("size", [0, 255, 254, 257, 272])
def test_wrapped_data_key_of_another_length_is_rejected(size: int) -> None:
    with pytest.raises(Refused) as error:
        unwrap_data_key(key_of(2048), base64.b64encode(bytes(size)).decode())
    assert error.value.code == "KeyUnwrapFailed"


def test_small_key_and_empty_data_key_are_rejected() -> None:
    with pytest.raises(InvalidInput, match="KEK: a 1024-bit") as error:
        wrap_data_key(rsa_key("short", 1024).public_key(), Secret(b"k"))
    assert error.value.code == "WrappingKeyTooSmall"
    with pytest.raises(InvalidInput) as error:
        wrap_data_key(key_of(2048).public_key(), Secret(b""))
    assert error.value.code == "NothingToWrap"
