"""The codec on a real server: payloads round-trip and are encrypted, forged ones are refused, and old histories stay readable."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
    SignalWorkflowExecutionRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowUpdateFailedError,
)
from temporalio.testing import WorkflowEnvironment

from cleanroom.errors import Refused
from cleanroom.secret import write_secret_file
from cleanroom.temporal.codec import ENCODING, HEADER, PayloadCodec
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.workers import WorkerSpec, create_worker, replayer
from cleanroom.webui.codec_server import CodecServerSettings, create_app
from localcloud.standins.serving import serving
from tests.codec_models import Note
from tests.codec_workflows import ACTIVITIES, WORKFLOWS, Everything, Failing, Waiting
from tests.patience import PATIENCE
from tests.temporal_env import TEST_KEYRING, client_with, temporal_binary, unique

pytestmark = pytest.mark.scenario

CANARY = "CANARY-3f9a1c7e5b"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(temporal_env: WorkflowEnvironment) -> AsyncIterator[Client]:
    """A client that accepts only bound payloads, with a worker on the queue ``codec``."""
    client = await client_with(temporal_env, TEST_KEYRING)
    spec = WorkerSpec("codec", "codec", WORKFLOWS, ACTIVITIES)
    async with create_worker(client, spec):
        yield client


async def raw_history(client: Client, workflow_id: str, run_id: str = "") -> bytes:
    """Return the event history as the server stores it."""
    answer = await client.workflow_service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(
            namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id), maximum_page_size=1000
        )
    )
    return answer.history.SerializeToString()


def assert_unreadable(raw: bytes, text: str = CANARY) -> None:
    """Assert that ``raw`` contains neither the text nor its base64 (in any alignment) or hex."""
    assert len(raw) > 100
    needles = [text.encode(), text.encode().hex().encode(), text.encode().hex().upper().encode()]
    needles += [base64.b64encode(b"x" * shift + text.encode())[4:-4] for shift in range(3)]
    for needle in needles:
        assert needle not in raw


async def wait_until(condition: Any) -> None:
    """Wait until an awaitable condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.01)


async def start_waiting(client: Client, count: int, workflow_id: str | None = None) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(Waiting.run, Note(text="w", number=count), id=workflow_id or unique("waiting"), task_queue="codec")


async def send_raw(client: Client, workflow_id: str, *payloads: Payload) -> None:
    """Send a signal with arbitrary payloads, as any client of the server can."""
    await client.workflow_service.signal_workflow_execution(
        SignalWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            signal_name="hear",
            input=Payloads(payloads=payloads),
        )
    )


async def history_payloads(handle: WorkflowHandle[Any, Any]) -> list[Payload]:
    """Wait for signals in a history and return their payloads. The server buffers signals while a workflow task runs."""
    payloads: list[Payload] = []

    async def arrived() -> bool:
        history = await handle.fetch_history()
        payloads[:] = [
            payload
            for event in history.events
            if event.HasField("workflow_execution_signaled_event_attributes")
            for payload in event.workflow_execution_signaled_event_attributes.input.payloads
        ]
        return bool(payloads)

    await wait_until(arrived)
    return payloads


