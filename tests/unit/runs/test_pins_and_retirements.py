"""What the ledger knows about a run and about keys: the pinned request, the time of the pin, and the order of retirement and statement."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.identifiers import approver_key_document_id, decision_document_id, retirement_document_id
from cleanroom.messages.run import RunTicket
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.ledger import PinnedRequest, request_digest
from cleanroom.runs.published_keys import MAX_RETIREMENTS, published_keys
from cleanroom.statements import KeyHistory, SigningKey
from cleanroom.statements.keys import RetirementDocument
from tests.audit_records import COLLABORATION, QUERY
from tests.unit.runs.asymmetric_world import AsymmetricWorld

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
Work = Callable[[RunAuthority, RunTicket], Any]


class LedgerWorld(AsymmetricWorld):
    """With a pin that a test may set."""

    pinned: PinnedRequest | None = None
    asked = 0

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        assert run_id == self.run_id
        self.asked += 1
        return self.pinned

    def pin(self, ticket: RunTicket, after: dt.timedelta = dt.timedelta(0)) -> None:
        """Enter the pin, at a time after this world's."""
        self.pinned = PinnedRequest(run_id=self.run_id, query=QUERY, request=ticket.request, at=self.now + after)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> LedgerWorld:
    return LedgerWorld(tmp_path_factory.mktemp("pins"))


@pytest.fixture
def world(genuine: LedgerWorld) -> LedgerWorld:
    found = genuine.changed()
    assert isinstance(found, LedgerWorld)
    return found


def code_of(work: Any) -> str:
    try:
        asyncio.run(work)
    except CleanRoomError as error:
        return error.code
    return "accepted"


# ---------------------------------------------------------------------- the time of the pin


@pytest.mark.parametrize(
    ("clock", "pinned", "code"),
    [
        (dt.timedelta(0), None, "accepted"),
        (2 * HOUR, None, "StatementExpired"),
        # The clock was set back after the run had begun.
        (dt.timedelta(0), 2 * HOUR, "StatementExpired"),
        (-DAY, HOUR, "StatementExpired"),
        (-DAY, HOUR - dt.timedelta(seconds=1), "accepted"),
        # The pin does not stop the clock.
        (2 * HOUR, dt.timedelta(0), "StatementExpired"),
        (dt.timedelta(0), -DAY, "accepted"),
    ],
)
def test_no_clock_is_earlier_than_the_pin(world: LedgerWorld, clock: dt.timedelta, pinned: dt.timedelta | None, code: str) -> None:
    ticket = world.asked_by("fabrikam", expires=world.now + HOUR)
    run = asyncio.run(world.authority().authorise(ticket))
    if pinned is not None:
        world.pin(ticket, pinned)
    checks: list[Work] = [
        lambda authority, ticket: authority.verify_caller(ticket),
        lambda authority, ticket: authority.authorise(ticket),
        lambda authority, ticket: authority.still_authorised(run, run.datasets),
        lambda authority, ticket: authority.confirm(run, run.datasets),
        lambda authority, ticket: authority.verify_run_limit(run),
        lambda authority, ticket: authority.verify_pin(ticket),
    ]
    assert [code_of(check(world.authority(after=clock), ticket)) for check in checks] == [code] * len(checks)


@pytest.mark.parametrize(("pinned", "code"), [(10 * DAY, "ApprovalExpired"), (9 * DAY, "accepted")])
def test_approval_that_had_expired_when_the_run_began_stays_expired(world: LedgerWorld, pinned: dt.timedelta, code: str) -> None:
    ticket = world.asked_by("fabrikam", expires=world.now + 60 * DAY)
    run = asyncio.run(world.authority().authorise(ticket))
    world.pin(ticket, pinned)
    authority = world.authority()
    assert code_of(authority.authorise(ticket)) == code
    assert code_of(authority.confirm(run, run.datasets)) == code
    assert code_of(authority.verify_run_limit(run)) == code


# ---------------------------------------------------------------------- the pinned request


def test_another_request_than_the_pinned_one_is_refused_everywhere(world: LedgerWorld) -> None:
    first, second = world.asked_by("fabrikam"), world.asked_by("fabrikam")
    world.pin(first)
    checks: list[Work] = [
        lambda authority, ticket: authority.verify_caller(ticket),
        lambda authority, ticket: authority.verify_caller(ticket, past=True),
        lambda authority, ticket: authority.verify_pinned(ticket),
        lambda authority, ticket: authority.verify_pin(ticket),
        lambda authority, ticket: authority.authorise(ticket),
        lambda authority, ticket: authority.authorise(ticket, past=True),
    ]
    for check in checks:
        assert code_of(check(world.authority(), first)) == "accepted"
        with pytest.raises(CleanRoomError) as caught:
            asyncio.run(check(world.authority(), second))
        assert caught.value.code == "RunPinnedToAnotherRequest"
        assert caught.value.details == {"pinned": request_digest(first.request), "presented": request_digest(second.request)}


