"""Fair shares of a task queue, on a real server."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.common import Priority
from temporalio.testing import WorkflowEnvironment

from cleanroom.temporal import attributes
from cleanroom.temporal.fairness import MAX_KEY, fair_share
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.codec_models import Note
from tests.lifecycle_workflows import TURNS, Sharing, take_turn
from tests.patience import PATIENCE
from tests.temporal_env import unique

pytestmark = pytest.mark.scenario
MANY, FEW = 20, 2


@pytest.mark.parametrize("fair", [True, False])
async def test_a_collaborator_with_few_tasks_does_not_wait_for_one_with_many(temporal_env: WorkflowEnvironment, fair: bool) -> None:
    """One worker with one slot. Without fairness keys, the few come last."""
    client, queue = temporal_env.client, unique("shares")
    TURNS.clear()
    handles = []
    for party, count in (("contosso", MANY), ("litware", FEW)):
        share = fair_share("flights", party) if fair else Priority()
        work = [
            client.start_workflow(Sharing.run, Note(text=party), id=unique(party), task_queue=queue, priority=share) for _ in range(count)
        ]
        handles += await asyncio.gather(*work)
    one = {"max_concurrent_workflow_tasks": 1, "max_cached_workflows": 0, "max_concurrent_workflow_task_polls": 1}
    spec = WorkerSpec("shares", queue, [Sharing], [take_turn], max_concurrent_activities=1, extra=one, max_cached_workflows=0)
    async with create_worker(client, spec):
        await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), PATIENCE)
    last = max(index for index, party in enumerate(TURNS) if party == "litware")
    assert len(TURNS) == MANY + FEW
    assert (last < MANY / 2) is fair


@pytest.mark.parametrize(("collaboration", "party"), [("flights", "contosso"), ("c" * 128, "p" * 40), ("ünïcode", "x")])
def test_a_fairness_key_fits_and_names_one_collaborator_of_one_collaboration(collaboration: str, party: str) -> None:
    key = fair_share(collaboration, party).fairness_key
    assert key is not None
    assert 0 < len(key.encode()) <= MAX_KEY
    assert key != fair_share(f"{collaboration}-{party[0]}", party[1:] or "y").fairness_key


async def test_search_attributes_of_a_query_with_200_datasets_are_accepted(temporal_env: WorkflowEnvironment) -> None:
    names = [f"{number:03d}-{'x' * 36}" for number in range(200)]
    found = attributes.start_attributes(collaboration="flights", kind="query", datasets=names, pending_for=names, approved_by=names)
    handle = await temporal_env.client.start_workflow(
        Sharing.run, Note(text="x"), id=unique("many"), task_queue=unique("nobody"), search_attributes=found
    )
    await handle.terminate()
