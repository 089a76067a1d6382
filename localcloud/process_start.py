"""When a process started, to recognise it later although process IDs are reused."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def started(process: psutil.Process) -> float:
    """Return when a process started: in seconds since the machine has started on Linux, elsewhere in seconds since the epoch.

    psutil computes the creation time from the clock on Linux, so that it changes whenever the clock is set (``btime`` in proc_stat(5)).
    The value here is the kernel's and stays the same (``starttime`` in proc_pid_stat(5)).

    Raises:
        psutil.NoSuchProcess: The process has ended, and its parent has waited for it.
    """
    if not psutil.LINUX:
        return process.create_time()
    try:
        line = Path(f"/proc/{process.pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(process.pid) from None
    # The second field is the program's name in parentheses, which may itself contain spaces and parentheses.
    return int(line.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def running_process(pid: int, start: float) -> psutil.Process | None:
    """Return the process with this ID and this :func:`started`; None if it has ended, also if its parent has not waited for it yet."""
    try:
        process = psutil.Process(pid)
        return process if abs(started(process) - start) < 0.01 and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
