"""The governance requests and the history of ``Prepare`` grow linearly with the datasets.

The real workflow and activities run on a real Temporal server; the governance stand-in counts the requests that it gets.
``pytest -s`` prints the figures.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from cleanroom.identifiers import CLEAN_ROOM_QUEUE
from cleanroom.messages.run import Prepared, RunQueryInput
from tests.patience import PATIENCE
from tests.prepare_world import PrepareWorld, prepare_workers, prepare_world
from tests.temporal_env import TEST_KEYRING, client_with, unique
from workflows.prepare import Prepare

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

FIXED, PER_DATASET = 40, 12
"""Bound of the requests of one preparation: ``FIXED + PER_DATASET * N`` for N input datasets with two secrets each.

Each dataset needs eight requests to read, copy and grant its two secrets and to read its document, one for its consent, and two for
the second looks after the copies and after the grants.
"""
EVENTS, ACTIVITIES, BYTES = 14, 2, 8_000
"""Bound of the history of one further dataset: each of its two activities has three events, and at most one workflow task of three."""
SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class History:
    """Size of a workflow's history."""

    events: int
    activities: int
    bytes: int


async def prepare(world: PrepareWorld, env: WorkflowEnvironment) -> tuple[Prepared, History]:
    """Prepare a new run and count its requests."""
    ticket = await world.ticket(unique("r"))
    world.counter.reset()
    handle = await env.client.start_workflow(
        Prepare.run, RunQueryInput(ticket=ticket, caller="fabrikam"), id=unique("prepare"), task_queue=CLEAN_ROOM_QUEUE
    )
    prepared = await asyncio.wait_for(handle.result(), PATIENCE)
    events = [event async for event in handle.fetch_history_events()]
    activities = sum(event.HasField("activity_task_scheduled_event_attributes") for event in events)
    return prepared, History(len(events), activities, sum(event.ByteSize() for event in events))


def kinds(requests: Counter[str]) -> dict[str, int]:
    """Requests by kind: paths without IDs, most frequent first."""
    names = r"flights|totals|r-[\w.-]+|[a-z]+_[\w.-]+|\w+-\d+|litware-output|(approver-key|decision)\.[\w.-]+"
    found: Counter[str] = Counter()
    for name, count in requests.items():
        found[re.sub(rf"/({names})(?=/|$)", "/*", name)] += count
    return dict(found.most_common(14))


async def test_requests_and_history_grow_linearly_with_datasets(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    requests: dict[int, int] = {}
    histories: dict[int, History] = {}
    for size in SIZES:
        with prepare_world(tmp_path / str(size)) as world:
            await world.publish(size)
            async with prepare_workers(world, temporal_env.client, unhurried=True):
                prepared, histories[size] = await prepare(world, temporal_env)
            assert len(prepared.secrets) == 2 * (size + 1)
            assert len(prepared.grants) == 4 * (size + 1) + 2
            requests[size] = world.counter.total
            print(f"\nN = {size}: {requests[size]} requests, {histories[size]}", kinds(world.counter.requests))
            if size == 2:
                await _prepare_with_two_workers(world, temporal_env)
    for size, found in requests.items():
        assert found <= FIXED + PER_DATASET * size, requests
    # Further datasets cost no more than the first ones: no quadratic part.
    assert (requests[8] - requests[4]) / 4 <= PER_DATASET, requests
    few, many = histories[1], histories[8]
    assert many.activities - few.activities == 7 * ACTIVITIES
    assert (many.events - few.events) / 7 <= EVENTS, histories
    assert (many.bytes - few.bytes) / 7 <= BYTES, histories


async def _prepare_with_two_workers(world: PrepareWorld, env: WorkflowEnvironment) -> None:
    """The activities of a run go to two workers. Each gets references to what the other one has verified."""
    async with prepare_workers(world, env.client, await client_with(env, TEST_KEYRING, accept_unbound=True)):
        prepared, _ = await prepare(world, env)
    assert len(prepared.secrets) == 6
