"""Workers on a real server: connection by profile, readiness, shutdown, handover, retries and search attributes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.duration_pb2 import Duration as DurationMessage
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from cleanroom.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.settings import TemporalSettings
from cleanroom.temporal import attributes
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, create_worker, replayer, run_worker
from tests.codec_models import Note
from tests.lifecycle_workflows import ACTIVITIES, WORKFLOWS, Cancelling, Counting, Polling, Stepping
from tests.patience import PATIENCE
from tests.temporal_env import TEST_KEYRING, unique
from workers.register import register

pytestmark = pytest.mark.scenario


@pytest.fixture
def profile(tmp_path: Path, temporal_env: WorkflowEnvironment) -> TemporalSettings:
    address = temporal_env.client.service_client.config.target_host
    config = tmp_path / "temporal.toml"
    config.write_text(f'[profile.test]\naddress = "{address}"\nnamespace = "default"\n')
    TEST_KEYRING.save(tmp_path / "keyring.json")
    return TemporalSettings(config_file=config, profile="test", keyring_file=tmp_path / "keyring.json")


@contextlib.asynccontextmanager
async def worker_process(profile: TemporalSettings, queue: str, ready: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = [str(profile.config_file), str(profile.keyring_file), queue, str(ready), "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.lifecycle_worker", *arguments, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not ready.exists():
                assert process.returncode is None, (await process.stderr.read()).decode() if process.stderr else ""
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stopped(process: asyncio.subprocess.Process, number: signal.Signals) -> str:
    """Signal a worker, wait until it exits, and return its output."""
    process.send_signal(number)
    _, error = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, error.decode()
    return error.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_next_worker_resumes_at_the_stopped_workers_position(
    temporal_env: WorkflowEnvironment, profile: TemporalSettings, tmp_path: Path, number: signal.Signals
) -> None:
    queue, ready = unique("lifecycle"), tmp_path / "ready"
    handle = await temporal_env.client.start_workflow(Counting.run, Note(text="n", number=40), id=unique("counting"), task_queue=queue)
    async with worker_process(profile, queue, ready) as process:

        async def counted() -> bool:
            description = await handle.describe()
            return any(pending.heartbeat_details.payloads for pending in description.raw_description.pending_activities)

        async with asyncio.timeout(PATIENCE):
            while not await counted():
                await asyncio.sleep(0.02)
        log = await stopped(process, number)
    assert f"worker lifecycle received {number.name}" in log
    assert "worker lifecycle stopped" in log
    assert "Traceback" not in log.split("stopping")[0]
    assert not ready.exists()
    async with worker_process(profile, queue, ready):
        # Position 20 was recorded within the throttle interval of 5 s, and was sent because shutdown flushes heartbeats.
        assert await asyncio.wait_for(handle.result(), PATIENCE) == [20, 40]


@pytest.mark.parametrize("where", ["", "thread "])
async def test_a_step_without_heartbeats_outlives_its_heartbeat_timeout(temporal_env: WorkflowEnvironment, where: str) -> None:
    queue, client = unique("alive"), temporal_env.client
    async with create_worker(client, WorkerSpec("alive", queue, WORKFLOWS, ACTIVITIES)):
        note = Note(text=f"{where}wait", number=2200)
        assert await client.execute_workflow(Stepping.run, note, id=unique("alive"), task_queue=queue) == "finished"


@pytest.mark.parametrize("where", ["", "thread "])
async def test_a_cancelled_step_completes(temporal_env: WorkflowEnvironment, where: str) -> None:
    """A heartbeat delivers the cancellation while the step runs, and the step still completes."""
    queue, client = unique("alive"), temporal_env.client
    async with create_worker(client, WorkerSpec("alive", queue, WORKFLOWS, ACTIVITIES)):
        handle = await client.start_workflow(Stepping.run, Note(text=f"{where}cancel", number=50), id=unique("alive"), task_queue=queue)
        async with asyncio.timeout(PATIENCE):
            while not any(p.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED for p in await pending(handle)):
                await asyncio.sleep(0.01)
        await handle.cancel()
        assert await asyncio.wait_for(handle.result(), PATIENCE) == "finished"


@pytest.mark.parametrize("step", ["without_heartbeats", "late_heartbeat"])
async def test_the_server_pushes_a_cancellation(temporal_env: WorkflowEnvironment, profile: TemporalSettings, step: str) -> None:
    """The settings of the local cloud's server, and a worker's client, let a cancellation arrive without a heartbeat."""
    queue, client = unique("pushed"), await connect(profile, identity="pushed")
    async with asyncio.timeout(PATIENCE), create_worker(client, WorkerSpec("pushed", queue, WORKFLOWS, ACTIVITIES)):
        handle = await client.start_workflow(Cancelling.run, Note(text=step, number=0), id=unique("pushed"), task_queue=queue)
        while not any(p.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED for p in await pending(handle)):
            await asyncio.sleep(0.01)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, CancelledError)


async def test_a_step_ends_when_its_worker_shuts_down(temporal_env: WorkflowEnvironment) -> None:
    """A worker that shuts down does not wait for a step that takes another ten minutes."""
    queue, client = unique("alive"), temporal_env.client
    spec = WorkerSpec("alive", queue, WORKFLOWS, ACTIVITIES, graceful_shutdown=timedelta(seconds=0.1))
    async with asyncio.timeout(PATIENCE), create_worker(client, spec):
        handle = await client.start_workflow(Stepping.run, Note(text="wait", number=600_000), id=unique("alive"), task_queue=queue)
        while not any(p.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED for p in await pending(handle)):
            await asyncio.sleep(0.01)
    await handle.terminate()


async def pending(handle: WorkflowHandle[Any, Any]) -> list[Any]:
    """Return the workflow's pending activities."""
    return list((await handle.describe()).raw_description.pending_activities)


