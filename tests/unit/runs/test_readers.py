"""How governance is read for a run: every read asks for this contract and run, and a malformed answer is no answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.errors import CleanRoomError
from cleanroom.governance import Approver, Ballot, Document, Event
from cleanroom.governance import Consent as WireConsent
from cleanroom.runs.ledger import (
    PinnedRequest,
    closed_event_id,
    event_scope,
    pin_entry,
    pinned_event_id,
    read_pin,
    request_digest,
    run_facts,
    run_key,
    runs_event_id,
    started_key,
)
from cleanroom.runs.reader import AcceptedDocument, AttestedReader, Consent, UserReader, to_accepted_document
from cleanroom.statements import RunRequest

AT = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
REQUEST = RunRequest(collaboration="flights", signer="u", expires=AT, query="q", digest="ab" * 32, run_id="r-1")
TOKEN = "header.payload.signature"


def event(data: Any, seqno: int = 1) -> Event:
    return Event(scope="runs", id="x", seqno=seqno, timestamp=str(int(AT.timestamp() * 1000) + seqno), data=data)


class Governance:
    """Answers of governance by name of the request; records what was asked."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        async def answer(*arguments: Any, **options: Any) -> Any:
            self.asked.append((name, *arguments, *options.items()))
            return self._answers[name]

        return answer

    async def events(self, contract_id: str, *, event_id: str, scope: str, from_seqno: int = 0) -> AsyncIterator[Event]:
        self.asked.append(("events", contract_id, event_id, scope, *([from_seqno] if from_seqno else [])))
        for found in self._answers["events"]:
            if found.seqno >= from_seqno:
                yield found


def reader(**answers: Any) -> tuple[UserReader, Governance]:
    client = Governance(**answers)
    return UserReader(client, "flights"), client  # type: ignore[arg-type]


def document(**changes: Any) -> Document:
    values: dict[str, Any] = {
        "id": "d",
        "state": "Accepted",
        "version": "2.17",
        "contract_id": "flights",
        "data": "{}",
        "labels": {"type": "dataset"},
        "proposal_id": "p",
        "proposer_id": "a",
        "approvers": (Approver(approver_id="b"), Approver(approver_id="a")),
        "final_votes": tuple(
            Ballot(approver_id=name, ballot=vote) for name, vote in (("b", "accepted"), ("c", "rejected"), ("a", "accepted"))
        ),
    }
    return Document(**(values | changes))


def test_accepted_document_has_the_ballots_that_accepted() -> None:
    assert to_accepted_document(document()) == AcceptedDocument(
        id="d",
        version="2.17",
        contract_id="flights",
        data="{}",
        labels={"type": "dataset"},
        proposal_id="p",
        proposer_id="a",
        approvers=("b", "a"),
        accepted_by=("a", "b"),
    )
    many = tuple(Ballot(approver_id=name, ballot="accepted") for name in reversed("abcdefghij"))
    assert to_accepted_document(document(final_votes=many)).accepted_by == tuple("abcdefghij")
    bare = to_accepted_document(document(labels=None, approvers=None, final_votes=None))
    assert (bare.labels, bare.approvers, bare.accepted_by) == ({}, (), ())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "Proposed"}, "UserDocumentNotFound"),
        ({"state": "Draft"}, "UserDocumentNotFound"),
        ({"data": None}, "GovernanceAnswerMalformed"),
        ({"data": {}}, "GovernanceAnswerMalformed"),
        ({"version": None}, "GovernanceAnswerMalformed"),
        ({"contract_id": None}, "GovernanceAnswerMalformed"),
    ],
)
def test_other_document_is_none_or_malformed(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(CleanRoomError) as caught:
        to_accepted_document(document(**changes))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("version", "position"), [("2.17", 17), ("3.0", 0), ("17", None), ("2.", None), (".5", None), ("2.x", None), ("a.5", None)]
)
def test_position_is_the_number_of_the_transaction(version: str, position: int | None) -> None:
    found = to_accepted_document(document(version=version))
    if position is not None:
        assert found.position == position
        return
    with pytest.raises(CleanRoomError) as caught:
        found.position  # noqa: B018
    assert caught.value.code == "GovernanceAnswerMalformed"


async def test_user_reads_documents_consent_and_users_of_the_contract() -> None:
    off = WireConsent.model_validate({"status": "disabled", "reason": {"code": "C", "message": "m"}})
    user, client = reader(get_document=document(), document_consent=off, list_identities=[SimpleNamespace(id="a"), SimpleNamespace(id="b")])
    assert (await user.accepted_document("d")).id == "d"
    assert await user.consent("d") == Consent(status="disabled", code="C", message="m")
    assert await user.active_users() == frozenset({"a", "b"})
    assert client.asked == [("get_document", "d"), ("document_consent", "flights", "d"), ("list_identities",)]
    on, _ = reader(document_consent=WireConsent(status="enabled"))
    assert await on.consent("d") == Consent(status="enabled", code="", message="")


async def test_clean_room_reads_documents_and_consent_with_its_attestation() -> None:
    attested = Governance(accepted_document=document(), document_consent=WireConsent(status="enabled"))
    registered = Governance(list_identities=[])
    found = AttestedReader(attested, registered, "flights")  # type: ignore[arg-type]
    assert (await found.accepted_document("d")).id == "d"
    assert await found.consent("d") == Consent(status="enabled")
    assert await found.active_users() == frozenset()
    assert attested.asked == [("accepted_document", "d"), ("document_consent", "d")]
    assert registered.asked == [("list_identities",)]


