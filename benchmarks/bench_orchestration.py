"""Measures ``Prepare`` against a workflow of the same shape whose activities do nothing: time, CPU, events and bytes of history.

The workers run in this process, with the payload codec; governance and Temporal run in other processes. CPU is that of this
process. Ratios are medians over pairs of runs that follow each other.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from benchmarks.bench_governance import start
from benchmarks.framework import Benchmark, at_most
from benchmarks.noop_workflow import CLEAN_ROOM, SPARK_SERVICE, Noop, do_nothing
from cleanroom.identifiers import CLEAN_ROOM_QUEUE
from cleanroom.messages.run import RunQueryInput
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.conformance.governance.standin import TENANT, StandIn
from tests.conformance.governance.target import Person
from tests.prepare_world import PrepareWorld, RequestCounter, prepare_workers
from tests.temporal_env import server_options
from workflows.prepare import Prepare

DEMO, MANY, MOST = 3, 20, 200
"""Numbers of inputs: the demo's query, and those that the targets name."""


@dataclass(frozen=True)
class Cost:
    """What one workflow cost."""

    wall: float
    cpu: float
    events: int
    activities: int
    size: int


@contextmanager
def governance(folder: Path, *, slow_history: bool = False) -> Iterator[PrepareWorld]:
    """Start governance as a process."""
    standin = StandIn(folder)
    process, target = start(standin, slow_history=slow_history)
    try:
        yield PrepareWorld(folder, standin, RequestCounter(None), target.settings.url, lambda name: target.token(Person(name, TENANT)))
    finally:
        target.close()
        process.terminate()
        process.wait(10)


async def measured(handle_of: Any) -> Cost:
    """Run a workflow to its end."""
    cpu, begin = time.process_time(), time.perf_counter()
    handle = await handle_of
    await asyncio.wait_for(handle.result(), 300)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    events = [event async for event in handle.fetch_history_events()]
    activities = sum(event.HasField("activity_task_scheduled_event_attributes") for event in events)
    return Cost(wall, cpu, len(events), activities, sum(event.ByteSize() for event in events))


def unique(prefix: str) -> str:
    """Return an ID."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


async def prepare(world: PrepareWorld, client: Client) -> Cost:
    """Run ``Prepare`` for a new run."""
    ticket = await world.ticket(unique("r"))
    message = RunQueryInput(ticket=ticket, caller="fabrikam")
    return await measured(client.start_workflow(Prepare.run, message, id=unique("prepare"), task_queue=CLEAN_ROOM_QUEUE))


async def nothing(datasets: int, client: Client) -> Cost:
    """Run the workflow that does nothing."""
    return await measured(client.start_workflow(Noop.run, datasets, id=unique("noop"), task_queue=CLEAN_ROOM))


async def pairs(client: Client, size: int, rounds: int, *, slow_history: bool = False) -> tuple[list[Cost], list[Cost]]:
    """Return the costs of ``Prepare`` and of nothing, for ``size`` inputs and the output."""
    with tempfile.TemporaryDirectory() as folder, governance(Path(folder), slow_history=slow_history) as world:
        await world.publish(size)
        async with prepare_workers(world, client):
            # The first run of a worker imports modules and creates keys.
            await prepare(world, client)
            await nothing(size + 1, client)
            found = [(await prepare(world, client), await nothing(size + 1, client)) for _ in range(rounds)]
    prepared, noop = [pair[0] for pair in found], [pair[1] for pair in found]
    assert {cost.activities for cost in prepared} == {cost.activities for cost in noop}
    return prepared, noop


def median(costs: list[Cost], member: str) -> float:
    """Return the median of one member."""
    return statistics.median(getattr(cost, member) for cost in costs)


def ratio(prepared: list[Cost], noop: list[Cost], member: str) -> float:
    """Return the median of the ratios."""
    return statistics.median(getattr(one, member) / getattr(two, member) for one, two in zip(prepared, noop, strict=True))


async def measure(rounds: int = 5) -> dict[str, float]:
    """Measure everything."""
    async with await WorkflowEnvironment.start_local(**server_options()) as env:
        client = env.client
        async with (
            create_worker(client, WorkerSpec("noop", CLEAN_ROOM, (Noop,), [do_nothing])),
            create_worker(client, WorkerSpec("noop-service", SPARK_SERVICE, (), [do_nothing])),
        ):
            found: dict[str, float] = {}
            demo, demo_noop = await pairs(client, DEMO, rounds)
            slow, slow_noop = await pairs(client, DEMO, rounds, slow_history=True)
            many, many_noop = await pairs(client, MANY, rounds)
            most, most_noop = await pairs(client, MOST, 1)
    for size, costs, noop in ((DEMO, demo, demo_noop), (MANY, many, many_noop), (MOST, most, most_noop)):
        for name, each in (("Prepare", costs), ("no-op", noop)):
            print(
                f"N = {size:3}, {name:7}: {median(each, 'wall'):6.2f} s, {median(each, 'cpu'):6.2f} CPU s, {each[0].events} events, "
                f"{each[0].activities} activities, {each[0].size} bytes"
            )
    print(f"N = {DEMO:3}, governance answers 202 first: {median(slow, 'wall'):6.2f} s")
    found[f"wall, N = {MANY}, against no-op"] = ratio(many, many_noop, "wall")
    found[f"CPU, N = {MANY}, against no-op"] = ratio(many, many_noop, "cpu")
    found[f"wall, N = {DEMO} (demo), against no-op"] = ratio(demo, demo_noop, "wall")
    found[f"CPU, N = {DEMO} (demo), against no-op"] = ratio(demo, demo_noop, "cpu")
    # Both against what does nothing, because the machine's load changes between them.
    slower = ratio(slow, slow_noop, "wall") / ratio(demo, demo_noop, "wall")
    found[f"wall, N = {DEMO}, governance answers 202 first, against governance that does not"] = slower
    found[f"wall, N = {MOST}"] = most[0].wall
    found[f"events, N = {MOST}"] = most[0].events
    found[f"history, N = {MOST}"] = most[0].size / (1 << 20)
    per_dataset = MOST - DEMO
    found["events per dataset"] = (most[0].events - demo[0].events) / per_dataset
    found["activities per dataset"] = (most[0].activities - demo[0].activities) / per_dataset
    found["history per dataset"] = (most[0].size - demo[0].size) / per_dataset
    return found


BENCHMARK = Benchmark(
    "Prepare, against a workflow of its shape that does nothing",
    measure,
    [
        at_most(f"wall, N = {MANY}, against no-op", 6, "x"),
        at_most(f"CPU, N = {MANY}, against no-op", 6, "x"),
        at_most(f"wall, N = {DEMO} (demo), against no-op", 3, "x"),
        at_most(f"CPU, N = {DEMO} (demo), against no-op", 3, "x"),
        at_most(f"wall, N = {DEMO}, governance answers 202 first, against governance that does not", 2, "x"),
        at_most(f"wall, N = {MOST}", 60, "s"),
        at_most(f"events, N = {MOST}", 4096),
        at_most(f"history, N = {MOST}", 4, "MiB"),
        at_most("events per dataset", 14),
        at_most("activities per dataset", 3),
        at_most("history per dataset", 8000, "bytes"),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