def test_run_without_a_pin_has_not_begun(world: LedgerWorld) -> None:
    ticket = world.asked_by("fabrikam")
    assert code_of(world.authority().verify_pinned(ticket)) == "RunNotPinned"
    assert code_of(world.authority().verify_caller(ticket)) == "accepted"
    world.pin(ticket)
    assert asyncio.run(world.authority().verify_pinned(ticket)).run_id == world.run_id


def test_pin_is_read_once_and_its_absence_every_time(world: LedgerWorld) -> None:
    authority, ticket = world.authority(), world.asked_by("fabrikam")
    for _ in range(2):
        assert asyncio.run(authority.pinned_request(world.run_id)) is None
    world.pin(ticket)
    for _ in range(2):
        assert asyncio.run(authority.pinned_request(world.run_id)) == world.pinned
    assert world.asked == 3


@pytest.mark.parametrize(
    ("caller", "code"), [("fabrikam", "accepted"), ("northwind", "accepted"), ("contosso", "accepted"), ("outsider", "CallerNotAuthorized")]
)
def test_only_who_may_run_the_query_pins_a_run(world: LedgerWorld, caller: str, code: str) -> None:
    assert code_of(world.authority().verify_pin(world.asked_by(caller))) == code
    world.update(QUERY, proposer_id=world.users["outsider"])
    assert code_of(world.authority().verify_pin(world.asked_by("outsider"))) == "accepted"


@pytest.mark.parametrize("run_id", ["closed", "digest", "unknown"])
def test_run_that_cannot_begin_is_not_pinned(world: LedgerWorld, run_id: str) -> None:
    ticket = world.asked_by("fabrikam", **({"digest": "0" * 64} if run_id == "digest" else {}))
    if run_id == "closed":
        world.closed = True
    if run_id == "unknown":
        del world.documents[QUERY]
    expected = {"closed": "RunClosed", "digest": "QueryDigestMismatch", "unknown": "QueryNotApproved"}
    assert code_of(world.authority().verify_pin(ticket)) == expected[run_id]


# ---------------------------------------------------------------------- after a release


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda world: None, "accepted"),
        (lambda world: setattr(world, "closed", True), "RunClosed"),
        (lambda world: world.disabled.add(QUERY), "UserDocumentRuntimeOptionDisabled"),
        (lambda world: world.disabled.add("litware-delays"), "UserDocumentRuntimeOptionDisabled"),
        (lambda world: world.disabled.add("litware-planes"), "accepted"),
        (lambda world: world.users.pop("fabrikam") and None, "accepted"),
    ],
)
def test_confirmation_looks_at_what_a_delayed_write_can_outlive(world: LedgerWorld, change: Any, code: str) -> None:
    authority = world.authority()
    run = asyncio.run(authority.authorise(world.asked_by("fabrikam")))
    change(world)
    assert code_of(authority.confirm(run, [run.sink])) == code
    assert code_of(authority.require_open(run.request)) == ("RunClosed" if code == "RunClosed" else "accepted")


@pytest.mark.parametrize(
    "change",
    [
        lambda world: None,
        lambda world: setattr(world, "closed", True),
        lambda world: world.users.pop("fabrikam") and None,
        lambda world: world.decide("litware", expires=world.now - DAY),
        lambda world: world.disabled.add(QUERY),
    ],
)
def test_past_run_is_derived_whatever_has_ended(world: LedgerWorld, change: Any) -> None:
    ticket = world.asked_by("fabrikam", expires=world.now - DAY)
    change(world)
    run = asyncio.run(world.authority().authorise(ticket, consent=False, past=True))
    assert (run.decisions, run.runs_left) == ((), None)
    assert [item.dataset.name for item in run.datasets][-1] == "litware-delays"
    with pytest.raises(CleanRoomError):
        asyncio.run(world.authority().authorise(ticket))


def test_past_run_still_needs_documents_ballots_and_a_right(world: LedgerWorld) -> None:
    def past(by: str = "fabrikam") -> str:
        return code_of(world.authority().authorise(world.asked_by(by), consent=False, past=True))

    assert past("outsider") == "CallerNotAuthorized"
    world.update(QUERY, final_votes=())
    assert past() == "QueryMissingApprovalsFromDatasetOwners"
    world.update("litware-planes", version="9.9")
    assert past() == "DatasetChanged"


# ---------------------------------------------------------------------- retired keys


def retire(world: LedgerWorld, name: str, *, at: int, number: int = 1, by: str = "", **members: Any) -> SigningKey:
    """Retire every key of ``name`` at a position of the ledger; returns the successor."""
    user, successor = world.users[name], SigningKey(Ed25519PrivateKey.generate())
    history = asyncio.run(published_keys(world, COLLABORATION, user))
    values = {"user_id": user, "retires": tuple(key.kid for key in history.keys), "keys": (successor.public,)} | members
    publisher = by or name
    document = retirement_document_id(user, number)
    world.accept(document, RetirementDocument(**values).to_data(), publisher, (publisher,), {})
    world.update(document, version=f"2.{at}")
    world.disabled.add(approver_key_document_id(user))
    return successor


def history(world: LedgerWorld, name: str) -> KeyHistory:
    return asyncio.run(published_keys(world, COLLABORATION, world.users[name]))


