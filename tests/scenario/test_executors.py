"""Runs with one, two and four executors in attested pods, and what they read (``make test-executors``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cleanroom.datasets.encryption import segment_count
from cleanroom.spark.profile import PodResources
from localcloud.tls import LocalAuthority
from tests.executor_data import JOIN, JOINED, RESULT, flights, planes
from tests.executor_pods import PodRun, Traffic, figures, run_on_pods, watched
from tests.payload_world import Prepared, World, payload_world, prepare
from tests.servers import S3Server

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.spark,
    pytest.mark.skipif(os.environ.get("CLEANROOM_TEST_EXECUTORS") != "1", reason="starts a JVM per pod; run it with make test-executors"),
]


@pytest.fixture(scope="module")
def watched_world(
    tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority, seaweedfs: S3Server
) -> Iterator[tuple[World, Traffic]]:
    with payload_world(tmp_path_factory.mktemp("executors"), local_authority, seaweedfs) as made, watched(made, local_authority) as found:
        yield found


def size_of(instances: int) -> PodResources:
    return PodResources(driver_memory="512m", executor_cores=1, executor_memory="512m", executor_instances=instances)


def rows_of(world: World, prepared: Prepared, run: PodRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = world.result(prepared, run.receipt()).sort_by("maker").to_pylist()
    return rows


@pytest.mark.parametrize("executors", [1, 2, 4])
async def test_executors_together_read_each_byte_once(executors: int, watched_world: tuple[World, Traffic], tmp_path: Path) -> None:
    """Of a text, a task reads one segment more than its own. A task of Spark's Parquet reader also reads the footer."""
    world, traffic = watched_world
    prepared = await prepare(world, f"r-{executors}", JOIN, [flights(tmp_path), planes(tmp_path)], RESULT)
    stored = {name: await asyncio.to_thread(world.stored_bytes, name) for name in ("flights", "planes")}
    traffic.clear()
    run = await run_on_pods(world, prepared, tmp_path / "node", size_of(executors))
    assert await asyncio.to_thread(rows_of, world, prepared, run) == JOINED
    assert len(run.executors()) == executors
    found = figures(run, traffic, stored)
    print(f"{executors} executors: {found}")
    for name, size in stored.items():
        assert {segment for _, segment in traffic.segments(name)} == set(range(segment_count(size)))
    boundaries = sum(reads - 1 for reads in traffic.segments("flights").values())
    assert boundaries <= text_tasks(stored["flights"], executors) - 1
    assert max(traffic.segments("flights").values()) <= 2
    # Every executor requests the same secrets, however many there are: those of each of its processes that reads.
    assert found["dataset keys requested by executors"] <= 3 * executors


def text_tasks(size: int, executors: int) -> int:
    """The most tasks that read a text: two per core, of at least 4 MiB."""
    return min(-(-size // (4 << 20)), 2 * max(2, executors) + 1)
