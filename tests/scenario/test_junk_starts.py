"""Workflows that are started with junk, on a server: they fail, or are flagged until the operator has acted."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.operations.doctor.temporal import FAILING
from tests.codec_models import Note
from tests.codec_workflows import Waiting
from tests.histories.fingerprints import WORKFLOWS
from tests.patience import PATIENCE
from tests.temporal_env import TEST_KEYRING, client_with, unique

pytestmark = pytest.mark.scenario

PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b"{}")
SEALED = {
    "nothing": [],
    "null": [Payload(metadata={"encoding": b"binary/null"})],
    "nearly 2 MiB": [Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 2_000_000)],
}
"""Payloads that the sender has encrypted as a genuine one."""


async def start(client: Client, kind: str, payloads: list[Payload], queue: str) -> str:
    """Start a workflow with payloads as they are, as any client of the server can, and return its ID."""
    workflow_id = unique("junk")
    await client.workflow_service.start_workflow_execution(
        StartWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name=kind),
            task_queue=TaskQueue(name=queue),
            input=Payloads(payloads=payloads),
            request_id=workflow_id,
        )
    )
    return workflow_id


async def code(client: Client, workflow_id: str) -> str:
    with pytest.raises(WorkflowFailureError) as failed:
        await client.get_workflow_handle(workflow_id).result()
    error = error_from_failure(failed.value)
    assert error.hint
    return error.code


async def test_every_workflow_that_is_started_with_junk_fails_on_a_server(temporal_env: WorkflowEnvironment) -> None:
    client, queue = temporal_env.client, unique("junk")
    codec = PayloadCodec(TEST_KEYRING).unbound(client.namespace)
    started: list[str] = []
    async with create_worker(client, WorkerSpec("junk", queue, WORKFLOWS)):
        for kind in WORKFLOWS:
            started += [await start(client, kind.__name__, await codec.encode(payloads), queue) for payloads in SEALED.values()]
            started.append(await start(client, kind.__name__, [PLAIN], queue))
        async with asyncio.timeout(PATIENCE):
            codes = await asyncio.gather(*(code(client, workflow_id) for workflow_id in started))
    expected = ["WorkflowArgumentsInvalid", "PayloadMalformed", "PayloadMalformed", "PayloadNotEncrypted"]
    assert codes == expected * len(WORKFLOWS)


@pytest.mark.skipif("CLEANROOM_TEST_RECOVERY" not in os.environ, reason="takes half a minute: make test-recovery")
async def test_a_workflow_under_an_unknown_key_is_flagged_and_continues_with_the_key(temporal_env: WorkflowEnvironment) -> None:
    """The server flags it after two failed workflow tasks, and `cleanroom doctor` lists what it has flagged."""
    client, queue = temporal_env.client, unique("unknown-key")
    stranger = await client_with(temporal_env, TEST_KEYRING.rotated("unknown-key"))
    # The SDK answers the first failure of a workflow task, and lets later attempts time out.
    handle = await stranger.start_workflow(
        Waiting.run, Note(text="w", number=0), id=unique("unknown"), task_queue=queue, task_timeout=timedelta(seconds=1)
    )

    async def flagged() -> bool:
        return handle.id in [item.id async for item in client.list_workflows(FAILING)]

    async with create_worker(client, WorkerSpec("strict", queue, (Waiting,))), asyncio.timeout(PATIENCE):
        while not await flagged():
            await asyncio.sleep(0.1)
    async with create_worker(stranger, WorkerSpec("repaired", queue, (Waiting,))), asyncio.timeout(PATIENCE):
        assert await handle.result() == []
        while await flagged():
            await asyncio.sleep(0.1)