@pytest.mark.parametrize(
    ("requested_at", "code"), [(None, "ApproverKeyRetired"), (499, "accepted"), (500, "ApproverKeyRetired"), (501, "ApproverKeyRetired")]
)
def test_request_of_a_retired_key_counts_only_if_the_ledger_had_it_before(world: LedgerWorld, requested_at: int | None, code: str) -> None:
    ticket = world.asked_by("fabrikam")
    retire(world, "fabrikam", at=500)
    authority = RunAuthority(world, COLLABORATION, lambda: world.now, requested_at=requested_at)
    assert code_of(authority.verify_caller(ticket)) == code
    assert code_of(authority.authorise(ticket)) == code


def test_run_of_a_retired_key_can_be_undone(world: LedgerWorld) -> None:
    ticket = world.asked_by("fabrikam")
    retire(world, "fabrikam", at=0 + 1)
    assert code_of(world.authority().verify_caller(ticket)) == "ApproverKeyRetired"
    assert code_of(world.authority().verify_caller(ticket, past=True)) == "accepted"
    world.pin(ticket)
    assert code_of(world.authority().verify_pinned(ticket)) == "accepted"


@pytest.mark.parametrize(("recorded", "code"), [(499, "accepted"), (500, "ApproverKeyRetired"), (501, "ApproverKeyRetired")])
@pytest.mark.parametrize("owner", ["northwind", "contosso"])
def test_decision_of_a_retired_key_counts_only_if_the_ledger_had_it_before(
    world: LedgerWorld, owner: str, recorded: int, code: str
) -> None:
    retire(world, owner, at=500)
    world.update(decision_document_id(world.documents[QUERY].proposal_id, world.users[owner]), version=f"3.{recorded}")
    assert code_of(world.authority().authorise(world.asked_by("fabrikam"))) == code


def test_successor_signs(world: LedgerWorld) -> None:
    successor = retire(world, "northwind", at=1)
    assert code_of(world.authority().authorise(world.asked_by("fabrikam"))) == "ApproverKeyRetired"
    world.keys["northwind"] = successor
    world.decide("northwind")
    assert code_of(world.authority().authorise(world.asked_by("fabrikam"))) == "accepted"


def test_first_retirement_of_a_key_counts(world: LedgerWorld) -> None:
    old = tuple(key.kid for key in history(world, "northwind").keys)
    second = retire(world, "northwind", at=700, number=2, retires=old)
    third = retire(world, "northwind", at=600, number=3, retires=old)
    fourth = retire(world, "northwind", at=800, number=MAX_RETIREMENTS, retires=(*old, second.public.kid))
    found = history(world, "northwind")
    assert found.retired == dict.fromkeys(old, 600) | {second.public.kid: 800}
    assert found.active == (third.public, fourth.public)
    assert len(found.keys) == len(old) + 3
    retire(world, "northwind", at=900, number=MAX_RETIREMENTS + 1, retires=(third.public.kid,))
    assert third.public.kid not in history(world, "northwind").retired


def test_retirements_count_only_while_the_consent_is_off(world: LedgerWorld) -> None:
    retire(world, "northwind", at=500)
    world.disabled.clear()
    assert history(world, "northwind").retired == {}


@pytest.mark.parametrize("occupied", [False, True])
def test_consent_without_a_retirement_retires_every_key(world: LedgerWorld, occupied: bool) -> None:
    """The emergency brake of a user whose numbers others have occupied."""
    if occupied:
        retire(world, "northwind", at=500, by="outsider")
    world.disabled.add(approver_key_document_id(world.users["northwind"]))
    found = history(world, "northwind")
    assert found.retired == dict.fromkeys((key.kid for key in found.keys), 0)
    assert len(found.keys) == 3
    assert code_of(world.authority().authorise(world.asked_by("fabrikam"))) == "ApproverKeyRetired"


def test_retirement_for_another_user_is_refused(world: LedgerWorld) -> None:
    retire(world, "northwind", at=500, user_id=world.users["contosso"])
    with pytest.raises(CleanRoomError, match="contains keys of user") as caught:
        history(world, "northwind")
    assert caught.value.code == "ApproverKeyInvalid"


def test_key_that_is_published_twice_is_listed_once(world: LedgerWorld) -> None:
    first = history(world, "northwind").keys
    retire(world, "northwind", at=500, keys=(first[0],), retires=(first[1].kid,))
    assert history(world, "northwind").keys == first


def test_answer_that_says_nothing_about_a_retirement_is_no_absence(world: LedgerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = LedgerWorld.accepted_document

    async def read(self: LedgerWorld, document_id: str) -> Any:
        if document_id == retirement_document_id(world.users["northwind"], 7):
            raise NotFound("ContractNotFound", "x")
        return await genuine(self, document_id)

    monkeypatch.setattr(LedgerWorld, "accepted_document", read)
    assert history(world, "northwind").retired == {}
    world.disabled.add(approver_key_document_id(world.users["northwind"]))
    with pytest.raises(CleanRoomError, match="ContractNotFound"):
        history(world, "northwind")
