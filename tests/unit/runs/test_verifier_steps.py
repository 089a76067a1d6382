"""The steps of :class:`RunVerifier`: the pin that a release enters, the steps that release nothing, and what the memory of a run keeps."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.identifiers import sha256_hex
from cleanroom.messages.run import NOT_REMEMBERED, Reference, message_digest
from cleanroom.runs.ledger import pin_entry, pinned_event_id, request_digest
from cleanroom.runs.readings import SHARED_SECONDS
from cleanroom.runs.trust import RunTrust
from cleanroom.runs.verification import KNOWN, SNAPSHOT_SECONDS, SNAPSHOTS, RunVerifier
from cleanroom.trust import TrustSource
from tests.audit_records import COLLABORATION, DATASETS, QUERY, SPARK_HOST
from tests.audit_world import BOOTSTRAP, AuditWorld
from tests.unit.test_run_verification import Ledger, proof_of

FLIGHTS = DATASETS[0]
ALL_CONSENTS = {f"consent {name}" for name in (QUERY, *DATASETS)}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    world = AuditWorld(tmp_path_factory.mktemp("steps"), max_runs=None)
    # Derived here once: it cannot be derived within a running event loop.
    assert world.job.datasets
    return world


@pytest.fixture
def ledger(genuine: AuditWorld) -> Ledger:
    return Ledger(genuine)


async def code_of(work: Any) -> str:
    try:
        await work
    except CleanRoomError as error:
        return error.code
    return "accepted"


# ---------------------------------------------------------------------- the pin


Release = Callable[[RunVerifier, Ledger], Any]
RELEASES: dict[str, Release] = {
    "verify_run": lambda verifier, ledger: verifier.verify_run(ledger.world.ticket, proof_of(ledger.world)),
    "verify_release": lambda verifier, ledger: verifier.verify_release(ledger.world.ticket, proof_of(ledger.world), FLIGHTS),
    "verify_token_release": lambda verifier, ledger: verifier.verify_token_release(ledger.world.ticket, proof_of(ledger.world)),
    "verify_statement": lambda verifier, ledger: verifier.verify_statement(ledger.world.ticket, proof_of(ledger.world)),
    "pin": lambda verifier, ledger: verifier.pin(ledger.world.ticket),
}


@pytest.mark.parametrize("release", RELEASES)
async def test_first_release_pins_the_run_to_its_request(ledger: Ledger, release: str) -> None:
    ticket, verifier = ledger.world.ticket, ledger.verifier()
    await RELEASES[release](verifier, ledger)
    ((event_id, entry),) = ledger.pins
    assert event_id == pinned_event_id(ticket.run_id)
    assert (entry["request"], entry["requestDigest"]) == (ticket.request, request_digest(ticket.request))
    await RELEASES[release](verifier, ledger)
    await RELEASES[release](ledger.verifier(), ledger)
    assert len(ledger.pins) == 1


@pytest.mark.parametrize("release", RELEASES)
async def test_release_of_a_run_that_is_pinned_to_another_request_is_refused(ledger: Ledger, release: str) -> None:
    request = (await ledger.verifier().verify_caller(ledger.world.ticket))[0]
    ledger.pins.append((pinned_event_id(request.run_id), pin_entry(request, "another request")))
    assert await code_of(RELEASES[release](ledger.verifier(), ledger)) == "RunPinnedToAnotherRequest"
    assert len(ledger.pins) == 1


@pytest.mark.parametrize("release", RELEASES)
async def test_earlier_pin_of_a_concurrent_activity_counts(ledger: Ledger, release: str) -> None:
    verifier = ledger.verifier()
    request, _ = await verifier.verify_caller(ledger.world.ticket)

    async def late(data: Any, **place: Any) -> None:
        ledger.pins.extend([(place["event_id"], pin_entry(request, "another request")), (place["event_id"], data)])

    ledger.put_event = late  # type: ignore[method-assign]
    assert await code_of(RELEASES[release](verifier, ledger)) == "RunPinnedToAnotherRequest"


@pytest.mark.parametrize("release", RELEASES)
async def test_release_waits_until_governance_shows_the_pin(ledger: Ledger, release: str) -> None:
    async def lost(data: Any, **place: Any) -> None:
        pass

    ledger.put_event = lost  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="GovernanceBehind"):
        await RELEASES[release](ledger.verifier(), ledger)


@pytest.mark.parametrize("release", RELEASES)
async def test_closed_run_is_not_pinned(ledger: Ledger, release: str) -> None:
    ledger.closed.add(ledger.world.run_id)
    assert await code_of(RELEASES[release](ledger.verifier(), ledger)) == "RunClosed"
    assert ledger.pins == []


async def test_pin_returns_the_request(ledger: Ledger) -> None:
    verifier = ledger.verifier()
    request = await verifier.pin(ledger.world.ticket)
    assert (request.run_id, request.query, request.signer) == (ledger.world.run_id, QUERY, ledger.world.users["fabrikam"])
    assert await verifier.pin(ledger.world.ticket) == request


# ---------------------------------------------------------------------- the steps of Prepare


async def test_caller_is_verified_and_the_users_are_counted(ledger: Ledger) -> None:
    request, users = await ledger.verifier().verify_caller(ledger.world.ticket)
    assert (request.signer, users) == (ledger.world.users["fabrikam"], len(ledger.world.users))


async def test_query_is_fetched_for_a_verified_caller(ledger: Ledger) -> None:
    document, query = await ledger.verifier().fetch_query(ledger.world.ticket)
    assert (document.id, query.name) == (QUERY, QUERY)
    del ledger.world.users["fabrikam"]
    ledger.reads.clear()
    assert await code_of(ledger.verifier().fetch_query(ledger.world.ticket)) == "CallerNotAuthorized"
    assert not ledger.reads[QUERY]


async def test_approvals_are_verified_without_consent(ledger: Ledger) -> None:
    ledger.withdrawn.add(QUERY)
    run = await ledger.verifier().verify_approvals(ledger.world.ticket)
    assert len(run.decisions) == 2
    assert not ALL_CONSENTS & set(ledger.reads)
    ledger.world.decide("litware", decision="reject")
    assert await code_of(ledger.verifier().verify_approvals(ledger.world.ticket)) == "QueryMissingApprovalsFromDatasetOwners"


@pytest.mark.parametrize("document", [QUERY, *DATASETS])
async def test_consent_is_asked_for_again_whatever_is_known(ledger: Ledger, document: str) -> None:
    verifier, ticket = ledger.verifier(), ledger.world.ticket
    run = await verifier.verify_consent(ticket)
    assert run.document_ids == (QUERY, *DATASETS)
    ledger.withdrawn.add(document)
    assert await code_of(verifier.verify_consent(ticket)) == "UserDocumentRuntimeOptionDisabled"


async def test_consent_counts_as_checked_only_after_all_answers(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    await verifier.verify_release(ticket, proof, FLIGHTS)
    ledger.available = False
    assert await code_of(verifier.verify_consent(ticket)) == "GovernanceUnreachable"
    ledger.available = True
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    await verifier.verify_release(ticket, proof, FLIGHTS)
    assert set(ledger.reads) >= ALL_CONSENTS, "the check that failed is repeated"
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    await verifier.verify_release(ticket, proof, FLIGHTS)
    assert ledger.reads == Counter(["users", "closed", f"consent {QUERY}", f"consent {FLIGHTS}"])


async def test_checked_consent_is_not_asked_for_again_by_the_release_of_one_dataset(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    await verifier.verify_approvals(ticket)
    await verifier.verify_consent(ticket)
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    await verifier.verify_release(ticket, proof, FLIGHTS)
    assert ALL_CONSENTS & set(ledger.reads) == {f"consent {QUERY}", f"consent {FLIGHTS}"}


async def test_approvals_that_are_verified_again_leave_the_consent_unchecked(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    await verifier.verify_consent(ticket)
    await verifier.verify_approvals(ticket)
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    await verifier.verify_release(ticket, proof, FLIGHTS)
    assert set(ledger.reads) >= ALL_CONSENTS


async def test_statement_reads_no_dataset(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    first = await verifier.verify_run(ticket, proof)
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    assert await verifier.verify_statement(ticket, proof) == first
    assert ledger.reads == Counter(["users", "closed", f"consent {QUERY}"])


async def test_job_is_built_only_for_a_run_with_consent(ledger: Ledger) -> None:
    assert (await ledger.verifier().build_job(ledger.world.ticket)).digest() == ledger.world.job.digest()
    ledger.withdrawn.add(FLIGHTS)
    assert await code_of(ledger.verifier().build_job(ledger.world.ticket)) == "UserDocumentRuntimeOptionDisabled"


async def test_report_is_verified_for_this_run_and_at_this_time(ledger: Ledger) -> None:
    world, proof, verifier = ledger.world, proof_of(ledger.world), ledger.verifier()
    verdict = await verifier.verify_service(world.ticket, proof.report)
    assert (verdict.host_data, verdict.product) == (SPARK_HOST, world.trust.roots[-1].product)
    assert (verdict.checks[0], verdict.checks[-1]) == ("report-encoding", "uvm-measurement")
    assert verdict.service_key_digest == sha256_hex(json.loads(proof.report.payload)["servicePublicKey"].encode())
    await verifier.verify_policies(world.ticket, proof)
    other = world.another_run(dt.timedelta())
    assert await code_of(verifier.verify_service(other.ticket, proof.report)) == "NonceMismatch"
    ledger.now += dt.timedelta(days=365 * 60)
    assert await code_of(verifier.verify_policies(world.ticket, proof)) == "CertificateExpired"
    assert await code_of(verifier.verify_service(world.ticket, proof.report)) == "CertificateExpired"


# ---------------------------------------------------------------------- a run that may be over


async def test_past_run_needs_its_pin(ledger: Ledger) -> None:
    verifier = ledger.verifier()
    assert await code_of(verifier.past_run(ledger.world.ticket)) == "RunNotPinned"
    await verifier.pin(ledger.world.ticket)
    ledger.closed.add(ledger.world.run_id)
    ledger.withdrawn.add(QUERY)
    ledger.now += dt.timedelta(days=400)
    past = await verifier.past_run(ledger.world.ticket)
    assert past.run.decisions == ()
    assert (past.job, past.past_jobs) == (ledger.world.job, (ledger.world.job,))
    assert past.host_data == past.policies.host_data()


async def test_past_run_has_the_job_of_the_latest_trust_document_last(ledger: Ledger) -> None:
    world, verifier = ledger.world, ledger.verifier()
    world.member_documents = dict(world.member_documents)
    await verifier.pin(world.ticket)
    world.accept_trust(world.trust_document.model_copy(update={"number": 2, "storage_hosts": ("other.example",)}))
    past = await verifier.past_run(world.ticket)
    assert [job.governance.trust_document for job in past.past_jobs] == [world.trust_document.id, past.trust.trust.id]
    assert past.trust.trust.document.number == 2
    assert past.job == past.past_jobs[-1]
    assert past.job.governance.storage_hosts == ("other.example",)
    assert past.policies == past.trust.services.compute(past.job)
    assert past.host_data[-2:] == past.policies.host_data()
    assert len(set(past.host_data)) == 4


async def test_run_without_a_trust_document_was_given_nothing(ledger: Ledger) -> None:
    verifier = ledger.verifier()
    await verifier.pin(ledger.world.ticket)
    ledger.world.member_documents = {}
    with pytest.raises(PreconditionFailed, match="TrustDocumentMissing"):
        await ledger.verifier().past_run(ledger.world.ticket)


# ---------------------------------------------------------------------- the memory


async def test_reference_to_a_ticket_that_no_release_verified_is_refused(ledger: Ledger) -> None:
    verifier, world, proof = ledger.verifier(), ledger.world, proof_of(ledger.world)
    await verifier.verify_policies(world.ticket, proof)
    unknown = Reference(digest=message_digest(world.another_run(dt.timedelta()).ticket))
    with pytest.raises(PreconditionFailed, match=NOT_REMEMBERED):
        verifier.resolve(unknown, proof)


async def test_steps_take_over_answers_of_earlier_steps(ledger: Ledger) -> None:
    verifier, ticket = ledger.verifier(), ledger.world.ticket
    await verifier.verify_caller(ticket)
    await verifier.verify_approvals(ticket)
    assert ledger.reads["users"] == 1
    await verifier.verify_run(ticket, proof_of(ledger.world))
    assert ledger.reads["users"] == 2


async def test_full_verification_takes_over_no_trust_document(ledger: Ledger) -> None:
    world, verifier, proof = ledger.world, ledger.verifier(), proof_of(ledger.world)
    world.member_documents = dict(world.member_documents)
    await verifier.verify_run(world.ticket, proof)
    world.accept_trust(world.trust_document.model_copy(update={"number": 2, "spark_service_host_data": ("77" * 32,)}))
    assert await code_of(verifier.verify_run(world.ticket, proof)) == "HostDataMismatch"


@pytest.mark.parametrize("failing", [True, False])
def test_verification_that_no_activity_waits_for_ends_without_a_complaint(ledger: Ledger, failing: bool) -> None:
    complaints: list[dict[str, Any]] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        ledger.available = not failing
        only = asyncio.create_task(ledger.verifier().build_job(ledger.world.ticket))
        for _ in range(2):
            await asyncio.sleep(0)
        only.cancel()
        for _ in range(50 if failing else 0):
            await asyncio.sleep(0)

    asyncio.run(work())
    gc.collect()
    assert complaints == []


async def test_memory_is_used_for_300_seconds(ledger: Ledger) -> None:
    verifier, ticket = ledger.verifier(), ledger.world.ticket
    await verifier.build_job(ticket)
    ledger.clock += 299
    assert verifier.snapshot(ticket) is not None
    ledger.clock += 1
    assert verifier.snapshot(ticket) is None
    assert (SNAPSHOT_SECONDS, SNAPSHOTS, KNOWN) == (300.0, 64, 256)


async def test_memory_survives_an_answer_that_is_late(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    await verifier.verify_run(ticket, proof)
    known = verifier.snapshot(ticket)
    ledger.available = False
    assert await code_of(verifier.verify_release(ticket, proof, FLIGHTS, fresh=True)) == "GovernanceUnreachable"
    assert verifier.snapshot(ticket) is known
    ledger.available = True
    ledger.withdrawn.add(FLIGHTS)
    assert await code_of(verifier.verify_release(ticket, proof, FLIGHTS, fresh=True)) == "UserDocumentRuntimeOptionDisabled"
    assert verifier.snapshot(ticket) is None


async def test_failed_check_drops_no_memory_that_began_after_it(ledger: Ledger) -> None:
    verifier, ticket = ledger.verifier(), ledger.world.ticket
    early = asyncio.create_task(code_of(verifier.verify_release(ticket, proof_of(ledger.world), "another")))
    await asyncio.sleep(0)
    ledger.clock += SNAPSHOT_SECONDS + 1
    later = asyncio.create_task(verifier.build_job(ticket))
    assert await early == "DatasetNotInQuery"
    await later
    assert verifier.snapshot(ticket) is not None


async def test_full_verification_that_failed_is_repeated(ledger: Ledger) -> None:
    verifier, ticket = ledger.verifier(), ledger.world.ticket
    ledger.available = False
    codes = await asyncio.gather(*(code_of(verifier.build_job(ticket)) for _ in range(3)))
    assert codes == ["GovernanceUnreachable"] * 3
    ledger.available = True
    assert (await verifier.build_job(ticket)).digest() == ledger.world.job.digest()


async def test_cancelled_activity_does_not_end_the_verification_of_the_others(ledger: Ledger) -> None:
    verifier, ticket = ledger.verifier(), ledger.world.ticket
    first, second = (asyncio.create_task(verifier.build_job(ticket)) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    assert (await second).digest() == ledger.world.job.digest()
    assert ledger.reads["closed"] == 1


async def test_job_is_assembled_again_only_for_another_run_or_trust_document(ledger: Ledger) -> None:
    world, verifier, proof = ledger.world, ledger.verifier(), proof_of(ledger.world)
    world.member_documents = dict(world.member_documents)
    await verifier.verify_run(world.ticket, proof)
    first = verifier.snapshot(world.ticket)
    await verifier.verify_run(world.ticket, proof)
    assert verifier.snapshot(world.ticket) is first
    world.accept_trust(world.trust_document.model_copy(update={"number": 2, "storage_hosts": ("other.example",)}))
    ledger.clock += SHARED_SECONDS
    await verifier.verify_approvals(world.ticket)
    second = verifier.snapshot(world.ticket)
    assert second is not None
    assert second.job.governance.storage_hosts == ("other.example",)
    world.decide("litware", expires=ledger.now + dt.timedelta(hours=1))
    assert await code_of(verifier.verify_run(world.ticket, proof)) == "PolicyJobMismatch"


async def test_verified_run_has_the_host_data_of_its_pods(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    first = await verifier.verify_run(ticket, proof)
    again = await verifier.verify_release(ticket, proof, FLIGHTS)
    for verified in (first, again):
        assert verified.host_data == (proof.policies.driver_host_data, proof.policies.executor_host_data)
        assert verified.ticket == ticket
        assert verified.past_jobs == ()


# ---------------------------------------------------------------------- revocation lists


async def test_revocation_lists_of_the_operator_reach_the_verifier_of_services(ledger: Ledger) -> None:
    """Each reading of the trust document takes the lists that the worker has at that time."""
    world, lists = ledger.world, list[bytes]()
    trust = RunTrust(TrustSource(ledger.member_document, COLLABORATION, development=True), BOOTSTRAP, lambda: lists)
    verifier = RunVerifier(ledger, COLLABORATION, trust, ledger, now=lambda: ledger.now, timer=lambda: ledger.clock)
    report = proof_of(world).report
    assert await code_of(verifier.verify_service(world.ticket, report)) == "accepted"
    hierarchy = world.hardware.hierarchy
    lists.append(hierarchy.crl([hierarchy.leaf.serial_number, hierarchy.intermediate.serial_number], at=ledger.now))
    assert await code_of(verifier.verify_service(world.ticket, report)) == "accepted"
    ledger.clock += SHARED_SECONDS
    assert await code_of(verifier.verify_service(world.ticket, report)) == "CertificateRevoked"
