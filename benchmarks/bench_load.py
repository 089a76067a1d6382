"""Puts load on queries: many that wait at once, decisions in random order, and junk at one of them.

Workflows, workers, signatures and the Temporal server are real; governance is in memory. All queries wait at the same time. Then every
owner decides on every query, in random order, with 10 % duplicates and 5 % forged decisions. At the end, runs start at
the same time; their jobs end when all of them are watched.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from benchmarks.framework import Benchmark, Figure, at_most
from localcloud.launcher.processes import free_ports
from tests.audit_world import AuditWorld
from tests.load_runs import WITHDRAWN, concurrent_runs
from tests.load_world import HARMLESS, Load, failed_workflow_tasks, load, until
from tests.temporal_env import TEST_KEYRING, server_options
from workflows.publish_query import PublishQuery

SEED = 20261130
WORKER_MIB = 600
"""Largest resident memory of the workflows' worker, which caches at most 1,000 workflows."""


async def load_queries(queries: int, junk: int, runs: int = 0) -> dict[str, Any]:
    """Run the load and return what happened; ``ok`` says whether every query and run ended as it should."""
    [port] = free_ports(1)
    options = server_options()
    options["dev_server_extra_args"] += ["--metrics-port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        async with await WorkflowEnvironment.start_local(**options) as env:
            metrics, figures = f"http://127.0.0.1:{port}", {"ok": True}
            if queries:
                async with load(env.client, Path(folder), TEST_KEYRING) as world:
                    figures = await _measure(world, queries, junk)
            if runs:
                owners = await asyncio.to_thread(AuditWorld, Path(folder) / "runs", max_runs=None)
                print(json.dumps(figures), flush=True)
                figures["runs"] = found = await concurrent_runs(env.client, owners, runs)
                figures["ok"] = figures["ok"] and found["ends"] == {"COMPLETED": runs} and not found["left"]
                figures["withdrawn"] = stopped = await concurrent_runs(env.client, owners, runs, withdraw=True, prefix="w")
                figures["ok"] = figures["ok"] and set(stopped["ends"]) <= WITHDRAWN and not stopped["left"]
            failed = failed_workflow_tasks(metrics)
            figures["failed workflow tasks"] = dict(failed)
            figures["ok"] = figures["ok"] and set(failed) <= HARMLESS
            return figures


async def _measure(world: Load, queries: int, junk: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"queries": queries}
    began = time.monotonic()
    await world.start(f"q-{number:04d}" for number in range(queries))
    figures["seconds until all wait"] = round(time.monotonic() - began, 1)
    figures["worker MiB while all wait"] = mib(world)
    messages, rejected = world.decisions(SEED)
    figures["decisions"] = len(messages)
    began = time.monotonic()
    await world.send(messages)
    figures["seconds to send the decisions"] = round(time.monotonic() - began, 1)
    figures |= await settled(world, rejected)
    figures["seconds until all decisions count"] = round(time.monotonic() - began, 1)
    figures["decisions per second"] = round(len(messages) / (time.monotonic() - began), 1)
    figures["worker MiB after the decisions"] = mib(world)
    print(json.dumps(figures), flush=True)
    if junk:
        figures |= await flood(world, junk)
    figures["ok"] = figures["wrong states"] == 0
    return figures


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
            return {"wrong states": len(wrong), "refused messages": {code: refused.count(code) for code in sorted(set(refused))}}


async def flood(world: Load, junk: int) -> dict[str, Any]:
    """Send junk signals at one query, and then a command that must be answered."""
    name = "flooded"
    await world.start([name])
    handle = world.queries.pop(name)
    kinds: list[tuple[str, Any]] = [
        ("approve", {"junk": 1}), ("approve", {"decision": "x" * 5000}), ("no-such-signal", 1), ("withdraw", "x" * 2_000),
        ("update", {"party": "nobody", "authorisation": "x"}),
    ]  # fmt: skip
    slots, began = asyncio.Semaphore(40), time.monotonic()

    rejected = 0

    async def send(number: int) -> None:
        nonlocal rejected
        async with slots:
            signal, argument = kinds[number % len(kinds)]
            try:
                await handle.signal(signal, argument)
            except RPCError as error:
                # The server accepts 10,000 signals per history. It starts no other history while signals arrive without a pause.
                if "limit for signal events" not in error.message:
                    raise
                rejected += 1

    await asyncio.gather(*map(send, range(junk)))
    sent = time.monotonic() - began
    await _answered(handle, world.decision(name, "contosso"))
    answered = time.monotonic()
    # An update that is answered at the end of a history is executed in the next one.
    while (state := await handle.query(PublishQuery.state)).accepted != ("contosso",) and time.monotonic() < answered + 120:
        await asyncio.sleep(0.1)
    histories = 0
    async for _ in world.client.list_workflows(f'WorkflowId = "{handle.id}"'):
        histories += 1
    return {
        "junk signals": junk,
        "junk signals that the server rejected": rejected,
        "junk signals per second": round(junk / sent),
        "seconds until the query answered": round(answered - began - sent, 2),
        "accepted after the junk": state.accepted == ("contosso",),
        "histories of that query": histories,
        "worker MiB after the junk": mib(world),
    }


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


def mib(world: Load) -> int:
    """Return the resident memory of the workflows' worker."""
    return round(world.worker.memory_info().rss / 2**20)


async def measure(queries: int = 1000, junk: int = 10_000, runs: int = 50) -> dict[str, float]:
    """Run the load and return its figures."""
    found = await load_queries(queries, junk, runs)
    print(json.dumps(found, indent=2))
    return {"queries or runs with a wrong end": int(not found["ok"])} | {name: found[name] for name, _ in SECONDS + MEMORY if name in found}


SECONDS = (
    ("seconds until all wait", None),
    ("seconds until all decisions count", None),
    ("seconds until the query answered", None),
)
MEMORY = (
    ("worker MiB while all wait", WORKER_MIB),
    ("worker MiB after the decisions", WORKER_MIB),
    ("worker MiB after the junk", WORKER_MIB),
)
BENCHMARK = Benchmark(
    "1,000 queries, decisions in random order, 10,000 junk signals, 50 runs at once",
    measure,
    [at_most("queries or runs with a wrong end", 0), *(Figure(name, limit) for name, limit in SECONDS + MEMORY)],
)

if __name__ == "__main__":
    BENCHMARK.main()
