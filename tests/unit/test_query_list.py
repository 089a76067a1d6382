"""`cleanroom query list`: its states are true, and its requests do not grow with the queries that are closed."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from cleanroom.documents.query import QUERY_LABELS
from cleanroom.errors import Internal, NotFound, Unavailable
from cleanroom.governance import Approver, Ballot, Consent, Document, DocumentSummary, Event, ProposalStatus
from cleanroom.governance.position import observe
from cleanroom.identifiers import TransactionId, document_digest, query_workflow_id
from cleanroom.messages.known import Compared, KnownState
from cleanroom.messages.query import GovernanceQueryState
from cleanroom.settings import Settings
from cleanroom.temporal import attributes
from starters.operations import query_list
from starters.operations.query_list import list_queries
from starters.operations.session import Session

START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
STATUS = WorkflowExecutionStatus
USERS = {"contosso": "u-contosso", "fabrikam": "u-fabrikam", "litware": "u-litware"}
OWNERS = ("u-contosso", "u-litware")


class World:
    """Governance and Temporal, which count the requests."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.ballots: dict[str, dict[str, str]] = {}
        self.workflows: list[Any] = []
        self.requests = 0
        self.temporal_answers = True
        self.compared: Compared | None = None
        self.position = 50
        self.off: set[str] = set()
        """Documents without consent."""
        self.runs: dict[str, list[Event]] = {}
        """Entries of runs that have started, by query."""

    # ------------------------------------------------------------------ what there is

    def draft(self, name: str, version: str = "2.10") -> None:
        approvers = tuple(Approver(approver_id=owner) for owner in OWNERS)
        self.documents[name] = Document(
            id=name, state="Draft", version=version, contract_id="flights", data="{}", labels=QUERY_LABELS, approvers=approvers
        )

    def propose(self, name: str, **ballots: str) -> None:
        self.draft(name)
        self.documents[name] = self.documents[name].model_copy(update={"state": "Proposed", "proposal_id": f"p.{name}"})
        self.ballots[f"p.{name}"] = {f"u-{owner}": ballot for owner, ballot in ballots.items()}

    def accept(self, name: str) -> None:
        self.propose(name, contosso="accepted", litware="accepted")
        self.documents[name] = self.documents[name].model_copy(update={"state": "Accepted", "version": "2.30"})

    def start(self, name: str, number: int) -> None:
        """Let runs of a query start."""
        entries = ({"runId": f"r-{each}", "requestDigest": str(each) * 64} for each in range(number))
        self.runs[name] = [Event(scope="", id="", seqno=seqno, timestamp="0", data=data) for seqno, data in enumerate(entries, 1)]

    def workflow(self, name: str, status: STATUS = STATUS.RUNNING, stage: str | None = None, **values: Any) -> None:
        """A workflow that knows what governance holds at this moment."""
        document = self.documents.get(name)
        pairs = [SearchAttributePair(attributes.QUERY, name)]
        if document is not None:
            ballots: Any = self.ballots.get(document.proposal_id, {})
            found = GovernanceQueryState(
                state=document.state,
                version=str(document.version),
                digest=document_digest("{}"),
                proposal_id=document.proposal_id,
                ballots=ballots,
            )
            shown = stage or {"Accepted": "approved"}.get(document.state, document.state.lower())
            pending = [owner.removeprefix("u-") for owner in OWNERS if owner not in ballots] if document.state == "Proposed" else []
            pairs += [
                SearchAttributePair(attributes.KNOWN, str(KnownState.of(found))),
                SearchAttributePair(attributes.STAGE, f"query.{shown}"),
                SearchAttributePair(attributes.STAGE_SINCE, START),
                SearchAttributePair(attributes.PENDING_FOR, pending),
                SearchAttributePair(attributes.APPROVED_BY, [owner.removeprefix("u-") for owner in ballots]),
            ]
        given = [SearchAttributePair(getattr(attributes, key), value) for key, value in values.items()]
        pairs = [pair for pair in pairs if pair.key not in {own.key for own in given}] + given
        start = START + dt.timedelta(seconds=len(self.workflows))
        item = {
            "status": status,
            "start_time": start,
            "id": query_workflow_id("flights", name),
            "typed_search_attributes": TypedSearchAttributes(pairs),
        }
        self.workflows.append(type("Execution", (), item)())

    # ------------------------------------------------------------------ what the command asks

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        self.requests += 1
        for item in self.workflows:
            yield item

    async def list_documents(self, labels: Any = None) -> list[DocumentSummary]:
        self.requests += 1
        observe(TransactionId(2, self.position))
        return [DocumentSummary(id=name, labels=QUERY_LABELS) for name in self.documents]

    async def get_document(self, name: str) -> Document:
        self.requests += 1
        if name not in self.documents:
            raise NotFound("UserDocumentNotFound", name)
        if name == "broken":
            raise Internal("InternalError", "the application threw")
        return self.documents[name]

    async def proposal_status(self, proposal_id: str) -> ProposalStatus:
        self.requests += 1
        ballots = [Ballot(approver_id=user, ballot=ballot) for user, ballot in self.ballots[proposal_id].items()]  # type: ignore[arg-type]
        document = self.documents[proposal_id.removeprefix("p.")]
        return ProposalStatus(
            proposer_id="u-fabrikam", state="Accepted" if document.state == "Accepted" else "Open", ballots=tuple(ballots)
        )

    async def document_consent(self, collaboration: str, document: str) -> Consent:
        self.requests += 1
        reason = {"code": "UserDocumentRuntimeOptionDisabled", "message": "off"}
        return Consent.model_validate({"status": "disabled", "reason": reason} if document in self.off else {"status": "enabled"})

    async def latest_event(self, collaboration: str, *, event_id: str, scope: str) -> Event | None:
        self.requests += 1
        return next(iter(self.runs.get(event_id.removeprefix("query."), ())), None)

    async def events(self, collaboration: str, *, event_id: str, scope: str, **where: Any) -> AsyncIterator[Event]:
        self.requests += 1
        for event in self.runs[event_id.removeprefix("query.")]:
            yield event


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def session(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    async def accepted(session: Any, client: Any, document: Document) -> dict[str, Any]:
        return {"state": "Expired", "expires": "then", "version": "2.10"}

    async def compared(client: Any, collaboration: str) -> Compared | None:
        return world.compared

    monkeypatch.setattr(query_list, "accepted_record", accepted)
    monkeypatch.setattr(query_list, "read_compared", compared)
    monkeypatch.setattr(query_list, "now", lambda: START + dt.timedelta(days=1))

    class Here(Session):
        def governance(self) -> Any:
            return world

        async def temporal(self, **options: Any) -> Any:
            if not world.temporal_answers:
                raise Unavailable("TemporalUnavailable", "on purpose")
            return world

    return Here(Settings(profile="fabrikam", party="fabrikam", parties=USERS, collaboration="flights", keys_dir=tmp_path), plaintext=True)


async def states(session: Session, **options: Any) -> dict[str, str]:
    return {row["query"]: row["state"] for row in await list_queries(session, **options)}


async def test_requests_do_not_grow_with_closed_and_approved_queries(world: World, session: Session) -> None:
    world.compared = Compared(position="2.50", listed=START + dt.timedelta(days=1))
    for number in range(300):
        world.accept(f"expired-{number}")
        world.workflow(f"expired-{number}", STATUS.COMPLETED, "expired", EXPIRES_AT=START)
        world.draft(f"withdrawn-{number}")
        world.workflow(f"withdrawn-{number}", STATUS.COMPLETED, "withdrawn")
        world.accept(f"approved-{number}")
        world.workflow(f"approved-{number}", EXPIRES_AT=START + dt.timedelta(days=30), RUN_LIMIT=2, DATASETS=["flights"])
    found = await states(session)
    assert (len(found), world.requests) == (900, 2)
    assert (found["expired-7"], found["withdrawn-7"], found["approved-7"]) == ("Expired", "Withdrawn", "Approved")


async def test_an_approved_query_that_the_watcher_has_not_compared_takes_one_request_for_its_consent(
    world: World, session: Session
) -> None:
    for number in range(100):
        world.accept(f"q-{number}")
        world.workflow(f"q-{number}", EXPIRES_AT=START + dt.timedelta(days=30), DATASETS=["flights"])
    assert set((await states(session)).values()) == {"Approved"}
    assert world.requests == 2 + 100 + 1, "and one for the consent to the dataset that they share"


@pytest.mark.parametrize(
    ("values", "off", "used", "state"),
    [
        ({}, "", 5, "Approved"),
        ({"RUN_LIMIT": 2}, "", 1, "Approved"),
        ({"RUN_LIMIT": 2}, "", 2, "Exhausted"),
        ({"RUN_LIMIT": 2}, "q", 2, "Exhausted"),
        ({}, "q", 0, "Consent Withdrawn"),
        ({"DATASETS": ["flights"]}, "flights", 0, "Consent Withdrawn"),
        ({"EXPIRES_AT": START + dt.timedelta(days=1)}, "q", 0, "Expired"),
        ({"EXPIRES_AT": START + dt.timedelta(days=1, seconds=1)}, "", 0, "Approved"),
    ],
)
async def test_an_approved_query_has_the_state_that_a_run_meets_although_its_workflow_does_not_know(
    values: dict[str, Any], off: str, used: int, state: str, world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where governance differs from the search attributes, the whole standing is read."""

    read: list[str] = []

    async def accepted(session: Any, client: Any, document: Document) -> dict[str, Any]:
        read.append(document.id)
        return {"state": state, "expires": None, "version": "2.10"}

    monkeypatch.setattr(query_list, "accepted_record", accepted)
    world.accept("q")
    world.workflow("q", **{"EXPIRES_AT": START + dt.timedelta(days=30), **values})
    world.off, world.position = {off}, 51
    world.start("q", used)
    world.compared = Compared(position="2.50", listed=START + dt.timedelta(days=1))
    assert await states(session) == {"q": state}
    assert read == (["q"] if state in ("Exhausted", "Consent Withdrawn") else [])


@pytest.mark.parametrize("status", [STATUS.FAILED, STATUS.CANCELED, STATUS.TERMINATED])
async def test_an_accepted_query_whose_workflow_ended_otherwise_is_read_in_governance(
    status: STATUS, world: World, session: Session
) -> None:
    """For example, its owners have voted in governance directly since, or it was created again in vain."""
    world.propose("q", contosso="accepted")
    world.workflow("q", status)
    world.accept("q")
    assert await states(session) == {"q": "Expired"}


async def test_an_open_query_is_compared_with_governance_by_one_request(world: World, session: Session) -> None:
    world.draft("draft")
    world.propose("proposed", contosso="accepted")
    for name in ("draft", "proposed"):
        world.workflow(name)
    draft, proposed = await list_queries(session)
    assert world.requests == 4
    assert (draft["state"], draft["version"]) == ("Draft", "2.10")
    assert (proposed["state"], proposed["pending"], proposed["accepted"]) == ("Not Approved", ["litware"], ["contosso"])
    assert proposed["since"] == START.isoformat()


@pytest.mark.parametrize(
    ("position", "listed", "requests"),
    [("2.50", 60, 2), ("2.49", 60, 4), ("2.50", 5, 4)],
    ids=["compared", "the ledger has grown", "the query is new"],
)
async def test_open_queries_are_not_compared_again_where_the_watcher_has_compared_them(
    position: str, listed: int, requests: int, world: World, session: Session
) -> None:
    world.compared = Compared(position=position, listed=START + dt.timedelta(seconds=listed))
    for name in ("draft", "other"):
        world.draft(name)
        world.workflow(name)
    assert (await states(session), world.requests) == ({"draft": "Draft", "other": "Draft"}, requests)


async def test_a_workflow_that_only_claims_to_be_of_a_query_is_not_listed(world: World, session: Session) -> None:
    world.draft("q")
    world.workflow("q")
    world.workflow("q", STATUS.COMPLETED, "withdrawn")
    world.workflows[-1].id = "mallory"
    assert await states(session) == {"q": "Draft"}


async def test_what_a_workflow_has_not_seen_yet_is_listed_as_governance_holds_it(world: World, session: Session) -> None:
    """For example because its worker is not running."""
    world.draft("proposed")
    world.propose("voted")
    world.propose("approved")
    world.draft("edited")
    for name in ("proposed", "voted", "approved", "edited"):
        world.workflow(name)
    world.propose("proposed")
    world.propose("voted", litware="accepted")
    world.accept("approved")
    world.draft("edited", version="2.99")
    rows = {row["query"]: row for row in await list_queries(session)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "proposed": "Not Approved", "voted": "Not Approved", "approved": "Expired", "edited": "Draft",
    }  # fmt: skip
    assert (rows["voted"]["pending"], rows["voted"]["accepted"], rows["edited"]["version"]) == (["contosso"], ["litware"], "2.99")


async def test_an_approved_query_whose_approvals_have_expired_is_expired_although_no_worker_has_closed_it(
    world: World, session: Session
) -> None:
    world.accept("q")
    world.workflow("q", EXPIRES_AT=START + dt.timedelta(hours=1))
    assert await states(session) == {"q": "Expired"}


async def test_workflows_that_ended_otherwise_or_have_no_draft_are_listed(world: World, session: Session) -> None:
    world.workflow("creating")
    world.propose("terminated")
    world.workflow("terminated", STATUS.TERMINATED)
    world.workflow("failed", STATUS.FAILED, "failed")
    world.draft("gone")
    world.workflow("gone")
    del world.documents["gone"]
    assert await states(session) == {
        "creating": "Creating", "terminated": "Terminated", "failed": "Failed", "gone": "Missing",
    }  # fmt: skip


async def test_the_latest_workflow_of_a_name_counts(world: World, session: Session) -> None:
    world.draft("q")
    world.workflow("q", STATUS.COMPLETED, "withdrawn")
    world.workflow("q")
    assert await states(session) == {"q": "Draft"}


async def test_one_document_that_cannot_be_read_does_not_hide_the_others(world: World, session: Session) -> None:
    for name in ("broken", "fine"):
        world.draft(name)
        world.workflow(name)
    assert await states(session) == {"broken": "unreadable: InternalError", "fine": "Draft"}


async def test_owners_that_the_search_attribute_has_no_room_for_are_read(world: World, session: Session) -> None:
    world.propose("q")
    world.workflow("q", PENDING_FOR=["contosso", "+1 more"])
    assert [row["query"] for row in await list_queries(session, waiting_for="litware")] == ["q"]
    assert await list_queries(session, waiting_for="fabrikam") == []


@pytest.mark.parametrize("lost", ["Temporal", "every workflow", "nothing"])
async def test_without_temporal_governance_is_listed(lost: str, world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.draft("draft")
    world.accept("accepted")
    world.temporal_answers = lost != "Temporal"
    if lost == "nothing":
        world.workflow("draft")
        assert await states(session) == {"draft": "Draft"}
        assert "1 more queries in governance have no workflow" in capsys.readouterr().err
    # An accepted document says nothing about the expiry of its approvals.
    draft = "No Workflow" if lost == "every workflow" else "Draft"
    assert await states(session, from_governance=lost == "nothing") == {"draft": draft, "accepted": "Expired"}
