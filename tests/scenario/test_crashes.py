"""Workers are killed, runs are cancelled or terminated, consent is withdrawn: nothing is lost, done twice or left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.converter import ActivitySerializationContext

from cleanroom.errors import CleanRoomError, Conflict
from cleanroom.identifiers import SPARK_SERVICE_QUEUE, dataset_workflow_id, job_name, prepare_workflow_id, query_workflow_id
from cleanroom.messages.run import JobOutcome, RunResult
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.run_events import event_id
from starters.operations.conclude import conclude_run
from starters.operations.datasets import publish_dataset, upload_rows
from starters.operations.queries import create_query, propose_query
from starters.operations.query_workflow import read_state
from starters.operations.results import open_result, read_receipt
from starters.operations.runs import cancel_run, start_run
from starters.operations.session import Session, run_async
from starters.terminal.result_view import result_rows
from tests.local_cloud import (
    Cloud,
    World,
    assert_same_rows,
    flights_spec,
    output_spec,
    planes_spec,
    unique,
    until_heartbeat,
    until_scheduled,
)
from tests.local_cloud.bundles import export
from tests.local_cloud.ended_runs import EndedRun, application, running

pytestmark = [pytest.mark.scenario, pytest.mark.spark, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def revive_workers(cloud: Cloud) -> Iterator[None]:
    """Start every worker that the test killed."""
    yield
    cloud.workers.restart_killed()


async def killed_at(cloud: Cloud, worker: str, workflow_id: str, activity: str) -> None:
    """Kill ``worker`` when ``activity`` has been scheduled in the workflow, and start it again with the same command."""
    client = await cloud.fabrikam.temporal()
    await until_scheduled(await started(client.get_workflow_handle(workflow_id)), activity)
    cloud.workers.kill(worker)
    await asyncio.to_thread(cloud.workers.restart, worker)


async def started(handle: WorkflowHandle[Any, Any]) -> WorkflowHandle[Any, Any]:
    """Return the handle as soon as its workflow exists."""
    from temporalio.service import RPCError

    while True:
        try:
            await handle.describe()
            return handle
        except RPCError:
            await asyncio.sleep(0.02)


async def lost_after_the_receipt(cloud: Cloud, run_id: str) -> None:
    """Wait for the driver's receipt in the ledger, and answer in place of the Spark service that the driver was lost."""
    client = await cloud.fabrikam.temporal()
    handle = cloud.run_handle(client, run_id)
    await until_heartbeat(handle, "watch_job")
    cloud.workers.kill("spark-service")
    async with cloud.fabrikam.governance() as governance:
        id, scope = event_id(run_id, "QUERY_COMPLETED"), event_scope(run_id)
        while await governance.latest_event(cloud.collaboration, event_id=id, scope=scope) is None:
            await asyncio.sleep(0.1)
    pending = (await handle.describe()).raw_description.pending_activities
    watch = next(item for item in pending if item.activity_type.name == "watch_job")
    lost = CleanRoomError.from_dict({"code": "NodeLost", "message": "the driver's node went away"})
    context = ActivitySerializationContext(
        namespace=client.namespace,
        activity_id=watch.activity_id,
        activity_type="watch_job",
        activity_task_queue=SPARK_SERVICE_QUEUE,
        workflow_id=handle.id,
        workflow_type="RunQuery",
        is_local=False,
    )
    activity = client.get_async_activity_handle(workflow_id=handle.id, run_id=None, activity_id=watch.activity_id)
    await activity.with_context(context).complete(JobOutcome(completed=False, error=lost.to_dict(), may_have_completed=True))
    await asyncio.to_thread(cloud.workers.restart, "spark-service")


