"""The state of a query that commands show is the one that a run would meet."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from typer.testing import CliRunner

from cleanroom.documents.query import QUERY_LABELS
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, NotFound, Refused
from cleanroom.governance import Ballot, Document
from cleanroom.governance import Consent as WireConsent
from cleanroom.governance.models import Proposal
from cleanroom.identifiers import decision_document_id
from cleanroom.lifecycle.query import QueryFacts, next_command, query_state
from cleanroom.lifecycle.state import WorkflowEnd
from cleanroom.messages.known import ApprovedTerms
from cleanroom.publishing.adoption import query_specification
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.owner_decisions import refusal_under
from cleanroom.runs.reader import Consent
from cleanroom.settings import Settings
from cleanroom.temporal import attributes
from starters import consent
from starters.operations import adopt, own_drafts, queries, query_standing, query_workflow, runs
from starters.operations.approved_cards import remember_approval
from starters.operations.query_names import accepted_versions, generations, latest_name, names_before
from starters.operations.query_renewal import renew_query
from starters.operations.query_show import show_query
from starters.operations.query_standing import accepted_record, decision_lines, standing_record, state_with, workflow_facts
from starters.operations.session import Session
from starters.query_decisions import print_approval_card
from tests.audit_records import COLLABORATION, QUERY
from tests.audit_world import AuditWorld
from tests.refusals import refused


class World(AuditWorld):
    """Governance with the demo's query, approved for two runs, as a client and as a reader."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, max_runs=2)
        self.started: frozenset[str] = frozenset()
        self.off: set[str] = set()
        """Documents without consent."""
        self.client = self

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def runs_started(self, query: str) -> frozenset[str]:
        return self.started if query == QUERY else frozenset()

    async def consent(self, document_id: str) -> Consent:
        if document_id in self.off:
            return Consent(status="disabled", code="UserDocumentRuntimeOptionDisabled", message="off")
        return Consent(status="enabled")

    async def document_consent(self, collaboration: str, document_id: str) -> WireConsent:
        reason = {"code": "UserDocumentRuntimeOptionDisabled", "message": f"m[{self.users['litware']}]"}
        return WireConsent.model_validate({"status": "disabled", "reason": reason} if document_id in self.off else {"status": "enabled"})

    async def get(self, name: str) -> Document:
        return self.documents[name]

    async def get_proposal(self, proposal_id: str) -> Proposal:
        return Proposal(proposal_id=proposal_id, name="set_user_document", args={"document": {"version": "2.1"}})

    async def list_documents(self, labels: Mapping[str, str] | None = None) -> list[Document]:
        wanted = dict(labels or {}).items()
        return [document for document in self.documents.values() if wanted <= dict(document.labels or {}).items()]

    async def find(self, name: str) -> Document | None:
        return self.documents.get(name)

    def renewal(self, name: str, proposer: str = "fabrikam", **changes: Any) -> None:
        """Add a document with the text of the query and another name."""
        text = str(self.documents[QUERY].data).replace(f'"name":"{QUERY}"', f'"name":"{name}"')
        if proposer != "fabrikam":
            text = text.replace(self.users["fabrikam"], self.users[proposer])
        self.accept(name, text, proposer, ("contosso", "litware"), QUERY_LABELS)
        self.documents[name] = self.documents[name].model_copy(update=changes)


DRAFT = {"state": "Draft", "proposer_id": "", "proposal_id": ""}
PROPOSED = {"state": "Proposed"}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("standing"))


@pytest.fixture
def world(genuine: World) -> World:
    found = copy.copy(genuine)
    found.documents, found.client = dict(genuine.documents), found
    return found


