"""Every way out of a run leaves nothing. After Temporal's database is lost, queries are adopted, and runs shown from the ledger.

The real workflows and activities run on two real Temporal servers, one after the other, and on the governance stand-in. The cluster is
in memory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import ScheduleOverlapPolicy, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import Conflict, NotFound
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, cleanup_schedule_id, run_workflow_id
from cleanroom.messages.cleanup import CleanupReport
from cleanroom.messages.run import RunQueryInput
from cleanroom.runs.held import HeldByRuns, read_held
from cleanroom.spark.run_events import RUN_ENDS
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.run_states import namespace_id
from starters.operations.adopt import adopt_query
from starters.operations.cleanup import run_cleanup, schedule_cleanup, show_schedule, unschedule_cleanup
from starters.operations.decisions import read_card, send_decision, sign_decision
from starters.operations.ledger_run import list_runs_from_ledger, show_run_from_ledger
from starters.operations.queries import create_query, propose_query
from starters.operations.query_workflow import read_state
from starters.operations.runs import current_digest, start_run
from tests.patience import PATIENCE
from tests.prepare_world import COLLABORATION, QUERY, PrepareWorld, prepare_world
from tests.recovery_world import Cluster, WorldSession, deployment
from tests.temporal_env import server_options, unique
from workflows.run_query import RunQuery

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

long = pytest.mark.skipif(not os.environ.get("CLEANROOM_TEST_RECOVERY"), reason="make test-recovery")
"""Ways out that tests/unit/workflows/test_run_query.py and tests/unit/runs/test_leftovers.py cover without a server."""
PENDING = "pending"
"""A query that one of two owners has approved."""
FINISHED, RUNNING = unique("finished"), unique("running")


async def run(sessions: dict[str, WorldSession], run_id: str, query: str = QUERY) -> WorkflowHandle:
    caller = sessions["fabrikam"]
    return await start_run(caller, query, await current_digest(caller, query), run_id, consent_check_seconds=1)


async def held(world: PrepareWorld) -> HeldByRuns:
    async with world.user("fabrikam") as client:
        return await read_held(client, COLLABORATION)


async def approve(session: WorldSession, query: str) -> None:
    card = await read_card(session, query)
    await send_decision(session, query, "approve", sign_decision(session, card, "approve"), wait=False)
    while session.party not in (await read_state(session, query)).accepted:
        await asyncio.sleep(0.02)


@dataclass
class Lost:
    """A world whose first Temporal server is lost, and the sessions on the second one."""

    world: PrepareWorld
    cluster: Cluster
    sessions: dict[str, WorldSession]
    first_namespace: str
    digest: str
    """Digest of the result of the finished run."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lost(temporal_env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lost]:
    with prepare_world(tmp_path_factory.mktemp("lost")) as world:
        await world.publish(2)
        cluster = Cluster(world)
        async with deployment(world, temporal_env.client, cluster) as sessions:
            spec = QuerySpec(name=PENDING, inputs={"v0": "contosso-0"}, output="litware-output", sql="SELECT region, total FROM v0")
            await create_query(sessions["fabrikam"], spec)
            await propose_query(sessions["fabrikam"], PENDING)
            await approve(sessions["contosso"], PENDING)
            finished = await run(sessions, FINISHED)
            await cluster.complete(FINISHED)
            result = await finished.result()
            assert result.state == "COMPLETED"
            await run(sessions, RUNNING)
            await cluster.submitted(RUNNING)
        first = await namespace_id(temporal_env.client)
        async with AsyncExitStack() as stack:
            env = await stack.enter_async_context(await WorkflowEnvironment.start_local(**server_options()))
            sessions = await stack.enter_async_context(deployment(world, env.client, cluster))
            yield Lost(world, cluster, sessions, first, result.receipt.digest)


def rows(report: CleanupReport) -> dict[str, str]:
    return {item.run_id: item.outcome or item.reason for item in (*report.left, *report.kept)}


async def test_a_lost_run_is_left_alone_until_the_operator_says_that_its_namespace_is_lost(lost: Lost) -> None:
    """Without that, the same rule would stop the runs of another deployment."""
    session = lost.sessions["litware"]
    report = await run_cleanup(session, apply=True, grace_seconds=0)
    assert (report.left, [item.run_id for item in report.kept]) == ((), [RUNNING])
    assert lost.first_namespace in report.kept[0].reason
    dry = await run_cleanup(session, apply=False, lost=[lost.first_namespace])
    (row,) = dry.left
    # Two secrets of each of three datasets, the network secret and the receipt; the job; two event writers.
    assert row.held == {"secrets": 8, "secret grants": 16, "event grants": 2, "not closed": 1, "application": 1}
    assert (row.run_id, row.query, row.outcome) == (RUNNING, QUERY, "")
    assert (await held(lost.world)).runs[RUNNING].grants != {}
    done = await run_cleanup(session, apply=True, lost=[lost.first_namespace])
    assert [(item.run_id, item.outcome) for item in done.left] == [(RUNNING, "undone")]
    assert (await run_cleanup(session, apply=False, lost=[lost.first_namespace])).left == ()
    found = await held(lost.world)
    assert found.shared == {}
    assert all(not each.grants for each in found.runs.values())
    assert await lost.cluster.jobs(COLLABORATION) == []


