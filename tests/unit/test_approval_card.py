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
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import Document
from cleanroom.governance.models import Approver, Ballot
from cleanroom.identifiers import document_digest
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.messages.query import GenerateQueryRequest, QueryState
from cleanroom.publishing.approval_card import ApprovalCard, Terms, read_approval_card
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision
from cleanroom.statements.signing import peek
from starters.cli import app
from starters.operations import decisions
from starters.operations.session import FoundWorkflow, Session

CONTRACT, QUERY = "flights", "delays"
NAMES = {"u-contosso": "contosso", "u-litware": "litware", "u-fabrikam": "fabrikam"}
SQL = "SELECT f.origin AS origin, COUNT(*) AS flights FROM f JOIN p ON f.tailnum = p.tailnum GROUP BY f.origin"


class Governance:
    """Documents by ID, as a user's client reads them."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    async def __aenter__(self) -> Governance:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def get_document(self, name: str) -> Document:
        if name not in self.documents:
            raise NotFound("UserDocumentNotFound", f"{name} does not exist")
        return self.documents[name]

    def publish(self, name: str, owner: str, access: str, schema: dict[str, str], **more: Any) -> None:
        spec = DatasetSpec.model_validate(
            {
                "name": name,
                "format": "csv",
                "access": access,
                "schema": schema,
                "store": {"kind": "aws-s3", "bucket": "rows", "subdirectory": name, "connectionSecret": "secret:s3"},
                **more,
            }
        )
        secrets = tuple(StoredSecret(kind=kind, secret_id=f"{owner}-{name}-{kind}") for kind in ("connection", "key"))
        descriptor = generate_descriptor(
            DescriptorRequest(
                collaboration=CONTRACT, owner_id=owner, spec=spec, store_url="https://s3.us-east-1.amazonaws.com", region="us-east-1",
                secrets=secrets,
            )
        )  # fmt: skip
        self.documents[name] = Document(
            id=name,
            state="Accepted",
            version="2.10",
            contract_id=CONTRACT,
            data=descriptor.data,
            labels=descriptor.labels,
            approvers=(Approver(approver_id=owner),),
            proposal_id="p-" + name,
            proposer_id=owner,
            final_votes=(Ballot(approver_id=owner, ballot="accepted"),),
        )

    async def propose(self, *, version: str = "2.31", sql: str = SQL, name: str = QUERY, **more: Any) -> None:
        spec = QuerySpec(name=name, inputs={"f": "contosso-flights", "p": "litware-planes"}, output="litware-delays", sql=sql, **more)
        reader: Any = UserReader(self, CONTRACT)  # type: ignore[arg-type]
        draft = await generate_query(reader, GenerateQueryRequest(collaboration=CONTRACT, spec=spec, proposer_id="u-fabrikam"))
        self.documents[name] = Document(
            id=name, state="Proposed", version=version, contract_id=CONTRACT, data=draft.data, labels=draft.labels,
            approvers=tuple(Approver(approver_id=owner) for owner in draft.owners), proposal_id="ab" * 16, proposer_id="u-fabrikam",
        )  # fmt: skip


@pytest.fixture
async def governance() -> Governance:
    found = Governance()
    floors = {"minGroupSize": 7, "identityColumn": "tailnum"}
    found.publish("contosso-flights", "u-contosso", "read", {"origin": "string", "tailnum": "string"}, privacy=floors)
    found.publish("litware-planes", "u-litware", "read", {"tailnum": "string"})
    found.publish("litware-delays", "u-litware", "write", {"origin": "string", "flights": "long"})
    await found.propose()
    return found


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
