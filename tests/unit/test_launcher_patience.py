"""How long the launcher waits for a process: progress extends the time, idleness does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from localcloud.launcher.patience import Activity, Patience, activity_of


def waited(seconds: float, longest: float, activity: object) -> int | None:
    """Return the second at which the patience ends, at most after an hour; ``activity`` is a function of the second."""
    patience = Patience(seconds, longest)
    return next((now for now in range(3600) if patience.exhausted(now, activity(now))), None)


def test_idle_process_gets_its_time_only() -> None:
    assert waited(60, 900, lambda now: Activity(0.3, 10)) == 61


def test_process_that_only_polls_another_service_counts_as_idle() -> None:
    assert waited(60, 900, lambda now: Activity(0.002 * now, 10)) == 61


def test_starved_process_is_waited_for() -> None:
    # Two cores, load 40: the process gets a twentieth of a core, and would need three seconds of CPU time.
    assert waited(60, 900, lambda now: Activity(0.05 * now, 0)) == 901


def test_growing_log_and_waiting_for_the_disk_are_progress() -> None:
    assert waited(60, 900, lambda now: Activity(0, now // 50)) == 901
    assert waited(60, 900, lambda now: Activity(0, 0, waits_for_disk=now < 200)) == 260


def test_endless_loop_ends_at_the_longest_time() -> None:
    assert waited(60, 120, lambda now: Activity(now, 0)) == 121


def test_progress_that_stops_starts_the_time_again() -> None:
    assert waited(60, 900, lambda now: Activity(min(now, 100), 0)) in range(160, 164)


def test_activity_includes_children_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("12345")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while activity_of(process.pid, log).cpu_seconds < 0.2:
            pass
        assert activity_of(process.pid, log).log_bytes == 5
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert activity_of(process.pid, log).cpu_seconds == 0.0