@pytest.fixture
def session(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("cleanroom.runs.reader.UserReader", lambda client, contract: client)
    monkeypatch.setattr(query_standing, "now", lambda: world.now)

    class Here(Session):
        def governance(self) -> Any:
            return world

        def documents(self, client: Any) -> Any:
            return client

    settings = Settings(profile="fabrikam", party="fabrikam", parties=world.users, collaboration=COLLABORATION, keys_dir=tmp_path / "keys")
    return Here(settings, plaintext=True)


async def met(world: World) -> str:
    """Return the code with which a run is refused now, or the empty string."""
    try:
        await RunAuthority(world, COLLABORATION, lambda: world.now).authorise(world.ticket)
    except CleanRoomError as error:
        return error.code
    return ""


def expire(world: World) -> None:
    world.decide("litware", expires=world.now + dt.timedelta(hours=1), reason="until the audit")
    world.now += dt.timedelta(hours=2)


def use_up(world: World) -> None:
    world.started = frozenset({"a" * 64, "b" * 64})


def withdraw(world: World) -> None:
    world.off = {QUERY}


def withdraw_dataset(world: World) -> None:
    world.off = {"litware-planes"}


def reject(world: World) -> None:
    world.decide("litware", decision="reject")


def lose_dataset(world: World) -> None:
    del world.documents["litware-planes"]


def lose(world: World) -> None:
    del world.documents[decision_document_id(world.documents[QUERY].proposal_id, world.users["litware"])]


@pytest.mark.parametrize(
    ("change", "state", "code"),
    [
        (lambda world: None, "Approved", ""),
        (expire, "Expired", "ApprovalExpired"),
        (use_up, "Exhausted", "ApprovalRunsExhausted"),
        (withdraw, "Consent Withdrawn", "UserDocumentRuntimeOptionDisabled"),
        (withdraw_dataset, "Consent Withdrawn", "UserDocumentRuntimeOptionDisabled"),
        (lose, "Refused", "SignedDecisionMissing"),
        (reject, "Refused", "QueryMissingApprovalsFromDatasetOwners"),
        (lose_dataset, "Refused", "UserDocumentNotFound"),
        (lambda world: (expire(world), use_up(world), withdraw(world)), "Expired", "ApprovalExpired"),
    ],
    ids=[
        *("approved", "expired", "runs used up", "consent withdrawn", "consent to a dataset withdrawn"),
        *("decision missing", "decision is a rejection", "dataset missing", "all at once"),
    ],
)
async def test_the_state_of_an_accepted_query_is_what_a_run_meets(
    change: Any, state: str, code: str, world: World, session: Session
) -> None:
    change(world)
    found = await accepted_record(session, world, world.documents[QUERY])  # type: ignore[arg-type]
    assert (found["state"], found["refusal"]["code"] if found["refusal"] else "", await met(world)) == (state, code, code)
    shown = await standing_record(session, QUERY, (WorkflowEnd.OPEN, "draft"), knew=True)
    expected = {"Approved": "run start", "Consent Withdrawn": "consent on"}.get(state, "query renew")
    document = "litware-planes" if change is withdraw_dataset else QUERY
    assert (shown["state"], shown["next"]) == (state, f"cleanroom {expected} {document}")
    assert shown["next_by"] == (["litware"] if state == "Consent Withdrawn" else ["fabrikam"])
    if code in ("ApprovalExpired", "ApprovalRunsExhausted"):
        assert found["refusal"]["hint"] == f"Ask the owners again: `{shown['next']}`."
    if state == "Consent Withdrawn":
        assert f"`{shown['next']}`" in found["refusal"]["hint"]


@pytest.mark.parametrize("change", [expire, use_up, withdraw, withdraw_dataset, lose, reject, lose_dataset])
@pytest.mark.parametrize("exists", [False, True])
async def test_a_run_that_would_be_refused_is_not_started(
    change: Any, exists: bool, world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seek_workflow(*arguments: Any) -> object:
        return object() if exists else None

    async def nothing(*arguments: Any) -> str:
        return ""

    monkeypatch.setattr(runs, "seek_workflow", seek_workflow)
    monkeypatch.setattr(runs, "_seen_by_query", nothing)
    monkeypatch.setattr(runs, "now", lambda: world.now)
    await runs.require_startable(session, QUERY, "r-1")
    change(world)
    if exists:
        await runs.require_startable(session, QUERY, "r-1")
        return
    with pytest.raises(CleanRoomError, match=r"No run was started\.$") as caught:
        await runs.require_startable(session, QUERY, "r-1")
    assert caught.value.code == await met(world)


@pytest.mark.parametrize(
    "change", [lambda world: None, expire, use_up, withdraw, withdraw_dataset, lambda world: (expire(world), use_up(world))]
)
async def test_the_terms_in_search_attributes_give_the_same_state(change: Any, world: World, session: Session) -> None:
    before = await accepted_record(session, world, world.documents[QUERY])  # type: ignore[arg-type]
    change(world)
    after = await accepted_record(session, world, world.documents[QUERY])  # type: ignore[arg-type]
    terms = ApprovedTerms(dt.datetime.fromisoformat(after["expires"]), 2, ("contosso-flights", "litware-planes", "litware-delays"))
    assert before["state"] == "Approved"
    assert await refusal_under(world, QUERY, terms, world.now) == await met(world)


async def test_an_approver_without_a_dataset_of_the_query_decides_nothing_about_its_state(world: World, session: Session) -> None:
    """Anyone who proposes a query in governance directly can name more approvers. A run needs the owners' decisions."""
    document = world.documents[QUERY]
    votes = (*(document.final_votes or ()), Ballot(approver_id=world.users["fabrikam"], ballot="accepted"))
    world.documents[QUERY] = document.model_copy(update={"final_votes": votes})
    found = await accepted_record(session, world, world.documents[QUERY])  # type: ignore[arg-type]
    assert (found["state"], await met(world), len(found["decisions"])) == ("Approved", "", 2)


async def test_each_decision_shows_its_expiry_its_limit_and_the_runs_used(world: World, session: Session) -> None:
    world.decide("contosso", max_runs=None)
    expire(world)
    world.started = frozenset({"a" * 64})
    decisions = (await accepted_record(session, world, world.documents[QUERY]))["decisions"]  # type: ignore[arg-type]
    by_limit = {item["max_runs"]: item for item in decisions}
    assert [(item["runs_used"], item["problem"]) for item in (by_limit[None], by_limit[2])] == [(1, ""), (1, "ApprovalExpired")]
    assert by_limit[2]["reason"] == "until the audit"
    lines = decision_lines(decisions)
    assert sum("valid until" in line and "1 of any number of runs used" in line for line in lines) == 1
    assert sum("expired 20" in line and "1 of 2 runs used: until the audit" in line for line in lines) == 1


# ---------------------------------------------------------------------- workflows


def workflow(status: WorkflowExecutionStatus | None, stage: str) -> Any:
    pairs = [SearchAttributePair(attributes.STAGE, f"query.{stage}")]
    return type("Described", (), {"status": status, "typed_search_attributes": TypedSearchAttributes(pairs)})()


@pytest.mark.parametrize(
    ("status", "stage", "state"),
    [
        (WorkflowExecutionStatus.RUNNING, "draft", "Draft"),
        (None, "draft", "Draft"),
        (WorkflowExecutionStatus.COMPLETED, "expired", "Expired"),
        (WorkflowExecutionStatus.COMPLETED, "withdrawn", "Withdrawn"),
        (WorkflowExecutionStatus.CANCELED, "proposed", "Cancelled"),
        (WorkflowExecutionStatus.TERMINATED, "proposed", "Terminated"),
        (WorkflowExecutionStatus.TIMED_OUT, "draft", "Terminated"),
        (WorkflowExecutionStatus.FAILED, "creating", "Failed"),
    ],
)
def test_a_draft_whose_workflow_has_ended_has_a_state_that_leads_to_its_renewal(
    status: WorkflowExecutionStatus | None, stage: str, state: str
) -> None:
    facts = workflow_facts(workflow(status, stage))
    assert state_with("Draft", facts).word == state
    assert state_with("Accepted", facts).word == "Approved", "a run of an accepted query needs no workflow"
    if state != "Draft":
        assert next_command(state_with("Draft", facts), "totals") == "cleanroom query renew totals"
        assert next_command(state_with("", facts), "totals", held=False) == "cleanroom query create FILE", "there is nothing to renew"
    assert state_with("Draft", workflow_facts(None)).word == "No Workflow"


def test_every_combination_of_facts_has_a_state_with_a_command() -> None:
    documents: Any = ("", "Draft", "Proposed", "Accepted", "Missing")
    for document in documents:
        for end in WorkflowEnd:
            for stage in ("draft", "withdrawn", "expired"):
                for refusal in ("", "ApprovalExpired", "Anything") if document == "Accepted" else ("",):
                    state = query_state(QueryFacts(document, end, stage, refusal))
                    assert next_command(state, "totals", held=document != "").startswith("cleanroom ")


# ---------------------------------------------------------------------- names


async def test_a_first_name_means_the_latest_version_and_runs_use_the_latest_accepted_one(world: World, session: Session) -> None:
    assert await latest_name(session, QUERY) == QUERY
    assert await latest_name(session, "unknown") == "unknown"
    world.renewal(f"{QUERY}-r2")
    world.renewal(f"{QUERY}-r10", **PROPOSED)
    assert await latest_name(session, QUERY) == f"{QUERY}-r10"
    assert await latest_name(session, QUERY, accepted=True) == f"{QUERY}-r2"
    assert await latest_name(session, f"{QUERY}-r2") == f"{QUERY}-r2"
    assert await accepted_versions(session, QUERY) == [QUERY, f"{QUERY}-r2"]
    assert await accepted_versions(session, "contosso-flights") == ["contosso-flights"]


@pytest.mark.parametrize("changes", [DRAFT, PROPOSED, {}], ids=["draft", "proposed", "accepted"])
async def test_a_document_of_another_proposer_is_no_renewal(changes: dict[str, Any], world: World, session: Session) -> None:
    world.renewal(f"{QUERY}-r2", "contosso", **changes)
    assert await latest_name(session, QUERY) == QUERY
    assert await latest_name(session, QUERY, accepted=True) == QUERY


async def test_names_that_only_look_like_renewals_are_queries_of_their_own(world: World, session: Session) -> None:
    for name in (f"{QUERY}-r1", f"{QUERY}-r02", f"{QUERY}-rx", "other-r2"):
        world.renewal(name)
    assert [document.id for document in await generations(session, QUERY)] == [QUERY]
    assert [document.id for document in await generations(session, "other-r2")] == ["other-r2"]


async def test_the_versions_before_are_shown_with_their_decisions(world: World, session: Session) -> None:
    world.renewal(f"{QUERY}-r2", **PROPOSED)
    use_up(world)
    found = await standing_record(session, f"{QUERY}-r2", (WorkflowEnd.OPEN, "proposed"), knew=True)
    assert [(item["query"], item["state"], len(item["decisions"])) for item in found["renews"]] == [(QUERY, "Exhausted", 2)]
    assert found["next"] == f"cleanroom query approve {QUERY}-r2"
    before = await standing_record(session, QUERY, (WorkflowEnd.OPEN, "approved"), knew=True)
    assert (before["state"], before["renewed_as"], before["next"]) == ("Exhausted", f"{QUERY}-r2", f"cleanroom query show {QUERY}-r2")


def test_names_before_a_renewal_follow_from_its_number() -> None:
    assert names_before("totals-r3") == ["totals-r2", "totals"]
    assert (names_before("totals-r2"), names_before("totals"), names_before("totals-r1")) == (["totals"], [], [])


async def test_a_card_of_a_renewal_shows_what_changed_since_the_version_before(
    world: World, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Card:
        name, version, digest = QUERY, "2.5", "d"

        def body(self, names: Any = None) -> list[str]:
            return ["inputs", f"  {self.version}"]

        def lines(self, names: Any = None) -> list[str]:
            return ["the card"]

        def changes_since(self, before: Any) -> list[str]:
            return [] if list(before) == self.body() else ["-a floor"]

    console = Console(file=StringIO(), width=200)
    card: Any = Card()
    print_approval_card(session, card, console=console)
    remember_approval(session.settings.keys_dir, COLLABORATION, card)
    card.name, card.version = f"{QUERY}-r3", "2.9"
    print_approval_card(session, card, console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.index("You have not approved a query of this name") < printed.index("changes since version 2.5, which you approved")
    assert "-a floor" in printed


def test_withdrawing_consent_by_the_first_name_reaches_all_accepted_versions(
    world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.renewal(f"{QUERY}-r2")
    world.renewal(f"{QUERY}-r3", **PROPOSED)
    changed: list[tuple[str, bool]] = []

    async def change(own: Session, document: str, *, enabled: bool, option: str) -> dict[str, Any]:
        changed.append((document, enabled))
        return {}

    monkeypatch.setattr("starters.operations.consent.set_consent", change)
    monkeypatch.setattr(Session, "load", staticmethod(lambda profile, config: session))
    for words in (["off", QUERY], ["on", QUERY], ["off", f"{QUERY}-r2"]):
        assert CliRunner().invoke(consent.app, words).exit_code == 0
    assert changed == [(QUERY, False), (f"{QUERY}-r2", False), (f"{QUERY}-r2", True), (f"{QUERY}-r2", False)]


# ---------------------------------------------------------------------- renewals


class Commands:
    """The commands that a renewal uses, recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, open_workflow: bool) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.open_workflow = open_workflow
        for name in ("create_query", "propose_query", "update_query"):
            monkeypatch.setattr(queries, name, self._command(name.removesuffix("_query")))
        monkeypatch.setattr(adopt, "adopt_query", self._command("adopt"))
        monkeypatch.setattr(query_workflow, "find_query", self.find)
        monkeypatch.setattr(query_workflow, "read_state", self.state)
        monkeypatch.setattr(queries, "query_record", lambda session, state: {"query": state})

    def _command(self, kind: str) -> Any:
        async def execute(session: Session, first: Any, second: QuerySpec | None = None, **options: Any) -> dict[str, Any]:
            spec = first if isinstance(first, QuerySpec) else second
            name = first.name if isinstance(first, QuerySpec) else first
            self.calls.append((kind, name, spec.sql or "" if spec else "-"))
            return {}

        return execute

    async def find(self, session: Session, name: str) -> Any:
        if not self.open_workflow:
            raise NotFound("WorkflowNotFound", name)
        return type("Found", (), {"ended": False})

    async def state(self, session: Session, name: str) -> str:
        return name


def own_text(world: World, monkeypatch: pytest.MonkeyPatch, *, own: bool) -> None:
    monkeypatch.setattr(own_drafts, "has_own_text", lambda session, document, spec=None: own)


@pytest.mark.parametrize("with_file", [False, True], ids=["same text", "new text"])
async def test_an_accepted_query_is_renewed_by_another_document(
    with_file: bool, world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(monkeypatch, open_workflow=True)
    world.renewal(f"{QUERY}-r2", "contosso", **DRAFT)
    spec, _ = query_specification(world.documents[QUERY], COLLABORATION)
    new = QuerySpec(name=QUERY, inputs=spec.inputs, output=spec.output, sql="SELECT 1") if with_file else None
    record = await renew_query(session, QUERY, new)
    assert [call[:2] for call in commands.calls] == [("create", f"{QUERY}-r3"), ("propose", f"{QUERY}-r3")], "r2 is another user's"
    assert commands.calls[0][2] == ("SELECT 1" if with_file else "")
    assert (record["query"], record["renews"]) == (f"{QUERY}-r3", [QUERY])


@pytest.mark.parametrize(
    ("changes", "open_workflow", "expected"),
    [
        (PROPOSED, True, []),
        (PROPOSED, False, ["adopt"]),
        (DRAFT, False, ["adopt", "propose"]),
        (DRAFT, True, ["propose"]),
    ],
    ids=["open proposal", "cancelled proposal", "expired proposal", "rejected"],
)
async def test_a_draft_or_proposal_keeps_its_name(
    changes: dict[str, Any], open_workflow: bool, expected: list[str], world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(monkeypatch, open_workflow=open_workflow)
    own_text(world, monkeypatch, own=True)
    world.documents[QUERY] = world.documents[QUERY].model_copy(update=changes)
    record = await renew_query(session, QUERY)
    assert commands.calls == [(kind, QUERY, "-") for kind in expected]
    assert (record["query"], record["renews"]) == (QUERY, [])


async def test_a_killed_renewal_continues_with_the_text_of_the_version_before(
    world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(monkeypatch, open_workflow=True)
    own_text(world, monkeypatch, own=False)
    world.renewal(f"{QUERY}-r2", **DRAFT)
    record = await renew_query(session, QUERY)
    assert [call[:2] for call in commands.calls] == [("update", f"{QUERY}-r2"), ("propose", f"{QUERY}-r2")]
    assert record["renews"] == [QUERY]


async def test_only_the_proposer_renews(world: World, session: Session) -> None:
    session.settings = session.settings.model_copy(update={"party": "contosso"})
    with pytest.raises(Refused, match="only fabrikam") as caught:
        await renew_query(session, QUERY)
    assert caught.value.code == "NotQueryProposer"
    assert await refused(renew_query(session, "unknown")) == "UserDocumentNotFound"


async def test_an_open_proposal_of_another_text_is_withdrawn_first(world: World, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(monkeypatch, open_workflow=True)
    own_text(world, monkeypatch, own=False)
    world.documents[QUERY] = world.documents[QUERY].model_copy(update=PROPOSED)
    spec, _ = query_specification(world.documents[QUERY], COLLABORATION)
    assert await refused(renew_query(session, QUERY, spec)) == "AlreadyProposed"
    assert commands.calls == []


async def test_a_missing_keyring_is_not_a_missing_workflow(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    async def temporal(session: Session, **options: Any) -> Any:
        raise NotFound("SecretFileNotFound", "codec keyring: the file keyring.json does not exist.")

    monkeypatch.setattr(Session, "temporal", temporal)
    with pytest.raises(NotFound, match="SecretFileNotFound"):
        await show_query(session, QUERY)
