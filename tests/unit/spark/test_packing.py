"""Packed texts: every zlib reads them, and every version of this code writes the same characters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.errors import InvalidInput
from cleanroom.spark.job import PLAIN_CHARACTERS, JobConfig
from cleanroom.spark.packing import MAX_UNPACKED, PREFIX, pack, unpack
from cleanroom.spark.policy import MAX_POLICY, pod_policies
from tests.unit.spark_support import make_job, make_profile

TEXTS = st.lists(st.sampled_from([b"dataset", b"abc", b"{", b"\x00\xff", b"0123456789" * 30]), max_size=60).map(b"".join) | st.binary()


@given(TEXTS)
def test_a_packed_text_unpacks_to_itself(text: bytes) -> None:
    assert unpack(pack(text)) == text


def test_repetitions_at_every_distance_and_length_are_packed() -> None:
    block = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256)) * 5
    text = b"x" * 70_000 + block + b"x" * 600 + block[:9_000]
    assert unpack(pack(text)) == text
    assert len(pack(text)) < len(text) / 4


def test_the_characters_never_change() -> None:
    """Host data depends on them. Another value here means that no run from before can be verified."""
    text = b'{"name":"orders","name":"totals"}' * 3 + bytes(range(256))
    assert hashlib.sha256(pack(text).encode()).hexdigest() == "9915bb35093f0aa31bacf161ce3d6ccd666404a29bd0696d82eea03cba7d9ef1"


@pytest.mark.parametrize(
    "text",
    [
        lambda: "%",
        lambda: "AAAA",
        lambda: pack(b"abc")[:-4],
        lambda: pack(b"abc") + "AAAA",
        lambda: pack(b"x" * (MAX_UNPACKED + 1)),
    ],
    ids=["no base64", "no stream", "short", "long", "too much data"],
)
def test_a_text_that_is_not_packed_is_refused(text: Callable[[], str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        unpack(text())
    assert caught.value.code == "PackedTextInvalid"


def job_with(datasets: int) -> JobConfig:
    one = make_job().datasets[0].model_dump(mode="json", by_alias=True)
    names = [f"orders-{number}" for number in range(datasets)]
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    found = [
        one | {"name": name, "viewName": f"v{name[7:]}", "documentDigest": digest} for name, digest in zip(names, digests, strict=True)
    ]
    return make_job(datasets=found)


@pytest.mark.parametrize(("datasets", "packed"), [(1, False), (20, False), (200, True)])
def test_a_job_is_packed_when_it_is_too_long_for_a_policy(datasets: int, packed: bool) -> None:
    job = job_with(datasets)
    value = job.encode()
    assert value.startswith(PREFIX) is packed
    assert (len(value) <= PLAIN_CHARACTERS) or packed
    assert JobConfig.decode(value) == job
    policies = pod_policies(job, make_profile())
    assert max(len(policies.driver.rego_base64), len(policies.executor.rego_base64)) < MAX_POLICY