async def test_started_runs_are_counted_by_request_and_each_entry_is_read_once() -> None:
    data = [{"runId": "r-1", "requestDigest": "d1"}, {"runId": "r-1", "requestDigest": "d2"}, {"runId": "r-2"}, {"runId": 5}, "text", {}]
    answers: dict[str, Any] = {"events": [event(each, number + 1) for number, each in enumerate(data)]}
    answers["latest_event"] = answers["events"][-1]
    client = Governance(**answers)
    user = UserReader(client, "flights")  # type: ignore[arg-type]
    started = frozenset({"r-1.d1", "r-1.d2", "r-2."})
    for _ in range(2):
        found = await user.runs_started("q")
        assert found == started
        assert isinstance(found, frozenset), "the reader keeps the same set"
    assert [call[0] for call in client.asked] == ["latest_event", "events", "latest_event"]
    assert client.asked[:2] == [
        ("latest_event", "flights", ("event_id", "query.q"), ("scope", "runs")),
        ("events", "flights", "query.q", "runs"),
    ]
    client._answers["latest_event"] = event({"runId": "r-3"}, 7)
    client._answers["events"] = [*answers["events"], client._answers["latest_event"]]
    assert await user.runs_started("q") == started | {"r-3."}
    assert client.asked[-1] == ("events", "flights", "query.q", "runs", 6)
    nothing, _ = reader(latest_event=None)
    assert await nothing.runs_started("q") == frozenset()


async def test_earliest_pin_of_the_run_counts() -> None:
    first, second = pin_entry(REQUEST, TOKEN), pin_entry(REQUEST, "another")
    noise = [pin_entry(REQUEST, TOKEN) | {"name": "OTHER"}, pin_entry(REQUEST, TOKEN) | {"runId": "r-2"}, "text"]
    entries = [event(data, index) for index, data in enumerate([*noise, first, second])]
    user, client = reader(latest_event=entries[-1], events=entries)
    pinned = await user.pinned_request("r-1")
    assert pinned == PinnedRequest(run_id="r-1", query="q", request=TOKEN, at=entries[3].at)
    assert client.asked == [
        ("latest_event", "flights", ("event_id", "pinned.r-1"), ("scope", "runs")),
        ("events", "flights", "pinned.r-1", "runs"),
    ]
    only_noise, _ = reader(latest_event=entries[0], events=entries[:3])
    assert await only_noise.pinned_request("r-1") is None


async def test_run_without_an_entry_has_no_pin_and_is_open() -> None:
    user, client = reader(latest_event=None)
    assert await user.pinned_request("r-1") is None
    assert not await user.run_closed("r-1")
    assert [call[1:] for call in client.asked] == [
        ("flights", ("event_id", name), ("scope", "runs")) for name in ("pinned.r-1", "closed.r-1")
    ]
    closed, _ = reader(latest_event=event({}))
    assert await closed.run_closed("r-1")


@pytest.mark.parametrize(
    ("claims", "granted"),
    [({}, set()), ({HOST_DATA: None}, set()), ({HOST_DATA: [NOBODY]}, set()), ({HOST_DATA: ["ab", NOBODY, "cd"]}, {"ab", "cd"})],
)
async def test_granted_host_data_leaves_out_the_host_that_no_guest_has(claims: dict[str, Any], granted: set[str]) -> None:
    user, client = reader(delegate_policy=claims)
    assert await user.granted_host_data("secrets", "s") == granted
    assert client.asked == [("delegate_policy", "flights", "secrets", "s")]


# ---------------------------------------------------------------------- the entries


def test_every_entry_names_the_request_and_its_caller() -> None:
    facts = {
        "source": "cleanroom-application",
        "runId": "r-1",
        "query": "q",
        "queryDigest": "ab" * 32,
        "requestDigest": request_digest(TOKEN),
        "caller": "u",
    }
    assert run_facts(REQUEST, TOKEN) == facts
    assert pin_entry(REQUEST, TOKEN) == facts | {"name": "RUN_PINNED", "message": "this request is the run", "request": TOKEN}
    assert request_digest(TOKEN) != request_digest(TOKEN + "=")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "RUN_STARTED"},
        {"name": None},
        {"runId": "r-2"},
        {"runId": None},
        {"query": 5},
        {"query": None},
        {"request": 5},
        {"request": None},
    ],
)
def test_entry_of_another_kind_or_run_is_no_pin(changes: dict[str, Any]) -> None:
    entry = pin_entry(REQUEST, TOKEN)
    assert read_pin("r-1", entry, AT) is not None
    assert read_pin("r-1", {name: value for name, value in (entry | changes).items() if value is not None}, AT) is None


@pytest.mark.parametrize("data", [None, "text", 5, [], ["name", "runId"]])
def test_entry_that_is_no_object_is_nothing(data: Any) -> None:
    assert read_pin("r-1", data, AT) is None
    assert started_key(data) is None


def test_ids_of_entries_do_not_collide() -> None:
    ids = [event_scope("x"), runs_event_id("x"), closed_event_id("x"), pinned_event_id("x"), run_key("x", "y")]
    assert ids == ["run-x", "query.x", "closed.x", "pinned.x", "x.y"]
