"""A proposal's two weeks in virtual time: deadlines, an absent approver, and a history that is cut by continue-as-new.

The workflow is real and so is the server; governance is a small book of ballots here, because its own clock cannot be moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import PreconditionFailed, Unavailable
from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
from cleanroom.messages.query import (
    AuthorMessage,
    BallotRecorded,
    DatasetOwners,
    DecisionMessage,
    DraftOrder,
    DraftStored,
    GenerateQueryRequest,
    GovernanceQueryState,
    OwnersRequest,
    Party,
    ProposeQueryOrder,
    PublishQueryInput,
    QueryChangeRequest,
    QueryDraft,
    QueryProposed,
    QueryState,
    VerifiedDecision,
    VerifyDecisionRequest,
    VoteOrder,
    WithdrawOrder,
)
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.workers import WorkerSpec, create_worker, replayer
from tests.temporal_env import TEST_KEYRING, server_options, unique
from workflows.publish_query import PublishQuery

pytestmark = pytest.mark.scenario
OWNERS = ("contosso", "litware")
DIGEST = "ab" * 32
DAY = 24 * 3600
EVENTS = 60
"""After so many events the server suggests to continue as new."""


class Book:
    """Governance with nothing but ballots. A token is ``<party>:<decision>:<days that it is good>``."""

    def __init__(self) -> None:
        self.ballots: dict[str, str] = {}
        self.withdrawn: list[WithdrawOrder] = []
        self.unreachable = False

    def activities(self) -> list[Callable[..., Any]]:
        """Under the names that the workflow calls."""

        @activity.defn
        async def generate_query_document(request: GenerateQueryRequest) -> QueryDraft:
            return QueryDraft(
                document_id=request.spec.name, data="{}", digest=DIGEST, labels={}, card="card", card_digest=DIGEST, owners=OWNERS
            )

        @activity.defn
        async def create_document(request: DraftOrder) -> DraftStored:
            return DraftStored(version="2.1", digest=DIGEST)

        @activity.defn
        async def determine_dataset_owners(request: OwnersRequest) -> DatasetOwners:
            return DatasetOwners(owners=OWNERS, version="2.1", digest=DIGEST)

        @activity.defn
        async def propose_query(request: ProposeQueryOrder) -> QueryProposed:
            return QueryProposed(proposal_id="p1", version="2.1", digest=DIGEST)

        @activity.defn
        async def verify_decision(request: VerifyDecisionRequest) -> VerifiedDecision:
            party, decision, days = request.token.split(":")
            expires = datetime.now(UTC) + timedelta(days=float(days))
            return VerifiedDecision(approver_id=party, decision=decision, reason="", expires=expires, max_runs=None, nonce=request.token)

        @activity.defn
        async def accept_query(request: VoteOrder) -> BallotRecorded:
            self.ballots[request.token.split(":")[0]] = "accepted"
            state = "Accepted" if set(self.ballots) == set(OWNERS) else "Open"
            return BallotRecorded(proposal_state=state, ballots=dict(self.ballots))

        @activity.defn
        async def withdraw_proposal(request: WithdrawOrder) -> None:
            self.withdrawn.append(request)

        @activity.defn
        async def await_query_change(request: QueryChangeRequest) -> GovernanceQueryState:
            if self.unreachable:
                raise Unavailable("GovernanceUnavailable", "governance does not answer.")
            raise PreconditionFailed("NothingChanged", "governance still says what is shown.", retryable=True)

        return [
            generate_query_document,
            create_document,
            determine_dataset_owners,
            propose_query,
            verify_decision,
            accept_query,
            withdraw_proposal,
            await_query_change,
        ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    options = server_options()
    options["dev_server_extra_args"] += ["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={EVENTS}"]
    async with await WorkflowEnvironment.start_time_skipping_v2(**options) as env:
        yield env


@pytest_asyncio.fixture(loop_scope="session")
async def book(server: WorkflowEnvironment) -> AsyncIterator[Book]:
    """Workers of everybody but Contosso, whose own is away until a test starts it."""
    found = Book()
    async with AsyncExitStack() as stack:
        for queue in (FRONTEND_QUEUE, collaborator_queue("litware"), collaborator_queue("fabrikam")):
            await stack.enter_async_context(create_worker(server.client, _spec(found, queue)))
        yield found


def _spec(book: Book, queue: str) -> WorkerSpec:
    workflows = (PublishQuery,) if queue == FRONTEND_QUEUE else ()
    return WorkerSpec(queue, queue, workflows, book.activities(), graceful_shutdown=timedelta(milliseconds=1))


async def proposed(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    """A proposal in real time; :meth:`WorkflowEnvironment.fast_forward` moves its clock."""
    spec = QuerySpec(name=unique("q"), inputs={"f": "flights"}, output="out", sql="SELECT 1")
    input = PublishQueryInput(
        collaboration="flights",
        proposer=Party(name="fabrikam", user_id="fabrikam"),
        parties=tuple(Party(name=name, user_id=name) for name in (*OWNERS, "fabrikam")),
        spec=spec,
        authorisation="signed",
        **{"reconcile_seconds": 3 * DAY, **options},
    )
    with server.with_time_skipping_disabled():
        handle = await server.client.start_workflow(
            PublishQuery.run, input, id=unique("query"), task_queue=FRONTEND_QUEUE, static_summary="a query in virtual time"
        )
    await seen(handle, lambda state: state.stage == "Draft")
    await handle.execute_update(PublishQuery.submit, AuthorMessage(party="fabrikam", authorisation="signed"))
    return handle


async def seen(handle: WorkflowHandle[PublishQuery, QueryState], done: Callable[[QueryState], bool]) -> QueryState:
    async with asyncio.timeout(20):
        while not done(state := await handle.query(PublishQuery.state)):
            await asyncio.sleep(0.01)
    return state


def token(party: str, decision: str = "approve", days: float = 30) -> dict[str, str]:
    return DecisionMessage(decision=f"{party}:{decision}:{days}").model_dump()


async def test_two_weeks_without_a_vote(server: WorkflowEnvironment, book: Book) -> None:
    handle = await proposed(server)
    state = await handle.query(PublishQuery.state)
    assert state.expires is not None
    assert timedelta(days=13, hours=23) < state.expires - datetime.now(UTC) <= timedelta(days=14)
    await server.fast_forward(handle, timedelta(days=13))
    assert (await handle.query(PublishQuery.state)).stage == "Proposed"
    await server.fast_forward(handle, timedelta(days=2))
    result = await asyncio.wait_for(handle.result(), 20)
    assert result.stage == "Expired"
    assert [(order.proposal_id, order.expired) for order in book.withdrawn] == [("p1", True)]


async def test_an_approval_that_ends_sooner_ends_the_wait(server: WorkflowEnvironment, book: Book) -> None:
    """Litware's word is good for three days; a proposal that rests on it does not outlive it."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("litware", days=3))
    await seen(handle, lambda state: state.accepted == ("litware",))
    await server.fast_forward(handle, timedelta(days=4))
    assert (await asyncio.wait_for(handle.result(), 20)).stage == "Expired"


