"""Sends junk signals at one query while many others wait, and then a command that must be answered.

Workflows, workers, signatures and the Temporal server are real; governance is in memory. The others are drafts, which their worker has in
its cache.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from temporalio.service import RPCError

from benchmarks.framework import Benchmark, at_least, at_most, reported
from benchmarks.load_server import FAILED, WORKER_MIB, load_server, measured
from tests.load_world import CONCURRENT, Load, load
from tests.temporal_env import TEST_KEYRING
from workers.freed_memory import INTERVAL_SECONDS
from workflows.publish_query import PublishQuery

NAME = "flooded"
KINDS: list[tuple[str, Any]] = [
    ("approve", {"junk": 1}),
    ("approve", {"decision": "x" * 5000}),
    ("no-such-signal", 1),
    ("withdraw", "x" * 2_000),
    ("update", {"party": "nobody", "authorisation": "x"}),
]
ACCEPTED = "accepted after the junk"
BEFORE_MIB, ANSWERED_MIB, AFTER_MIB = "worker MiB before the junk", "worker MiB when the query answered", "worker MiB after the junk"
UNTIL_SENT, UNTIL_ANSWERED = "seconds to send the junk", "seconds until the query answered"


async def flood(queries: int, junk: int, *, settle: float = 0) -> dict[str, Any]:
    """Run the load and return what happened.

    Args:
        queries: How many other queries wait.
        junk: Number of signals.
        settle: Seconds to wait before the last figure. The worker returns freed memory at its next look.
    """
    async with load_server() as server, load(server.client, server.folder, TEST_KEYRING) as world:
        await world.draft(f"q-{number:04d}" for number in range(queries))
        figures: dict[str, Any] = {BEFORE_MIB: world.worker_mib()}
        await world.start([NAME])
        handle = world.queries[NAME]
        began = time.monotonic()
        figures |= {"junk signals": junk, "junk signals that the server rejected": await _send(handle, junk)}
        sent = time.monotonic()
        await _answered(handle, world.decision(NAME, "contosso"))
        answered = time.monotonic()
        figures |= {UNTIL_SENT: round(sent - began, 1), UNTIL_ANSWERED: round(answered - sent, 2)}
        # An update that is answered at the end of a history is executed in the next one.
        while (state := await handle.query(PublishQuery.state)).accepted != ("contosso",) and time.monotonic() < answered + 120:
            await asyncio.sleep(0.1)
        figures |= {ACCEPTED: int(state.accepted == ("contosso",)), "histories": await _histories(world), ANSWERED_MIB: world.worker_mib()}
        await asyncio.sleep(settle)
        figures[AFTER_MIB] = world.worker_mib()
        return figures | {FAILED: sorted(server.unexpected_failures())}


async def _send(handle: Any, junk: int) -> int:
    """Send the signals, and return how many the server rejected.

    It accepts 10,000 signals per history, and starts no other history while signals arrive without a pause.
    """
    slots, rejected = asyncio.Semaphore(CONCURRENT), 0

    async def send(number: int) -> None:
        nonlocal rejected
        async with slots:
            signal, argument = KINDS[number % len(KINDS)]
            try:
                await handle.signal(signal, argument)
            except RPCError as error:
                if "limit for signal events" not in error.message:
                    raise
                rejected += 1

    await asyncio.gather(*map(send, range(junk)))
    return rejected


async def _answered(handle: Any, decision: Any) -> None:
    """Send an update until the server accepts it: on a busy machine, workflow tasks with thousands of signals time out."""
    deadline = time.monotonic() + 600
    while True:
        try:
            await handle.execute_update(PublishQuery.approve_and_wait, decision)
        except RPCError as error:
            if "Workflow Task in failed state" not in error.message or time.monotonic() > deadline:
                raise
            await asyncio.sleep(1)
        else:
            return


async def _histories(world: Load) -> int:
    return (await world.client.count_workflows(f'WorkflowId = "{world.queries[NAME].id}"')).count


async def measure(queries: int = 1000, junk: int = 10_000) -> dict[str, float]:
    """Run the load and return its figures."""
    return measured(BENCHMARK, await flood(queries, junk, settle=2 * INTERVAL_SECONDS))


BENCHMARK = Benchmark(
    "10,000 junk signals at one query while 1,000 others wait",
    measure,
    [
        at_least(ACCEPTED, 1),
        at_most(FAILED, 0),
        reported(UNTIL_SENT),
        reported(UNTIL_ANSWERED),
        reported(BEFORE_MIB),
        reported(ANSWERED_MIB),
        at_most(AFTER_MIB, WORKER_MIB),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
