"""Measures each workflow against one of its shape that does nothing: time, CPU, events and bytes of history, with its child workflows.

The activities of the product's workflows answer at once with realistic values (``tests/unit/workflows/worlds.py``), so that the figures
are those of the orchestration alone: workflow code, messages, payload codec and worker. ``bench_orchestration`` measures ``Prepare`` with
its real activities. The workflow that does nothing starts as many activities at a time, and gets as many updates. CPU is that of this
process, which runs all workers; Temporal's server is another one. Ratios are medians over pairs of runs that follow each other.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from benchmarks.bench_orchestration import Cost, median, ratio
from benchmarks.framework import Benchmark, at_most, reported
from benchmarks.noop_workflow import NoopShape, do_nothing
from cleanroom.temporal.heartbeat import Heartbeater
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.answering import answering
from tests.histories import recorded_keyring
from tests.histories.outcomes import OUTCOMES, answers_of, outcome_workers, start_outcome
from tests.temporal_env import client_with, server_options
from tests.unit.workflows.driver import ARGUMENTS

WORKFLOWS = {
    "Publish Dataset, Azure": "publish-azure-dataset.completed",
    "Publish Dataset, off Azure": "publish-s3-dataset.completed",
    "Publish Query": "publish-query.proposal-withdrawn",
    "Prepare": "prepare.completed",
    "Run": "run-query.completed",
}
"""Workflows, and the outcomes that are measured."""
UPDATES = {"publish-query.proposal-withdrawn": 3}
QUEUE = "noop-shape"


async def watch_consent(request: Any) -> None:
    """Run until the cancellation at the end of the run, with the heartbeats of the real activity."""
    async with Heartbeater(str, every=1.0):
        await asyncio.Event().wait()


async def histories(client: Client, handle: WorkflowHandle[Any, Any]) -> list[Any]:
    """Return the events of a workflow and of its children."""
    events = [event async for event in handle.fetch_history_events()]
    for event in list(events):
        if event.HasField("child_workflow_execution_started_event_attributes"):
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            events += await histories(client, client.get_workflow_handle(child.workflow_id, run_id=child.run_id))
    return events


async def shape_of(client: Client, handle: WorkflowHandle[Any, Any]) -> list[list[Any]]:
    """Return the activities and children that each workflow task has started."""
    groups: dict[int, list[Any]] = {}
    async for event in handle.fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            groups.setdefault(event.activity_task_scheduled_event_attributes.workflow_task_completed_event_id, []).append(0)
        if event.HasField("start_child_workflow_execution_initiated_event_attributes"):
            started = event.start_child_workflow_execution_initiated_event_attributes
            child = await shape_of(client, client.get_workflow_handle(started.workflow_id))
            groups.setdefault(started.workflow_task_completed_event_id, []).append(child)
    return list(groups.values())


async def measured(client: Client, start: Any, act: Any) -> tuple[Cost, WorkflowHandle[Any, Any]]:
    """Start a workflow, send its messages, and await its end."""
    cpu, began = time.process_time(), time.perf_counter()
    handle = await start
    if act is not None:
        await act(handle)
    await handle.result()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    events = await histories(client, handle)
    activities = sum(event.HasField("activity_task_scheduled_event_attributes") for event in events)
    return Cost(wall, cpu, len(events), activities, sum(event.ByteSize() for event in events)), handle


async def measure(rounds: int = 10) -> dict[str, float]:
    """Measure all workflows."""
    given: dict[str, Any] = {}
    found: dict[str, float] = {}
    async with await WorkflowEnvironment.start_local(**server_options()) as env:
        client = await client_with(env, recorded_keyring())
        async with outcome_workers(client, given), create_worker(client, WorkerSpec("noop", QUEUE, (NoopShape,), [do_nothing])):
            for label, name in WORKFLOWS.items():
                outcome, updates = OUTCOMES[name], UPDATES.get(name, 0)

                async def steps(handle: WorkflowHandle[Any, Any], updates: int = updates) -> None:
                    for _ in range(updates):
                        await handle.execute_update(NoopShape.step)

                pairs = []
                for _ in range(rounds + 1):
                    run_id = f"run-{uuid.uuid4().hex[:12]}"
                    given[run_id] = answering(answers_of(outcome) | {"watch_consent": watch_consent}, ARGUMENTS)
                    cost, handle = await measured(client, start_outcome(client, run_id, outcome), outcome.act)
                    arguments = [await shape_of(client, handle), updates]
                    noop = client.start_workflow(NoopShape.run, args=arguments, id=f"noop-{run_id}", task_queue=QUEUE)
                    pairs.append((cost, (await measured(client, noop, steps))[0]))
                costs, noops = ([pair[side] for pair in pairs[1:]] for side in (0, 1))  # the first pair imports modules
                assert {cost.activities for cost in costs} == {cost.activities for cost in noops}
                found |= {f"{label}: {what}, against no-op": ratio(costs, noops, what.lower()) for what in ("wall", "CPU", "events")}
                found |= {f"{label}: events": costs[0].events, f"{label}: activities": costs[0].activities}
                found |= {f"{label}: history": costs[0].size / 1000, f"{label}: time": median(costs, "wall") * 1000}
    return found


BENCHMARK = Benchmark(
    "each workflow whose activities answer at once, against one of its shape that does nothing",
    measure,
    [
        figure
        for label in WORKFLOWS
        for figure in (
            at_most(f"{label}: wall, against no-op", 3, "x"),
            at_most(f"{label}: CPU, against no-op", 3, "x"),
            at_most(f"{label}: events, against no-op", 1.25, "x"),
            reported(f"{label}: events"),
            reported(f"{label}: activities"),
            reported(f"{label}: history", "kB"),
            reported(f"{label}: time", "ms"),
        )
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
