"""How the C library of a process keeps and returns memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final

# malloc.h of glibc; https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
LARGEST_BLOCK: Final = 8 << 20
"""Larger than every payload that Temporal's server accepts."""
KEPT_BYTES: Final = 32 << 20
"""Most free memory at the end of the heap that the process keeps."""


def keep_freed_memory() -> bool:
    """Keep up to :data:`KEPT_BYTES` of freed memory for the next payload. Returns whether the C library has that setting.

    By default glibc returns blocks of the size of a large payload to the kernel when they are freed, and the kernel clears a new block for
    the next payload. At 1 MiB this takes a fifth of the codec's time.
    """
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def return_freed_memory() -> bool:
    """Return freed memory to the kernel. Returns whether the C library has that function.

    glibc returns only what is free at the end of its heap. A large workflow task leaves free memory between blocks that are in use.
    """
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


class _Info(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def allocated_bytes() -> int:
    """Return the bytes of the blocks that are in use; 0 where the C library does not tell it (glibc does since 2.33)."""
    mallinfo = _function("mallinfo2")
    if mallinfo is None:
        return 0
    mallinfo.restype = _Info
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


def unallocated_bytes() -> int:
    """Return the resident memory beyond :func:`allocated_bytes`: the program itself, and freed memory that is kept."""
    return resident_bytes() - allocated_bytes()


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the kernel does not tell it (proc_pid_statm(5))."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _function(name: str) -> Any:
    """Return a function of the C library; None if it is another one, without that function."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