async def test_a_worker_whose_credentials_do_not_work_never_reports_ready(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    async def works() -> None:
        raise Refused("AADSTS7000215", "the secret is not valid.")

    spec = WorkerSpec("refused", unique("refused"), WORKFLOWS, ACTIVITIES, ready_file=ready)
    with pytest.raises(Refused, match="AADSTS7000215"):
        await asyncio.wait_for(run_worker(temporal_env.client, spec, works=works), PATIENCE)
    assert not ready.exists()


async def test_a_worker_is_ready_when_its_credentials_work(
    temporal_env: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While governance does not answer, the worker polls and is not ready."""
    monkeypatch.setattr("cleanroom.temporal.workers.RETRY_SECONDS", 0.01)
    ready, stop, tries = tmp_path / "ready", asyncio.Event(), list[bool]()

    async def works() -> None:
        tries.append(ready.exists())
        if len(tries) < 3:
            raise Unavailable("GovernanceUnreachable", "no answer")

    spec = WorkerSpec("late", unique("late"), WORKFLOWS, ACTIVITIES, ready_file=ready)
    running = asyncio.create_task(run_worker(temporal_env.client, spec, stop=stop, works=works))
    async with asyncio.timeout(PATIENCE):
        while not ready.exists():
            await asyncio.sleep(0.01)
    assert tries == [False, False, False]
    stop.set()
    await running


async def test_a_worker_that_is_not_ready_stops(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    stop, begun = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        begun.set()
        await asyncio.Event().wait()

    spec = WorkerSpec("waiting", unique("waiting"), WORKFLOWS, ACTIVITIES, ready_file=tmp_path / "ready")
    running = asyncio.create_task(run_worker(temporal_env.client, spec, stop=stop, works=works))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    stop.set()
    await asyncio.wait_for(running, PATIENCE)
    assert not (tmp_path / "ready").exists()


async def test_ready_file_health_route_and_resources_follow_the_worker(
    temporal_env: WorkflowEnvironment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def resource(name: str) -> AsyncIterator[None]:
        events.append(f"open {name}")
        yield
        events.append(f"close {name}")

    caplog.set_level("INFO", logger="cleanroom.worker")
    # Another test in this process may have disabled existing loggers.
    logging.getLogger("cleanroom.worker").disabled = False
    stop, ready = asyncio.Event(), tmp_path / "ready"
    spec = WorkerSpec("health", unique("health"), WORKFLOWS, ACTIVITIES, ready_file=ready, health_port=0)
    running = asyncio.create_task(run_worker(temporal_env.client, spec, resources=[resource("a"), resource("b")], stop=stop))
    try:
        async with asyncio.timeout(PATIENCE):
            while not ready.exists():
                await asyncio.sleep(0.01)
        # From the messages, because the format of the log depends on other tests in this process.
        url = next((word for message in caplog.messages for word in message.split() if word.endswith("/healthz")), None)
        assert url is not None, f"the log names no health address: {caplog.text!r}"
        async with httpx.AsyncClient() as http:
            answer = await http.get(url)
        assert (answer.status_code, answer.json()["status"], answer.json()["worker"]) == (200, "ok", "health")
    finally:
        # A worker that outlives its test would block the end of the session's event loop.
        stop.set()
        await asyncio.wait_for(running, PATIENCE)
    assert events == ["open a", "open b", "close b", "close a"]
    assert not ready.exists()


async def test_a_worker_that_cannot_start_reports_the_cause_and_is_not_ready(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    config = temporal_env.client.config()
    client = Client(service_client=config["service_client"], namespace="no-such-namespace", data_converter=config["data_converter"])
    ready = tmp_path / "ready"
    with pytest.raises(Unavailable, match="WorkerStartFailed") as failed:
        await run_worker(client, WorkerSpec("lost", "q", WORKFLOWS, ACTIVITIES, ready_file=ready))
    assert "no-such-namespace" in str(failed.value.cause)
    assert not ready.exists()


async def test_polling_by_retries_and_search_attributes_in_virtual_time(time_skipping_env: WorkflowEnvironment) -> None:
    queue, client = unique("polling"), time_skipping_env.client
    async with create_worker(client, WorkerSpec("polling", queue, WORKFLOWS, ACTIVITIES)):
        handle = await client.start_workflow(
            Polling.run,
            Note(text="n", number=100),
            id=unique("polling"),
            task_queue=queue,
            search_attributes=attributes.start_attributes(
                kind="query", collaboration="flights", digest="ab" * 32, pending_for=["contosso"]
            ),
        )
        result = await asyncio.wait_for(handle.result(), PATIENCE)
        assert result == {"attempts": 100, "days": 30}
        history = await handle.fetch_history()
        scheduled = [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
        assert len(scheduled) == 2, "polling by retries leaves no history"
        described = await handle.describe()
        assert described.typed_search_attributes[attributes.STAGE] == "done"
        assert described.typed_search_attributes[attributes.DIGEST] == "abababababab"
        assert attributes.PENDING_FOR not in described.typed_search_attributes
        await replayer(WORKFLOWS, keyring=TEST_KEYRING, namespace=client.namespace).replay_workflow(history)


async def test_workflows_are_found_by_pending_collaborator(temporal_env: WorkflowEnvironment) -> None:
    collaboration = unique("c")
    handle = await temporal_env.client.start_workflow(
        Counting.run,
        Note(text="n"),
        id=unique("inbox"),
        task_queue=unique("nobody"),
        search_attributes=attributes.start_attributes(collaboration=collaboration, pending_for=["litware", "contosso"]),
    )

    async def found(user: str) -> list[str]:
        query = f"CrPendingFor = '{user}' AND CrCollab = '{collaboration}'"
        return [item.id async for item in temporal_env.client.list_workflows(query)]

    async with asyncio.timeout(PATIENCE):
        while not await found("contosso"):
            await asyncio.sleep(0.02)
    assert await found("contosso") == [handle.id]
    assert await found("fabrikam") == []
    await handle.terminate()


class TestConnect:
    async def test_a_client_connects_by_profile(self, profile: TemporalSettings) -> None:
        client = await connect(profile, identity="me")
        assert client.identity == "me"
        assert client.data_converter.payload_codec is not None
        assert [item async for item in client.list_workflows("WorkflowId = 'none'")] == []

    @pytest.mark.parametrize(
        ("change", "kind", "code"),
        [
            ({"profile": "other"}, InvalidInput, "TemporalProfileInvalid"),
            ({"config_file": "broken"}, InvalidInput, "TemporalProfileInvalid"),
            ({"keyring_file": "missing"}, NotFound, "SecretFileNotFound"),
            ({"config_file": "closed"}, Unavailable, "TemporalUnavailable"),
        ],
    )
    async def test_connection_errors_name_the_cause(
        self, profile: TemporalSettings, tmp_path: Path, change: dict[str, Any], kind: type[Exception], code: str
    ) -> None:
        (tmp_path / "broken").write_text("not = [toml")
        (tmp_path / "closed").write_text('[profile.test]\naddress = "127.0.0.1:1"\n')
        settings = profile.model_copy(update={key: value if key == "profile" else tmp_path / value for key, value in change.items()})
        with pytest.raises(kind, match=code):
            await connect(settings)


def test_the_default_grace_period_is_not_zero() -> None:
    assert WorkerSpec("n", "q").graceful_shutdown > timedelta(0)


async def test_only_missing_search_attributes_are_registered(temporal_env: WorkflowEnvironment) -> None:
    client, namespace = temporal_env.client, unique("attributes")
    options = RegisterNamespaceRequest(namespace=namespace, workflow_execution_retention_period=DurationMessage(seconds=86400))
    await client.workflow_service.register_namespace(options)
    there = await Client.connect(client.service_client.config.target_host, namespace=namespace)
    wanted = tuple(sorted(key.name for key in attributes.ALL))
    assert await register(there) == wanted
    assert await register(there) == ()
    assert await register(client) == ()  # this one had them from its start


async def test_a_search_attribute_of_another_type_conflicts(temporal_env: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.register.ALL", (SearchAttributeKey.for_int(attributes.QUERY.name),))
    with pytest.raises(Conflict) as caught:
        await register(temporal_env.client)
    assert caught.value.code == "SearchAttributeTypeDiffers"
