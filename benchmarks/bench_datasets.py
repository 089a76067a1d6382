"""Measures how the cost of preparing a run grows with its datasets.

Temporal, the workers, the payload codec and signatures are real. Governance is the stand-in, as a process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from temporalio.testing import WorkflowEnvironment

from benchmarks.bench_orchestration import governance, prepare
from benchmarks.framework import Benchmark, Growth, Value
from benchmarks.growth import Requests
from tests.prepare_world import prepare_workers
from tests.temporal_env import server_options

DATASETS = (1, 2, 5, 10, 20, 50, 200)


async def measure(most: int = 200) -> dict[str, Value]:
    """Prepare a run of each number of datasets, up to ``most``."""
    requests: dict[int, float] = {}
    events: dict[int, float] = {}
    size: dict[int, float] = {}
    cpu: dict[int, float] = {}
    counter = Requests()
    async with await WorkflowEnvironment.start_local(**server_options()) as env:
        for n in (n for n in DATASETS if n <= most):
            with tempfile.TemporaryDirectory() as folder, governance(Path(folder)) as world:
                await world.publish(n)
                async with prepare_workers(world, env.client):
                    if n == min(DATASETS):
                        await prepare(world, env.client)  # Imports modules and creates keys.
                    async with counter.counted():
                        cost = await prepare(world, env.client)
            requests[n], events[n], size[n], cpu[n] = counter.total, cost.events, cost.size, cost.cpu
    return {"Prepare: requests": requests, "Prepare: events": events, "Prepare: bytes of history": size, "Prepare: CPU": cpu}


BENCHMARK = Benchmark(
    "Prepare, of 1 to 200 datasets",
    measure,
    [
        Growth("Prepare: requests", 12, fixed=40, exponent=1.1),
        Growth("Prepare: events", 14, fixed=120, exponent=1.1),
        Growth("Prepare: bytes of history", 8000, "bytes", fixed=120_000, exponent=1.1),
        Growth("Prepare: CPU", unit="s", exponent=1.2),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
