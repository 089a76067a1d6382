"""Fixtures that every test may ask for, and how the tests share two processes (``make test`` runs ``-n 2 --dist loadgroup``).

A file stays in one process, so that its servers start once. Everything on the one local cloud is one group; it is the longest,
and so it begins first.
"""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.servers"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for distribution; the order within a group stays as written."""

    def on_the_cloud(item: pytest.Item) -> bool:
        path = item.path.parts
        return "scenario" in path and "cloud" in getattr(item, "fixturenames", ())

    for item in items:
        item.add_marker(pytest.mark.xdist_group("local-cloud" if on_the_cloud(item) else str(item.path)))
    items.sort(key=lambda item: not on_the_cloud(item))
