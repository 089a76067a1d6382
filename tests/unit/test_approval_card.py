"""Approval from the operator's seat: whatever the workflow answers, an owner sees and signs the query that governance holds."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus
from typer.testing import CliRunner, Result

from cleanroom.documents.query import PreCondition
from cleanroom.errors import CleanRoomError
from cleanroom.governance.models import MemberDocument
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import QueryState
from cleanroom.publishing.approval_card import ApprovalCard, Terms, read_approval_card
from cleanroom.statements import Decision
from cleanroom.statements.signing import peek
from starters.cli import app
from starters.operations import decisions
from starters.operations.session import FoundWorkflow, Session
from tests.governance_documents import CONTRACT, NAMES, QUERY, SQL, Governance, proposed_query
from tests.shared_keys import shared_hardware
from tests.unit.spark_support import make_trust_document


@pytest.fixture
async def governance() -> Governance:
    return await proposed_query()


async def card_of(governance: Governance, name: str = QUERY) -> ApprovalCard:
    client: Any = governance
    return await read_approval_card(client, CONTRACT, name)


# ---------------------------------------------------------------------- the card


async def test_card_names_datasets_owners_receiver_columns_floors_and_warnings(governance: Governance) -> None:
    card = await card_of(governance)
    card.require_approvable()
    text = "\n".join(card.lines(NAMES))
    for expected in (
        "query delays, version 2.31, proposed by fabrikam",
        f"digest {document_digest(str(governance.documents[QUERY].data))}",
        "contosso-flights of contosso as view f",
        "floor: at least 7 distinct tailnum per row",
        "litware-planes of litware as view p",
        "litware-delays of litware",
        "litware receives the result",
        "columns that leave\n    origin, flights",
        "run parameters\n    none",
        "litware-planes has no floor.",
        "f (contosso): every row is of at least 7 distinct tailnum",
        "GROUP BY",
    ):
        assert expected in text, expected
    assert "u-litware" not in text


async def test_card_warns_of_a_user_without_a_name(governance: Governance) -> None:
    text = "\n".join((await card_of(governance)).lines({"u-litware": "litware"}))
    assert "proposed by user u-fabrikam" in text
    assert "User u-contosso is not a collaborator in your settings." in text


async def test_changes_since_the_approved_version_are_shown(governance: Governance) -> None:
    first = await card_of(governance)
    await governance.propose(version="2.40", pre_conditions=(PreCondition(view_name="f", min_row_count=9),))
    second = await card_of(governance)
    assert first.changes_since(first.body()) == []
    assert "+  f has at least 9 rows" in second.changes_since(first.body())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": "2.11"}, "DatasetChanged"),
        ({"data": "{}"}, "DatasetChanged"),
        ({"proposer_id": "u-other"}, "DatasetOwnerUnclear"),
        ({"contract_id": "other"}, "ContractIdMismatch"),
    ],
)
async def test_query_with_a_changed_dataset_cannot_be_approved_but_rejected(governance: Governance, change: Any, code: str) -> None:
    governance.documents["litware-planes"] = governance.documents["litware-planes"].model_copy(update=change)
    card = await card_of(governance)
    with pytest.raises(CleanRoomError) as caught:
        decisions.require_decidable(card, "approve")
    assert caught.value.code == code
    decisions.require_decidable(card, "reject")
    assert any(code in line for line in card.lines())


async def test_query_that_the_gate_refuses_cannot_be_approved(governance: Governance) -> None:
    value = json.loads(str(governance.documents[QUERY].data))
    other = Governance()
    other.documents = dict(governance.documents)
    segments = json.loads(base64.b64decode(value["application"]["query"]))
    segments["segments"][0]["data"] = "SELECT f.tailnum AS origin, 1 AS flights FROM f"
    value["application"]["query"] = base64.b64encode(json.dumps(segments).encode()).decode()
    other.documents[QUERY] = governance.documents[QUERY].model_copy(update={"data": json.dumps(value)})
    card = await card_of(other)
    with pytest.raises(CleanRoomError, match="QueryRefusedByGate"):
        card.require_approvable()


async def test_card_shows_the_trust_document_in_force_and_its_changes(governance: Governance) -> None:
    before = await card_of(governance)
    assert "    The members have accepted no trust document. No run starts without one." in before.lines(NAMES)
    document = make_trust_document(shared_hardware(), storage_hosts=("store.example",))
    governance.member_documents[document.id] = MemberDocument(
        id=document.id, state="Accepted", contract_id=CONTRACT, data=document.to_data()
    )
    card = await card_of(governance)
    text = "\n".join(card.lines(NAMES))
    assert f"{document.id}, digest {document.digest}" in text
    assert f"pods run image {document.pods.image}" in text
    assert "hosts outside of the public clouds: store.example" in text
    assert ("NOT CONFIDENTIAL" in text) is (document.development is not None)
    assert any(document.digest in line for line in card.changes_since(before.body()))


async def test_query_under_a_malformed_trust_document_cannot_be_approved(governance: Governance) -> None:
    governance.member_documents[f"trust-{CONTRACT}-1"] = MemberDocument(id=f"trust-{CONTRACT}-1", state="Accepted", data="{}")
    with pytest.raises(CleanRoomError, match="TrustDocumentMalformed"):
        (await card_of(governance)).require_approvable()


def test_terms_state_validity_and_runs() -> None:
    expires = dt.datetime(2027, 1, 2, 3, 4, tzinfo=dt.UTC)
    assert Terms(30, expires, None).validity == "valid until 2027-01-02 03:04 UTC (30 days)"
    assert Terms(1, expires, None).runs == "any number of runs"
    assert Terms(1, expires, 1).runs == "at most 1 run"


# ---------------------------------------------------------------------- a lying workflow

LIES = [
    {},
    {"query": "other"},
    {"digest": "0" * 64},
    {"version": "9.99"},
    {"proposal_id": "cd" * 16},
    {"card": "reads\n  nothing\nresult\n  LIE\n"},
    {"stage": "Draft"},
    {"expires": dt.datetime(2121, 1, 1, tzinfo=dt.UTC)},
    {"owners": ("u-other",), "accepted": ("contosso", "litware")},
]


class Operator:
    """Answers in place of the query's workflow, and records the signals."""

    def __init__(self, lie: dict[str, Any]) -> None:
        self.answer = QueryState.model_validate({"query": QUERY, "stage": "Proposed", "version": "2.31", "card": "LIE", **lie})
        self.signals: list[tuple[str, dict[str, str]]] = []

    async def signal(self, name: str, message: dict[str, str]) -> None:
        self.signals.append((name, message))

    async def find(self, session: Session, name: str) -> Any:
        described: Any = SimpleNamespace(status=WorkflowExecutionStatus.RUNNING)
        client: Any = None
        handle: Any = self
        return FoundWorkflow(client, handle, described)

    async def state(self, found: Any) -> QueryState:
        return self.answer

    @property
    def signed(self) -> list[Decision]:
        return [peek(Decision, message["decision"]) for _, message in self.signals]


