"""Measures the memory of a worker that keeps fewer workflows than there are open queries."""

from __future__ import annotations

from benchmarks.framework import Benchmark, Value, at_most
from benchmarks.growth import FEW, MANY
from benchmarks.load_server import load_server
from tests.load_world import load
from tests.temporal_env import TEST_KEYRING


async def measure() -> dict[str, Value]:
    """The memory of a worker that keeps :data:`FEW` workflows does not grow with further queries."""
    async with load_server() as server, load(server.client, server.folder, TEST_KEYRING, cached=FEW) as world:
        await world.start(f"c-{number:04}" for number in range(FEW))
        few = world.worker.memory_info().rss
        await world.start(f"c-{number:04}" for number in range(FEW, MANY))
        return {f"memory with {MANY:,} queries, {FEW} of them cached, against {FEW}": world.worker.memory_info().rss / few}


BENCHMARK = Benchmark(
    f"a worker that keeps {FEW} of {MANY:,} queries",
    measure,
    [at_most(f"memory with {MANY:,} queries, {FEW} of them cached, against {FEW}", 1.5, "x")],
)

if __name__ == "__main__":
    BENCHMARK.main()