async def test_payloads_on_every_path_round_trip_and_are_encrypted(client: Client) -> None:
    note = Note(text=CANARY)
    workflow_id = unique("everything")
    handle = await client.start_workflow(
        Everything.run,
        note,
        id=workflow_id,
        task_queue="codec",
        memo={"started": CANARY},
        static_summary=f"summary {CANARY}",
        static_details=f"details {CANARY}",
        start_signal="note",
        start_signal_args=[Note(text=CANARY, number=1)],
    )
    first_run = handle.result_run_id or handle.first_execution_run_id or ""
    assert await handle.execute_update(Everything.add, Note(text=CANARY, number=2)) == 2
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update(Everything.add, Note(text=CANARY, number=-1))
    error = error_from_failure(refused.value)
    assert (error.code, error.message) == ("NoteRefused", f"negative: {CANARY}")
    assert [item.number for item in await handle.query(Everything.all_notes, Note(text=CANARY, number=9))] == [9, 1, 2]
    described = await handle.describe()
    assert await described.memo_value("started", type_hint=str) == CANARY
    assert await described.static_summary() == f"summary {CANARY}"
    assert await described.static_details() == f"details {CANARY}"

    async def detailed() -> bool:
        metadata = await handle.query("__temporal_workflow_metadata")
        return bool(CANARY in str(metadata))

    await wait_until(detailed)
    raw_description = await client.workflow_service.describe_workflow_execution(
        DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id))
    )
    assert_unreadable(raw_description.SerializeToString())
    await handle.signal(Everything.finish)
    result = await client.get_workflow_handle(workflow_id).result()
    assert result == {
        "memo": CANARY,
        "started": CANARY,
        "local": 2,
        "resumed": [{"text": CANARY, "number": 1}],
        "heard": [{"text": CANARY, "number": 1}, {"text": CANARY, "number": 7}],
    }
    for one, run in ((workflow_id, first_run), (workflow_id, ""), (f"{workflow_id}-child", "")):
        assert_unreadable(await raw_history(client, one, run))
    listed = await client.workflow_service.list_workflow_executions(
        ListWorkflowExecutionsRequest(namespace=client.namespace, query=f"WorkflowId = '{workflow_id}'")
    )
    assert CANARY.encode() not in listed.SerializeToString()


@pytest.mark.parametrize("number", [0, 1, 2], ids=["activity", "workflow", "child"])
async def test_failures_round_trip_and_are_encrypted(client: Client, number: int) -> None:
    workflow_id = unique("failing")
    handle = await client.start_workflow(Failing.run, Note(text=CANARY, number=number), id=workflow_id, task_queue="codec")
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    error = error_from_failure(failed.value)
    assert isinstance(error, Refused)
    assert error.code == "NoteRefused"
    assert CANARY in error.message
    assert error.details == {"note": CANARY}
    raw = await raw_history(client, workflow_id)
    assert_unreadable(raw)
    assert b"Traceback" not in raw
    assert b'codec_workflows.py", line' not in raw, "stack traces are payloads too"
    assert b"NoteRefused" in raw, "the code is the failure's type, which stays readable on purpose"


async def test_a_plaintext_signal_is_dropped_and_the_workflow_continues(client: Client, temporal_env: WorkflowEnvironment) -> None:
    handle = await start_waiting(client, 1)
    plain = await client_with(temporal_env, None)
    await plain.get_workflow_handle(handle.id).signal("hear", Note(text="forged"))
    await send_raw(client, handle.id, Payload(metadata={"encoding": b"binary/null"}))
    assert await handle.query(Waiting.count) == 0
    await handle.signal(Waiting.hear, Note(text="real"))
    assert await handle.result() == [Note(text="real")]


async def test_ciphertext_of_another_workflow_is_refused(client: Client) -> None:
    victim, donor = await start_waiting(client, 2), await start_waiting(client, 9)
    await donor.signal(Waiting.hear, Note(text="approve the other one"))
    stolen = await history_payloads(donor)
    await send_raw(client, victim.id, *stolen)
    assert await victim.query(Waiting.count) == 0
    # The same bytes are accepted in their own workflow, so the binding was the reason.
    await send_raw(client, donor.id, *stolen)
    assert await donor.query(Waiting.count) == 2
    await victim.signal(Waiting.hear, Note(text="mine"))
    await send_raw(client, victim.id, *await history_payloads(donor))
    assert await victim.query(Waiting.count) == 1
    await donor.terminate()
    await victim.terminate()


