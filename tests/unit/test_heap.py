"""Memory of large workflow tasks is returned, once after the last of them."""

from __future__ import annotations

import threading

from cleanroom.temporal.heap import LARGE_TASK, HeapTrimmer, trim


def test_memory_is_returned_once_after_large_tasks() -> None:
    done, calls = threading.Event(), list[int]()

    def release() -> None:
        calls.append(1)
        done.set()

    # The timer of the first tasks is replaced before it can end.
    trimmer = HeapTrimmer(release, pause=0.05)
    for _ in range(3):
        trimmer.executed(LARGE_TASK)
    assert done.wait(10)
    assert calls == [1]


def test_small_tasks_start_no_thread() -> None:
    before = threading.active_count()
    HeapTrimmer(lambda: None).executed(LARGE_TASK - 1)
    assert threading.active_count() == before


def test_free_memory_can_be_returned_on_this_machine() -> None:
    trim()
