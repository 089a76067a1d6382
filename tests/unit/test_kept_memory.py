"""The codec server keeps freed memory for the next payload, and workers return that of large workflow tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from cleanroom.temporal import memory
from cleanroom.temporal.memory import KEPT_BYTES, LARGEST_BLOCK, keep_freed_memory, return_freed_memory
from workers.freed_memory import FreedMemory

FAULTS = """
import resource
from cleanroom.temporal.memory import keep_freed_memory
if {kept}:
    keep_freed_memory()

def payload():
    blocks = [b"x" * (1 << 20) for _ in range(4)]

for _ in range(5):
    payload()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    payload()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "mallopt"), reason="another C library")
def test_blocks_of_a_large_payload_are_not_cleared_by_the_kernel_each_time() -> None:
    """Counts the pages that the kernel hands out for 100 payloads of four blocks of 256 pages."""
    kept, default = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, text=True, check=True).stdout)
        for kept in (True, False)
    )
    assert kept < 2_000
    assert default > 10 * kept, "the setting is needless"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda name: object()))
    assert not keep_freed_memory()
    assert not return_freed_memory()


GROWTH = """
from cleanroom.temporal.memory import resident_bytes, return_freed_memory
before = resident_bytes()
blocks = [bytes(1000) for _ in range(200_000)]
kept = blocks[::1000]
del blocks
freed = resident_bytes()
return_freed_memory()
print(before >> 20, freed >> 20, resident_bytes() >> 20)
"""


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "malloc_trim"), reason="another C library")
def test_freed_memory_between_blocks_that_are_in_use_is_returned() -> None:
    before, freed, after = map(int, subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, check=True).stdout.split())
    assert freed > before + 100, "the C library has returned it without a request"
    assert after < before + 50


PLATEAU = """
from cleanroom.temporal.memory import resident_bytes, return_freed_memory, unallocated_bytes
blocks = [bytes(1000) for _ in range(200_000)]
in_use = resident_bytes(), unallocated_bytes()
kept = blocks[::1000]
del blocks
freed = resident_bytes(), unallocated_bytes()
return_freed_memory()
print(*(figure >> 20 for figure in (*in_use, *freed, unallocated_bytes())))
"""


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "mallinfo2"), reason="another C library")
def test_memory_that_is_freed_shows_although_the_process_keeps_its_size() -> None:
    program = subprocess.run([sys.executable, "-c", PLATEAU], capture_output=True, check=True)
    resident, used, resident_after, freed, returned = map(int, program.stdout.split())
    assert abs(resident_after - resident) < 20
    assert freed > used + 100
    assert returned < used + 50


async def test_memory_is_returned_when_more_of_it_is_not_in_use() -> None:
    """Sizes in MiB of six looks: only growth by more than 16 since the smallest size, or since the last return, counts."""
    looks, returned, done = iter([100, 110, 115, 90, 105, 107]), list[int](), asyncio.Event()
    current = 0

    def kept() -> int:
        return current << 20

    async def step(seconds: float) -> None:
        nonlocal current
        try:
            current = next(looks)
        except StopIteration:
            done.set()
            await asyncio.Event().wait()

    def release() -> None:
        returned.append(current)

    with patch.object(asyncio, "sleep", step):
        current = next(looks)
        async with FreedMemory(kept=kept, release=release):
            await done.wait()
    assert returned == [107]


def test_limits_cover_the_largest_payload() -> None:
    """Temporal's server refuses payloads above 2 MiB and messages above 4 MiB."""
    assert 4 << 20 < LARGEST_BLOCK < KEPT_BYTES
