"""A preparation that fails or is cancelled waits for the secrets in flight, so that the run's revocation covers them.

The server and the workflows are real. The clean room's activities are slow or fail on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from cleanroom.attestation import AttestationEvidence
from cleanroom.errors import Refused
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
from cleanroom.messages.run import (
    ApprovalVerdict,
    AuditEvent,
    CallerVerdict,
    ConsentVerdict,
    DocumentSnapshot,
    PolicyRequest,
    PolicyStatement,
    QuerySnapshot,
    ReportRequest,
    Revoked,
    RevokeRequest,
    RunQueryInput,
    RunTicket,
    SparkVerdict,
    StagedSecret,
    StagedSecrets,
    StageRequest,
    VerifyPolicyRequest,
    VerifySparkRequest,
)
from cleanroom.spark.job import JobConfig
from cleanroom.spark.service_report import ServiceReport
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.patience import PATIENCE
from tests.temporal_env import unique
from tests.unit.spark_support import DIGEST, make_job
from workflows.prepare import Prepare
from workflows.run_query import RunQuery

pytestmark = pytest.mark.scenario
TICKET = RunTicket(collaboration="flights", query="totals", run_id="run-1", request="signed")


class Room:
    """Two secrets are in flight until the test releases them. With ``refuse``, the secret of ``totals`` fails.

    ``set_secret`` is not registered: the workflow must not call it after a failure or a cancellation.
    """

    def __init__(self, *, refuse: bool) -> None:
        self.refuse = refuse
        self.started, self.let_land = asyncio.Event(), asyncio.Event()
        self.landed: list[str] = []

    def activities(self) -> list[Callable[..., Any]]:
        """Return activities of the clean room and of the Spark service, under the names that the workflow calls."""
        document = DocumentSnapshot(id="totals", version="1", digest=DIGEST, owner_id="u")

        @activity.defn
        async def get_users(ticket: RunTicket) -> CallerVerdict:
            return CallerVerdict(caller_id="u", users=3)

        @activity.defn
        async def fetch_query(ticket: RunTicket) -> QuerySnapshot:
            return QuerySnapshot(query=document, datasets=(document,))

        @activity.defn
        async def validate_access_and_approvals(ticket: RunTicket) -> ApprovalVerdict:
            return ApprovalVerdict(owners=("u",), approved_by=("u",))

        @activity.defn
        async def check_execution_consent(ticket: RunTicket) -> ConsentVerdict:
            return ConsentVerdict(documents=("totals",))

        @activity.defn
        async def build_job(ticket: RunTicket) -> JobConfig:
            return make_job()

        @activity.defn
        async def get_attestation_report(request: ReportRequest) -> ServiceReport:
            return ServiceReport(evidence=AttestationEvidence(evidence="", endorsements=""), payload="{}")

        @activity.defn
        async def verify_spark(request: VerifySparkRequest) -> SparkVerdict:
            return SparkVerdict(host_data=DIGEST, product="Milan", checks=(), service_key_digest=DIGEST)

        @activity.defn
        async def get_security_policy(request: PolicyRequest) -> PolicyStatement:
            return PolicyStatement(statement="signed", driver_host_data=DIGEST, executor_host_data=DIGEST)

        @activity.defn
        async def verify_security_policy(request: VerifyPolicyRequest) -> None: ...

        @activity.defn
        async def record_event(event: AuditEvent) -> None: ...

        @activity.defn
        async def get_secret(request: StageRequest) -> StagedSecrets:
            if request.dataset == "totals" and self.refuse:
                await self.started.wait()
                raise Refused("SecretOwnerMismatch", "on purpose")
            if request.dataset == "orders":
                self.started.set()
            await self.let_land.wait()
            self.landed.append(request.dataset)
            return StagedSecrets(secrets=(StagedSecret(dataset=request.dataset, kind="key", secret_id="s1"),))

        return [
            get_users, fetch_query, validate_access_and_approvals, check_execution_consent, build_job, get_attestation_report,
            verify_spark, get_security_policy, verify_security_policy, record_event, get_secret,
        ]  # fmt: skip


async def cancel_requested(handle: WorkflowHandle[Any, Any]) -> None:
    """Return when the workflow has requested the cancellation of an activity."""
    async for event in handle.fetch_history_events(wait_new_event=True):
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
            return
    raise AssertionError("the preparation ended while a secret was in flight")


async def test_failed_preparation_waits_for_secrets_in_flight(temporal_env: WorkflowEnvironment) -> None:
    room = Room(refuse=True)
    error = await _prepared(temporal_env, room, cancel=False)
    assert error_from_failure(error).code == "SecretOwnerMismatch"
    assert room.landed == ["orders"]


async def test_cancelled_preparation_waits_for_secrets_in_flight(temporal_env: WorkflowEnvironment) -> None:
    room = Room(refuse=False)
    await _prepared(temporal_env, room, cancel=True)
    assert sorted(room.landed) == ["orders", "totals"]


async def _prepared(env: WorkflowEnvironment, room: Room, *, cancel: bool) -> WorkflowFailureError:
    client = env.client
    here = WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, (Prepare,), room.activities())
    service = WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), room.activities())
    async with create_worker(client, here), create_worker(client, service):
        handle = await client.start_workflow(
            Prepare.run, RunQueryInput(ticket=TICKET, caller="fabrikam"), id=unique("prepare"), task_queue=CLEAN_ROOM_QUEUE
        )
        await room.started.wait()
        if cancel:
            await handle.cancel()
        await cancel_requested(handle)
        assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        assert room.landed == []
        room.let_land.set()
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(handle.result(), PATIENCE)
        return failed.value


async def test_cancellation_does_not_interrupt_the_cleanup(temporal_env: WorkflowEnvironment) -> None:
    """The run has failed and cleans up when the cancellation arrives."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def get_users(ticket: RunTicket) -> CallerVerdict:
        raise Refused("CallerNotRegistered", "on purpose")

    @activity.defn
    async def revoke_grants(request: RevokeRequest) -> Revoked:
        begun.set()
        await go_on.wait()
        return Revoked(secrets=0, grants=0)

    @activity.defn
    async def record_event(event: AuditEvent) -> None:
        recorded.append(event.step)

    recorded: list[str] = []
    spec = WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, (RunQuery, Prepare), [get_users, revoke_grants, record_event])
    async with create_worker(temporal_env.client, spec):
        handle = await temporal_env.client.start_workflow(
            RunQuery.run,
            RunQueryInput(ticket=TICKET.model_copy(update={"run_id": unique("r")}), caller="fabrikam"),
            id=unique("run"),
            task_queue=CLEAN_ROOM_QUEUE,
        )
        await begun.wait()
        await handle.cancel()
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
                break
        # The query needs a workflow task after the request. A workflow that gave up would have ended with this task.
        await handle.query(RunQuery.status)
        assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        go_on.set()
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(handle.result(), PATIENCE)
    assert error_from_failure(failed.value).code == "CallerNotRegistered"
    assert recorded == ["REVOKED", "RUN_FAILED"]
