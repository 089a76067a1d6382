"""The number of governance requests of ``Prepare`` grows linearly with the datasets.

The real workflow and activities run on a real Temporal server; the governance stand-in counts the requests that it gets.
``pytest -s`` prints the figures.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.clean_room import CleanRoomGovernance
from activities.clean_room_context import CleanRoomContext, run_trust
from activities.clean_room_secrets import CleanRoomSecrets
from activities.spark_service import SparkServiceActivities
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
from cleanroom.messages.run import Prepared, RunQueryInput
from cleanroom.runs.reader import UserReader
from cleanroom.spark.service import SparkService
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.prepare_world import CLEAN_ROOM_HOST, SPARK_HOST, Guest, PrepareWorld, prepare_world
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


@asynccontextmanager
async def workers(world: PrepareWorld, env: WorkflowEnvironment) -> AsyncIterator[None]:
    """Run the clean room and the Spark service; the latter has no Kubernetes."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(world.clean_room())
        user = await stack.enter_async_context(world.user("clean-room"))
        service_user = await stack.enter_async_context(world.user("spark-service"))
        room = CleanRoomContext(world.settings, world.bootstrap, client, user)
        guest: Any = Guest(world.hardware, CLEAN_ROOM_HOST)
        room.attestor = guest
        governance, secrets = CleanRoomGovernance(room), CleanRoomSecrets(room)
        kubernetes: Any = None
        service = SparkService(Guest(world.hardware, SPARK_HOST), kubernetes)
        reader = UserReader(service_user, world.settings.collaboration)
        spark = SparkServiceActivities(
            world.settings, service, reader, run_trust(world.settings, world.bootstrap, service_user.get_member_document)
        )
        here: list[Callable[..., Any]] = [
            *(governance.get_users, governance.fetch_query, governance.validate_access_and_approvals),
            *(governance.check_execution_consent, governance.build_job, governance.verify_spark, governance.verify_security_policy),
            *(governance.record_event, secrets.get_key_with_skr, secrets.get_secret, secrets.set_secret, secrets.configure_idp),
        ]
        there: list[Callable[..., Any]] = [spark.get_attestation_report, spark.get_security_policy]
        await stack.enter_async_context(create_worker(env.client, WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, (Prepare,), here)))
        await stack.enter_async_context(create_worker(env.client, WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), there)))
        yield


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
            async with workers(world, temporal_env):
                prepared = await prepare(world, temporal_env)
            assert len(prepared.secrets) == 2 * (size + 1)
            assert len(prepared.grants) == 4 * (size + 1) + 2
            requests[size] = world.counter.total
            print(f"\nN = {size}: {requests[size]} requests", kinds(world.counter.requests))
    for size, found in requests.items():
        assert found <= FIXED + PER_DATASET * size, requests
    # Further datasets cost no more than the first ones: no quadratic part.
    assert (requests[8] - requests[4]) / 4 <= PER_DATASET, requests
