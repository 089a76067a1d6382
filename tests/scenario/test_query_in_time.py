"""PublishQuery in virtual time: deadlines, absent collaborators, and continue-as-new.

Workflow and server are real. Governance is replaced by :class:`Book`, because its clock cannot be moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, Conflict, Refused, Unavailable
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
    Notified,
    NotifyRequest,
    OwnersRequest,
    ProposalWithdrawn,
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
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.workers import WorkerSpec, create_worker, replayer
from tests.patience import PATIENCE
from tests.temporal_env import TEST_KEYRING, client_with, server_options, unique
from workflows.publish_query import PublishQuery

pytestmark = pytest.mark.scenario
OWNERS = ("contosso", "litware")
DIGEST = "ab" * 32
EVENTS = 60
"""Number of events after which the server suggests continue-as-new."""
OPEN: list[str] = []
"""Workflow IDs of the queries of a test."""


class Book:
    """Activities with a minimal governance. A token is ``<collaborator>:<decision>:<days until it expires>``."""

    def __init__(self) -> None:
        self.ballots: dict[str, str] = {}
        self.withdrawn: list[WithdrawRequest] = []
        self.answer: CleanRoomError | GovernanceQueryState | None = None
        """Answer to the poll of governance; None means that nothing has changed."""
        self.polled: list[str] = []
        """Polled queries."""
        self.verified = asyncio.Event()
        self.verified.set()
        self.create_error: CleanRoomError | None = None
        self.notified: list[tuple[str, str]] = []
        """Kind and recipient of each reminder."""
        self.tokens: list[str] = []
        """Decisions that were verified."""

    def activities(self) -> list[Callable[..., Any]]:
        """Return the activities that the workflow schedules."""

        @activity.defn
        async def generate_query_document(request: GenerateQueryRequest) -> QueryDraft:
            return QueryDraft(
                document_id=request.spec.name, data="{}", digest=DIGEST, labels={}, card="card", card_digest=DIGEST, owners=OWNERS
            )

        @activity.defn
        async def create_document(request: DraftRequest) -> DraftStored:
            await self.verified.wait()
            if self.create_error is not None:
                raise self.create_error
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
            self.tokens.append(request.token)
            if request.token.startswith("forged"):
                raise Refused("SignatureInvalid", "the signature does not verify.")
            party, decision, days = request.token.split(".")
            expires = datetime.now(UTC) + timedelta(days=float(days))
            return VerifiedDecision(approver_id=party, decision=decision, reason="", expires=expires, max_runs=None, nonce=request.token)

        @activity.defn
        async def accept_query(request: VoteRequest) -> BallotRecorded:
            self.ballots[request.token.split(".")[0]] = "accepted"
            state = "Accepted" if set(self.ballots) == set(OWNERS) else "Open"
            return BallotRecorded(proposal_state=state, ballots=dict(self.ballots))

        @activity.defn
        async def withdraw_proposal(request: WithdrawRequest) -> ProposalWithdrawn:
            self.withdrawn.append(request)
            if set(self.ballots) == set(OWNERS):
                raise Conflict("ProposalNotOpen", "every owner has already approved the query.")
            return ProposalWithdrawn()

        @activity.defn
        async def notify(request: NotifyRequest) -> Notified:
            self.notified.append((request.kind, request.recipient))
            return Notified(sent=True)

        @activity.defn
        async def find_query_change(request: QueryChangeRequest) -> GovernanceQueryState | None:
            self.polled.append(request.query)
            if isinstance(self.answer, CleanRoomError):
                raise self.answer
            return self.answer

        return [
            generate_query_document,
            create_document,
            determine_dataset_owners,
            propose_query,
            verify_decision,
            accept_query,
            withdraw_proposal,
            notify,
            find_query_change,
        ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    options = server_options()
    options["dev_server_extra_args"] += ["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={EVENTS}"]
    async with await WorkflowEnvironment.start_time_skipping_v2(**options) as env:
        yield env


@pytest_asyncio.fixture(loop_scope="session")
async def book(server: WorkflowEnvironment) -> AsyncIterator[Book]:
    """The workers of the frontend, Litware and Fabrikam. A test starts Contosso's worker itself."""
    found = Book()
    async with AsyncExitStack() as stack:
        for queue in (FRONTEND_QUEUE, collaborator_queue("litware"), collaborator_queue("fabrikam")):
            await stack.enter_async_context(create_worker(server.client, _spec(found, queue)))
        yield found
        # No activity of a query that a test leaves open may reach the book of the next test.
        while OPEN:
            with suppress(RPCError):  # it has ended
                await server.client.get_workflow_handle(OPEN.pop()).terminate()


