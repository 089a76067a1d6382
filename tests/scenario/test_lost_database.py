"""Temporal's database is lost. Governance remains: queries are adopted, runs are shown from the ledger, leftovers are undone.

The real workflows and activities run on two real Temporal servers, one after the other, and on the governance stand-in. The cluster is
in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import Conflict, NotFound
from cleanroom.identifiers import run_workflow_id
from cleanroom.messages.cleanup import CleanupReport
from cleanroom.runs.held import HeldByRuns, read_held
from cleanroom.temporal.run_states import namespace_id
from starters.operations.adopt import adopt_query
from starters.operations.cleanup import run_cleanup
from starters.operations.decisions import read_card, send_decision, sign_decision
from starters.operations.ledger_run import show_run_from_ledger
from starters.operations.queries import create_query, propose_query
from starters.operations.query_workflow import read_state
from starters.operations.runs import current_digest, start_run
from tests.prepare_world import COLLABORATION, QUERY, PrepareWorld, prepare_world
from tests.recovery_world import Cluster, WorldSession, deployment
from tests.temporal_env import server_options, temporal_env, unique

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]
_ = temporal_env

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
            await create_query(sessions["fabrikam"], spec, reconcile_seconds=1)
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
    found = await held(lost.world)
    assert found.shared == {}
    assert all(not each.grants for each in found.runs.values())
    assert await lost.cluster.jobs(COLLABORATION) == []
    assert (await run_cleanup(session, apply=False, lost=[lost.first_namespace])).left == ()


async def test_runs_are_shown_from_the_ledger(lost: Lost) -> None:
    session = lost.sessions["fabrikam"]
    finished = await show_run_from_ledger(session, FINISHED)
    assert (finished["state"], finished["query"], finished["caller"], finished["rows"]) == ("COMPLETED", QUERY, "fabrikam", 42)
    assert (finished["digest"], finished["failure"], finished["grants_held"]) == (lost.digest, None, 0)
    assert finished["origin"] == lost.first_namespace
    names = [step.split(" ", 2)[2] for step in finished["steps"]]
    assert names == [
        *("PREPARE_STARTED", "GRANTED", "PREPARED", "RUN_STARTED", "SUBMITTED", "QUERY_COMPLETED", "REVOKED", "RUN_COMPLETED"),
    ]
    # The cleanup recorded the end of the lost run.
    running = await show_run_from_ledger(session, RUNNING)
    assert (running["state"], running["failure"], running["rows"]) == ("FAILED", "RunTerminated", None)
    assert running["closed"] is not None
    with pytest.raises(NotFound, match="RunNotInLedger"):
        await show_run_from_ledger(session, "unknown")


async def test_an_approved_query_is_adopted_and_runs(lost: Lost) -> None:
    session = lost.sessions["fabrikam"]
    record = await adopt_query(session, QUERY, reconcile_seconds=1)
    assert (record["state"], record["accepted"], record["pending"]) == ("Approved", ["contosso", "litware"], [])
    assert record["expires"] is not None
    with pytest.raises(Conflict, match="QueryExists"):
        await adopt_query(session, QUERY)
    run_id = unique("again")
    handle = await run(lost.sessions, run_id)
    await lost.cluster.complete(run_id)
    assert (await handle.result()).state == "COMPLETED"
    assert (await run_cleanup(session, apply=False)).left == ()


async def test_a_proposal_with_one_vote_is_adopted_and_gets_the_other(lost: Lost) -> None:
    session = lost.sessions["fabrikam"]
    record = await adopt_query(session, PENDING, reconcile_seconds=1)
    assert (record["state"], record["accepted"], record["pending"]) == ("Not Approved", ["contosso"], ["litware"])
    assert any("history" in text for text in record["not_rebuilt"])
    state = await read_state(session, PENDING)
    assert [entry.event for entry in state.history] == ["adopted"]
    assert "region" in state.card
    await approve(lost.sessions["litware"], PENDING)
    assert (await read_state(session, PENDING)).stage == "Approved"


async def test_the_second_server_never_knew_the_lost_runs(lost: Lost) -> None:
    client = await lost.sessions["fabrikam"].temporal()
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle(run_workflow_id(COLLABORATION, FINISHED)).describe()
