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
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed, Refused, Unavailable
from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
from cleanroom.messages.query import (
    AuthorMessage,
    BallotRecorded,
    Collaborator,
    DatasetOwners,
    DecisionMessage,
    DraftRequest,
    DraftStored,
    GenerateQueryRequest,
    GovernanceQueryState,
    OwnersRequest,
    ProposeQueryRequest,
    PublishQueryInput,
    QueryChangeRequest,
    QueryDraft,
    QueryProposed,
    QueryState,
    VerifiedDecision,
    VerifyDecisionRequest,
    VoteRequest,
    WithdrawRequest,
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
        self.withdrawn: list[WithdrawRequest] = []
        self.says: CleanRoomError | GovernanceQueryState | None = None
        """What governance answers to who watches it; by default that nothing has changed."""
        self.watched: list[str] = []
        """Queries that were looked at: workflows of other tests may still be there."""
        self.verified = asyncio.Event()
        self.verified.set()
        self.creates: CleanRoomError | None = None

    def activities(self) -> list[Callable[..., Any]]:
        """Under the names that the workflow calls."""

        @activity.defn
        async def generate_query_document(request: GenerateQueryRequest) -> QueryDraft:
            return QueryDraft(
                document_id=request.spec.name, data="{}", digest=DIGEST, labels={}, card="card", card_digest=DIGEST, owners=OWNERS
            )

        @activity.defn
        async def create_document(request: DraftRequest) -> DraftStored:
            await self.verified.wait()
            if self.creates is not None:
                raise self.creates
            return DraftStored(version="2.1", digest=DIGEST)

        @activity.defn
        async def determine_dataset_owners(request: OwnersRequest) -> DatasetOwners:
            return DatasetOwners(owners=OWNERS, version="2.1", digest=DIGEST)

        @activity.defn
        async def propose_query(request: ProposeQueryRequest) -> QueryProposed:
            return QueryProposed(proposal_id="p1", version="2.1", digest=DIGEST)

        @activity.defn
        async def verify_decision(request: VerifyDecisionRequest) -> VerifiedDecision:
            await self.verified.wait()
            party, decision, days = request.token.split(":")
            expires = datetime.now(UTC) + timedelta(days=float(days))
            return VerifiedDecision(approver_id=party, decision=decision, reason="", expires=expires, max_runs=None, nonce=request.token)

        @activity.defn
        async def accept_query(request: VoteRequest) -> BallotRecorded:
            self.ballots[request.token.split(":")[0]] = "accepted"
            state = "Accepted" if set(self.ballots) == set(OWNERS) else "Open"
            return BallotRecorded(proposal_state=state, ballots=dict(self.ballots))

        @activity.defn
        async def withdraw_proposal(request: WithdrawRequest) -> None:
            self.withdrawn.append(request)
            if set(self.ballots) == set(OWNERS):
                raise Conflict("ProposalNotOpen", "it has been approved by all meanwhile.")

        @activity.defn
        async def await_query_change(request: QueryChangeRequest) -> GovernanceQueryState:
            self.watched.append(request.query)
            if isinstance(self.says, CleanRoomError):
                raise self.says
            if self.says is not None:
                return self.says
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


async def started(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    """A query in real time; :meth:`WorkflowEnvironment.fast_forward` moves its clock."""
    spec = QuerySpec(name=unique("q"), inputs={"f": "flights"}, output="out", sql="SELECT 1")
    input = PublishQueryInput(
        collaboration="flights",
        proposer=Collaborator(name="fabrikam", user_id="fabrikam"),
        parties=tuple(Collaborator(name=name, user_id=name) for name in (*OWNERS, "fabrikam")),
        spec=spec,
        authorisation="signed",
        **{"reconcile_seconds": 3 * DAY, **options},
    )
    with server.with_time_skipping_disabled():
        return await server.client.start_workflow(
            PublishQuery.run, input, id=unique("query"), task_queue=FRONTEND_QUEUE, static_summary="a query in virtual time"
        )


async def drafted(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    handle = await started(server, **options)
    await seen(handle, lambda state: state.stage == "Draft")
    return handle


async def proposed(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    handle = await drafted(server, **options)
    await handle.execute_update(PublishQuery.propose_and_wait, AuthorMessage(party="fabrikam", authorisation="signed"))
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
    book.says = Unavailable("GovernanceUnavailable", "governance does not answer.")
    handle = await proposed(server)
    await server.fast_forward(handle, timedelta(days=7))
    assert (await handle.query(PublishQuery.state)).stage == "Proposed"
    book.says = None
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
        await handle.execute_update(PublishQuery.reject_and_wait, DecisionMessage(decision="litware:reject:30"))
    assert error_from_failure(refused.value).code == "BallotAlreadySubmitted"
    history = await server.client.get_workflow_handle(handle.id, run_id=first).fetch_history()
    await replayer([PublishQuery], keyring=TEST_KEYRING, namespace=server.client.namespace, accept_unbound=True).replay_workflow(history)
    await server.fast_forward(handle, timedelta(days=15))
    assert (await asyncio.wait_for(handle.result(), 20)).stage == "Expired"
    assert [order.expired for order in book.withdrawn] == [True]


async def replayed(server: WorkflowEnvironment, handle: WorkflowHandle[PublishQuery, QueryState]) -> None:
    """The workflow's code goes the same way again."""
    history = await server.client.get_workflow_handle(handle.id).fetch_history()
    await replayer([PublishQuery], keyring=TEST_KEYRING, namespace=server.client.namespace, accept_unbound=True).replay_workflow(history)


def order(party: str) -> dict[str, Any]:
    return AuthorMessage(party=party, authorisation="signed").model_dump(mode="json")


async def test_an_order_of_somebody_who_is_away_holds_nothing_up(server: WorkflowEnvironment, book: Book) -> None:
    """Anybody who reaches Temporal can send an order in Contosso's name, whose worker is off: votes are cast, the deadline is kept."""
    handle = await proposed(server, approval_seconds=2)
    await handle.signal(PublishQuery.withdraw, order("contosso"))
    await handle.signal(PublishQuery.approve, token("litware"))
    assert (await seen(handle, lambda state: state.accepted == ("litware",))).stage == "Proposed"
    state = await asyncio.wait_for(handle.result(), 20)
    assert (state.stage, [item.code for item in state.refused]) == ("Expired", ["QueryClosed"])
    await replayed(server, handle)


async def test_a_draft_does_not_expire_under_the_hands_of_who_proposes_it(server: WorkflowEnvironment, book: Book) -> None:
    handle = await drafted(server, approval_seconds=1)
    await handle.signal(PublishQuery.propose, order("contosso"))
    state = await seen(handle, lambda state: state.expires is not None and datetime.now(UTC) > state.expires + timedelta(seconds=0.2))
    assert state.stage == "Draft"
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        state = await asyncio.wait_for(handle.result(), 20)
    assert [(entry.event, entry.by) for entry in state.history] == [
        ("created", "fabrikam"),
        ("proposed", "contosso"),
        ("expired", "deadline"),
    ]


async def test_an_order_of_nobody_is_refused_at_once(server: WorkflowEnvironment, book: Book) -> None:
    handle = await proposed(server)
    await handle.signal(PublishQuery.withdraw, order("nobody"))
    assert (await seen(handle, lambda state: bool(state.refused))).refused[0].code == "PartyUnknown"


async def test_a_draft_while_governance_refuses_to_be_read(server: WorkflowEnvironment, book: Book) -> None:
    """That is no change of the draft: it is said once, and the draft expires when it would have."""
    book.says = Refused("UserNotActive", "this frontend is no active user.")
    handle = await drafted(server, reconcile_seconds=DAY)
    before = await handle.query(PublishQuery.state)
    await server.fast_forward(handle, timedelta(days=5))
    state = await handle.query(PublishQuery.state)
    assert [(entry.event, entry.detail) for entry in state.history[1:]] == [("governance cannot be read", "UserNotActive")]
    assert state.expires == before.expires
    assert book.watched.count(state.query) >= 3


@pytest.mark.parametrize("stage", ["Draft", "Proposed"])
async def test_a_document_that_governance_lacks_is_looked_for_once_an_interval(server: WorkflowEnvironment, book: Book, stage: str) -> None:
    book.says = GovernanceQueryState(state="Missing")
    handle = await (drafted if stage == "Draft" else proposed)(server)
    state = await seen(handle, lambda state: state.history[-1].event == "governance cannot be read")
    watched = book.watched.count(state.query)
    await handle.signal(PublishQuery.withdraw, order("nobody"))
    await seen(handle, lambda state: bool(state.refused))
    assert (state.stage, book.watched.count(state.query)) == (stage, watched)


async def test_an_approved_query_lasts_as_long_as_its_approvals(server: WorkflowEnvironment, book: Book) -> None:
    """The proposal's deadline ends with the proposal: what was approved for 30 and 20 days is good for 20."""
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        handle = await proposed(server)
        await handle.signal(PublishQuery.approve, token("litware", days=30))
        await seen(handle, lambda state: state.accepted == ("litware",))
        await handle.signal(PublishQuery.approve, token("contosso", days=20))
        state = await seen(handle, lambda state: state.stage == "Approved")
    assert state.expires is not None
    assert timedelta(days=19, hours=23) < state.expires - datetime.now(UTC) <= timedelta(days=20)
    await server.fast_forward(handle, timedelta(days=19))
    assert (await handle.query(PublishQuery.state)).stage == "Approved"
    await server.fast_forward(handle, timedelta(days=2))
    assert (await asyncio.wait_for(handle.result(), 20)).stage == "Expired"


async def test_accepted_in_governance_at_the_last_moment(server: WorkflowEnvironment, book: Book) -> None:
    """Between the last look at governance and the deadline: accepted is for ever, and is not shown as expired."""
    handle = await proposed(server)
    book.ballots = dict.fromkeys(OWNERS, "accepted")
    await server.fast_forward(handle, timedelta(days=14, minutes=1))
    assert (await seen(handle, lambda state: state.stage != "Proposed")).stage == "Approved"


async def test_cancelled_while_a_vote_is_verified(server: WorkflowEnvironment, book: Book) -> None:
    """A cancellation is told once; whoever waits for an answer gets one."""
    handle = await proposed(server)
    book.verified.clear()
    waiting = await handle.start_update(
        PublishQuery.approve_and_wait, DecisionMessage(**token("litware")), wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as stopped:
        await asyncio.wait_for(handle.result(), 20)
    assert error_from_failure(stopped.value).code == "Cancelled"
    with pytest.raises(WorkflowUpdateFailedError):
        await waiting.result()
    book.verified.set()


async def test_an_order_that_waits_for_a_query_that_cannot_be_created(server: WorkflowEnvironment, book: Book) -> None:
    book.verified.clear()
    book.creates = Conflict("DocumentExists", "there is such a document already.")
    handle = await started(server)
    waiting = await handle.start_update(
        PublishQuery.propose_and_wait, AuthorMessage(party="fabrikam", authorisation="signed"), wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    book.verified.set()
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await asyncio.wait_for(waiting.result(), 20)
    assert error_from_failure(refused.value).code == "QueryClosed"
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), 20)
    assert error_from_failure(failed.value).code == "DocumentExists"


async def test_the_vote_of_an_absent_approver_goes_into_the_next_history(server: WorkflowEnvironment, book: Book) -> None:
    """A vote that waits for days must not keep the history from being cut; it is cast when the voter's worker comes."""
    handle = await proposed(server)
    waiting = await handle.start_update(
        PublishQuery.approve_and_wait, DecisionMessage(**token("contosso")), wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    first = (await handle.describe()).run_id
    async with asyncio.timeout(20):
        while (await handle.describe()).run_id == first:
            await handle.signal(PublishQuery.approve, {"junk": 1})
    assert (await waiting.result()).detail == "verified; the vote is cast when the voter's worker is running"
    await handle.signal(PublishQuery.approve, token("litware"))
    await seen(handle, lambda state: state.accepted == ("litware",))
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        assert (await seen(handle, lambda state: state.stage == "Approved")).accepted == OWNERS
    await replayed(server, handle)
