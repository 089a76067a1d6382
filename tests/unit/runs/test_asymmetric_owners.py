"""Every check of :class:`RunAuthority` in a world without symmetry: who may run, whose approval counts, which limit and expiry hold."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.identifiers import approver_key_document_id, decision_document_id
from cleanroom.runs.authority import RunAuthority
from cleanroom.statements.keys import KeyDocument
from tests.audit_records import COLLABORATION, DATASETS, QUERY
from tests.unit.runs.asymmetric_world import OWNERS, SINK, AsymmetricWorld

Change = Callable[[AsymmetricWorld], None]
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> AsymmetricWorld:
    return AsymmetricWorld(tmp_path_factory.mktemp("asymmetric"))


@pytest.fixture
def world(genuine: AsymmetricWorld) -> AsymmetricWorld:
    return genuine.changed()


def code_of(work: Any) -> str:
    try:
        asyncio.run(work)
    except CleanRoomError as error:
        return error.code
    return "authorised"


def authorise(world: AsymmetricWorld, by: str = "fabrikam", **changes: Any) -> str:
    return code_of(world.authority().authorise(world.asked_by(by, **changes)))


class FailingReader:
    """Passes requests on, except for the one with the number ``fails_at``: governance asks to wait."""

    def __init__(self, world: AsymmetricWorld, fails_at: int) -> None:
        self._world, self.fails_at, self.asked = world, fails_at, 0

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any) -> Any:
            self.asked += 1
            if self.asked == self.fails_at:
                raise Unavailable("TooManyRequests", f"{name} {arguments}")
            return await getattr(self._world, name)(*arguments)

        return ask


def test_no_read_that_fails_refuses_a_run(world: AsymmetricWorld) -> None:
    reader = FailingReader(world, 0)
    asyncio.run(RunAuthority(reader, COLLABORATION, now=lambda: world.now).authorise(world.asked_by("fabrikam")))
    assert reader.asked > len(OWNERS) * 2
    for fails_at in range(1, reader.asked + 1):
        reader = FailingReader(world, fails_at)
        with pytest.raises(Unavailable, match="TooManyRequests"):
            asyncio.run(RunAuthority(reader, COLLABORATION, now=lambda: world.now).authorise(world.asked_by("fabrikam")))


# ---------------------------------------------------------------------- who may run


@pytest.mark.parametrize("caller", ["fabrikam", *OWNERS])
def test_author_and_every_owner_may_run(world: AsymmetricWorld, caller: str) -> None:
    assert authorise(world, caller) == "authorised"


def test_a_registered_outsider_may_not_run(world: AsymmetricWorld) -> None:
    assert authorise(world, "outsider") == "CallerNotAuthorized"


def test_the_proposer_in_governance_and_the_author_in_the_text_may_run(world: AsymmetricWorld) -> None:
    world.update(QUERY, proposer_id=world.users["outsider"])
    assert authorise(world, "outsider") == "authorised"
    assert authorise(world, "fabrikam") == "authorised"


def test_owner_ids_are_those_of_the_dataset_documents(world: AsymmetricWorld) -> None:
    run = asyncio.run(world.authority().authorise(world.asked_by("fabrikam")))
    assert run.owners == tuple(sorted(world.users[name] for name in OWNERS))
    assert [decision.signer for decision in run.decisions] == list(run.owners)
    assert [item.dataset.name for item in run.datasets] == list(DATASETS)
    assert run.sink.dataset.name == SINK


@pytest.mark.parametrize("owner", OWNERS)
def test_every_owner_must_vote(world: AsymmetricWorld, owner: str) -> None:
    votes = tuple(vote for vote in world.documents[QUERY].final_votes or () if vote.approver_id != world.users[owner])
    world.update(QUERY, final_votes=votes)
    assert authorise(world) == "QueryMissingApprovalsFromDatasetOwners"


@pytest.mark.parametrize(
    ("missing", "datasets"),
    [
        (("litware",), ["litware-planes", "litware-weather"]),
        (("northwind",), ["litware-delays"]),
        (("contosso", "northwind"), ["contosso-flights", "litware-delays"]),
        (OWNERS, sorted(DATASETS)),
    ],
)
def test_refusal_names_the_datasets_whose_owners_have_not_voted(
    world: AsymmetricWorld, missing: tuple[str, ...], datasets: list[str]
) -> None:
    absent = {world.users[name] for name in missing}
    votes = tuple(vote for vote in world.documents[QUERY].final_votes or () if vote.approver_id not in absent)
    world.update(QUERY, final_votes=votes)
    with pytest.raises(CleanRoomError, match=", ".join(datasets)) as caught:
        asyncio.run(world.authority().authorise(world.asked_by("fabrikam")))
    assert caught.value.details == {"datasets": datasets, "owners": sorted(absent)}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"decision": "reject"}, "QueryMissingApprovalsFromDatasetOwners"),
        ({"expires": LONG_AGO}, "ApprovalExpired"),
        ({"digest": "0" * 64}, "SignedDecisionInvalid"),
        ({"proposal_id": "f" * 32}, "SignedDecisionInvalid"),
        ({"query": "another"}, "SignedDecisionInvalid"),
    ],
)
def test_the_decision_of_every_owner_counts(world: AsymmetricWorld, owner: str, changes: dict[str, Any], code: str) -> None:
    world.decide(owner, **changes)
    assert authorise(world) == code


@pytest.mark.parametrize("owner", OWNERS)
def test_every_owner_must_sign(world: AsymmetricWorld, owner: str) -> None:
    del world.documents[decision_document_id(world.documents[QUERY].proposal_id, world.users[owner])]
    assert authorise(world) == "SignedDecisionMissing"


def published(**members: Any) -> Change:
    """Change members of Northwind's decision document."""

    def change(world: AsymmetricWorld) -> None:
        name = decision_document_id(world.documents[QUERY].proposal_id, world.users["northwind"])
        found = {key: value(world) if callable(value) else value for key, value in members.items()}
        world.update(name, **found)

    return change