async def test_runs_are_shown_from_the_ledger(lost: Lost) -> None:
    session = lost.sessions["fabrikam"]
    finished = await show_run_from_ledger(session, FINISHED)
    assert (finished["state"], finished["query"], finished["caller"], finished["rows"]) == ("COMPLETED", QUERY, "fabrikam", 42)
    assert (finished["digest"], finished["failure"], finished["grants_held"]) == (lost.digest, None, 0)
    assert finished["origin"] == lost.first_namespace
    names = [step.split(" ", 2)[2] for step in finished["steps"]]
    # The pod writes its own entry, which may precede that of the service that has submitted it.
    assert names.index("RUN_STARTED") < names.index("QUERY_COMPLETED") < names.index("REVOKED")
    names.remove("QUERY_COMPLETED")
    assert names == ["PREPARE_STARTED", "GRANTED", "PREPARED", "RUN_STARTED", "SUBMITTED", "REVOKED", "RUN_COMPLETED"]
    # The cleanup recorded the end of the lost run.
    running = await show_run_from_ledger(session, RUNNING)
    assert (running["state"], running["failure"], running["rows"]) == ("FAILED", "RunTerminated", None)
    assert running["closed"] is not None
    with pytest.raises(NotFound, match="RunNotInLedger"):
        await show_run_from_ledger(session, "unknown")


async def test_runs_are_listed_from_the_ledger(lost: Lost) -> None:
    rows = await list_runs_from_ledger(lost.sessions["fabrikam"])
    known = {row["run"]: (row["query"], row["caller"], row["state"], row["failure"]) for row in rows}
    assert known[FINISHED] == (QUERY, "fabrikam", "COMPLETED", "")
    assert known[RUNNING] == (QUERY, "fabrikam", "FAILED", "RunTerminated")
    assert [row["started"] for row in rows] == sorted((row["started"] for row in rows), reverse=True)
    for run_id in (FINISHED, RUNNING):
        assert known[run_id][2] == (await show_run_from_ledger(lost.sessions["fabrikam"], run_id))["state"]


async def test_an_approved_query_is_adopted_and_runs(lost: Lost) -> None:
    session = lost.sessions["fabrikam"]
    record = await adopt_query(session, QUERY)
    assert (record["state"], record["accepted"], record["pending"]) == ("Approved", ["contosso", "litware"], [])
    assert record["expires"] is not None
    with pytest.raises(Conflict, match="QueryExists"):
        await adopt_query(session, QUERY, approval_seconds=5)
    # The same command again, as after a kill.
    assert await adopt_query(session, QUERY) == record
    run_id = unique("again")
    handle = await run(lost.sessions, run_id)
    await lost.cluster.complete(run_id)
    assert (await handle.result()).state == "COMPLETED"
    assert (await run_cleanup(session, apply=False)).left == ()


async def test_a_proposal_with_one_vote_is_adopted_and_gets_the_other(lost: Lost) -> None:
    session = lost.sessions["fabrikam"]
    record = await adopt_query(session, PENDING)
    assert (record["state"], record["accepted"], record["pending"]) == ("Not Approved", ["contosso"], ["litware"])
    assert any("history" in text for text in record["not_rebuilt"])
    state = await read_state(session, PENDING)
    assert [entry.event for entry in state.history] == ["adopted"]
    assert "region" in state.card
    await approve(lost.sessions["litware"], PENDING)
    assert (await read_state(session, PENDING)).stage == "Approved"


# ---------------------------------------------------------------------- every way out


async def nothing_left(lost: Lost, run_id: str, state: str) -> None:
    """Clean up, and check that the run holds nothing, and that the ledger has one end of it."""
    await run_cleanup(lost.sessions["litware"], apply=True)
    found = await held(lost.world)
    assert found.shared == {}
    assert not found.runs[run_id].grants
    assert await lost.cluster.jobs(COLLABORATION) == []
    shown = await show_run_from_ledger(lost.sessions["fabrikam"], run_id)
    assert shown["state"] == state
    assert shown["closed"] is not None
    assert sum(step.split()[2] in RUN_ENDS for step in shown["steps"]) == 1


