"""A command that is killed or loses Temporal at any request, and is repeated: one workflow, one document, one vote, and the same result.

The workflows run on a real server, and their activities keep one copy of what governance holds. Every request of a command to Temporal
and to governance is counted. A kill raises in the command before the request is sent, or after it was answered.

``make test-kills`` kills at every request. Without it, commands are killed around the request that has the effect.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import CleanRoomError, Conflict, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.governance.models import Ballot, Document
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    FRONTEND_QUEUE,
    SPARK_SERVICE_QUEUE,
    cleanup_workflow_id,
    collaborator_queue,
    dataset_workflow_id,
    document_digest,
    query_workflow_id,
    run_workflow_id,
)
from cleanroom.messages.cleanup import HeldFound, JobsFound
from cleanroom.messages.query import (
    BallotRecorded,
    DatasetOwners,
    DecisionMessage,
    DraftStored,
    ProposalWithdrawn,
    QueryProposed,
    QueryState,
)
from cleanroom.settings import Settings
from cleanroom.spark.job import JobParameters
from cleanroom.temporal.failures import AGAIN
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.operations.cleanup import run_cleanup
from starters.operations.conclude import conclude_run
from starters.operations.datasets import publish_dataset
from starters.operations.decisions import recorded_decision, send_decision
from starters.operations.queries import create_query, propose_query, update_query, withdraw_query
from starters.operations.query_renewal import renew_query
from starters.operations.runs import cancel_run, start_run
from starters.operations.session import Session, with_mapped_errors
from tests.answering import LATER, answering
from tests.killed_commands import EVERYWHERE, Killed, Requests
from tests.patience import PATIENCE
from tests.release_worker import AT_ONCE
from tests.temporal_env import TEST_KEYRING, client_with, unique
from tests.unit.workflows import worlds
from tests.unit.workflows.driver import ARGUMENTS
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery

pytestmark = pytest.mark.scenario

EFFECTS = ("start_workflow_execution", "update_workflow_execution", "signal_workflow_execution", "request_cancel_workflow_execution")
LOST: dict[str, Any] = {
    # What the SDK raises when the server dies during a request.
    "error": lambda name: RPCError("transport error", RPCStatusCode.UNKNOWN, b""),
    "spared": ("get_document", "list_documents"),
}
"""The connection to Temporal breaks for good. Governance still answers."""
PARTIES = {name: f"u-{name}" for name in ("contosso", "fabrikam", "litware")}


class Governance:
    """The documents of queries, as the activities of the collaborators' workers change them, and the effects, counted."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.effects: Counter[str] = Counter()
        self.released = asyncio.Event()
        """Set it to let the votes on queries named ``slow`` end."""
        self._numbers = itertools.count(11)

    def _store(self, effect: str, name: str, **members: Any) -> Document:
        self.effects[f"{effect} {name}"] += 1
        version = f"2.{next(self._numbers)}"
        before = self.documents[name].model_dump() if name in self.documents else {"id": name}
        self.documents[name] = Document(**before | {"version": version} | members)
        return self.documents[name]

    def generate_query_document(self, request: Any) -> Any:
        text = request.spec.digest()
        return worlds.DRAFT.model_copy(update={"document_id": request.spec.name, "data": text, "digest": document_digest(text)})

    def store_draft(self, request: Any) -> DraftStored:
        stored = self._store("draft", request.command.query, state="Draft", data=request.draft.data)
        return DraftStored(version=stored.version or "", digest=document_digest(str(stored.data)))

    def determine_dataset_owners(self, request: Any) -> DatasetOwners:
        held = self.documents[request.query]
        return DatasetOwners(owners=worlds.OWNERS, version=held.version or "", digest=document_digest(str(held.data)))

    def propose_query(self, request: Any) -> QueryProposed:
        name = request.command.query
        held = self._store("proposal", name, state="Proposed", proposal_id=f"p-{name}-{next(self._numbers)}")
        return QueryProposed(proposal_id=held.proposal_id, version=held.version or "", digest=document_digest(str(held.data)))

    def withdraw_proposal(self, request: Any) -> ProposalWithdrawn:
        self._store("withdrawal", request.command.query, state="Draft", proposal_id="")
        return ProposalWithdrawn()

    def verify_decision(self, request: Any) -> Any:
        return worlds.decided(request).model_copy(update={"expires": datetime.now(UTC) + timedelta(days=30)})

    def accept_query(self, request: Any) -> Any:
        approver = request.token.split(".")[1]
        self.effects[f"vote {approver} {request.query}"] += 1
        if request.query.startswith("slow"):
            return self._slow_ballot(approver)
        name = request.query
        votes = (*(self.documents[name].final_votes or ()), Ballot(approver_id=approver, ballot="accepted"))
        done = len(votes) == len(worlds.OWNERS)
        self._store("ballot", name, version=self.documents[name].version, final_votes=votes, state="Accepted" if done else "Proposed")
        return BallotRecorded(
            proposal_state="Accepted" if done else "Open", ballots={vote.approver_id: "accepted" for vote in votes if vote.ballot}
        )

    async def _slow_ballot(self, approver: str) -> BallotRecorded:
        await self.released.wait()
        return BallotRecorded(proposal_state="Open", ballots={approver: "accepted"})

    def reject_query(self, request: Any) -> BallotRecorded:
        self._store("rejection", request.query, state="Draft", proposal_id="")
        return BallotRecorded(proposal_state="Rejected", ballots={request.token.split(".")[1]: "rejected"})

    def answers(self) -> dict[str, Any]:
        """Answers of the activities of all workers."""
        own = {
            name: getattr(self, name)
            for name in (
                *("generate_query_document", "determine_dataset_owners", "propose_query", "withdraw_proposal"),
                *("verify_decision", "accept_query", "reject_query"),
            )
        }
        # They do not end, and occupy no slot of a worker.
        held = {"find_query_change": LATER, "build_job": LATER}
        nothing = {"find_held": HeldFound(read_at=worlds.READ_AT, runs=()), "list_jobs": JobsFound()}
        drafts = {"create_document": self.store_draft, "update_document": self.store_draft}
        datasets, queries = worlds.publish_dataset_answers(), worlds.publish_query_answers()
        return worlds.prepare_answers() | worlds.run_query_answers() | queries | datasets | own | drafts | held | nothing