async def test_messages_with_wrong_arguments_do_not_block_the_workflow(client: Client) -> None:
    handle = await start_waiting(client, 1)
    await send_raw(client, handle.id)
    await handle.signal("hear", args=[Note(text="one"), Note(text="too many")])
    await handle.signal(Waiting.hear, Note(text="refused by its handler", number=-1))
    assert await handle.query(Waiting.count) == 0
    with pytest.raises(WorkflowUpdateFailedError) as failed:
        await handle.execute_update("tell")
    assert error_from_failure(failed.value).code == "UpdateArgumentsInvalid"
    assert await handle.execute_update(Waiting.tell, Note(text="by update")) == 1
    assert await handle.result() == [Note(text="by update")]


async def test_forged_input_fails_the_workflow_with_the_reason(client: Client, temporal_env: WorkflowEnvironment) -> None:
    plain = await client_with(temporal_env, None)
    handle = await plain.start_workflow("Waiting", Note(text="forged"), id=unique("forged"), task_queue="codec")
    with pytest.raises(WorkflowFailureError) as failed:
        await client.get_workflow_handle(handle.id).result()
    assert error_from_failure(failed.value).code == "PayloadNotEncrypted"


async def test_a_client_without_keyring_gets_its_own_error_code(client: Client, temporal_env: WorkflowEnvironment) -> None:
    handle = await start_waiting(client, 0)
    assert await handle.result() == []
    plain = await client_with(temporal_env, None)
    with pytest.raises(LookupError) as failed:
        await plain.get_workflow_handle(handle.id).result()
    assert error_from_failure(failed.value).code == "CodecKeyringMissing"


async def test_malformed_content_is_rejected_without_being_quoted(client: Client) -> None:
    handle = await client.start_workflow("Waiting", {"text": "t", "number": CANARY}, id=unique("malformed"), task_queue="codec")
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    error = error_from_failure(failed.value)
    assert error.code == "PayloadMalformed"
    assert "number (int_parsing)" in error.message
    assert CANARY not in str(error.to_dict())


async def test_unbound_messages_need_accept_unbound(client: Client, temporal_env: WorkflowEnvironment) -> None:
    unbound = PayloadCodec(TEST_KEYRING).unbound(client.namespace)
    [sealed] = await unbound.encode(data_converter(None).payload_converter.to_payloads([Note(text="from the Web UI")]))
    strict = await start_waiting(client, 1)
    await send_raw(client, strict.id, sealed)
    assert await strict.query(Waiting.count) == 0
    await strict.terminate()
    lenient_client = await client_with(temporal_env, TEST_KEYRING, accept_unbound=True)
    queue = unique("lenient")
    async with create_worker(lenient_client, WorkerSpec("lenient", queue, WORKFLOWS, ACTIVITIES)):
        lenient = await client.start_workflow(Waiting.run, Note(text="w", number=1), id=unique("lenient"), task_queue=queue)
        await send_raw(client, lenient.id, sealed)
        assert await lenient.result() == [Note(text="from the Web UI")]


async def test_after_a_rotation_old_histories_decode_and_new_ones_use_the_new_key(
    client: Client, temporal_env: WorkflowEnvironment
) -> None:
    old_handle = await start_waiting(client, 2)
    await old_handle.signal(Waiting.hear, Note(text="sealed under the old key"))
    rotated = TEST_KEYRING.rotated("after-rotation")
    new_client = await client_with(temporal_env, rotated)
    queue = unique("rotated")
    # A worker with the new keyring replays the old history, which is encrypted with both keys.
    await new_client.get_workflow_handle(old_handle.id).query(Waiting.count)
    async with create_worker(new_client, WorkerSpec("rotated", queue, WORKFLOWS, ACTIVITIES)):
        new_handle = await new_client.start_workflow(Waiting.run, Note(text="w", number=0), id=unique("new"), task_queue=queue)
        assert await new_handle.result() == []
    raw = await raw_history(new_client, new_handle.id)
    assert b"14:after-rotation," in raw
    history = await old_handle.fetch_history()
    ring = replayer(WORKFLOWS, keyring=rotated, namespace=client.namespace)
    await ring.replay_workflow(history)
    # A keyring without the old key cannot, and the error names the key.
    with pytest.raises(Exception, match="CodecKeyUnknown"):
        await replayer(WORKFLOWS, keyring=Keyring.generate("other"), namespace=client.namespace).replay_workflow(history)
    await old_handle.terminate()


