"""Whole runs on a cluster: the workflow with all of its activities, Temporal and governance, and drivers that the test ends.

The pods attest nothing, so the test writes the result receipt as the driver would.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

import kubernetes
import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.converter import WorkflowSerializationContext
from temporalio.testing import WorkflowEnvironment

from cleanroom.messages.run import RunResult
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.causes import MEANINGS, Cause
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodMeasurement, PodProfile
from cleanroom.spark.run_events import event_id
from cleanroom.spark.service import SparkService, Submission
from cleanroom.temporal.failures import error_from_failure
from starters.operations.consent import set_consent
from starters.operations.runs import current_digest, show_run, start_run
from tests.cluster.place import Place
from tests.cluster.runs import PATIENCE
from tests.completion import completed_event
from tests.prepare_world import QUERY, SPARK_HOST, Guest, PrepareWorld, prepare_world
from tests.recovery_world import WorldSession, deployment
from tests.scenario.kubernetes.support import follow
from tests.temporal_env import unique
from tests.unit.spark_support import make_trust_document

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

CRD = f"{PLURAL}.{GROUP}"


class Service(SparkService):
    """The Spark service of one cluster, which remembers what it has submitted.

    It never reads the cluster because time has passed: a change that the watch does not see holds the run up.
    """

    def __init__(self, world: PrepareWorld, place: Place) -> None:
        super().__init__(Guest(world.hardware, SPARK_HOST), place.client(), beat_seconds=3600)
        self.submitted: dict[str, tuple[JobConfig, PodProfile]] = {}

    async def submit(self, job: JobConfig, profile: PodProfile, granted: Collection[str]) -> Submission:
        self.submitted[job.run_id] = (job, profile)
        return await super().submit(job, profile, granted)


@dataclass
class Runs:
    """A collaboration whose runs use ``place``."""

    place: Place
    world: PrepareWorld
    service: Service
    sessions: dict[str, WorldSession]

    async def start(self) -> WorkflowHandle[Any, RunResult]:
        """Start a run."""
        caller = self.sessions["fabrikam"]
        return await start_run(caller, QUERY, await current_digest(caller, QUERY), unique("run"), consent_check_seconds=1)

    async def running(self, run: WorkflowHandle[Any, RunResult]) -> str:
        """Wait until the driver of a run runs, and return the name of its application."""
        while not (name := (await run.query("status", result_type=dict))["job"]):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(follow, self.place.client(), name, lambda status: status.state == "RUNNING", PATIENCE)
        return str(name)

    async def complete(self, run: WorkflowHandle[Any, RunResult], name: str) -> None:
        """Let the driver of a run write its receipt, and end."""
        run_id = run.id.rsplit("/", 1)[-1]
        job, profile = self.service.submitted[run_id]
        event = completed_event(job, rows=42, digest="9" * 64, columns=("region", "total"))
        async with self.world.guest(pod_policies(job, profile).driver.host_data) as pod:
            await pod.put_event(event.wire(), event_id=event_id(run_id, "QUERY_COMPLETED"), scope=event_scope(run_id))
        await asyncio.to_thread(self.place.end_driver, f"{name}-driver", 0)


@pytest.fixture(scope="session")
def real(place: Place) -> Place:
    """Skip before a Temporal server is started."""
    place.require("fast", "full", why="needs drivers that the test ends; tests/scenario has whole runs on the stand-in")
    return place


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runs(real: Place, temporal_env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Runs]:
    place = real
    with prepare_world(tmp_path_factory.mktemp("runs")) as world:
        pods = PodMeasurement(image=place.image, layers=place.layers, arguments=("wait",))
        trust = make_trust_document(world.hardware, number=1, spark_service_host_data=(SPARK_HOST,), pods=pods)
        world.__dict__["trust_document"] = lambda number: trust.model_copy(update={"number": number})
        await world.publish(2)
        service = Service(world, place)
        async with deployment(world, temporal_env.client, service) as sessions:
            yield Runs(place, world, service, sessions)


async def test_completed_application_ends_its_run(runs: Runs) -> None:
    run = await runs.start()
    name = await runs.running(run)
    status = await runs.service.status(name)
    driver = status.driver_container()
    assert driver is not None
    assert driver.started_at is not None
    assert status.created_at is not None
    completed = asyncio.create_task(asyncio.to_thread(completion, runs.place, name))
    await runs.complete(run, name)
    result = await run.result()
    seconds = time.monotonic() - await completed
    # For docs/kubernetes.md: `pytest -rP` shows them.
    print(f"submit to driver running: {(driver.started_at - status.created_at).total_seconds():.0f} s")
    print(f"COMPLETED to the end of the workflow: {seconds:.2f} s")
    assert (result.state, result.receipt.rows if result.receipt else None) == ("COMPLETED", 42)
    assert await runs.service.delete(name)


def completion(place: Place, name: str) -> float:
    """Wait until the API server shows an application as completed, and return the time."""
    for change in place.client().changes(name, seconds=PATIENCE):
        if change.object is not None and change.object.get("status", {}).get("applicationState", {}).get("state") == "COMPLETED":
            return time.monotonic()
    raise AssertionError(f"{name} is not completed")


async def test_withdrawn_consent_stops_the_pods_and_is_the_cause(runs: Runs) -> None:
    run = await runs.start()
    name = await runs.running(run)
    owner = runs.sessions["contosso"]
    await set_consent(owner, "contosso-0", enabled=False)
    try:
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
    finally:
        await set_consent(owner, "contosso-0", enabled=True)
    assert error_from_failure(caught.value).code == "ConsentWithdrawn"
    with runs.place.core() as core:
        pods = core.list_namespaced_pod(runs.place.namespace).items
        assert [pod.metadata.name for pod in pods if pod.metadata.name.startswith(name)] == []
    failure = (await show_run(runs.sessions["fabrikam"], run.id.rsplit("/", 1)[-1]))["failure"]
    assert (failure["cause"], failure["meaning"]) == ("CONSENT_WITHDRAWN", MEANINGS[Cause.CONSENT_WITHDRAWN])
    assert "`cleanroom consent on contosso-0`" in failure["hint"]


async def test_one_activity_watches_the_whole_run_although_the_server_forgets_the_version_that_it_has_seen(runs: Runs) -> None:
    """An update of the CRD ends all watches, and the API server then answers 410 to one that resumes from before."""
    run = await runs.start()
    name = await runs.running(run)
    with runs.place.api() as api:
        custom, definitions = kubernetes.client.CustomObjectsApi(api), kubernetes.client.ApiextensionsV1Api(api)
        seen = custom.get_namespaced_custom_object(GROUP, VERSION, runs.place.namespace, PLURAL, name)["metadata"]["resourceVersion"]
        names = definitions.read_custom_resource_definition(CRD).spec.names
        changed = {"plural": names.plural, "kind": names.kind, "shortNames": [*(names.short_names or ()), unique("x")]}
        definitions.patch_custom_resource_definition(CRD, {"spec": {"names": changed}})
        await asyncio.to_thread(wait_until_expired, custom, runs.place, seen)
    while not (await watched_state(runs, run)).startswith("RUNNING"):
        await asyncio.sleep(0.5)
    await runs.complete(run, name)
    assert (await run.result()).state == "COMPLETED"
    started = [event async for event in run.fetch_history_events() if event.HasField("activity_task_started_event_attributes")]
    assert {event.activity_task_started_event_attributes.attempt for event in started} == {1}
    assert await runs.service.delete(name)


async def watched_state(runs: Runs, run: WorkflowHandle[Any, RunResult]) -> str:
    """Return what the activity that watches a run has reported with its last heartbeat, as the Web UI shows it."""
    client = await runs.sessions["fabrikam"].temporal()
    (watch,) = [item for item in (await run.describe()).raw_description.pending_activities if item.activity_type.name == "watch_job"]
    converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, run.id))
    details = await converter.decode(watch.heartbeat_details.payloads, [str]) if watch.HasField("heartbeat_details") else [""]
    return str(details[0])


def wait_until_expired(custom: kubernetes.client.CustomObjectsApi, place: Place, version: str) -> None:
    """Wait until the API server answers 410 to a watch from ``version``."""
    listed = custom.list_namespaced_custom_object
    where = (GROUP, VERSION, place.namespace, PLURAL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        response = listed(*where, watch=True, resource_version=version, timeout_seconds=1, _preload_content=False)
        if any(json.loads(line)["object"].get("code") == 410 for line in response.data.splitlines()):
            return
    raise AssertionError(f"version {version} has not expired")