class Documents:
    """What a session reads of governance; each read is a request."""

    def __init__(self, governance: Governance, requests: Requests) -> None:
        self._governance, self._requests = governance, requests

    async def __aenter__(self) -> Documents:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def get(self, name: str) -> Document:
        async def read() -> Document:
            if name not in self._governance.documents:
                raise NotFound("UserDocumentNotFound", name)
            return self._governance.documents[name]

        found: Document = await self._requests.pass_through("get_document", read)
        return found

    async def find(self, name: str) -> Document | None:
        try:
            return await self.get(name)
        except NotFound:
            return None

    async def list_documents(self, labels: Any = None) -> list[Document]:
        async def read() -> list[Document]:
            return list(self._governance.documents.values())

        found: list[Document] = await self._requests.pass_through("list_documents", read)
        return found


class CountedSession(Session):
    """A session whose requests are counted."""

    def __init__(self, settings: Settings, env: WorkflowEnvironment, governance: Governance, requests: Requests) -> None:
        super().__init__(settings, plaintext=True)
        self._env, self._fake, self.requests = env, governance, requests

    async def temporal(self) -> Client:
        client = await client_with(self._env, TEST_KEYRING, accept_unbound=True)
        service: Any = client.service_client
        call = service._rpc_call

        async def counted(rpc: str, *arguments: Any, **options: Any) -> Any:
            return await self.requests.pass_through(rpc, lambda: call(rpc, *arguments, **options))

        service._rpc_call = counted
        return client

    def governance(self) -> Any:
        return Documents(self._fake, self.requests)

    def documents(self, client: Any) -> Any:
        return client


@dataclass
class Bench:
    """The server, its workers, and the profiles of the collaborators."""

    env: WorkflowEnvironment
    governance: Governance
    folder: Path

    def session(self, party: str, requests: Requests | None = None) -> CountedSession:
        settings = Settings(profile=party, party=party, parties=PARTIES, collaboration="flights", keys_dir=self.folder / party)
        return CountedSession(settings, self.env, self.governance, requests or Requests())


