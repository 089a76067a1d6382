"""Measures ``Prepare`` against a workflow of the same shape whose activities do nothing: time, CPU, events and bytes of history.

    python benchmarks/bench_orchestration.py [--rounds 5]

The workers run in this process, with the payload codec; governance and Temporal run in other processes. CPU is that of this
process. Ratios are medians over pairs of runs that follow each other. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from bench_governance import start  # noqa: E402
from noop_workflow import CLEAN_ROOM, SPARK_SERVICE, Noop, do_nothing  # noqa: E402
from temporalio.client import Client  # noqa: E402
from temporalio.testing import WorkflowEnvironment  # noqa: E402

from cleanroom.identifiers import CLEAN_ROOM_QUEUE  # noqa: E402
from cleanroom.messages.run import RunQueryInput  # noqa: E402
from cleanroom.temporal.workers import WorkerSpec, create_worker  # noqa: E402
from tests.conformance.governance.standin import TENANT, StandIn  # noqa: E402
from tests.conformance.governance.target import Person  # noqa: E402
from tests.prepare_world import PrepareWorld, RequestCounter, prepare_workers  # noqa: E402
from tests.temporal_env import server_options  # noqa: E402
from workflows.prepare import Prepare  # noqa: E402

DEMO, MANY, MOST = 3, 20, 200
"""Numbers of inputs: the demo's query, and those that the targets name."""
TARGETS = {
    f"wall, N = {MANY}, times no-op": 6.0,
    f"CPU, N = {MANY}, times no-op": 6.0,
    f"wall, N = {DEMO} (demo), times no-op": 3.0,
    f"CPU, N = {DEMO} (demo), times no-op": 3.0,
    f"wall, N = {DEMO}, governance answers 202 first, times governance that does not": 2.0,
    f"wall, N = {MOST}, seconds": 60.0,
    f"events, N = {MOST}": 4096.0,
    f"history, N = {MOST}, MiB": 4.0,
    "events per dataset": 14.0,
    "activities per dataset": 3.0,
    "history per dataset, bytes": 8000.0,
}


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


async def measure(rounds: int) -> dict[str, float]:
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
    found[f"wall, N = {MANY}, times no-op"] = ratio(many, many_noop, "wall")
    found[f"CPU, N = {MANY}, times no-op"] = ratio(many, many_noop, "cpu")
    found[f"wall, N = {DEMO} (demo), times no-op"] = ratio(demo, demo_noop, "wall")
    found[f"CPU, N = {DEMO} (demo), times no-op"] = ratio(demo, demo_noop, "cpu")
    # Both against what does nothing, because the machine's load changes between them.
    slower = ratio(slow, slow_noop, "wall") / ratio(demo, demo_noop, "wall")
    found[f"wall, N = {DEMO}, governance answers 202 first, times governance that does not"] = slower
    found[f"wall, N = {MOST}, seconds"] = most[0].wall
    found[f"events, N = {MOST}"] = most[0].events
    found[f"history, N = {MOST}, MiB"] = most[0].size / (1 << 20)
    per_dataset = MOST - DEMO
    found["events per dataset"] = (most[0].events - demo[0].events) / per_dataset
    found["activities per dataset"] = (most[0].activities - demo[0].activities) / per_dataset
    found["history per dataset, bytes"] = (most[0].size - demo[0].size) / per_dataset
    return found


def main() -> int:
    """Print the figures; return 1 if one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.rounds))
    for name, target in TARGETS.items():
        print(f"{'ok    ' if found[name] <= target else 'MISSED'} {name}: {found[name]:.2f}, target {target:g}")
    return int(any(found[name] > target for name, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