def test_run_completes_when_every_worker_is_killed_once(cloud: Cloud, world: World) -> None:
    """From the first dataset to the result, every worker is killed in the middle of its part.

    In the end the Spark service reports that the driver was lost with its node. The driver's receipt is in the ledger, so it decides.
    The datasets use the three kinds of encryption: by the owner, by the store with the owner's key, by the store.
    """
    flights, planes, output = flights_spec(), planes_spec(encryption="CPK"), output_spec(encryption="SSE")
    dataset_id = lambda spec: dataset_workflow_id(cloud.collaboration, spec.name)  # noqa: E731
    upload_rows(cloud.contosso, flights, [world.files["flights"]])
    upload_rows(cloud.litware, planes, [world.files["planes"]])
    concurrent = world.query("concurrent")

    async def publish() -> None:
        await asyncio.gather(
            publish_dataset(cloud.contosso, flights),
            publish_dataset(cloud.litware, planes),
            publish_dataset(cloud.litware, output),
            create_query(cloud.fabrikam, concurrent),
            killed_at(cloud, "contosso", dataset_id(flights), "set_key_with_skr"),
            killed_at(cloud, "litware", dataset_id(planes), "set_secret"),
            killed_at(cloud, "frontend", dataset_id(planes), "generate_dataset_descriptor"),
            killed_at(cloud, "fabrikam", query_workflow_id(cloud.collaboration, concurrent.name), "create_document"),
        )

    run_async(publish())
    for owner, spec in ((cloud.contosso, flights), (cloud.litware, planes), (cloud.litware, output)):
        _accepted_once(owner, spec.name)
    assert run_async(read_state(cloud.fabrikam, concurrent.name)).stage == "Draft"

    query = world.query("crash", inputs={"flights": flights.name, "planes": planes.name}, output=output.name)
    run_async(create_query(cloud.fabrikam, query))
    run_async(propose_query(cloud.fabrikam, query.name))
    for owner in (cloud.litware, cloud.contosso):
        state = cloud.decide(owner, query.name)
    run_id = unique("r")

    async def run() -> tuple[str, RunResult]:
        handle = await start_run(cloud.fabrikam, query.name, state.digest, run_id, consent_check_seconds=1)
        await killed_at(cloud, "clean-room", prepare_workflow_id(cloud.collaboration, run_id), "set_secret")
        uid = await running(cloud, query.name, run_id)
        cloud.workers.kill("spark-service")
        cloud.workers.kill("clean-room")
        await asyncio.gather(*(asyncio.to_thread(cloud.workers.restart, worker) for worker in ("spark-service", "clean-room")))
        await lost_after_the_receipt(cloud, run_id)
        return uid, await handle.result()

    uid, result = run_async(run())
    assert result.state == "COMPLETED"
    names = [item["metadata"]["name"] for item in cloud.leftovers.applications() if run_id in item["metadata"]["name"]]
    assert names == [job_name(cloud.collaboration, query.name, run_id)]
    assert (application(cloud, query.name, run_id) or {})["metadata"]["uid"] == uid
    receipt = run_async(read_receipt(cloud.fabrikam, run_id))
    assert_same_rows(result_rows(open_result(cloud.litware, output, receipt)), world.expected(), "origin")
    assert cloud.leftovers.grants() == {}
    assert cloud.leftovers.secrets(run_id) == []
    assert len(cloud.leftovers.staged(run_id)) == 6  # two keys, two connections, the network secret, the consent receipt


def _accepted_once(owner: Session, name: str) -> None:
    async def look() -> None:
        async with owner.governance() as client:
            document = await owner.documents(client).get(name)
            assert (document.state, document.proposer_id) == ("Accepted", owner.user_id)
            assert [(vote.approver_id, vote.ballot) for vote in document.final_votes or ()] == [(owner.user_id, "accepted")]

    run_async(look())


@pytest.fixture(scope="module")
def approved(cloud: Cloud, world: World) -> tuple[str, str]:
    state = cloud.approved_query(world.query())
    return state.query, state.digest


def test_cancelling_a_running_job_leaves_nothing(cloud: Cloud, approved: tuple[str, str]) -> None:
    run_id = cloud.start(*approved)
    run_async(running(cloud, approved[0], run_id))
    shown = run_async(cancel_run(cloud.fabrikam, run_id))
    assert (shown["state"], shown["failure"]["code"]) == ("CANCELLED", "RunCancelled")
    _nothing_left(cloud, approved[0], run_id)


def test_withdrawn_consent_stops_a_running_job(cloud: Cloud, withdrawn_run: EndedRun) -> None:
    result = withdrawn_run.result
    assert result.state == "FAILED"
    assert result.failure is not None
    assert result.failure.code == "ConsentWithdrawn"
    _nothing_left(cloud, withdrawn_run.query, withdrawn_run.run_id)


def test_cancelling_a_preparation_leaves_nothing(cloud: Cloud, approved: tuple[str, str]) -> None:
    """Some secrets are staged and some grants exist: all are revoked, although no result lists them."""
    run_id = cloud.start(*approved)

    async def cancel() -> dict[str, Any]:
        client = await cloud.fabrikam.temporal()
        prepare = await started(client.get_workflow_handle(prepare_workflow_id(cloud.collaboration, run_id)))
        await until_scheduled(prepare, "set_secret")
        return await cancel_run(cloud.fabrikam, run_id)

    shown = run_async(cancel())
    assert shown["state"] == "CANCELLED"
    _nothing_left(cloud, approved[0], run_id)


def test_concluding_a_terminated_run_leaves_nothing(cloud: Cloud, approved: tuple[str, str], tmp_path: Path) -> None:
    """A terminated run cannot clean up. `cleanroom run conclude` does; it is idempotent, and a running run has no conclusion or bundle."""
    run_id = cloud.start(*approved)
    run_async(running(cloud, approved[0], run_id))
    assert export(cloud, "litware", run_id, tmp_path / "run.json", code=6)["code"] == "RunNotEnded"
    with pytest.raises(Conflict, match="RunStillRuns"):
        run_async(conclude_run(cloud.litware, run_id))

    async def terminate() -> None:
        await cloud.run_handle(await cloud.fabrikam.temporal(), run_id).terminate()

    run_async(terminate())
    assert cloud.leftovers.grants() != {}
    assert cloud.leftovers.secrets(run_id) != []
    shown = run_async(conclude_run(cloud.litware, run_id))
    assert (shown["revoked"]["secrets"], shown["job_stopped"]) == (len(cloud.leftovers.staged(run_id)), True)
    _nothing_left(cloud, approved[0], run_id)
    again = run_async(conclude_run(cloud.litware, run_id))
    assert (again["revoked"]["grants"], again["job_stopped"]) == (0, False)


def _nothing_left(cloud: Cloud, query: str, run_id: str) -> None:
    assert application(cloud, query, run_id) is None
    assert cloud.leftovers.grants() == {}
    assert cloud.leftovers.staged(run_id) != []
    assert cloud.leftovers.secrets(run_id) == []
