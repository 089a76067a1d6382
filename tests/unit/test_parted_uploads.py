"""Uploads in parts: order, bounds, errors, and what becomes visible."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.clients import objects
from cleanroom.clients.objects import BLOCK_BYTES, UploadLimits
from cleanroom.clients.uploads import SENT_BYTES, PartedUpload
from cleanroom.errors import InvalidInput, Unavailable

LIMITS = UploadLimits(parts=10_000, largest_part=5 << 30, largest_object=5 << 40)


class RecordedUpload(PartedUpload):
    """Notes what a store would get. A part whose number is in ``failing`` fails."""

    def __init__(self, *arguments: Any, failing: frozenset[int] = frozenset()) -> None:
        super().__init__(*arguments)
        self.failing = failing
        self.parts: dict[int, bytes] = {}
        self.visible: bytes | None = None
        self.ends: list[str] = []
        self.most = self.now = 0
        self.lock = threading.Lock()

    def _put_whole(self, data: bytes) -> None:
        self.visible = data

    def _begin(self) -> None:
        self.ends.append("begun")

    def _send(self, number: int, data: bytes) -> int:
        with self.lock:
            self.now += len(data)
            self.most = max(self.most, self.now)
            self.parts[number] = data
        with self.lock:
            self.now -= len(data)
        if number in self.failing:
            raise Unavailable("StoreUnavailable", "no answer")
        return number

    def _complete(self, receipts: list[int]) -> None:
        assert receipts == sorted(self.parts)
        self.visible = b"".join(self.parts[number] for number in receipts)

    def _discard(self) -> None:
        self.ends.append("discarded")


def write_all(upload: PartedUpload, pieces: list[bytes]) -> None:
    with upload:
        for piece in pieces:
            upload.write(piece)
        upload.commit()


@given(st.lists(st.binary(max_size=30), max_size=12), st.integers(1, 40))
def test_every_byte_arrives_in_order_whatever_the_sizes_of_pieces_and_parts(pieces: list[bytes], part: int) -> None:
    whole = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "BLOCK_BYTES", part)
        patch.setattr(objects, "_MIB", 1)
        upload = RecordedUpload("k", LIMITS, len(whole))
    seen: list[int] = []
    upload._on_progress = seen.append
    with upload:
        for piece in pieces:
            upload.write(piece)
        assert upload.visible is None
        upload.commit()
    assert (upload.visible, upload.size, seen[-1]) == (whole, len(whole), len(whole))
    assert seen == sorted(seen)
    assert {len(data) for data in upload.parts.values()} <= {part, len(whole) % part}
    assert ("discarded" in upload.ends, bool(upload.parts)) == (False, len(whole) > part)


def test_bytes_on_their_way_are_bounded() -> None:
    upload = RecordedUpload("k", LIMITS, None)
    write_all(upload, [bytes(BLOCK_BYTES)] * 12)
    assert len(upload.parts) == 12
    assert upload.most <= SENT_BYTES
    assert upload.visible == bytes(12 * BLOCK_BYTES)


def test_nothing_is_visible_or_left_when_a_part_fails() -> None:
    upload = RecordedUpload("k", LIMITS, None, failing=frozenset({2}))
    with pytest.raises(Unavailable):
        write_all(upload, [bytes(BLOCK_BYTES)] * 9)
    assert (upload.visible, upload.ends) == (None, ["begun", "discarded"])
    assert len(upload.parts) < 9


def test_flushed_upload_waits_for_the_commit() -> None:
    upload = RecordedUpload("k", LIMITS, None)
    upload.write(bytes(BLOCK_BYTES + 5))
    upload.flush()
    assert (sorted(map(len, upload.parts.values())), upload.visible) == ([5, BLOCK_BYTES], None)
    upload.commit()
    upload.abort()
    assert upload.visible == bytes(BLOCK_BYTES + 5)
    assert upload.ends == ["begun"]


def test_source_of_unknown_size_ends_at_the_limit() -> None:
    limits = UploadLimits(parts=2, largest_part=BLOCK_BYTES, largest_object=1 << 40)
    upload = RecordedUpload("k", limits, None)
    with pytest.raises(InvalidInput, match="ObjectTooLarge"):
        write_all(upload, [bytes(BLOCK_BYTES), bytes(BLOCK_BYTES), b"x"])
    assert (upload.visible, upload.ends[-1]) == (None, "discarded")
