"""The number of governance requests of ``Prepare`` grows linearly with the datasets.

The real workflow and activities run on a real Temporal server; the governance stand-in counts the requests that it gets.
``pytest -s`` prints the figures.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from cleanroom.identifiers import CLEAN_ROOM_QUEUE
from cleanroom.messages.run import Prepared, RunQueryInput
from tests.prepare_world import PrepareWorld, prepare_workers, prepare_world
from tests.temporal_env import temporal_env, unique
from workflows.prepare import Prepare

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
_ = temporal_env

FIXED, PER_DATASET = 40, 12
"""Bound of the requests of one preparation: ``FIXED + PER_DATASET * N`` for N input datasets with two secrets each.

Each of the four releases of a dataset looks again: three requests that concurrent releases share. Every full verification reads the
key document of each signer and its consent, which says whether the signer has retired a key.
"""
SIZES = (1, 2, 4, 8)


async def prepare(world: PrepareWorld, env: WorkflowEnvironment) -> Prepared:
    """Prepare a new run and count its requests."""
    ticket = await world.ticket(unique("r"))
    world.counter.reset()
    handle = await env.client.start_workflow(
        Prepare.run, RunQueryInput(ticket=ticket, caller="fabrikam"), id=unique("prepare"), task_queue=CLEAN_ROOM_QUEUE
    )
    return await asyncio.wait_for(handle.result(), 120)


def kinds(requests: Counter[str]) -> dict[str, int]:
    """Requests by kind: paths without IDs, most frequent first."""
    names = r"flights|totals|r-[\w.-]+|[a-z]+_[\w.-]+|\w+-\d+|litware-output|(approver-key|decision)\.[\w.-]+"
    found: Counter[str] = Counter()
    for name, count in requests.items():
        found[re.sub(rf"/({names})(?=/|$)", "/*", name)] += count
    return dict(found.most_common(14))


async def test_requests_grow_linearly_with_datasets(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    requests: dict[int, int] = {}
    for size in SIZES:
        with prepare_world(tmp_path / str(size)) as world:
            await world.publish(size)
            async with prepare_workers(world, temporal_env.client):
                prepared = await prepare(world, temporal_env)
            assert len(prepared.secrets) == 2 * (size + 1)
            assert len(prepared.grants) == 4 * (size + 1) + 2
            requests[size] = world.counter.total
            print(f"\nN = {size}: {requests[size]} requests", kinds(world.counter.requests))
    for size, found in requests.items():
        assert found <= FIXED + PER_DATASET * size, requests
    # Further datasets cost no more than the first ones: no quadratic part.
    assert (requests[8] - requests[4]) / 4 <= PER_DATASET, requests