def votes_of(*names: str) -> Callable[[AsymmetricWorld], Any]:
    def votes(world: AsymmetricWorld) -> Any:
        ballot = (world.documents[QUERY].final_votes or ())[0]
        return tuple(ballot.model_copy(update={"approver_id": world.users[name]}) for name in names)

    return votes


@pytest.mark.parametrize(
    "change",
    [
        published(proposer_id=lambda world: world.users["fabrikam"]),
        published(final_votes=votes_of("northwind", "fabrikam")),
        published(final_votes=votes_of("fabrikam")),
        published(labels={}),
        published(labels={"type": "approver-key"}),
    ],
)
def test_a_decision_document_that_others_published_is_refused(world: AsymmetricWorld, change: Change) -> None:
    change(world)
    assert authorise(world) == "SignedDecisionInvalid"


# ---------------------------------------------------------------------- keys


def key_document(name: str, **members: Any) -> Change:
    def change(world: AsymmetricWorld) -> None:
        found = {key: value(world) if callable(value) else value for key, value in members.items()}
        world.update(approver_key_document_id(world.users[name]), **found)

    return change


@pytest.mark.parametrize("name", ["fabrikam", "northwind"])
@pytest.mark.parametrize(
    "members",
    [
        {"proposer_id": lambda world: world.users["outsider"]},
        {"final_votes": votes_of("outsider")},
        {"final_votes": ()},
        {"contract_id": "another"},
        {"data": lambda world: KeyDocument(user_id=world.users["outsider"], keys=(world.keys["outsider"].public,)).to_data()},
    ],
)
def test_a_key_document_of_another_shape_is_refused(world: AsymmetricWorld, name: str, members: dict[str, Any]) -> None:
    key_document(name, **members)(world)
    assert authorise(world) == "ApproverKeyInvalid"


def test_a_key_document_that_two_users_accepted_is_refused(world: AsymmetricWorld) -> None:
    key_document("fabrikam", final_votes=votes_of("fabrikam", "outsider"))(world)
    assert authorise(world) == "ApproverKeyInvalid"


def test_a_caller_without_a_published_key_is_refused(world: AsymmetricWorld) -> None:
    del world.documents[approver_key_document_id(world.users["fabrikam"])]
    assert authorise(world) == "ApproverKeyNotPublished"


# ---------------------------------------------------------------------- the request


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"query": "another"}, "TicketMismatch"),
        ({"run_id": "r-other"}, "TicketMismatch"),
        ({"digest": "0" * 64}, "QueryDigestMismatch"),
        ({"expires": LONG_AGO}, "StatementExpired"),
        ({"collaboration": "another"}, "CollaborationMismatch"),
    ],
)
def test_a_request_for_something_else_is_refused(world: AsymmetricWorld, changes: dict[str, Any], code: str) -> None:
    assert authorise(world, **changes) == code


