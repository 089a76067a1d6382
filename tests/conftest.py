"""Fixtures and settings of all tests."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers", "tests.processes", "tests.temporal_env"]

# The duration of an example is not meaningful on a busy machine.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


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
        gc.enable()
        # At the very end, so that extensions find no leaks. pytest itself collects garbage five times before.
        atexit.register(gc.unfreeze)