async def test_an_approver_who_is_away(server: WorkflowEnvironment, book: Book) -> None:
    """Contosso signs from a telephone; Contosso's worker comes back later and casts the vote. Litware does not wait for it."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("contosso"))
    await handle.signal(PublishQuery.approve, token("litware"))
    assert (await seen(handle, lambda state: state.accepted == ("litware",))).pending == ("contosso",)
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        state = await seen(handle, lambda state: state.stage == "Approved")
    assert state.accepted == OWNERS


async def test_governance_away_for_a_week_expires_nothing(server: WorkflowEnvironment, book: Book) -> None:
    """ "Unreachable" is never "rejected": messages are still taken."""
    book.unreachable = True
    handle = await proposed(server)
    await server.fast_forward(handle, timedelta(days=7))
    assert (await handle.query(PublishQuery.state)).stage == "Proposed"
    book.unreachable = False
    await handle.signal(PublishQuery.approve, token("litware"))
    await seen(handle, lambda state: state.accepted == ("litware",))


async def test_nothing_is_lost_when_the_history_is_cut(server: WorkflowEnvironment, book: Book) -> None:
    """Junk until the server suggests to continue as new: ballots, refused messages, history and the deadline go with it, and the proposal
    can still be withdrawn under the order that it was made on."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("litware"))
    before = await seen(handle, lambda state: state.accepted == ("litware",))
    first = (await handle.describe()).run_id
    count = 0
    async with asyncio.timeout(20):
        while (await handle.describe()).run_id == first:
            await handle.signal(PublishQuery.approve, {"junk": count})
            count += 1
    after = await seen(handle, lambda state: len(state.refused) >= min(count, 50))
    assert (after.stage, after.version, after.digest, after.proposal_id) == ("Proposed", before.version, before.digest, "p1")
    assert (after.accepted, after.pending, after.owners) == (("litware",), ("contosso",), OWNERS)
    assert after.history == before.history
    assert after.expires == before.expires
    assert {item.code for item in after.refused} == {"MessageMalformed"}
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update(PublishQuery.decide, DecisionMessage(decision="litware:reject:30"))
    assert error_from_failure(refused.value).code == "BallotAlreadySubmitted"
    history = await server.client.get_workflow_handle(handle.id, run_id=first).fetch_history()
    await replayer([PublishQuery], keyring=TEST_KEYRING, namespace=server.client.namespace, accept_unbound=True).replay_workflow(history)
    await server.fast_forward(handle, timedelta(days=15))
    assert (await asyncio.wait_for(handle.result(), 20)).stage == "Expired"
    assert [order.expired for order in book.withdrawn] == [True]