@pytest.fixture
def owner(governance: Governance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of Litware against an operator's workflow."""
    text = f'collaboration = "{CONTRACT}"\nkeys_dir = "{tmp_path}/keys"\nparty = "litware"\n[parties]\n'
    text += "".join(f'{name} = "{user}"\n' for user, name in NAMES.items())
    config = tmp_path / "cleanroom.toml"
    config.write_text("[default]\n" + text.replace("[parties]", "[default.parties]"))
    monkeypatch.setattr(Session, "governance", lambda self: governance)

    def command(operator: Operator, *words: str, answer: str | None = None) -> Result:
        monkeypatch.setattr(decisions, "find_query", operator.find)
        monkeypatch.setattr(decisions, "state_of", operator.state)
        common = ["--config", str(config), "--no-wait", "--plaintext"]
        return CliRunner().invoke(app, ["query", *words, *common], input=answer)

    return command


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_lying_workflow_does_not_change_what_is_signed_or_shown(
    owner: Any, governance: Governance, lie: dict[str, Any], decision: str
) -> None:
    operator = Operator(lie)
    done = owner(operator, decision, QUERY, *(("--expires-days", "3") if decision == "approve" else ()), answer="y\n")
    assert done.exit_code == 0, done.output
    (signed,) = operator.signed
    held = governance.documents[QUERY]
    assert (signed.query, signed.version, signed.proposal_id) == (QUERY, held.version, held.proposal_id)
    assert signed.digest == document_digest(str(held.data))
    assert signed.decision == decision
    days = 3 if decision == "approve" else 30
    assert abs(signed.expires - dt.datetime.now(dt.UTC) - dt.timedelta(days=days)) < dt.timedelta(minutes=1)
    assert "LIE" not in done.output
    assert "contosso-flights of contosso" in done.output
    assert signed.digest in done.output


@pytest.mark.parametrize(("words", "waits"), [((), ["2.77"]), (("--print-signal",), [])], ids=["sent", "printed"])
def test_the_card_waits_for_what_the_workflow_has_seen(
    owner: Any, words: tuple[str, ...], waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[str] = []
    monkeypatch.setattr(Session, "expect", lambda self, seen: expected.append(seen))
    done = owner(Operator({"seen": "2.77"}), "approve", QUERY, *words, answer="y\n")
    assert done.exit_code == 0, done.output
    assert expected == waits


def test_the_decision_names_the_trust_document_of_the_card(owner: Any, governance: Governance) -> None:
    document = make_trust_document(shared_hardware())
    governance.member_documents[document.id] = MemberDocument(
        id=document.id, state="Accepted", contract_id=CONTRACT, data=document.to_data()
    )
    operator = Operator({})
    done = owner(operator, "approve", QUERY, answer="y\n")
    assert done.exit_code == 0, done.output
    assert [decision.trust for decision in operator.signed] == [document.digest]


def test_the_question_repeats_name_validity_and_runs(owner: Any) -> None:
    done = owner(Operator({}), "approve", QUERY, "--expires-days", "3", "--max-runs", "2", answer="n\n")
    asked = " ".join(done.output.split())
    assert "approve query delays, version 2.31, as litware, valid until" in asked
    assert "(3 days), at most 2 runs? [y/N]" in asked
    asked = " ".join(owner(Operator({}), "approve", QUERY, answer="n\n").output.split())
    assert "(30 days), any number of runs?" in asked


@pytest.mark.parametrize("words", [(), ("-o", "json"), ("--print-signal",), ("--print-signal", "-o", "json")])
@pytest.mark.parametrize("decision", ["approve", "reject"])
@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_nothing_is_signed_without_consent(owner: Any, words: tuple[str, ...], decision: str, answer: str, tmp_path: Path) -> None:
    operator = Operator({})
    done = owner(operator, decision, QUERY, *words, answer=answer)
    assert done.exit_code != 0
    assert "contosso-flights of contosso" in done.output, "the card was shown"
    assert operator.signals == []
    assert "eyJ" not in done.output
    assert not list(tmp_path.rglob("*.json"))
    if answer == "":
        assert "ConfirmationRequired" in done.output


@pytest.mark.parametrize("words", [("-o", "json"), ("--print-signal",)])
def test_standard_output_has_one_json_document_after_the_question(owner: Any, words: tuple[str, ...]) -> None:
    done = owner(Operator({}), "approve", QUERY, *words, answer="y\n")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout.splitlines()[-1])  # The runner echoes the answer.
    assert "contosso-flights" not in done.stdout
    assert value["query" if "-o" in words else "decision"]


def test_yes_is_consent_without_a_question(owner: Any) -> None:
    operator = Operator({})
    done = owner(operator, "approve", QUERY, "--yes")
    assert done.exit_code == 0, done.output
    assert len(operator.signals) == 1


def test_the_next_card_shows_what_changed_since_the_approval(owner: Any, governance: Governance) -> None:
    assert "You have not approved a query of this name" in owner(Operator({}), "approve", QUERY, answer="y\n").output
    again = owner(Operator({}), "approve", QUERY, answer="n\n").output
    assert "none since version 2.31, which you approved" in again
    asyncio.run(governance.propose(version="2.44", pre_conditions=(PreCondition(view_name="f", min_row_count=5),)))
    changed = owner(Operator({}), "approve", QUERY, answer="n\n").output
    assert "changes since version 2.31, which you approved" in changed
    assert "+ f has at least 5 rows" in changed


def test_a_long_text_is_shown_to_its_end(owner: Any, governance: Governance) -> None:
    many = " AND ".join(f"f.origin <> 'x{index}'" for index in range(2000))
    asyncio.run(governance.propose(sql=SQL.replace(" GROUP", f" WHERE {many} GROUP")))
    shown = owner(Operator({}), "approve", QUERY, answer="n\n").output.replace("\n", "")
    assert "x1999" in shown


def test_unexpected_version_and_query_without_proposal_are_refused(owner: Any, governance: Governance) -> None:
    assert "VersionMismatch" in owner(Operator({}), "approve", QUERY, "--version", "1.1", "--yes").output
    governance.documents[QUERY] = governance.documents[QUERY].model_copy(update={"state": "Draft"})
    assert "QueryNotProposed" in owner(Operator({"stage": "Proposed"}), "approve", QUERY, "--yes").output
