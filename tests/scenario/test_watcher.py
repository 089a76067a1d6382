"""The watcher of open queries with a real server: it is killed, replaced and terminated, governance lags, and others send junk.

What a new watcher finds, and how often it reads, is in ``tests/unit/test_query_watch.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.identifiers import FRONTEND_QUEUE, query_workflow_id
from cleanroom.messages.known import KnownState
from cleanroom.messages.query import AuthorMessage, Collaborator, PublishQueryInput, QueryState, WatchQueriesInput
from cleanroom.temporal import attributes, retries
from cleanroom.temporal.attributes import start_attributes
from starters.operations.query_list import read_compared
from tests.governance_machine.world import AUTHOR, PEOPLE, World, open_world
from tests.patience import PATIENCE
from tests.temporal_env import unique
from workers.watch_keeper import WatchKeeper, ensure_watcher
from workflows.publish_query import PublishQuery

pytestmark = pytest.mark.scenario

Query = WorkflowHandle[PublishQuery, QueryState]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, temporal_env: WorkflowEnvironment) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("query-watch"), temporal_env) as world:
        yield world


def test_a_vote_in_governance_is_shown_although_nobody_told_the_workflow(world: World) -> None:
    async def check() -> None:
        query = await proposed(world)
        await vote(world, query, "contosso")
        await shown(query, lambda state: state.accepted == ("contosso",))

    world.run(check())


def test_an_old_node_of_governance_hides_no_change(world: World) -> None:
    async def check() -> None:
        query = await proposed(world)
        proposal = await open_proposal(world, query)  # before: an old node may not know it yet
        world.nodes.lag = 0.5
        try:
            await world.documents("litware").vote(proposal, world.users["litware"], accept=True)
            await shown(query, lambda state: state.accepted == ("litware",))
        finally:
            world.nodes.lag = 0

    world.run(check())


def test_a_terminated_watcher_is_started_again_and_finds_what_happened_in_between(world: World) -> None:
    async def check() -> None:
        query = await proposed(world)
        await world.watcher.terminate()
        # The activity of a terminated workflow runs until its next heartbeat. It ends at once with its worker.
        await world.stop_frontend()
        await world.start_frontend()
        await vote(world, query, "contosso")
        later = await proposed(world)
        await vote(world, later, "litware")
        assert (await query.query(PublishQuery.state)).accepted == ()
        async with WatchKeeper(world.temporal, world.collaboration, interval=0.1):
            await shown(query, lambda state: state.accepted == ("contosso",))
            await shown(later, lambda state: state.accepted == ("litware",))

    world.run(check())


def test_a_worker_that_stops_hands_the_watch_over_to_the_next_one(world: World) -> None:
    """The activity returns at once, and the next one compares every query."""

    async def check() -> None:
        query = await proposed(world)
        async with asyncio.timeout(PATIENCE):
            await world.stop_frontend()
        await vote(world, query, "contosso")
        await world.start_frontend()
        await shown(query, lambda state: state.accepted == ("contosso",))
        assert (await world.watcher.describe()).status is WorkflowExecutionStatus.RUNNING

    world.run(check())


def test_a_watch_whose_worker_was_killed_runs_on_another_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed worker has started the activity, and sends no heartbeats."""
    monkeypatch.setattr(retries, "WATCH", replace(retries.WATCH, heartbeat=timedelta(seconds=1)))
    started = asyncio.Event()

    @activity.defn
    async def watch_queries(request: WatchQueriesInput) -> None:
        started.set()
        activity.raise_complete_async()

    async def check() -> None:
        query = await proposed(world)
        await world.stop_frontend()
        await world.start_frontend(watch_queries=watch_queries)
        await world.watcher.terminate()
        await ensure_watcher(world.temporal, world.collaboration)
        await asyncio.wait_for(started.wait(), PATIENCE)
        await vote(world, query, "litware")
        await world.stop_frontend()
        await world.start_frontend()
        await shown(query, lambda state: state.accepted == ("litware",))
        # `cleanroom query list` reads this, and then compares no query itself.
        async with asyncio.timeout(PATIENCE):
            while (compared := await read_compared(world.temporal, world.collaboration)) is None:
                await asyncio.sleep(0.05)
        assert compared.position == str(world.clients["frontend"].position)

    world.run(check())


def test_messages_and_workflows_of_others_do_not_mislead_the_watcher(world: World) -> None:
    async def check() -> None:
        query = await proposed(world)
        for known in ("junk", "Proposed 2.1 ../../secrets 0", str(KnownState("Draft", "2.1", "", "0" * 16))):
            found = start_attributes(collaboration=world.collaboration, kind="query", query="no/name", stage="query.proposed")
            found = TypedSearchAttributes([*found.search_attributes, SearchAttributePair(attributes.KNOWN, known)])
            await world.temporal.start_workflow("PublishQuery", id=unique("junk"), task_queue=unique("junk"), search_attributes=found)
        for arguments in ((), ({"decision": "x"},), (1, 2)):
            await query.signal("look", args=arguments)
        await vote(world, query, "contosso")
        state = await shown(query, lambda state: state.accepted == ("contosso",))
        assert (state.stage, state.refused) == ("Proposed", ())

    world.run(check())


async def open_proposal(world: World, query: Query) -> str:
    """Return the ID of the proposal, from governance."""
    return (await world.documents("frontend").get(query.id.rsplit("/", 1)[-1])).proposal_id


async def proposed(world: World) -> Query:
    """Start a query and propose it."""
    name = unique("watched")
    sql = "SELECT f.origin AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin"
    spec = QuerySpec(name=name, inputs={"f": "machine-flights"}, output="machine-output", sql=sql)
    session = world.sessions[AUTHOR]
    parties = tuple(Collaborator(name=party, user_id=world.users[party]) for party in PEOPLE)
    query: Query = await world.temporal.start_workflow(
        PublishQuery.run,
        PublishQueryInput(
            collaboration=world.collaboration,
            proposer=parties[0],
            parties=parties,
            spec=spec,
            authorisation=session.authorise("create-query", name, spec.digest()),
        ),
        id=query_workflow_id(world.collaboration, name),
        task_queue=FRONTEND_QUEUE,
        search_attributes=start_attributes(collaboration=world.collaboration, kind="query", query=name, proposer=AUTHOR),
    )
    draft = await shown(query, lambda state: state.stage == "Draft")
    token = session.authorise("propose-query", name, draft.digest, version=draft.version)
    await query.execute_update(PublishQuery.propose_and_wait, AuthorMessage(party=AUTHOR, authorisation=token))
    return query


async def vote(world: World, query: Query, owner: str) -> None:
    """Vote directly in governance."""
    await world.documents(owner).vote(await open_proposal(world, query), world.users[owner], accept=True)


async def shown(query: Query, done: Callable[[QueryState], bool], seconds: float = PATIENCE) -> QueryState:
    """Wait until the workflow shows a state."""
    async with asyncio.timeout(seconds):
        while not done(state := await query.query(PublishQuery.state)):
            await asyncio.sleep(0.02)
    return state
