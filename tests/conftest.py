"""Fixtures that every test may ask for, and how the tests share two processes (``make test`` runs ``-n 2 --dist loadfile``).

A file stays in one process, so that its servers start once. The files on the one local cloud count as one file: it starts once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.servers"]

ON_THE_CLOUD = frozenset(
    path.name
    for path in Path(__file__).with_name("scenario").glob("test_*.py")
    if "(cloud:" in (text := path.read_text()) or ", cloud:" in text
)
"""Scenario files with tests that take the fixture ``cloud``."""


class Distribution:
    """Names the pieces that :class:`xdist.scheduler.LoadFileScheduling` hands out."""

    @staticmethod
    def piece(nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "the local cloud" if "scenario/" in file and file.rsplit("/", 1)[-1] in ON_THE_CLOUD else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, the local cloud's files together."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByServers(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return Distribution.piece(nodeid)

    return ByServers(config, log)
