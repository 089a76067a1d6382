"""Fixtures of the scenarios: one local cloud per test session, and small datasets on it.

The first test that requests ``cloud`` starts it. If a test of the demo command runs in this process, the demo starts the cloud, because
a second cloud would take half a minute more. Set ``CLEANROOM_TEST_CLOUD`` to the state folder of a running cloud to use that one; it is
then left running.

``world`` has small datasets of two owners, published once; tests create their own queries on them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from localcloud.launcher.detached import read_status
from localcloud.launcher.processes import free_ports
from localcloud.launcher.supervisor import write_json
from starters.operations.keys import publish_key
from starters.operations.session import run_async
from tests.distribution import piece
from tests.local_cloud.cloud import Cloud, python
from tests.local_cloud.world import World, published_world
from tests.patience import PATIENCE

REUSE = "CLEANROOM_TEST_CLOUD"

_SESSION_CLOUD: list[Cloud] = []


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The local cloud of this session, with all workers. All collaborators have published their signing keys."""
    if reused := os.environ.get(REUSE):
        found = Cloud(Path(reused).resolve())
        yield from _with_signing_keys(found)
        return
    state = tmp_path_factory.mktemp("local-cloud")
    demo: subprocess.CompletedProcess[str] | None = None
    try:
        if any("demo" in getattr(item, "fixturenames", ()) for item in _together(request.config, request.session.items)):
            demo = python(
                "tests.local_cloud.command", "demo", "--keep", "--observe", "--output", "json", "--state", str(state / "cloud"), seconds=600
            )
        if demo is None or (read_status(state / "cloud") or {}).get("status") != "ready":
            if demo is None:
                (state / "cloud").mkdir(mode=0o700)
                # Not the preferred ports, because another process of this session may start a cloud at the same time.
                write_json(state / "cloud/ports.json", dict(zip(("temporal", "codec"), free_ports(2), strict=True)))
            started = python("localcloud", "up", "--state", str(state / "cloud"), "--detach", "--observe")
            assert started.returncode == 0, started.stderr
        yield from _with_signing_keys(Cloud(state / "cloud", demo))
    finally:
        started = (read_status(state / "cloud") or {}).get("services", [])
        processes = [psutil.Process(service["pid"]) for service in started if service["pid"] and service["state"] == "ready"]
        stopped = python("localcloud", "down", "--state", str(state / "cloud"))
        _, left = psutil.wait_procs(processes, timeout=PATIENCE)
        assert (stopped.returncode, left) == (0, []), (stopped.stderr, left)


_CURRENT: list[pytest.Item] = []
"""The test whose fixtures are being set up."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _CURRENT[:] = [item]


def _together(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests that share a cloud with the current one. Each xdist process collects all tests, but runs only some."""
    if not hasattr(config, "workerinput"):
        return items
    return [item for item in items if piece(item.nodeid) == piece(_CURRENT[0].nodeid)]


def _with_signing_keys(found: Cloud) -> Iterator[Cloud]:
    _SESSION_CLOUD.append(found)
    try:
        for person in found.people:
            run_async(publish_key(person))
        yield found
    finally:
        _SESSION_CLOUD.clear()
        found.workers.stop_restarted()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the ends of the cloud's logs to the report of a failed test."""
    report: Any = yield
    if report.failed and _SESSION_CLOUD and "cloud" in getattr(item, "fixturenames", ()):
        report.sections.append(("logs of the local cloud", _SESSION_CLOUD[0].logs()))
    return report


@pytest.fixture(scope="session")
def world(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Published datasets of Contosso (Blob Storage) and Litware (S3), and an output dataset of Litware."""
    return published_world(cloud, tmp_path_factory.mktemp("rows"))
