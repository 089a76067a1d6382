"""Many runs at once: the real workflows, the real activities of the clean room and signatures, on a Temporal server.

Governance is in memory. The Spark service's report and policies are genuine, and its jobs are stand-ins: they run until all runs that
are expected have one, and then end at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowFailureError

from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, run_workflow_id
from cleanroom.messages.run import (
    JobOutcome,
    PolicyRequest,
    PolicyStatement,
    ReportRequest,
    RunQueryInput,
    RunTicket,
    SubmitRequest,
    TrackingId,
    WatchRequest,
)
from cleanroom.runs.authority import service_nonce
from cleanroom.spark.job import ResultReceipt
from cleanroom.spark.service_report import ServiceReport
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.audit_world import COLLABORATION, QUERY, AuditWorld
from tests.run_world import RunWorld
from workers.boundaries import WATCHING_SLOTS
from workflows.prepare import Prepare
from workflows.run_query import RunQuery

WITHDRAWN = {"ConsentWithdrawn", "UserDocumentRuntimeOptionDisabled"}
"""Errors of a run whose query loses its consent: while it is watched, and at the check with which the watch begins."""


@dataclass
class Jobs:
    """The Spark service. Jobs run until ``expected`` of them are watched, or, with ``endless``, until they are deleted."""

    runs: RunWorld
    tickets: list[RunTicket]
    expected: int
    endless: bool = False

    def __post_init__(self) -> None:
        self._by_nonce = {service_nonce(ticket): ticket for ticket in self.tickets}
        self.watched: set[str] = set()
        self.all_watched = asyncio.Event()
        self.deleted: dict[str, float] = {}
        """When each job was deleted, on the monotonic clock."""

    def activities(self) -> list[Any]:
        """Return the activities of the Spark service."""

        @activity.defn
        async def get_attestation_report(request: ReportRequest) -> ServiceReport:
            return self.runs.proof(self._by_nonce[request.nonce]).report

        @activity.defn
        async def get_security_policy(request: PolicyRequest) -> PolicyStatement:
            return self.runs.proof(self._by_nonce[request.nonce]).policies

        @activity.defn
        async def submit_job(request: SubmitRequest) -> TrackingId:
            return TrackingId(name=request.ticket.run_id, namespace="n", uid="u")

        @activity.defn
        async def watch_job(request: WatchRequest) -> JobOutcome:
            # Like the real one: an activity that never sends a heartbeat of its own is not interrupted by a cancellation.
            activity.heartbeat()
            self.watched.add(request.ticket.run_id)
            if len(self.watched) >= self.expected:
                self.all_watched.set()
            await (asyncio.Event() if self.endless else self.all_watched).wait()
            return JobOutcome(completed=True)

        @activity.defn
        async def delete_job(ticket: RunTicket) -> bool:
            self.deleted[ticket.run_id] = time.monotonic()
            return True

        return [get_attestation_report, get_security_policy, submit_job, watch_job, delete_job]


async def concurrent_runs(
    client: Client, world: AuditWorld, count: int, *, expected: int | None = None, withdraw: bool = False, prefix: str = "r"
) -> dict[str, Any]:
    """Start ``count`` runs of one query at once, wait for their ends, and return the figures.

    Args:
        client: The Temporal client.
        world: The collaboration.
        count: Number of runs.
        expected: Number of jobs that run at the same time before any ends; by default one per run.
        prefix: Start of the IDs of the runs.
        withdraw: Withdraw an owner's consent to the query when all jobs run. The jobs do not end otherwise.
    """
    runs = RunWorld(world)
    tickets = [runs.ticket(f"{prefix}-{number:03d}") for number in range(count)]
    jobs = Jobs(runs, tickets, count if expected is None else expected, withdraw)
    room, governance, secrets = runs.process.room, runs.process.governance, runs.process.secrets
    room.pause = asyncio.sleep
    receipt = await asyncio.to_thread(lambda: world.receipt)

    @activity.defn
    async def collect_result(*_: Any) -> ResultReceipt:
        return receipt

    here = [
        *(governance.get_users, governance.fetch_query, governance.validate_access_and_approvals, governance.check_execution_consent),
        *(governance.build_job, governance.verify_spark, governance.verify_security_policy, governance.record_event, collect_result),
        *(secrets.get_key_with_skr, secrets.get_secret, secrets.set_secret, secrets.configure_idp, secrets.issue_consent_receipt),
        *(secrets.watch_consent, secrets.revoke_grants),
    ]
    slots = {"max_concurrent_activities": WATCHING_SLOTS}
    async with AsyncExitStack() as stack:
        for spec in (
            WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, (Prepare, RunQuery), here, **slots),  # type: ignore[arg-type]
            WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), jobs.activities(), **slots),  # type: ignore[arg-type]
        ):
            await stack.enter_async_context(create_worker(client, spec))
        began = time.monotonic()

        async def run(ticket: RunTicket) -> str:
            handle = await client.start_workflow(
                RunQuery.run,
                RunQueryInput(ticket=ticket, caller="fabrikam", consent_check_seconds=1),
                id=run_workflow_id(COLLABORATION, ticket.run_id),
                task_queue=CLEAN_ROOM_QUEUE,
            )
            try:
                return (await handle.result()).state
            except WorkflowFailureError:
                outcome = await handle.query(RunQuery.outcome)
                return outcome.failure.code if outcome.failure else outcome.state

        ends_of_runs = asyncio.gather(*map(run, tickets))
        figures: dict[str, Any] = {}
        if withdraw:
            await jobs.all_watched.wait()
            withdrawn_at = time.monotonic()
            runs.governance.withdrawn.add(QUERY)
        ends = Counter(await ends_of_runs)
        if withdraw:
            figures["seconds from withdrawn consent to the last deleted job"] = round(max(jobs.deleted.values()) - withdrawn_at, 1)
    return figures | {
        "runs": count,
        "query": QUERY,
        "seconds until all runs ended": round(time.monotonic() - began, 1),
        "ends": dict(ends),
        "jobs": len(jobs.watched),
        "left": [item for ticket in tickets for item in runs.released(ticket)],
    }
