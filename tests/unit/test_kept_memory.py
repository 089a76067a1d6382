"""Worker processes keep freed memory for the next payload."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from cleanroom.temporal import memory
from cleanroom.temporal.memory import KEPT_BYTES, LARGEST_BLOCK, keep_freed_memory

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


def test_limits_cover_the_largest_payload() -> None:
    """Temporal's server refuses payloads above 2 MiB and messages above 4 MiB."""
    assert 4 << 20 < LARGEST_BLOCK < KEPT_BYTES