async def test_replay_of_an_encrypted_history_exported_as_json(client: Client) -> None:
    handle = await client.start_workflow(
        Everything.run, Note(text=CANARY, number=1), id=unique("replay"), task_queue="codec", memo={"started": CANARY}
    )
    await handle.result()
    exported = (await handle.fetch_history()).to_json()
    assert CANARY not in exported
    history = WorkflowHistory.from_json(handle.id, exported)
    await replayer(WORKFLOWS, keyring=TEST_KEYRING, namespace=client.namespace).replay_workflow(history)


async def test_scheduled_runs_decrypt_the_schedules_payloads(client: Client, temporal_env: WorkflowEnvironment) -> None:
    scheduler = await client_with(temporal_env, TEST_KEYRING, scope="schedule")
    prefix = unique("scheduled")
    action = ScheduleActionStartWorkflow(Waiting.run, Note(text=CANARY, number=0), id=prefix, task_queue="codec")
    handle = await scheduler.create_schedule(prefix, Schedule(action=action, spec=ScheduleSpec()))
    try:
        await handle.trigger()

        async def ran() -> bool:
            return bool((await handle.describe()).info.recent_actions)

        await wait_until(ran)
        run = (await handle.describe()).info.recent_actions[0].action
        workflow_id = run.workflow_id
        assert workflow_id.startswith(f"{prefix}-2")
        assert await client.get_workflow_handle(workflow_id).result() == []
        assert_unreadable(await raw_history(client, workflow_id))
    finally:
        await handle.delete()


async def test_payloads_in_the_history_have_the_documented_format(client: Client) -> None:
    handle = await start_waiting(client, 1)
    await handle.signal(Waiting.hear, Note(text="x"))
    [payload] = await history_payloads(handle)
    assert payload.metadata["encoding"] == ENCODING
    assert payload.metadata[HEADER][:-13] == b"1:1,4:test,7:default,1:w,%d:%s,10:json/plain,12:" % (len(handle.id), handle.id.encode())
    await handle.result()


async def test_the_temporal_command_reads_and_signals_through_the_codec_server(
    client: Client, temporal_env: WorkflowEnvironment, tmp_path: Path
) -> None:
    token = "token-for-the-temporal-command"
    write_secret_file(tmp_path / "token", token.encode())
    app = create_app(CodecServerSettings(keyring_file=tmp_path / "none", tokens_file=tmp_path / "token"), keyring=TEST_KEYRING)
    handle = await start_waiting(client, 1)
    address = temporal_env.client.service_client.config.target_host

    async def temporal(endpoint: str, *arguments: str, auth: str = f"Bearer {token}") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(temporal_binary(), "workflow", *arguments, "-w", handle.id, "--address", address),
            *("--codec-endpoint", endpoint, "--codec-auth", auth),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        return process.returncode or 0, output.decode()

    with serving(app, "codec-server") as url:
        send = ("signal", "--name", "hear", "--input", f'{{"text": "{CANARY}"}}')
        # Unbound, which this worker does not accept, and without credentials.
        assert (await temporal(url, *send))[0] == 0
        assert (await temporal(url, *send, auth="Bearer wrong"))[0] != 0
        assert await handle.query(Waiting.count) == 0
        code, output = await temporal(f"{url}/workflow/{handle.id}", *send)
        assert code == 0, output
        assert await handle.result() == [Note(text=CANARY)]
        code, output = await temporal(url, "show", "--output", "json")
        assert code == 0, output
        shown = [base64.b64decode(data).decode(errors="replace") for data in re.findall(r'"data": "([^"]*)"', output)]
        assert any(CANARY in text for text in shown)
        _, output = await temporal(url, "show", "--output", "json", auth="Bearer wrong")
        assert not any(CANARY.encode() in base64.b64decode(data) for data in re.findall(r'"data": "([^"]*)"', output))
