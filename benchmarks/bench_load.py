"""Puts load on queries: many that wait at once, and decisions on all of them in random order.

Workflows, workers, signatures and the Temporal server are real; governance is in memory. All queries wait at the same time. Then every
owner decides on every query, in random order, with 10 % duplicates and 5 % forged decisions.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.framework import Benchmark, at_most, reported
from benchmarks.load_server import FAILED, WORKER_MIB, load_server, measured
from tests.load_world import Load, load, until
from tests.temporal_env import TEST_KEYRING

SEED = 20261130
WRONG = "queries with a wrong end"
UNTIL_WAITING, UNTIL_COUNTED = "seconds until all wait", "seconds until all decisions count"
WAITING_MIB, COUNTED_MIB = "worker MiB while all wait", "worker MiB after the decisions"


async def load_queries(queries: int) -> dict[str, Any]:
    """Run the load and return what happened."""
    async with load_server() as server, load(server.client, server.folder, TEST_KEYRING) as world:
        began = time.monotonic()
        await world.start(f"q-{number:04d}" for number in range(queries))
        figures: dict[str, Any] = {UNTIL_WAITING: round(time.monotonic() - began, 1), WAITING_MIB: world.worker_mib()}
        messages, rejected = world.decisions(SEED)
        began = time.monotonic()
        await world.send(messages)
        figures |= {"decisions": len(messages), "seconds to send them": round(time.monotonic() - began, 1)}
        figures |= await settled(world, rejected)
        figures |= {UNTIL_COUNTED: round(time.monotonic() - began, 1), COUNTED_MIB: world.worker_mib()}
        return figures | {FAILED: sorted(server.unexpected_failures())}


async def settled(world: Load, rejected: set[str]) -> dict[str, Any]:
    """Wait until every query is approved, or a draft because an owner rejected it; compare with governance."""
    accepted = world.governance.accepted

    def done() -> bool:
        return all((name in accepted) != (name in rejected) and not world.governance.open_proposal(name) for name in world.queries)

    await until(done, seconds=3600)
    right = {name: "Draft" if name in rejected else "Approved" for name in world.queries}
    deadline = time.monotonic() + 300
    while True:
        found = await world.states()
        wrong = [name for name, state in found.items() if state.stage != right[name]]
        refused = [item.code for state in found.values() for item in state.refused]
        if not wrong or time.monotonic() > deadline:
            return {WRONG: len(wrong), "refused messages": {code: refused.count(code) for code in sorted(set(refused))}}


async def measure(queries: int = 1000) -> dict[str, float]:
    """Run the load and return its figures."""
    return measured(BENCHMARK, await load_queries(queries))


BENCHMARK = Benchmark(
    "1,000 queries that wait at once, and 3,450 decisions in random order",
    measure,
    [
        at_most(WRONG, 0),
        at_most(FAILED, 0),
        reported(UNTIL_WAITING),
        reported(UNTIL_COUNTED),
        at_most(WAITING_MIB, WORKER_MIB),
        at_most(COUNTED_MIB, WORKER_MIB),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
