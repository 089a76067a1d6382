"""How long the launcher waits for a process to become ready.

A limit in seconds would fail on a slow or busy machine. A process that computes, waits for the disk, or writes its log makes progress,
and the launcher keeps waiting for it; a process that does nothing has the time that its service allows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

LONGEST_SECONDS = 900.0
"""The launcher waits no longer, even for a process that makes progress: it may run in a loop."""
_BUSY = 0.02
"""Share of one CPU above which a process is busy. One that only polls another service stays below a tenth of it."""


@dataclass(frozen=True)
class Activity:
    """What a process and its children have done so far."""

    cpu_seconds: float
    log_bytes: int
    waits_for_disk: bool = False


@dataclass
class Patience:
    """Decides whether to keep waiting.

    Attributes:
        seconds: Limit without progress.
        longest: Limit in any case.
    """

    seconds: float
    longest: float = LONGEST_SECONDS
    _started: float | None = None
    _progress: float = 0.0
    _last: Activity = Activity(0.0, 0)

    def exhausted(self, now: float, activity: Activity) -> bool:
        """Return whether a limit has passed; call it repeatedly, with the monotonic time and the activity until then."""
        if self._started is None:
            self._started = self._progress = now
            self._last = activity
        computed = activity.cpu_seconds - self._last.cpu_seconds
        # A second at least, because the kernel counts CPU time in steps of ten milliseconds.
        busy = now - self._progress >= 1 and computed >= _BUSY * (now - self._progress)
        if busy or activity.waits_for_disk or activity.log_bytes != self._last.log_bytes:
            self._progress, self._last = now, activity
        return now - self._progress > self.seconds or now - self._started > max(self.longest, self.seconds)


class ProcessPatience:
    """:class:`Patience` with one process and its children. It measures about once per second, because that takes milliseconds."""

    def __init__(self, pid: int, log: Path, seconds: float) -> None:
        self._pid, self._log = pid, log
        self._patience = Patience(seconds)
        self._interval = min(1.0, seconds / 4)
        self._next = 0.0

    def exhausted(self) -> bool:
        """Return whether a limit has passed; call it repeatedly."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval
        return self._patience.exhausted(now, activity_of(self._pid, self._log))


def activity_of(pid: int, log: Path) -> Activity:
    """Measure a process with its children; an ended process shows no activity."""
    cpu, waits = 0.0, False
    try:
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            times = process.cpu_times()
            cpu += times.user + times.system
            waits = waits or process.status() == psutil.STATUS_DISK_SLEEP
    except psutil.NoSuchProcess:
        pass
    return Activity(cpu, log.stat().st_size if log.exists() else 0, waits)
