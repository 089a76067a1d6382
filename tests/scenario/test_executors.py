"""Runs with one, two and four executors in attested pods, and what they read (``make test-executors``)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cleanroom.datasets.encryption import segment_count
from tests.executor_data import JOIN, JOINED, RESULT, flights, planes
from tests.executor_pods import ON_REQUEST, Traffic, figures, rows_of, run_on_pods, size_of
from tests.payload_world import World, prepare

pytestmark = ON_REQUEST


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
