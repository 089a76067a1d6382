"""Starts runs of one query at once: jobs that end when all of them are watched, and jobs that a withdrawn consent must stop."""

from __future__ import annotations

import asyncio
import json

from benchmarks.framework import Benchmark, at_most, reported
from benchmarks.load_server import FAILED, load_server
from tests.audit_world import AuditWorld
from tests.load_runs import WITHDRAWN, concurrent_runs

WRONG, LEFT = "runs with a wrong end", "runs that left something"
UNTIL_ENDED, UNTIL_DELETED = "seconds until all runs ended", "seconds from withdrawn consent to the last deleted job"


async def measure(runs: int = 50) -> dict[str, float]:
    """Run both loads and return their figures."""
    async with load_server() as server:
        owners = await asyncio.to_thread(AuditWorld, server.folder, max_runs=None)
        ended = await concurrent_runs(server.client, owners, runs)
        stopped = await concurrent_runs(server.client, owners, runs, withdraw=True, prefix="w")
        failed = server.unexpected_failures()
    print(json.dumps([ended, stopped, sorted(failed)], indent=2))
    right = ended["ends"].get("COMPLETED", 0) + sum(stopped["ends"].get(code, 0) for code in WITHDRAWN)
    return {
        WRONG: 2 * runs - right,
        LEFT: len(ended["left"]) + len(stopped["left"]),
        FAILED: len(failed),
        UNTIL_ENDED: ended[UNTIL_ENDED],
        UNTIL_DELETED: stopped[UNTIL_DELETED],
    }


BENCHMARK = Benchmark(
    "50 runs at once, and 50 that are stopped at once",
    measure,
    [at_most(WRONG, 0), at_most(LEFT, 0), at_most(FAILED, 0), reported(UNTIL_ENDED), at_most(UNTIL_DELETED, 10)],
)

if __name__ == "__main__":
    BENCHMARK.main()
