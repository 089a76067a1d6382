"""Fixtures of all tests, and the distribution of tests over processes (``make test`` uses five)."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, settings

from localcloud.launcher.processes import PORT_RANGE, port_range
from tests.distribution import piece, rank

pytest_plugins = ["tests.servers", "tests.temporal_env"]

# The duration of an example is not meaningful on a busy machine.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
# Typer evaluates the annotations of a command's parameters twice for each call of a command.
typer.main.get_params_from_function = cache(typer.main.get_params_from_function)


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of a distributed run its own ports, and let it end without freeing what pytest has collected.

    Two local clouds that start at the same time choose 28 ports each. Freeing takes more than a second.
    """
    own = getattr(config, "workerinput", None)
    if own is not None:
        atexit.register(os._exit, 0)  # runs after all that is registered later
        ports, count = port_range(), own["workercount"]
        number = int(own["workerid"].removeprefix("gw"))
        mine = ports[len(ports) * number // count : len(ports) * (number + 1) // count]
        os.environ[PORT_RANGE] = f"{mine[0]}-{mine[-1]}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Collect no garbage while tests are collected, and later only among the objects of the tests.

    What pytest collects are millions of objects that stay. Each process would look at them again and again, for two seconds.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # by default a tenth of all collections are full ones
        gc.enable()
        # At the very end, so that extensions find no leaks. pytest itself collects garbage five times before.
        atexit.register(gc.unfreeze)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run long pieces first, in the processes of a distributed run."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule by piece, in the order of collection."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByPieces(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return piece(nodeid)

    config.option.loadscopereorder = False  # would start with the files that have the most tests
    return ByPieces(config, log)