def test_an_expired_request_is_accepted_only_to_undo(world: AsymmetricWorld) -> None:
    ticket = world.asked_by("fabrikam", expires=LONG_AGO)
    world.closed = True
    authority = world.authority()
    assert code_of(authority.verify_caller(ticket)) == "StatementExpired"
    assert asyncio.run(authority.verify_caller(ticket, past=True))[0].signer == world.users["fabrikam"]


def test_a_closed_run_is_refused(world: AsymmetricWorld) -> None:
    world.closed = True
    assert authorise(world) == "RunClosed"


# ---------------------------------------------------------------------- documents


def query_text(change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(world: AsymmetricWorld) -> None:
        world.edit(QUERY, lambda content: change(content) and None)
        world.approve_again()

    return apply


def dataset_text(name: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(world: AsymmetricWorld) -> None:
        world.edit(name, lambda content: change(content) and None)
        world.approve_again()

    return apply


def renamed(text: dict[str, Any]) -> None:
    text["name"] = text["datasetAccessPoint"]["name"] = "another"


def with_mode(mode: str) -> Callable[[dict[str, Any]], None]:
    """Change the access mode and everything that must agree with it."""
    word = {"read": "ReadOnly", "write": "ReadWrite"}[mode]

    def change(text: dict[str, Any]) -> None:
        text["datasetAccessPolicy"]["accessMode"] = mode
        point = text["datasetAccessPoint"]
        point["type"] = f"Volume_{word}"
        proxy = point["protection"]["proxyType"].split("__")
        point["protection"]["proxyType"] = "__".join([proxy[0], word, *proxy[2:]])

    return change


def both_accepted(name: str) -> Change:
    def apply(world: AsymmetricWorld) -> None:
        world.update(name, final_votes=votes_of(*OWNERS)(world))

    return apply


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (query_text(lambda text: text.update(name="another")), "QueryNameMismatch"),
        (query_text(lambda text: text.pop("approval")), "QueryNotPinned"),
        (query_text(lambda text: text["approval"].update(collaboration="another")), "CollaborationMismatch"),
        (query_text(lambda text: text["approval"]["datasets"].reverse()), "DatasetPinsMismatch"),
        (query_text(lambda text: text["approval"]["datasets"].pop()), "DatasetPinsMismatch"),
        (dataset_text("contosso-flights", renamed), "DatasetNameMismatch"),
        (dataset_text("contosso-flights", with_mode("write")), "AccessModeMismatch"),
        (dataset_text("litware-weather", with_mode("write")), "AccessModeMismatch"),
        (dataset_text(SINK, with_mode("read")), "AccessModeMismatch"),
        (both_accepted("litware-planes"), "DatasetOwnerUnclear"),
        (both_accepted(SINK), "DatasetOwnerUnclear"),
        (lambda world: world.update(QUERY, contract_id="another"), "ContractIdMismatch"),
        (lambda world: world.update(SINK, contract_id="another"), "ContractIdMismatch"),
        (lambda world: world.update(SINK, version="9.9"), "DatasetChanged"),
    ],
)
def test_a_consistent_but_wrong_document_is_refused(world: AsymmetricWorld, change: Change, code: str) -> None:
    change(world)
    assert authorise(world) == code


def test_a_consistent_change_of_a_dataset_is_accepted(world: AsymmetricWorld) -> None:
    """Control: what the refusals above change is signed and pinned correctly."""
    dataset_text("contosso-flights", lambda text: text["datasetAccessPoint"].update(subdirectory="elsewhere"))(world)
    assert authorise(world) == "authorised"


@pytest.mark.parametrize("document", [QUERY, *DATASETS])
def test_consent_to_every_document_counts(world: AsymmetricWorld, document: str) -> None:
    world.disabled = {document}
    assert authorise(world) == "UserDocumentRuntimeOptionDisabled"


# ---------------------------------------------------------------------- limits and expiries


@pytest.mark.parametrize(("started", "left"), [(0, 2), (1, 1), (2, "ApprovalRunsExhausted"), (4, "ApprovalRunsExhausted")])
def test_the_strictest_limit_holds(world: AsymmetricWorld, started: int, left: int | str) -> None:
    ticket = world.asked_by("fabrikam")
    world.started = frozenset({world.own_key(ticket), *(f"r-{index}" for index in range(started))})
    work = world.authority().authorise(ticket)
    assert (code_of(work) if isinstance(left, str) else asyncio.run(work).runs_left) == left