@pytest_asyncio.fixture(loop_scope="session")
async def contosso(server: WorkflowEnvironment, book: Book) -> AsyncIterator[None]:
    """Contosso's worker. The server skips no time while an activity waits for a worker, such as a reminder to Contosso."""
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        yield


def _spec(book: Book, queue: str) -> WorkerSpec:
    workflows = (PublishQuery,) if queue == FRONTEND_QUEUE else ()
    return WorkerSpec(queue, queue, workflows, book.activities(), graceful_shutdown=timedelta(milliseconds=1))


async def started(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    """Start a query in real time. :func:`advance` moves its clock."""
    spec = QuerySpec(name=unique("q"), inputs={"f": "flights"}, output="out", sql="SELECT 1")
    input = PublishQueryInput(
        collaboration="flights",
        proposer=Collaborator(name="fabrikam", user_id="fabrikam"),
        parties=tuple(Collaborator(name=name, user_id=name) for name in (*OWNERS, "fabrikam")),
        spec=spec,
        authorisation="signed",
        **options,
    )
    OPEN.append(unique("query"))
    with server.with_time_skipping_disabled():
        return await server.client.start_workflow(
            PublishQuery.run, input, id=OPEN[-1], task_queue=FRONTEND_QUEUE, static_summary="a query in virtual time"
        )


async def drafted(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    handle = await started(server, **options)
    await seen(handle, lambda state: state.stage == "Draft")
    return handle


async def proposed(server: WorkflowEnvironment, **options: Any) -> WorkflowHandle[PublishQuery, QueryState]:
    handle = await drafted(server, **options)
    await handle.execute_update(PublishQuery.propose_and_wait, AuthorMessage(party="fabrikam", authorisation="s.i.g"))
    return handle


async def advance(server: WorkflowEnvironment, handle: WorkflowHandle[PublishQuery, QueryState], **time: float) -> None:
    """Move the clock of a query that does not end before. The server gives up after 200 timers and retries, which is an error here.

    Do not end in the moment of a reminder or deadline, which is a little earlier or later than whole days after the start.
    """
    assert await server.fast_forward(handle, timedelta(**time)), (await handle.describe()).status


async def state_of(handle: WorkflowHandle[PublishQuery, QueryState]) -> QueryState:
    """Return the query's state. A history that follows another within a second begins after a pause; until then no query is answered."""
    while True:
        try:
            return await handle.query(PublishQuery.state)
        except RPCError as error:
            if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                raise
            await asyncio.sleep(0.01)


async def seen(handle: WorkflowHandle[PublishQuery, QueryState], done: Callable[[QueryState], bool]) -> QueryState:
    async with asyncio.timeout(PATIENCE):
        while not done(state := await state_of(handle)):
            await asyncio.sleep(0.01)
    return state


async def sent_until_continued_as_new(handle: WorkflowHandle[PublishQuery, QueryState]) -> int:
    """Send malformed signals until the query continues as new, and return their number.

    One at a time: the server rejects the end of a history while it holds a signal that the workflow has not handled.
    """
    first = (await handle.describe()).run_id
    count = 0
    async with asyncio.timeout(PATIENCE):
        while (await handle.describe()).run_id == first:
            await handle.signal(PublishQuery.approve, {"junk": count})
            count += 1
            await has_refused(handle, count)
    return count


async def has_refused(handle: WorkflowHandle[PublishQuery, QueryState], count: int) -> None:
    """Wait until the query has refused ``count`` messages."""
    await seen(handle, lambda state: len(state.refused) == count)


def token(party: str, decision: str = "approve", days: float = 30) -> dict[str, str]:
    return DecisionMessage(decision=f"{party}.{decision}.{days}").model_dump()


async def test_proposal_without_votes_expires_after_two_weeks(server: WorkflowEnvironment, book: Book, contosso: None) -> None:
    handle = await proposed(server)
    state = await state_of(handle)
    assert state.expires is not None
    assert timedelta(days=13, hours=23) < state.expires - datetime.now(UTC) <= timedelta(days=14)
    await advance(server, handle, days=13, hours=12)
    assert (await state_of(handle)).stage == "Proposed"
    await server.fast_forward(handle, timedelta(days=2))
    result = await asyncio.wait_for(handle.result(), PATIENCE)
    assert result.stage == "Expired"
    assert [(request.proposal_id, request.expired) for request in book.withdrawn] == [("p1", True)]
    owners = ("contosso", "litware")
    # A reminder that is being sent while the query continues as new is sent again.
    notified = list(dict.fromkeys(book.notified))
    assert sorted(notified) == sorted(
        [(kind, name) for kind in ("reminder", "escalation", "last-reminder") for name in owners]
        + [("escalation", "fabrikam"), ("escalation", "operator")]
    )
    assert [kind for kind, _ in notified] == ["reminder"] * 2 + ["escalation"] * 4 + ["last-reminder"] * 2
    assert "not notified" not in {entry.event for entry in result.history}


async def test_proposal_expires_with_its_first_approval(server: WorkflowEnvironment, book: Book, contosso: None) -> None:
    """Litware's approval expires after three days, and so does the proposal."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("litware", days=3))
    await seen(handle, lambda state: state.accepted == ("litware",))
    await server.fast_forward(handle, timedelta(days=4))
    assert (await asyncio.wait_for(handle.result(), PATIENCE)).stage == "Expired"


async def test_vote_of_an_absent_approver_is_cast_when_the_worker_returns(server: WorkflowEnvironment, book: Book) -> None:
    """Contosso signs while its worker is not running. Litware's vote does not wait for it."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("contosso"))
    await handle.signal(PublishQuery.approve, token("litware"))
    assert (await seen(handle, lambda state: state.accepted == ("litware",))).pending == ("contosso",)
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        state = await seen(handle, lambda state: state.stage == "Approved")
    assert state.accepted == OWNERS


async def test_proposal_survives_hours_without_governance(server: WorkflowEnvironment, book: Book, contosso: None) -> None:
    """Commands are handled while governance is unreachable."""
    book.answer = Unavailable("GovernanceUnavailable", "governance does not answer.")
    handle = await proposed(server)
    await advance(server, handle, hours=3)
    assert (await state_of(handle)).stage == "Proposed"
    book.answer = None
    await handle.signal(PublishQuery.approve, token("litware"))
    await seen(handle, lambda state: state.accepted == ("litware",))


async def test_continue_as_new_keeps_the_state(server: WorkflowEnvironment, book: Book, contosso: None) -> None:
    """Malformed signals until the server suggests continue-as-new.

    Ballots, refused messages, history and deadline are kept, and the proposal can still be withdrawn with its original command.
    """
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("litware"))
    before = await seen(handle, lambda state: state.accepted == ("litware",))
    first = (await handle.describe()).run_id
    count = await sent_until_continued_as_new(handle)
    after = await state_of(handle)
    assert len(after.refused) == count < EVENTS
    assert (after.stage, after.version, after.digest, after.proposal_id) == ("Proposed", before.version, before.digest, "p1")
    assert (after.accepted, after.pending, after.owners) == (("litware",), ("contosso",), OWNERS)
    assert after.history == before.history
    assert after.expires == before.expires
    assert {item.code for item in after.refused} == {"MessageMalformed"}
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update(PublishQuery.reject_and_wait, DecisionMessage(decision="litware.reject.30"))
    assert error_from_failure(refused.value).code == "BallotAlreadySubmitted"
    history = await server.client.get_workflow_handle(handle.id, run_id=first).fetch_history()
    await replayer([PublishQuery], keyring=TEST_KEYRING, namespace=server.client.namespace, accept_unbound=True).replay_workflow(history)
    await server.fast_forward(handle, timedelta(days=15))
    assert (await asyncio.wait_for(handle.result(), PATIENCE)).stage == "Expired"
    assert [request.expired for request in book.withdrawn] == [True]


async def replayed(server: WorkflowEnvironment, handle: WorkflowHandle[PublishQuery, QueryState]) -> None:
    """Replay the history."""
    history = await server.client.get_workflow_handle(handle.id).fetch_history()
    await replayer([PublishQuery], keyring=TEST_KEYRING, namespace=server.client.namespace, accept_unbound=True).replay_workflow(history)


def command(party: str) -> dict[str, Any]:
    return AuthorMessage(party=party, authorisation="s.i.g").model_dump(mode="json")


async def test_command_of_an_absent_author_delays_neither_votes_nor_deadline(server: WorkflowEnvironment, book: Book) -> None:
    """Anyone who reaches Temporal can send a command in the name of Contosso, whose worker is not running."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.withdraw, command("contosso"))
    # The proposal expires with this approval, at once: while an activity waits for its worker, the server skips no time.
    await handle.signal(PublishQuery.approve, token("litware", days=0))
    state = await asyncio.wait_for(handle.result(), PATIENCE)
    assert (state.stage, [item.code for item in state.refused]) == ("Expired", ["QueryClosed"])
    assert [(entry.event, entry.by) for entry in state.history][1:] == [
        ("proposed", "fabrikam"),
        ("approved", "litware"),
        ("expired", "deadline"),
    ]
    await replayed(server, handle)


async def test_draft_does_not_expire_while_it_is_being_proposed(server: WorkflowEnvironment, book: Book) -> None:
    book.verified.clear()
    handle = await started(server, approval_seconds=1)
    # The command is there before the draft, and so before its deadline.
    await handle.signal(PublishQuery.propose, command("contosso"))
    book.verified.set()
    state = await seen(handle, lambda state: state.expires is not None and datetime.now(UTC) > state.expires + timedelta(seconds=0.2))
    assert state.stage == "Draft"
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        state = await asyncio.wait_for(handle.result(), PATIENCE)
    assert [(entry.event, entry.by) for entry in state.history] == [
        ("created", "fabrikam"),
        ("proposed", "contosso"),
        ("expired", "deadline"),
    ]


async def test_command_of_an_unknown_collaborator_is_refused_immediately(server: WorkflowEnvironment, book: Book) -> None:
    handle = await proposed(server)
    await handle.signal(PublishQuery.withdraw, command("unknown"))
    assert (await seen(handle, lambda state: bool(state.refused))).refused[0].code == "PartyUnknown"


async def test_unreadable_governance_is_recorded_once_and_does_not_change_a_draft(server: WorkflowEnvironment, book: Book) -> None:
    """The draft keeps its deadline."""
    book.answer = Refused("UserNotActive", "the frontend is not an active user.")
    handle = await drafted(server)
    before = await state_of(handle)
    await advance(server, handle, minutes=10)
    state = await state_of(handle)
    assert [(entry.event, entry.detail) for entry in state.history[1:]] == [("governance cannot be read", "UserNotActive")]
    assert state.expires == before.expires
    assert book.polled.count(state.query) >= 3


@pytest.mark.parametrize("stage", ["Draft", "Proposed"])
async def test_missing_document_is_polled_once_per_interval(server: WorkflowEnvironment, book: Book, stage: str) -> None:
    book.answer = GovernanceQueryState(state="Missing")
    handle = await (drafted if stage == "Draft" else proposed)(server)
    state = await seen(handle, lambda state: state.history[-1].event == "governance cannot be read")
    watched = book.polled.count(state.query)
    await handle.signal(PublishQuery.withdraw, command("unknown"))
    await seen(handle, lambda state: bool(state.refused))
    assert (state.stage, book.polled.count(state.query)) == (stage, watched)


async def test_approved_query_expires_with_its_first_approval(server: WorkflowEnvironment, book: Book, contosso: None) -> None:
    """Approvals of 30 and 20 days replace the deadline of the proposal: the query expires after 20 days."""
    handle = await proposed(server)
    await handle.signal(PublishQuery.approve, token("litware", days=30))
    await seen(handle, lambda state: state.accepted == ("litware",))
    await handle.signal(PublishQuery.approve, token("contosso", days=20))
    state = await seen(handle, lambda state: state.stage == "Approved")
    assert state.expires is not None
    assert timedelta(days=19, hours=23) < state.expires - datetime.now(UTC) <= timedelta(days=20)
    await advance(server, handle, days=19, hours=12)
    assert (await state_of(handle)).stage == "Approved"
    await server.fast_forward(handle, timedelta(days=2))
    assert (await asyncio.wait_for(handle.result(), PATIENCE)).stage == "Expired"


async def test_acceptance_in_governance_just_before_the_deadline_wins(server: WorkflowEnvironment, book: Book, contosso: None) -> None:
    """Governance accepts the proposal after the last poll: the query is approved, not expired."""
    handle = await proposed(server)
    book.ballots = dict.fromkeys(OWNERS, "accepted")
    await advance(server, handle, days=14, minutes=1)
    assert (await seen(handle, lambda state: state.stage != "Proposed")).stage == "Approved"


async def test_cancellation_during_a_vote_answers_the_update(server: WorkflowEnvironment, book: Book) -> None:
    """Temporal delivers a cancellation once. The waiting update still gets an answer."""
    handle = await proposed(server)
    book.verified.clear()
    waiting = await handle.start_update(
        PublishQuery.approve_and_wait, DecisionMessage(**token("litware")), wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as stopped:
        await asyncio.wait_for(handle.result(), PATIENCE)
    assert error_from_failure(stopped.value).code == "Cancelled"
    with pytest.raises(WorkflowUpdateFailedError):
        await waiting.result()
    book.verified.set()


async def test_failed_creation_answers_a_waiting_update(server: WorkflowEnvironment, book: Book) -> None:
    book.verified.clear()
    book.create_error = Conflict("DocumentExists", "the document already exists.")
    handle = await started(server)
    waiting = await handle.start_update(
        PublishQuery.propose_and_wait, AuthorMessage(party="fabrikam", authorisation="s.i.g"), wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    book.verified.set()
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await asyncio.wait_for(waiting.result(), PATIENCE)
    assert error_from_failure(refused.value).code == "QueryClosed"
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), PATIENCE)
    assert error_from_failure(failed.value).code == "DocumentExists"


async def test_continue_as_new_keeps_the_vote_of_an_absent_approver(server: WorkflowEnvironment, book: Book) -> None:
    """The vote does not prevent continue-as-new, and is cast in the next history."""
    handle = await proposed(server)
    waiting = await handle.start_update(
        PublishQuery.approve_and_wait, DecisionMessage(**token("contosso")), wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    await sent_until_continued_as_new(handle)
    assert (await waiting.result()).detail == "verified; the vote is cast when the voter's worker is running"
    await handle.signal(PublishQuery.approve, token("litware"))
    await seen(handle, lambda state: state.accepted == ("litware",))
    async with create_worker(server.client, _spec(book, collaborator_queue("contosso"))):
        assert (await seen(handle, lambda state: state.stage == "Approved")).accepted == OWNERS
    await replayed(server, handle)


BY_SERVER = {
    int(WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND),
    int(WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND),
}
"""The server repeats a workflow task if a message arrives with the last command of a history, or if it buffers more than 2 MB."""


async def task_failures(server: WorkflowEnvironment, handle: WorkflowHandle[PublishQuery, QueryState]) -> tuple[int, set[int]]:
    """The number of histories of a query, and the causes of their failed workflow tasks."""
    count, causes = 0, set()
    async for run in server.client.list_workflows(f'WorkflowId = "{handle.id}"'):
        count += 1
        async for event in server.client.get_workflow_handle(handle.id, run_id=run.run_id).fetch_history_events():
            if event.HasField("workflow_task_failed_event_attributes"):
                causes.add(int(event.workflow_task_failed_event_attributes.cause))
    return count, causes


async def test_no_message_is_lost_and_every_update_is_answered_when_a_query_continues_as_new(
    server: WorkflowEnvironment, book: Book
) -> None:
    """Signals and updates arrive at all times, also at the end of a history. The server rejects more than ten updates at once."""
    handle = await proposed(server)
    running = asyncio.Semaphore(8)

    async def signals(number: int) -> None:
        async with running:
            for part in range(20):
                await handle.signal(PublishQuery.approve, {"decision": f"forged.signal.{number}-{part}"})

    async def update(number: int) -> str:
        async with running:
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await handle.execute_update(PublishQuery.approve_and_wait, DecisionMessage(decision=f"forged.update.{number}"))
            return error_from_failure(refused.value).code

    async with asyncio.timeout(PATIENCE):
        for start in range(0, 18, 6):
            answers = asyncio.gather(*(update(number) for number in range(start, start + 6)))
            await asyncio.gather(signals(start), signals(start + 1))
            assert set(await answers) == {"SignatureInvalid"}
        # A vote that is sent last is verified last.
        await handle.execute_update(PublishQuery.approve_and_wait, DecisionMessage(**token("litware")))
    sent = {f"forged.update.{number}" for number in range(18)}
    sent |= {f"forged.signal.{start + number}-{part}" for start in range(0, 18, 6) for number in (0, 1) for part in range(20)}
    assert sent - set(book.tokens) == set()
    histories, causes = await task_failures(server, handle)
    assert histories > 2
    assert causes <= BY_SERVER


JUNK: list[tuple[str, list[Any]]] = [
    ("approve", []),
    ("approve", [1, 2]),
    ("approve", [{"decision": "x" * 1_500_000}]),
    (
        "update",
        [
            {
                "party": "fabrikam",
                "authorisation": "t",
                "spec": {"name": "q", "inputs": {"f": "flights"}, "output": "o", "sql": "x" * 1_500_000},
            }
        ],
    ),
    ("no-such-signal", [{"a": "x" * 1_500_000}]),
    ("propose", [[[[[[]]]]]]),
]


async def test_junk_signals_fail_no_workflow_task(server: WorkflowEnvironment, book: Book) -> None:
    """Signals with wrong arguments, long ones, unknown ones, and some that the codec cannot open. The server limits a payload to 2 MiB."""
    handle = await proposed(server)
    for name, arguments in JUNK:
        await handle.signal(name, args=arguments)
    for keyring in (None, Keyring.generate("other")):
        client = await client_with(server, keyring)
        await client.get_workflow_handle(handle.id).signal("approve", {"decision": f"forged with {keyring}"})
    with pytest.raises(RPCError, match="exceeds"):
        await handle.signal("approve", {"decision": "x" * 2_200_000})
    for update, argument in (("approve", {"decision": "x" * 1_500_000}), ("approve", 1), ("no-such-update", 1)):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(update, argument)
    await handle.execute_update(PublishQuery.approve_and_wait, DecisionMessage(**token("litware")))
    assert set(book.tokens) == {"litware.approve.30"}
    codes = [item.code for item in (await state_of(handle)).refused]
    assert codes == ["MessageMalformed", "MessageMalformed", "MessageUnknown", "MessageMalformed"]
    assert (await task_failures(server, handle))[1] <= BY_SERVER
