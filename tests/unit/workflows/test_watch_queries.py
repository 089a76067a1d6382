"""``WatchQueries`` without a server."""

from __future__ import annotations

from tests.unit.workflows.driver import HELD
from tests.unit.workflows.worlds import WATCH, watch_queries


def test_the_watcher_continues_as_new_when_its_activity_returns() -> None:
    """The next history may run on a newer version of the worker."""
    with watch_queries() as watcher:
        assert (watcher.names, watcher.continued, watcher.call("watch_queries").argument) == (["watch_queries"], None, WATCH)
        watcher.finish("watch_queries")
        assert watcher.continued == WATCH


def test_a_cancelled_watcher_ends() -> None:
    with watch_queries(watch_queries=HELD) as watcher:
        watcher.cancel()
        assert watcher.cancelled