@pytest.mark.parametrize("strict", OWNERS)
def test_the_limit_of_each_owner_alone_holds(world: AsymmetricWorld, strict: str) -> None:
    for owner in OWNERS:
        world.decide(owner, max_runs=1 if owner == strict else None)
    world.started = frozenset({"r-1"})
    assert authorise(world) == "ApprovalRunsExhausted"


def test_another_text_under_the_pinned_version_is_refused(world: AsymmetricWorld) -> None:
    world.edit(SINK, lambda text: text["datasetAccessPoint"].update(subdirectory="elsewhere"))
    assert authorise(world) == "DatasetChanged"


def test_a_ticket_for_another_collaboration_is_refused(world: AsymmetricWorld) -> None:
    ticket = world.asked_by("fabrikam").model_copy(update={"collaboration": "another"})
    assert code_of(world.authority().authorise(ticket)) == "CollaborationMismatch"


def test_another_request_under_the_same_run_id_counts(world: AsymmetricWorld) -> None:
    ticket, other = world.asked_by("fabrikam"), world.asked_by("fabrikam")
    world.started = frozenset({world.own_key(ticket), world.own_key(other), "r-1"})
    assert code_of(world.authority().authorise(ticket)) == "ApprovalRunsExhausted"


def test_no_limit_of_any_owner_is_no_limit(world: AsymmetricWorld) -> None:
    for owner in OWNERS:
        world.decide(owner, max_runs=None)
    world.started = frozenset(f"r-{index}" for index in range(50))
    assert asyncio.run(world.authority().authorise(world.asked_by("fabrikam"))).runs_left is None


def test_the_second_count_sees_runs_that_started_in_between(world: AsymmetricWorld) -> None:
    authority, ticket = world.authority(), world.asked_by("fabrikam")
    run = asyncio.run(authority.authorise(ticket))
    world.started = frozenset({world.own_key(ticket), "r-1"})
    assert code_of(authority.verify_run_limit(run)) == "authorised"
    world.started = frozenset({world.own_key(ticket), "r-1", "r-2"})
    assert code_of(authority.verify_run_limit(run)) == "ApprovalRunsExhausted"


@pytest.mark.parametrize(
    ("after", "code"),
    [
        (dt.timedelta(hours=12) - dt.timedelta(seconds=1), "authorised"),
        (dt.timedelta(hours=12), "StatementExpired"),
        (dt.timedelta(days=9), "authorised"),
        (dt.timedelta(days=10), "ApprovalExpired"),
        (dt.timedelta(days=25), "ApprovalExpired"),
    ],
)
def test_the_first_expiry_ends_every_kind_of_check(world: AsymmetricWorld, after: dt.timedelta, code: str) -> None:
    lifetime = dt.timedelta(hours=12) if after <= dt.timedelta(hours=12) else dt.timedelta(days=60)
    ticket = world.asked_by("fabrikam", expires=world.now + lifetime)
    run = asyncio.run(world.authority().authorise(ticket))
    later = world.authority(after=after)
    assert code_of(later.authorise(ticket)) == code
    assert code_of(later.still_authorised(run, run.datasets)) == code
    assert code_of(later.verify_run_limit(run)) == code


# ---------------------------------------------------------------------- the check before each release


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda world: None, "authorised"),
        (lambda world: world.users.pop("fabrikam") and None, "CallerNotAuthorized"),
        (lambda world: setattr(world, "closed", True), "RunClosed"),
        (lambda world: world.disabled.add(QUERY), "UserDocumentRuntimeOptionDisabled"),
        (lambda world: world.disabled.add(SINK), "UserDocumentRuntimeOptionDisabled"),
        (lambda world: world.disabled.add("contosso-flights"), "authorised"),
    ],
)
def test_a_release_of_the_sinks_secrets_reads_again_what_can_change(world: AsymmetricWorld, change: Change, expected: str) -> None:
    authority = world.authority()
    run = asyncio.run(authority.authorise(world.asked_by("fabrikam")))
    change(world)
    assert code_of(authority.still_authorised(run, [run.sink])) == expected