@long
async def test_a_terminated_run_is_cleaned_up(lost: Lost) -> None:
    run_id = unique("terminated")
    handle = await run(lost.sessions, run_id)
    await lost.cluster.submitted(run_id)
    assert (await run_cleanup(lost.sessions["litware"], apply=True)).open_runs == 1
    await handle.terminate()
    await nothing_left(lost, run_id, "FAILED")


@long
async def test_a_run_that_was_terminated_during_its_preparation_is_cleaned_up(lost: Lost) -> None:
    run_id = unique("early")
    handle = await run(lost.sessions, run_id)
    while run_id not in (await held(lost.world)).runs:
        await asyncio.sleep(0.02)
    await handle.terminate()
    await nothing_left(lost, run_id, "FAILED")


@long
async def test_a_run_that_timed_out_is_cleaned_up(lost: Lost) -> None:
    """The server ends the workflow without running its code. A machine that submits no job in the first time limit gets a longer one."""
    client = await lost.sessions["fabrikam"].temporal()
    submitted, seconds = False, 2
    while not submitted and seconds < PATIENCE:
        run_id = unique("late")
        handle = await client.start_workflow(
            RunQuery.run,
            RunQueryInput(ticket=await lost.world.ticket(run_id), caller="fabrikam", consent_check_seconds=1),
            id=run_workflow_id(COLLABORATION, run_id),
            task_queue=CLEAN_ROOM_QUEUE,
            execution_timeout=timedelta(seconds=seconds),
        )
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert (await handle.describe()).status is WorkflowExecutionStatus.TIMED_OUT
        submitted, seconds = any(job.run_id == run_id for job, *_ in lost.cluster.running.values()), 4 * seconds
    assert submitted
    await nothing_left(lost, run_id, "FAILED")


@long
async def test_a_run_that_was_cancelled_twice_leaves_nothing(lost: Lost) -> None:
    run_id = unique("cancelled")
    handle = await run(lost.sessions, run_id)
    await lost.cluster.submitted(run_id)
    await handle.cancel()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert (await run_cleanup(lost.sessions["litware"], apply=False)).left == ()
    await nothing_left(lost, run_id, "CANCELLED")


async def test_a_completed_run_that_is_reset_gets_nothing_and_stays_completed(lost: Lost) -> None:
    """The ledger has closed it, and keeps the first end."""
    run_id = unique("reset")
    handle = await run(lost.sessions, run_id)
    await lost.cluster.complete(run_id)
    await handle.result()
    client = await lost.sessions["fabrikam"].temporal()
    described = await handle.describe()
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=described.run_id),
            workflow_task_finish_event_id=4,
            request_id=run_id,
            reason="test",
        )
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await client.get_workflow_handle(handle.id).result()
    assert error_from_failure(caught.value).code == "RunClosed"
    await nothing_left(lost, run_id, "COMPLETED")


# ---------------------------------------------------------------------- on a schedule


async def test_a_schedule_starts_cleanups_until_it_is_deleted(lost: Lost) -> None:
    run_id, session = unique("scheduled"), lost.sessions["litware"]
    handle = await run(lost.sessions, run_id)
    await lost.cluster.submitted(run_id)
    await handle.terminate()
    shown = await schedule_cleanup(session, timedelta(hours=1))
    assert (shown["every"], shown["paused"], shown["latest"]) == ("1:00:00", False, [])
    client = await session.temporal()
    schedule = client.get_schedule_handle(cleanup_schedule_id(COLLABORATION))
    policy = (await schedule.describe()).schedule.policy
    assert (policy.overlap, policy.catchup_window) == (ScheduleOverlapPolicy.SKIP, timedelta(minutes=10))
    await schedule.trigger()
    while not (latest := (await show_schedule(session))["latest"]):
        await asyncio.sleep(0.02)
    report = await client.get_workflow_handle(latest[0].split()[-1], result_type=CleanupReport).result()
    assert [(item.run_id, item.outcome) for item in report.left] == [(run_id, "undone")]
    # Repeating the command changes the interval, and keeps a pause.
    await schedule.pause()
    shown = await schedule_cleanup(session, timedelta(days=1))
    assert (shown["every"], shown["paused"]) == ("1 day, 0:00:00", True)
    assert await unschedule_cleanup(session) == cleanup_schedule_id(COLLABORATION)
    with pytest.raises(NotFound, match="ScheduleNotFound"):
        await show_schedule(session)
    await nothing_left(lost, run_id, "FAILED")


async def test_the_second_server_never_knew_the_lost_runs(lost: Lost) -> None:
    client = await lost.sessions["fabrikam"].temporal()
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle(run_workflow_id(COLLABORATION, FINISHED)).describe()
