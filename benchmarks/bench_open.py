"""Measures how costs grow with the open queries of a collaboration.

Governance is in memory. CPU is that of all processes: workers and Temporal's server.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import psutil

from benchmarks.framework import Benchmark, Growth, Value, at_most, reported
from benchmarks.growth import FEW, MANY
from benchmarks.load_server import WORKER_MIB, load_server
from tests.load_world import COLLABORATION, Load, load
from tests.temporal_env import TEST_KEYRING
from workers.watch_keeper import ensure_watcher
from workflows.publish_query import PublishQuery

EXTRAPOLATED = 10_000
SIGNALS = 40
SETTLE_SECONDS = 30


class Cpu:
    """CPU seconds of this process, of the workflows' worker, and of Temporal's server."""

    def __init__(self, world: Load) -> None:
        own = psutil.Process()
        self._processes = {own, world.worker, *own.children(recursive=True)}

    def seconds(self) -> float:
        """Return the sum until now."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes if process.is_running())


async def visible(world: Load, count: int) -> list[float]:
    """Seconds from the signal with a decision until the workflow shows the vote, one query after the other."""
    found: list[float] = []
    for name in list(world.queries)[:count]:
        handle, decision = world.queries[name], world.decision(name, "contosso")
        began = time.perf_counter()
        await handle.signal(PublishQuery.approve, decision.model_dump())
        while (await handle.query(PublishQuery.state)).accepted != ("contosso",):
            await asyncio.sleep(0)
        found.append(time.perf_counter() - began)
    return found


async def measure(window: float = 60) -> dict[str, Value]:
    """Start queries up to :data:`MANY`, and let them wait; CPU of waiting queries over ``window`` seconds."""
    found: dict[str, Value] = {}
    started: dict[int, float] = {}
    idle: dict[int, float] = {}
    async with load_server() as server, load(server.client, server.folder, TEST_KEYRING) as world:
        await ensure_watcher(server.client, COLLABORATION)
        cpu = Cpu(world)
        # Imports modules. The measured line begins at no query.
        await world.start(["first"])
        world.queries.clear()
        for n in (0, FEW, MANY):
            if n:
                began = cpu.seconds()
                await world.start(f"q-{number:04}" for number in range(len(world.queries), n))
                started[n] = started.get(FEW, 0) + cpu.seconds() - began
                found["open queries: memory of their worker"] = world.worker_mib()
                times = await visible(world, SIGNALS)
                found[f"signal to visible vote, {n:,} open queries, median"] = statistics.median(times) * 1000
                found[f"signal to visible vote, {n:,} open queries, 95 %"] = sorted(times)[int(0.95 * len(times))] * 1000
                world.queries = dict(reversed(world.queries.items()))
            # Until the watcher has compared what has changed, and the server has settled.
            await asyncio.sleep(SETTLE_SECONDS + n / 100)
            begin = cpu.seconds()
            await asyncio.sleep(window)
            idle[max(n, 1)] = (cpu.seconds() - begin) / window
    slope = (idle[MANY] - idle[FEW]) / (MANY - FEW)
    found["open queries: CPU until they wait"] = started
    found["open queries: cores while they wait"] = idle
    found[f"cores for {EXTRAPOLATED:,} waiting queries, extrapolated"] = idle[FEW] + max(slope, 0) * (EXTRAPOLATED - FEW)
    return found


BENCHMARK = Benchmark(
    f"{FEW} and {MANY:,} open queries",
    measure,
    [
        Growth("open queries: CPU until they wait", unit="s", exponent=1.2),
        at_most("open queries: memory of their worker", WORKER_MIB, "MiB"),
        *(at_most(f"signal to visible vote, {n:,} open queries, median", 100, "ms") for n in (FEW, MANY)),
        *(reported(f"signal to visible vote, {n:,} open queries, 95 %", "ms") for n in (FEW, MANY)),
        Growth("open queries: cores while they wait"),
        at_most(f"cores for {EXTRAPOLATED:,} waiting queries, extrapolated", 0.2),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
