"""A run that is cancelled on a real server: the step ends first, then the job is deleted, every grant revoked and the end recorded.

Its preparation and its activities only note that they ran. ``test_run_query.py`` has every step, and no server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner

from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
from cleanroom.messages.run import (
    ApprovalVerdict,
    AuditEvent,
    ConsentReceiptRequest,
    ConsentWatchRequest,
    ConsentWithdrawn,
    DocumentSnapshot,
    JobOutcome,
    Prepared,
    QuerySnapshot,
    Revoked,
    RevokeRequest,
    RunQueryInput,
    RunTicket,
    SparkVerdict,
    StagedSecret,
    SubmitRequest,
    TrackingId,
    WatchRequest,
)
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.audit_world import AuditWorld
from tests.patience import PATIENCE
from tests.run_world import RunWorld
from tests.temporal_env import unique
from workflows.run_query import RunQuery

pytestmark = pytest.mark.timeout(120)
ZERO = "0" * 64


@workflow.defn(name="Prepare")
class FakePrepare:
    """Returns what the test prepared."""

    @workflow.run
    async def run(self, input: RunQueryInput) -> Prepared:
        return await workflow.execute_activity(
            "prepared", result_type=Prepared, task_queue=CLEAN_ROOM_QUEUE, start_to_close_timeout=timedelta(minutes=1)
        )


class Room:
    """The activities of a run. The one called ``held`` waits until the test lets it end."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self.order: list[str] = []
        self.held = ""
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def _step(self, name: str) -> None:
        if name == self.held:
            self.order.append(f"{name} starts")
            self.reached.set()
            try:
                # A cancelled step still takes effect: the request was on its way.
                await asyncio.shield(self.released.wait())
            except asyncio.CancelledError:
                await self.released.wait()
        self.order.append(name)

    @activity.defn
    async def prepared(self) -> Prepared:
        return self._prepared

    @activity.defn
    async def issue_consent_receipt(self, request: ConsentReceiptRequest) -> StagedSecret:
        await self._step("issue_consent_receipt")
        return StagedSecret(dataset="d", kind="consent", secret_id="s")

    @activity.defn
    async def submit_job(self, request: SubmitRequest) -> TrackingId:
        await self._step("submit_job")
        return TrackingId(name="job", namespace="n", uid="u")

    @activity.defn
    async def watch_job(self, request: WatchRequest) -> JobOutcome:
        await self._step("watch_job")
        return JobOutcome(completed=True)

    @activity.defn
    async def watch_consent(self, request: ConsentWatchRequest) -> ConsentWithdrawn:
        while True:
            await asyncio.sleep(0.05)
            activity.heartbeat()

    @activity.defn
    async def delete_job(self, ticket: RunTicket) -> bool:
        await self._step("delete_job")
        return True

    @activity.defn
    async def revoke_grants(self, request: RevokeRequest) -> Revoked:
        await self._step("revoke_grants")
        return Revoked(secrets=1, grants=2, closed=True)

    @activity.defn
    async def record_event(self, event: AuditEvent) -> None:
        await self._step(event.step)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunTicket, Prepared]:
    runs = RunWorld(AuditWorld(Path(tmp_path_factory.mktemp("cancelled"))))
    ticket = runs.ticket("r-1")
    job = runs.job(ticket)
    snapshot = DocumentSnapshot(id="q", version="1", digest=ZERO, owner_id="o")
    return ticket, Prepared(
        job=job,
        job_digest=job.digest(),
        proof=runs.proof(ticket),
        secrets=(),
        grants=(),
        spark=SparkVerdict(host_data=ZERO, product="Milan", checks=(), service_key_digest=ZERO),
        snapshot=QuerySnapshot(query=snapshot, datasets=()),
        approvals=ApprovalVerdict(owners=(), approved_by=()),
    )


@pytest.fixture
async def room(temporal_env: WorkflowEnvironment, prepared: tuple[RunTicket, Prepared]) -> AsyncIterator[Room]:
    room = Room(prepared[1])
    here: list[Callable[..., Any]] = [
        *(room.prepared, room.issue_consent_receipt, room.watch_consent, room.revoke_grants, room.record_event),
    ]
    there: list[Callable[..., Any]] = [room.submit_job, room.watch_job, room.delete_job]
    extra = {"workflow_runner": UnsandboxedWorkflowRunner()}
    workflows = (RunQuery, FakePrepare)
    async with (
        create_worker(temporal_env.client, WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, workflows, here, extra=extra)),
        create_worker(temporal_env.client, WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), there)),
    ):
        yield room


async def cancelled_at(step: str, room: Room, env: WorkflowEnvironment, ticket: RunTicket) -> list[str]:
    """Cancel a run while ``step`` runs, let the step end, and return what followed its start."""
    room.held = step
    handle = await env.client.start_workflow(
        RunQuery.run, RunQueryInput(ticket=ticket, caller="fabrikam"), id=unique("run"), task_queue=CLEAN_ROOM_QUEUE
    )
    await asyncio.wait_for(room.reached.wait(), PATIENCE)
    await handle.cancel()
    if step != "watch_job":
        # The workflow has the cancellation when a query sees it; nothing may be undone while the step still runs.
        await handle.query(RunQuery.status)
        assert room.order[-1] == f"{step} starts"
    room.released.set()
    with pytest.raises(WorkflowFailureError):
        await asyncio.wait_for(handle.result(), PATIENCE)
    return room.order[room.order.index(f"{step} starts") + 1 :]


async def test_a_step_with_an_effect_ends_before_it_is_undone(
    room: Room, temporal_env: WorkflowEnvironment, prepared: tuple[RunTicket, Prepared]
) -> None:
    order = await cancelled_at("submit_job", room, temporal_env, prepared[0])
    assert order == ["submit_job", "delete_job", "revoke_grants", "REVOKED", "RUN_CANCELLED"]


async def test_a_running_job_is_deleted_before_its_grants_are_revoked(
    room: Room, temporal_env: WorkflowEnvironment, prepared: tuple[RunTicket, Prepared]
) -> None:
    order = await cancelled_at("watch_job", room, temporal_env, prepared[0])
    assert [step for step in order if step != "watch_job"] == ["delete_job", "revoke_grants", "REVOKED", "RUN_CANCELLED"]
