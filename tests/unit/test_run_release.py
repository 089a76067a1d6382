"""Delayed, repeated and foreign activities of a run: what they leave behind. The activities are real, governance is in memory."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
from typing import Any

import pytest

from cleanroom.documents.query import RunParameters
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.identifiers import approver_key_document_id, job_name
from cleanroom.messages.run import (
    CollectRequest,
    Revoked,
    RunTicket,
)
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.consent_receipt import CLOCK_SECONDS, RECEIPT_SECONDS, ConsentReceipt
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS
from cleanroom.spark.tombstone import is_tombstone, new_tombstone
from cleanroom.statements import load_or_create_signing_key
from tests.audit_records import COLLABORATION, QUERY
from tests.audit_world import AuditWorld
from tests.refusals import refused
from tests.run_activities import (
    FEBRUARY,
    JANUARY,
    RELEASES,
    configure_idp,
    delete,
    grant,
    issue_receipt,
    record,
    revoke,
    stage,
    stage_from_vault,
    submit,
    watch,
)
from tests.run_world import OUTSIDER, RunWorld, add_outsider


@pytest.fixture(scope="module")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    folder = tmp_path_factory.mktemp("release")
    world = AuditWorld(folder, max_runs=2, bounds=RunParameters(date_range=True))
    add_outsider(world, load_or_create_signing_key(folder / OUTSIDER))
    return world


@pytest.fixture
def runs(collaboration: AuditWorld) -> RunWorld:
    return RunWorld(collaboration)


async def begin(runs: RunWorld, ticket: RunTicket) -> None:
    """Prepare and start a run; its pods have everything they need."""
    for act in (stage, stage_from_vault, grant, configure_idp, issue_receipt):
        await act(runs, ticket)
    assert runs.usable_keys(ticket)


async def settle() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


async def arrive(runs: RunWorld) -> None:
    """Let every write arrive that is on its way, with all that follow."""
    runs.governance.hold = False
    while runs.governance.held:
        runs.governance.held.pop(0)[1].set_result(None)
        await settle()


# ---------------------------------------------------------------------- point 5: writes that arrive after the run was closed


@pytest.mark.parametrize("activity", sorted(RELEASES))
@pytest.mark.parametrize("ended", ["closed", "consent withdrawn", "request expired"])
async def test_release_that_arrives_late_is_undone(runs: RunWorld, activity: str, ended: str) -> None:
    ticket = runs.ticket("r-late")
    await record(runs, ticket, "PREPARE_STARTED")
    runs.governance.hold = True
    late = asyncio.create_task(RELEASES[activity](runs, ticket))
    await settle()
    assert runs.governance.held, "the first write is on its way"
    delayed, runs.governance.held = runs.governance.held, []
    runs.governance.hold = False
    if ended == "closed":
        await revoke(runs, ticket)
    elif ended == "consent withdrawn":
        runs.governance.withdrawn.add("litware-planes" if activity not in ("configure_idp", "get_key_with_skr") else "contosso-flights")
    else:
        runs.now += dt.timedelta(hours=13)
    for _, write in delayed:
        write.set_result(None)
    if (activity, ended) == ("watch_consent", "consent withdrawn"):
        assert (await late).document_id == "litware-planes"
    else:
        expected = {"closed": "RunClosed", "consent withdrawn": "UserDocumentRuntimeOptionDisabled", "request expired": "StatementExpired"}
        assert await refused(late) == expected[ended]
    left = runs.released(ticket)
    consent = runs.job(ticket).consent_secret_id
    if activity == "watch_consent" and consent in left:
        assert ConsentReceipt.model_validate_json(runs.governance.secrets[consent].reveal()).consent == "withdrawn"
        left.remove(consent)
    assert left == []


async def test_network_secret_of_a_closed_run_is_random_and_no_secret(runs: RunWorld) -> None:
    found = []
    for run_id in ("r-1", "r-2"):
        ticket = runs.ticket(run_id)
        await begin(runs, ticket)
        await revoke(runs, ticket)
        found.append(runs.governance.secrets[runs.job(ticket).network_secret_id or ""])
    assert all(is_tombstone(value) for value in found)
    assert found[0] != found[1]
    assert len({new_tombstone().reveal() for _ in range(20)}) == 20


async def test_network_secret_of_a_receipt_that_was_taken_back_is_made_again(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    runs.governance.hold = True
    late = asyncio.create_task(issue_receipt(runs, ticket))
    await settle()
    runs.governance.withdrawn.add(QUERY)
    await arrive(runs)
    assert await refused(late) == "UserDocumentRuntimeOptionDisabled"
    runs.governance.withdrawn.clear()
    await begin(runs, ticket)


async def test_job_that_arrives_after_the_run_was_closed_is_deleted(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    runs.governance.hold = True
    late = asyncio.create_task(submit(runs, ticket))
    await settle()
    delayed, runs.governance.held, runs.governance.hold = runs.governance.held, [], False
    await revoke(runs, ticket)
    delayed[0][1].set_result(None)
    assert await refused(late) == "RunClosed"
    assert runs.governance.jobs == {}


# ---------------------------------------------------------------------- point 2: the consent receipt


async def test_receipt_lives_no_longer_than_the_constant_request_and_approvals(runs: RunWorld) -> None:
    for hours, seconds in ((12.0, RECEIPT_SECONDS), (0.01, 36)):
        ticket = runs.ticket(f"r-{seconds}", hours=hours)
        await begin(runs, ticket)
        receipt = ConsentReceipt.model_validate_json(runs.governance.secrets[runs.job(ticket).consent_secret_id].reveal())
        assert receipt.expires - runs.now == dt.timedelta(seconds=seconds)
        assert receipt.job_digest == runs.job(ticket).digest()


def key_document(runs: RunWorld, user: str) -> str:
    return approver_key_document_id(runs.world.users[user])


def accept_next_trust_document(runs: RunWorld) -> None:
    members = copy.copy(runs.world)
    members.member_documents = dict(members.member_documents)
    members.accept_trust(runs.world.trust_document.model_copy(update={"number": 2}))
    runs.governance.member_document = members.member_document


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda runs, ticket: setattr(runs, "now", runs.now + dt.timedelta(hours=13)), "StatementExpired"),
        (lambda runs, ticket: runs.governance.users.pop("fabrikam"), "CallerNotAuthorized"),
        (lambda runs, ticket: runs.governance.withdrawn.add(key_document(runs, "fabrikam")), "ApproverKeyRetired"),
        (lambda runs, ticket: accept_next_trust_document(runs), "PolicyJobMismatch"),
    ],
    ids=["request expired", "caller removed", "caller's key retired", "trust document accepted"],
)
async def test_watch_verifies_the_whole_run_at_each_renewal(runs: RunWorld, end: Any, code: str) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    runs.governance.hold = True
    watching = asyncio.create_task(watch(runs, ticket))
    await settle()
    runs.governance.held.pop()[1].set_result(None)  # the first renewal
    await settle()
    end(runs, ticket)
    runs.now += dt.timedelta(seconds=RECEIPT_SECONDS / 2)
    await arrive(runs)
    assert await refused(watching) == code
    assert runs.usable_keys(ticket) == []


async def test_watch_ends_when_the_run_is_closed(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    runs.governance.hold = True
    watching = asyncio.create_task(watch(runs, ticket))
    await settle()
    delayed, runs.governance.held, runs.governance.hold = runs.governance.held, [], False
    await revoke(runs, ticket)
    delayed[0][1].set_result(None)
    assert await refused(watching) == "RunClosed"
    assert runs.usable_keys(ticket) == []
    assert runs.released(ticket) == []


async def test_receipt_is_not_renewed_by_a_write_that_was_delayed(runs: RunWorld) -> None:
    """The lifetime starts with the verification, so a delayed write gives pods nothing."""
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    runs.governance.hold = True
    late = asyncio.create_task(issue_receipt(runs, ticket))
    await settle()
    runs.now += dt.timedelta(seconds=RECEIPT_SECONDS + 1)
    await arrive(runs)
    await late
    assert runs.usable_keys(ticket) == []


# ---------------------------------------------------------------------- point 3: a run ID stands for one request


async def test_second_request_with_the_same_run_id_gets_nothing(runs: RunWorld) -> None:
    first, second = runs.ticket("r-1", days=JANUARY), runs.ticket("r-1", days=FEBRUARY)
    await begin(runs, first)
    for act in (*RELEASES.values(), submit, record, delete):
        assert await refused(act(runs, second)) == "RunPinnedToAnotherRequest"
    assert not (await revoke(runs, second)).closed
    assert runs.released(second) == ["events writer"] or not runs.released(second)[0].startswith("secrets")
    assert runs.usable_keys(first)


async def test_two_requests_that_race_for_a_run_id_give_one_run(runs: RunWorld) -> None:
    tickets = [runs.ticket("r-1", days=JANUARY), runs.ticket("r-1", days=FEBRUARY)]
    runs.governance.hold = True
    racing = [asyncio.create_task(record(runs, ticket, "PREPARE_STARTED")) for ticket in tickets]
    await settle()
    assert len(runs.governance.held) == 2, "both found no pin"
    runs.governance.held.reverse()
    await arrive(runs)
    results = await asyncio.gather(*racing, return_exceptions=True)
    assert isinstance(results[0], CleanRoomError)
    assert results[0].code == "RunPinnedToAnotherRequest"
    assert results[1] is None
    runs.restart()
    assert await refused(stage(runs, tickets[0])) == "RunPinnedToAnotherRequest"
    await begin(runs, tickets[1])


async def test_spark_service_submits_no_job_of_a_run_that_is_not_pinned(runs: RunWorld) -> None:
    assert await refused(submit(runs, runs.ticket("r-1"))) == "RunNotPinned"


async def test_runs_are_counted_by_request(runs: RunWorld) -> None:
    """Both approvals allow two runs."""
    for run_id in ("r-1", "r-2"):
        await begin(runs, runs.ticket(run_id))
        await issue_receipt(runs, runs.ticket(run_id))
    assert await refused(issue_receipt(runs, runs.ticket("r-3"))) == "ApprovalRunsExhausted"


async def test_request_that_was_revoked_before_it_began_is_used_up(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    assert await revoke(runs, ticket) == Revoked(secrets=0, grants=0)
    assert await refused(stage(runs, ticket)) == "RunClosed"


def missing(document_id: str) -> Any:
    raise NotFound("DocumentNotFound", document_id)


@pytest.mark.parametrize(
    "behind",
    [{"users": {}}, {"ledger": []}, {"member_document": missing}, {"documents": {}, "users": {}, "ledger": [], "member_document": missing}],
    ids=["users", "ledger", "trust", "all"],
)
async def test_a_worker_that_has_just_started_revokes_what_its_node_does_not_show_yet(runs: RunWorld, behind: dict[str, Any]) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    runs.restart()
    runs.process.lag_behind(**behind)
    revoked = await revoke(runs, ticket)
    assert revoked.closed
    assert runs.released(ticket) == []


async def test_expired_request_is_not_revived_by_a_clock_that_was_set_back(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1", hours=1)
    await record(runs, ticket, "PREPARE_STARTED")
    runs.governance.ledger[0] = runs.governance.ledger[0].model_copy(
        update={"timestamp": str(int((runs.now + dt.timedelta(hours=2)).timestamp() * 1000))}
    )
    runs.restart()
    assert await refused(stage(runs, ticket)) == "StatementExpired"


# ---------------------------------------------------------------------- point 6: others


@pytest.mark.parametrize("begun", [True, False], ids=["pinned run", "run without a pin"])
async def test_outsider_records_deletes_and_closes_nothing(runs: RunWorld, begun: bool) -> None:
    victim, foreign = runs.ticket("r-1"), runs.ticket("r-1", by=OUTSIDER)
    if begun:
        await begin(runs, victim)
        await submit(runs, victim)
    before = len(runs.governance.ledger)
    for step in CLEAN_ROOM_STEPS:
        proof = runs.proof(victim) if step == "PREPARED" else None
        await refused(record(runs, foreign, step, proof=proof))
    assert await refused(delete(runs, foreign)) == ("RunPinnedToAnotherRequest" if begun else "RunNotPinned")
    assert not (await revoke(runs, foreign)).closed
    assert len(runs.governance.ledger) == before
    assert list(runs.governance.jobs) == ([job_name(COLLABORATION, QUERY, "r-1")] if begun else [])
    assert bool(runs.usable_keys(victim)) == begun


async def test_outsider_who_was_removed_records_nothing(runs: RunWorld) -> None:
    del runs.governance.users[OUTSIDER]
    assert await refused(record(runs, runs.ticket("r-1", by=OUTSIDER))) == "CallerNotAuthorized"


# ---------------------------------------------------------------------- point 7: what the clean room attests


async def test_attested_entry_contains_no_word_of_the_caller(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    words = {"message": "Litware agreed by telephone that rows may leave", "digests": {"consent": "0" * 64}}
    await record(runs, ticket, "PREPARED", proof=runs.proof(ticket), **words)
    entry = next(event for event in runs.governance.ledger if event.scope == event_scope("r-1")).data
    assert "attestation" in entry
    assert "telephone" not in str(entry)
    assert not {"message", "digests"} & set(entry)
    for step in set(CLEAN_ROOM_STEPS) - {"PREPARED"}:
        assert await refused(record(runs, ticket, step, proof=runs.proof(ticket))) == "AuditStepNotAttested"


async def test_result_is_collected_for_the_derived_job_only(runs: RunWorld) -> None:
    first = runs.ticket("r-1")
    await begin(runs, first)
    request = CollectRequest(ticket=first, job_digest=runs.job(first).digest())
    assert await refused(runs.call(runs.process.governance.collect_result, request)) == "CompletionEvidenceMissing"


def test_clock_difference_is_shorter_than_a_receipt() -> None:
    assert CLOCK_SECONDS < RECEIPT_SECONDS