@pytest_asyncio.fixture(loop_scope="session")
async def bench(temporal_env: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("starters.operations.own_drafts.verify_draft_matches_spec", _same_text)
    # The documents here have no text that could be checked; tests/unit/test_query_check.py shows what the check refuses.
    for name in ("require_proposable", "require_proposable_draft"):
        monkeypatch.setattr(f"starters.operations.queries.{name}", _read_datasets)
    monkeypatch.setattr("starters.operations.query_names.author", lambda document: "u-fabrikam")
    monkeypatch.setattr("starters.operations.query_renewal.author", lambda document: "u-fabrikam")
    monkeypatch.setattr("starters.operations.conclude._pinned_ticket", _no_ledger)
    # The collaborators' workers run.
    monkeypatch.setattr("starters.operations.decisions.serve_own_queue", lambda session: nullcontext())
    monkeypatch.setattr("starters.operations.query_workflow.OWN_WORKER_SECONDS", 60.0)
    governance = Governance()
    answer = answering(governance.answers(), ARGUMENTS)
    workflows = {FRONTEND_QUEUE: (PublishQuery, PublishS3Dataset), CLEAN_ROOM_QUEUE: (RunQuery, Prepare, ConcludeRun, Cleanup)}
    async with AsyncExitStack() as stack:
        for queue in (FRONTEND_QUEUE, CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, *map(collaborator_queue, PARTIES)):
            spec = WorkerSpec(queue, queue, workflows.get(queue, ()), (answer,), **AT_ONCE)
            await stack.enter_async_context(create_worker(temporal_env.client, spec))
        yield Bench(temporal_env, governance, tmp_path)


def _same_text(data: str, spec: QuerySpec, collaboration: str) -> None:
    if data != spec.digest():
        raise Refused("DraftMismatch", "another text")


async def _read_datasets(session: CountedSession, draft: Any) -> None:
    async def read() -> None:
        return None

    await session.requests.pass_through("get_document", read)


async def _no_ledger(session: Session, run_id: str) -> None:
    return None


def query_spec(name: str) -> QuerySpec:
    return worlds.SPEC.model_copy(update={"name": name})


@dataclass(frozen=True)
class Case:
    """One command: what must exist before it, the command, and its effects."""

    party: str
    command: Callable[[Session, str], Awaitable[Any]]
    """Called with the name of the query, dataset or run."""
    effects: Callable[[str], dict[str, int]]
    """Expected effects by kind, with the most that may be counted."""
    workflow_id: Callable[[str, str], str]
    before: Callable[[Bench, str], Awaitable[Any]] | None = None


async def _created(bench: Bench, name: str) -> None:
    await create_query(bench.session("fabrikam"), query_spec(name))


async def _proposed(bench: Bench, name: str) -> None:
    await _created(bench, name)
    await propose_query(bench.session("fabrikam"), name)


async def _accepted(bench: Bench, name: str) -> None:
    text = query_spec(name).digest()
    bench.governance.documents[name] = Document(id=name, state="Accepted", version="2.5", data=text, proposer_id="u-fabrikam")


async def _running(bench: Bench, name: str) -> None:
    await start_run(bench.session("fabrikam"), "totals", "1" * 64, name)


async def _terminated(bench: Bench, name: str) -> None:
    await _running(bench, name)
    await bench.env.client.get_workflow_handle(run_workflow_id("flights", name)).terminate()


async def _approve(session: Session, name: str) -> Any:
    # Each command signs again, so that the token of a repetition is another one.
    return await send_decision(session, name, "approve", DecisionMessage(decision=f"approve.u-contosso.{unique('token')}"))


async def _reject(session: Session, name: str) -> Any:
    async with session.governance() as client:
        card: Any = SimpleNamespace(name=name, document=await session.documents(client).get(name))
    recorded = await recorded_decision(session, card, "reject")
    if recorded is not None:
        return recorded
    return await send_decision(session, name, "reject", DecisionMessage(decision=f"reject.u-contosso.{unique('token')}"))


async def _clean_up(session: Session, name: str) -> Any:
    return await run_cleanup(session, apply=True)


async def _publish(session: Session, name: str) -> Any:
    spec = worlds.publication("aws-s3").spec
    return await publish_dataset(session, DatasetSpec.model_validate(spec.model_dump(by_alias=True) | {"name": name}))


CASES = {
    "query create": Case(
        "fabrikam", lambda session, name: create_query(session, query_spec(name)), lambda name: {f"draft {name}": 1}, query_workflow_id
    ),
    "query update": Case(
        "fabrikam",
        lambda session, name: update_query(session, query_spec(name)),
        # The same text is another version of the same document.
        lambda name: {f"draft {name}": 3},
        query_workflow_id,
        _created,
    ),
    "query propose": Case(
        "fabrikam",
        propose_query,
        lambda name: {f"draft {name}": 1, f"proposal {name}": 1},
        query_workflow_id,
        _created,
    ),
    "query withdraw": Case(
        "fabrikam",
        lambda session, name: withdraw_query(session, name, only_proposal=True),
        lambda name: {f"draft {name}": 1, f"proposal {name}": 1, f"withdrawal {name}": 1},
        query_workflow_id,
        _proposed,
    ),
    "query approve": Case(
        "contosso",
        _approve,
        lambda name: {f"draft {name}": 1, f"proposal {name}": 1, f"vote u-contosso {name}": 1, f"ballot {name}": 1},
        query_workflow_id,
        _proposed,
    ),
    "query reject": Case(
        "contosso",
        _reject,
        lambda name: {f"draft {name}": 1, f"proposal {name}": 1, f"rejection {name}": 1},
        query_workflow_id,
        _proposed,
    ),
    "query renew": Case(
        "fabrikam",
        lambda session, name: renew_query(session, name, query_spec(name)),
        lambda name: {f"draft {name}-r2": 1, f"proposal {name}-r2": 1},
        lambda collaboration, name: query_workflow_id(collaboration, f"{name}-r2"),
        _accepted,
    ),
    "cleanup": Case("litware", _clean_up, lambda name: {}, lambda collaboration, name: cleanup_workflow_id(collaboration, "apply")),
    "dataset publish": Case("contosso", _publish, lambda name: {}, dataset_workflow_id),
    "run start": Case("fabrikam", lambda session, name: start_run(session, "totals", "1" * 64, name), lambda name: {}, run_workflow_id),
    "run cancel": Case("fabrikam", cancel_run, lambda name: {}, run_workflow_id, _running),
    "run conclude": Case("fabrikam", conclude_run, lambda name: {}, run_workflow_id, _terminated),
}


async def killed_and_repeated(bench: Bench, case: Case, kill_at: int | None, *, after: bool, loses_temporal: bool = False) -> bool:
    """Kill the command at one of its requests, and repeat it. Return whether it came that far."""
    name = unique("q").replace("_", "-")
    if case.before is not None:
        await case.before(bench, name)
    requests = Requests(kills=True, kill_at=kill_at, after=after, effects=EFFECTS, **(LOST if loses_temporal else {}))
    error: CleanRoomError | None = None
    try:
        await with_mapped_errors(case.command(bench.session(case.party, requests), name))
    except Killed:
        pass
    except Unavailable as caught:
        error = caught
    reached = requests.dead
    if loses_temporal and reached:
        assert error is not None
        assert (error.code, error.party) == ("TemporalUnavailable", "operator")
        assert "broke" in error.message
        assert AGAIN in (error.hint or "")
    handle = bench.env.client.get_workflow_handle(case.workflow_id("flights", name))
    # The repetition has another process, with another session and other tokens.
    await case.command(bench.session(case.party), name)
    described = await handle.describe()
    first = await anext(handle.fetch_history_events(page_size=1))
    assert described.run_id == first.workflow_execution_started_event_attributes.first_execution_run_id, "the workflow was started twice"
    counted = {kind: count for kind, count in bench.governance.effects.items() if kind.split(" ")[-1] in (name, f"{name}-r2")}
    expected = case.effects(name)
    assert set(counted) == set(expected)
    assert all(count <= expected[kind] for kind, count in counted.items()), counted
    await ended(handle)
    return reached


async def ended(handle: WorkflowHandle[Any, Any]) -> None:
    """Cancel a workflow that is open, and wait for its end, so that open workflows do not add up."""
    with suppress(RPCError, WorkflowFailureError):
        await handle.cancel()
        await handle.result()


@pytest.mark.parametrize("command", CASES)
async def test_a_command_that_is_killed_can_be_repeated(bench: Bench, command: str) -> None:
    case = CASES[command]
    if EVERYWHERE:
        for after in (False, True):
            kill_at = 0
            while await killed_and_repeated(bench, case, kill_at, after=after):
                kill_at += 1
        return
    assert await killed_and_repeated(bench, case, None, after=True)


@pytest.mark.parametrize("command", CASES)
async def test_a_command_that_loses_temporal_says_so_and_can_be_repeated(bench: Bench, command: str) -> None:
    case = CASES[command]
    if EVERYWHERE:
        for after in (False, True):
            kill_at = 0
            while await killed_and_repeated(bench, case, kill_at, after=after, loses_temporal=True):
                kill_at += 1
        return
    assert await killed_and_repeated(bench, case, None, after=True, loses_temporal=True)


async def test_the_same_run_attaches_and_another_one_is_a_conflict(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    run_id, session = unique("r"), bench.session("fabrikam")
    first = await start_run(session, "totals", "1" * 64, run_id)
    again = await start_run(bench.session("fabrikam"), "totals", "1" * 64, run_id)
    assert "already exists with the same query and parameters" in capfd.readouterr().err
    described, same = await first.describe(), await again.describe()
    assert described.run_id == same.run_id
    for party, query, digest, parameters, named in [
        ("fabrikam", "others", "1" * 64, JobParameters(), "query (totals, not others)"),
        ("fabrikam", "totals", "2" * 64, JobParameters(), f"digest ({'1' * 64}, not {'2' * 64})"),
        ("fabrikam", "totals", "1" * 64, JobParameters(start_date="2013-01-01"), "parameters ({}, not"),
        ("contosso", "totals", "1" * 64, JobParameters(), "signer (u-fabrikam, not u-contosso)"),
    ]:
        with pytest.raises(Conflict, match="RunExists") as caught:
            await start_run(bench.session(party), query, digest, run_id, parameters)
        assert named in caught.value.message
    await ended(first)


async def test_the_same_query_attaches_and_another_one_is_a_conflict(bench: Bench) -> None:
    name = unique("q")
    created = await create_query(bench.session("fabrikam"), query_spec(name))
    assert await create_query(bench.session("fabrikam"), query_spec(name)) == created
    other = query_spec(name).model_copy(update={"sql": "SELECT 2"})
    for party, spec, options, named in [
        ("contosso", query_spec(name), {}, "proposer (fabrikam, not contosso)"),
        ("fabrikam", other, {}, "text ("),
        ("fabrikam", query_spec(name), {"approval_seconds": 60}, "approval period (1209600 s, not 60 s)"),
    ]:
        with pytest.raises(Conflict, match="QueryExists") as caught:
            await create_query(bench.session(party), spec, **options)
        assert named in caught.value.message
    await update_query(bench.session("fabrikam"), other)
    with pytest.raises(Conflict, match="its draft has been changed"):
        await create_query(bench.session("fabrikam"), query_spec(name))
    await ended(bench.env.client.get_workflow_handle(query_workflow_id("flights", name)))


async def test_a_repeated_decision_waits_for_the_vote_of_the_killed_command(bench: Bench) -> None:
    name = unique("slow")
    await _proposed(bench, name)
    with suppress(Killed):
        await _approve(bench.session("contosso", Requests(kills=True, after=True, effects=EFFECTS)), name)
    handle = bench.env.client.get_workflow_handle(query_workflow_id("flights", name), result_type=QueryState)
    repeated = asyncio.create_task(_approve(bench.session("contosso"), name))
    async with asyncio.timeout(PATIENCE):
        while [item.code for item in (await handle.query("state", result_type=QueryState)).refused] != ["BallotPending"]:
            await asyncio.sleep(0.02)
    assert not repeated.done()
    bench.governance.released.set()
    assert (await asyncio.wait_for(repeated, PATIENCE)).accepted == ("contosso",)
    assert bench.governance.effects[f"vote u-contosso {name}"] == 1
    await ended(handle)


async def test_a_decision_that_ended_the_proposal_is_recognised(bench: Bench) -> None:
    approved, rejected = unique("q"), unique("q")
    for name in (approved, rejected):
        await _proposed(bench, name)

    async def decide(party: str, name: str, decision: Literal["approve", "reject"]) -> QueryState:
        return await send_decision(bench.session(party), name, decision, DecisionMessage(decision=f"{decision}.u-{party}.signed"))

    async def recorded(party: str, name: str, decision: Literal["approve", "reject"]) -> str | None:
        card: Any = SimpleNamespace(name=name, document=bench.governance.documents[name])
        state = await recorded_decision(bench.session(party), card, decision)
        return state.stage if state else None

    assert await recorded("contosso", approved, "approve") is None
    await decide("contosso", approved, "approve")
    assert await recorded("contosso", approved, "approve") is None, "the workflow recognises a repetition while the proposal is open"
    await decide("litware", approved, "approve")
    assert await recorded("contosso", approved, "approve") == "Approved"
    assert await recorded("fabrikam", approved, "approve") is None
    assert await recorded("contosso", approved, "reject") is None

    await decide("litware", rejected, "reject")
    assert (await decide("litware", rejected, "reject")).stage == "Draft", "the command before it has ended the proposal"
    with pytest.raises(PreconditionFailed, match="QueryNotProposed"):
        await decide("contosso", rejected, "reject")
    assert await recorded("litware", rejected, "reject") == "Draft"
    assert await recorded("contosso", rejected, "reject") is None
    await propose_query(bench.session("fabrikam"), rejected)
    assert await recorded("litware", rejected, "reject") is None, "another proposal needs another decision"
    for name in (approved, rejected):
        await ended(bench.env.client.get_workflow_handle(query_workflow_id("flights", name)))
