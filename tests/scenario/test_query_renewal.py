"""A query has no dead end: after its approvals expired, its runs were used up, or its workflow was cancelled, it is renewed.

What `list`, `show`, the search attributes and a run say agrees. Workflows, activities and governance are real; the cluster is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import PreconditionFailed
from cleanroom.messages.query import QueryState, decision_mark
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.decisions import read_card, send_decision, sign_decision
from starters.operations.queries import create_query, propose_query
from starters.operations.query_list import list_queries
from starters.operations.query_names import latest_name
from starters.operations.query_renewal import renew_query
from starters.operations.query_show import show_query
from starters.operations.query_workflow import find_query, read_state
from starters.operations.runs import current_digest, start_run
from tests.patience import PATIENCE
from tests.prepare_world import prepare_world
from tests.recovery_world import Cluster, WorldSession, deployment
from tests.temporal_env import unique

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

SECONDS = 1 / 86_400


class Queries:
    """The sessions of three collaborators, and what they do with queries."""

    def __init__(self, cluster: Cluster, sessions: dict[str, WorldSession]) -> None:
        self.cluster, self.sessions, self.fabrikam = cluster, sessions, sessions["fabrikam"]

    async def approved(self, **terms: Any) -> str:
        """Create a query that both owners approve, and return its name."""
        name = await self.proposed()
        await self.approve(name, **terms)
        return name

    async def proposed(self) -> str:
        name = unique("q")
        spec = QuerySpec(name=name, inputs={"v0": "contosso-0"}, output="litware-output", sql="SELECT region, total FROM v0")
        await create_query(self.fabrikam, spec)
        await propose_query(self.fabrikam, name)
        return name

    async def approve(self, name: str, **terms: Any) -> None:
        """Let both owners approve, with the name that they know."""
        for party in ("contosso", "litware"):
            assert await self.decide(party, name, **terms), party

    async def decide(self, party: str, name: str, **terms: Any) -> bool:
        """Let an owner approve; return whether the vote was counted, or its decision refused."""
        session = self.sessions[party]
        query = await latest_name(session, name)
        card = await read_card(session, query)
        decision = sign_decision(session, card, "approve", **terms)
        await send_decision(session, query, "approve", decision, wait=False)
        mark = decision_mark(decision.decision)

        def refused(state: QueryState) -> bool:
            return any(item.about == mark for item in state.refused)

        state = await self.until(query, lambda state: party in state.accepted or refused(state))
        return party in state.accepted

    async def expire(self, name: str) -> None:
        """Let both owners approve, the last one for a moment.

        A decision that expires before its vote is counted is refused. So the moment is doubled until it is as long as this machine needs.
        """
        assert await self.decide("contosso", name)
        seconds = 1
        # A vote that was recorded, but whose answer came too late to be counted, shows in governance: nothing is left to decide.
        with suppress(PreconditionFailed):
            while not await self.decide("litware", name, expires_days=seconds * SECONDS):
                seconds *= 2
        await self.until(name, lambda state: state.stage == "Expired")

    async def until(self, name: str, done: Callable[[QueryState], bool]) -> QueryState:
        async with asyncio.timeout(PATIENCE):
            while not done(state := await read_state(self.fabrikam, name)):
                await asyncio.sleep(0.02)
        return state

    async def run(self, name: str) -> str:
        """Run a query by the name that its proposer knows; return the code with which it is refused, or the query that has run."""
        query, run_id = await latest_name(self.fabrikam, name, accepted=True), unique("r")
        handle = await start_run(self.fabrikam, query, await current_digest(self.fabrikam, query), run_id, consent_check_seconds=1)
        ending = asyncio.ensure_future(handle.result())
        completing = asyncio.ensure_future(self.cluster.complete(run_id))
        await asyncio.wait([ending, completing], return_when=asyncio.FIRST_COMPLETED)
        try:
            await ending
        except WorkflowFailureError as error:
            completing.cancel()
            return error_from_failure(error).code
        return query

    async def states(self, name: str) -> tuple[str, str]:
        """Return the state that `show` and `list` show."""
        record, _ = await show_query(self.fabrikam, name)
        [row] = [row for row in await list_queries(self.fabrikam) if row["query"] == name]
        return record["state"], row["state"]

    async def attribute(self, name: str, key: Any) -> Any:
        return (await find_query(self.fabrikam, name)).described.typed_search_attributes.get(key)

    async def cancel(self, name: str) -> None:
        """Press Request Cancellation in the Web UI."""
        handle = (await find_query(self.fabrikam, name)).handle
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def queries(temporal_env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Queries]:
    with prepare_world(tmp_path_factory.mktemp("renewal")) as world:
        await world.publish(1)
        cluster = Cluster(world)
        async with deployment(world, temporal_env.client, cluster) as sessions:
            yield Queries(cluster, sessions)


async def test_a_query_whose_runs_are_used_up_is_renewed_under_its_first_name(queries: Queries) -> None:
    name = await queries.approved(max_runs=1)
    assert await queries.attribute(name, attributes.RUN_LIMIT) == 1
    assert await queries.states(name) == ("Approved", "Approved")
    assert await queries.run(name) == name
    assert await queries.states(name) == ("Exhausted", "Exhausted")
    assert await queries.run(name) == "ApprovalRunsExhausted"
    record, _ = await show_query(queries.fabrikam, name)
    assert record["next"] == f"cleanroom query renew {name}"
    assert [(item["max_runs"], item["runs_used"]) for item in record["decisions"]] == [(1, 1), (1, 1)]

    renewed = await renew_query(queries.fabrikam, name)
    assert (renewed["query"], renewed["state"], renewed["pending"]) == (f"{name}-r2", "Not Approved", ["contosso", "litware"])
    assert await renew_query(queries.fabrikam, name) == renewed, "the same command again"
    assert await queries.run(name) == "ApprovalRunsExhausted", "a proposal replaces nothing"
    await queries.approve(name, max_runs=3)
    assert await queries.states(f"{name}-r2") == ("Approved", "Approved")
    assert await queries.run(name) == f"{name}-r2"
    record, _ = await show_query(queries.fabrikam, f"{name}-r2")
    assert [(item["query"], item["state"]) for item in record["renews"]] == [(name, "Exhausted")]


async def test_a_query_whose_approvals_have_expired_is_shown_as_expired_and_renewed(queries: Queries) -> None:
    name = await queries.proposed()
    await queries.expire(name)
    assert await queries.states(name) == ("Expired", "Expired")
    assert await queries.attribute(name, attributes.STAGE) == "query.expired"
    assert await queries.run(name) == "ApprovalExpired"
    text = QuerySpec(name=name, inputs={"v0": "contosso-0"}, output="litware-output", sql="SELECT region, total FROM v0 WHERE total > 1")
    renewed = await renew_query(queries.fabrikam, name, text)
    assert (renewed["query"], renewed["state"]) == (f"{name}-r2", "Not Approved")
    await queries.approve(name)
    assert await queries.run(name) == f"{name}-r2"


async def test_a_cancelled_proposal_is_shown_as_cancelled_and_renewed(queries: Queries) -> None:
    name = await queries.proposed()
    await queries.cancel(name)
    assert await queries.states(name) == ("Cancelled", "Cancelled")
    with pytest.raises(PreconditionFailed, match="QueryClosed") as caught:
        await queries.approve(name)
    assert f"cleanroom query renew {name}" in (caught.value.hint or "")
    renewed = await renew_query(queries.fabrikam, name)
    assert (renewed["query"], renewed["state"]) == (name, "Not Approved")
    await queries.approve(name)
    assert await queries.states(name) == ("Approved", "Approved")


async def test_a_run_of_an_approved_query_needs_no_workflow_of_it(queries: Queries) -> None:
    name = await queries.approved()
    await queries.cancel(name)
    assert await queries.states(name) == ("Approved", "Approved")
    assert await queries.run(name) == name


async def test_a_cancelled_draft_is_proposed_again(queries: Queries) -> None:
    name = unique("draft")
    spec = QuerySpec(name=name, inputs={"v0": "contosso-0"}, output="litware-output", sql="SELECT region, total FROM v0")
    await create_query(queries.fabrikam, spec)
    await queries.cancel(name)
    assert await queries.states(name) == ("Cancelled", "Cancelled")
    renewed = await renew_query(queries.fabrikam, name)
    assert (renewed["query"], renewed["state"]) == (name, "Not Approved")
