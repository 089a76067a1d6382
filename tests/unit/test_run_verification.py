"""What :class:`RunVerifier` reads again before a release, what it takes from its snapshot, and when a snapshot is invalid."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.governance import MemberDocument
from cleanroom.messages.run import NOT_REMEMBERED, Reference, RunTicket, ServiceProof, message_digest
from cleanroom.runs.ledger import RUNS_SCOPE, PinnedRequest, pinned_event_id, read_pin
from cleanroom.runs.proof import ServiceVerifier
from cleanroom.runs.reader import AcceptedDocument, Consent
from cleanroom.runs.readings import SHARED_SECONDS
from cleanroom.runs.second_look import SecondLooks
from cleanroom.runs.shared_reader import SharedReader
from cleanroom.runs.trust import RunTrust
from cleanroom.runs.verification import SNAPSHOT_SECONDS, SNAPSHOTS, RunVerifier, VerifiedRun
from cleanroom.trust import AttestationPolicy, TrustSource
from tests.audit_records import COLLABORATION, DATASETS, QUERY, SPARK_HOST
from tests.audit_world import BOOTSTRAP, AuditWorld
from tests.patience import PATIENCE
from tests.run_world import proof_for

FLIGHTS = DATASETS[0]
OTHER_DATASETS = DATASETS[1:]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    world = AuditWorld(tmp_path_factory.mktemp("verification"), max_runs=None)
    # Derived here once: it cannot be derived within a running event loop.
    assert world.job.datasets
    return world


class Ledger:
    """A governance reader that counts reads, and whose state the test changes."""

    def __init__(self, world: AuditWorld) -> None:
        self.world = copy.copy(world)
        self.world.documents, self.world.users = dict(world.documents), dict(world.users)
        self.withdrawn: set[str] = set()
        self.closed: set[str] = set()
        self.pins: list[tuple[str, dict[str, Any]]] = []
        self.available = True
        self.reads: Counter[str] = Counter()
        self.clock = 0.0
        self.now = dt.datetime.now(dt.UTC)

    async def _read(self, name: str) -> None:
        self.reads[name] += 1
        # Let other tasks run, as a request over the network does.
        await asyncio.sleep(0)
        if not self.available:
            raise Unavailable("GovernanceUnreachable", "on purpose")

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        await self._read(document_id)
        return await self.world.accepted_document(document_id)

    async def consent(self, document_id: str) -> Consent:
        await self._read(f"consent {document_id}")
        off = Consent(status="disabled", code="UserDocumentRuntimeOptionDisabled", message="off")
        return off if document_id in self.withdrawn else Consent(status="enabled")

    async def active_users(self) -> frozenset[str]:
        await self._read("users")
        return await self.world.active_users()

    async def runs_started(self, query: str) -> frozenset[str]:
        await self._read("started")
        return frozenset()

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        await self._read("pin")
        found = [read_pin(run_id, data, self.now) for id, data in self.pins if id == pinned_event_id(run_id)]
        return found[0] if found else None

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None) -> None:
        await self._read("enter pin")
        assert (scope, event_id) == (RUNS_SCOPE, pinned_event_id(data["runId"]))
        self.pins.append((str(event_id), data))

    async def run_closed(self, run_id: str) -> bool:
        await self._read("closed")
        return run_id in self.closed

    def verifier(self, **options: Any) -> RunVerifier:
        """A verifier without a snapshot, as after a restart of the worker."""
        trust = RunTrust(TrustSource(self.member_document, COLLABORATION, development=True), BOOTSTRAP)
        return RunVerifier(SharedReader(self), COLLABORATION, trust, self, now=lambda: self.now, timer=lambda: self.clock, **options)

    async def member_document(self, document_id: str) -> MemberDocument:
        if not self.available:
            raise Unavailable("GovernanceUnreachable", "on purpose")
        return self.world.member_document(document_id)


@pytest.fixture
def ledger(genuine: AuditWorld) -> Ledger:
    return Ledger(genuine)


def proof_of(world: AuditWorld) -> ServiceProof:
    return proof_for(world, world.ticket, world.job)


def refusal(work: Any) -> str:
    with pytest.raises(CleanRoomError) as caught:
        asyncio.run(work)
    return caught.value.code


# ---------------------------------------------------------------------- what is read


async def test_a_release_reads_what_can_change_and_not_the_other_datasets(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_run(ledger.world.ticket, proof)
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    verified = await verifier.verify_release(ledger.world.ticket.model_copy(update={"seen": "2.70"}), proof, FLIGHTS)
    assert ledger.reads == Counter(["users", "closed", f"consent {QUERY}", f"consent {FLIGHTS}"])
    assert verified.job == ledger.world.job


async def test_a_release_takes_over_answers_that_are_young_enough(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_run(ledger.world.ticket, proof)
    ledger.clock += SHARED_SECONDS - 1
    ledger.reads.clear()
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    assert not ledger.reads


async def test_a_release_that_cannot_be_undone_takes_over_no_answer(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_run(ledger.world.ticket, proof)
    ledger.reads.clear()
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS, fresh=True)
    assert ledger.reads == Counter(["users", "closed", f"consent {QUERY}", f"consent {FLIGHTS}"])


async def test_the_second_look_takes_over_no_answer(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    verified = await verifier.verify_run(ledger.world.ticket, proof)
    ledger.reads.clear()
    await verifier.confirm(verified, [verified.run.dataset(FLIGHTS)])
    assert ledger.reads == Counter(["closed", f"consent {QUERY}", f"consent {FLIGHTS}"])


async def test_another_run_takes_over_no_answer(ledger: Ledger) -> None:
    verifier, world = ledger.verifier(), ledger.world
    await verifier.verify_run(world.ticket, proof_of(world))
    other = world.another_run(dt.timedelta())
    ledger.reads.clear()
    await verifier.verify_approvals(other.ticket)
    assert all(ledger.reads[name] for name in ("users", "closed", QUERY, *DATASETS))


async def test_second_looks_of_concurrent_releases_share_their_requests(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    verified = await verifier.verify_run(ledger.world.ticket, proof)
    ledger.reads.clear()

    async def look(name: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await verifier.confirm(verified, [verified.run.dataset(name)], DATASETS)

    await asyncio.gather(*(look(name, 20 * number) for number, name in enumerate(DATASETS)))
    assert ledger.reads == Counter(["closed", *(f"consent {name}" for name in (QUERY, *DATASETS))])


async def test_a_second_look_does_not_wait_for_a_release_that_never_comes(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    verified = await verifier.verify_run(ledger.world.ticket, proof)
    await asyncio.wait_for(verifier.confirm(verified, [], DATASETS), PATIENCE)


async def test_a_second_look_does_not_wait_for_finished_datasets(ledger: Ledger) -> None:
    async def pause(seconds: float) -> None:
        raise AssertionError("it waited")

    looks = SecondLooks(pause)
    looks.finish("run", DATASETS[1:])
    await looks.gather("run", DATASETS)
    waiting = asyncio.create_task(SecondLooks(lambda seconds: asyncio.sleep(60)).gather("run", DATASETS))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_the_release_of_tokens_reads_every_dataset_with_an_identity(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    verified = await verifier.verify_run(ledger.world.ticket, proof)
    with_identity = {item.document.id for item in verified.run.identity_datasets}
    assert with_identity == {FLIGHTS}
    ledger.clock += SHARED_SECONDS
    ledger.reads.clear()
    await verifier.verify_token_release(ledger.world.ticket, proof)
    assert {name for name in DATASETS if ledger.reads[f"consent {name}"]} == with_identity


async def test_a_full_verification_does_not_use_the_snapshot(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_run(ledger.world.ticket, proof)
    first = Counter({name: count for name, count in ledger.reads.items() if "pin" not in name})
    ledger.reads.clear()
    await verifier.verify_run(ledger.world.ticket, proof)
    assert ledger.reads == first
    assert {name for name in first if name in DATASETS} == set(DATASETS)


async def test_a_restart_between_two_releases_verifies_the_run_in_full(ledger: Ledger) -> None:
    proof = proof_of(ledger.world)
    before = await ledger.verifier().verify_release(ledger.world.ticket, proof, FLIGHTS)
    ledger.reads.clear()
    after = await ledger.verifier().verify_release(ledger.world.ticket, proof, FLIGHTS)
    assert after == before
    assert all(ledger.reads[name] and ledger.reads[f"consent {name}"] for name in (QUERY, *DATASETS))


async def test_concurrent_releases_after_a_restart_share_one_full_verification(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    results = await asyncio.gather(*(verifier.verify_release(ledger.world.ticket, proof, name) for name in DATASETS * 3))
    assert {result.job.digest() for result in results} == {ledger.world.job.digest()}
    # Once for the full verification, and at most once per release of the dataset itself.
    assert all(ledger.reads[name] <= 1 + 3 for name in DATASETS)


async def test_an_expired_snapshot_is_verified_again(ledger: Ledger) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_run(ledger.world.ticket, proof)
    ledger.clock += SNAPSHOT_SECONDS + 1
    ledger.reads.clear()
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    assert all(ledger.reads[name] for name in OTHER_DATASETS)


async def test_snapshots_are_bounded(ledger: Ledger) -> None:
    verifier = ledger.verifier()
    await verifier.build_job(ledger.world.ticket)
    for index in range(SNAPSHOTS):
        other = copy.copy(ledger.world)
        other.__dict__.pop("ticket", None)
        other.run_id = f"r-{index}"
        await verifier.build_job(other.ask())
    ledger.reads.clear()
    await verifier.build_job(ledger.world.ticket)
    assert all(ledger.reads[name] for name in DATASETS), "the oldest snapshot was dropped"


# ---------------------------------------------------------------------- what is refused between verification and release


def change_document(name: str, **members: Any) -> Callable[[Ledger], None]:
    def change(ledger: Ledger) -> None:
        ledger.world.documents[name] = ledger.world.documents[name].model_copy(update=members)

    return change


def remove_user(ledger: Ledger) -> None:
    del ledger.world.users["fabrikam"]


DOCUMENT_CHANGES: dict[str, tuple[Callable[[Ledger], Any], str]] = {
    "the dataset has another version": (change_document(FLIGHTS, version="9.9"), "DatasetChanged"),
    "the dataset has another text": (change_document(FLIGHTS, data="{}"), "DatasetChanged"),
    "the dataset is a draft": (change_document(FLIGHTS, state="Draft"), "UserDocumentNotFound"),
    "the dataset has another proposer": (change_document(FLIGHTS, proposer_id="another"), "DatasetOwnerUnclear"),
    "the query has another text": (change_document(QUERY, data="{}"), "QueryDigestMismatch"),
    "the query lost an owner's ballot": (change_document(QUERY, final_votes=()), "QueryMissingApprovalsFromDatasetOwners"),
    "the query has another proposal": (change_document(QUERY, proposal_id="f" * 32), "SignedDecisionMissing"),
}
"""Changes that governance does not make to an accepted document. Only the last step before keys become usable reads it again."""
CHANGES: dict[str, tuple[Callable[[Ledger], Any], str]] = {
    "consent to the query is withdrawn": (lambda ledger: ledger.withdrawn.add(QUERY), "UserDocumentRuntimeOptionDisabled"),
    "consent to the dataset is withdrawn": (lambda ledger: ledger.withdrawn.add(FLIGHTS), "UserDocumentRuntimeOptionDisabled"),
    "the run is closed": (lambda ledger: ledger.closed.add(ledger.world.run_id), "RunClosed"),
    "the caller is removed": (remove_user, "CallerNotAuthorized"),
    "the request has expired": (lambda ledger: setattr(ledger, "now", ledger.now + dt.timedelta(days=1)), "StatementExpired"),
    "governance does not answer": (lambda ledger: setattr(ledger, "available", False), "GovernanceUnreachable"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fresh", [True, False], ids=["cannot be undone", "can be undone"])
def test_a_change_after_the_full_verification_is_refused_by_the_release(ledger: Ledger, change: str, fresh: bool) -> None:
    apply, code = CHANGES[change]

    async def work() -> VerifiedRun:
        verifier, proof = ledger.verifier(), proof_of(ledger.world)
        await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
        apply(ledger)
        if not fresh:
            ledger.clock += SHARED_SECONDS
        return await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS, fresh=fresh)

    assert refusal(work()) == code


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"the caller is removed"}))
def test_a_change_during_the_release_is_refused_by_the_second_look(ledger: Ledger, change: str) -> None:
    apply, code = CHANGES[change]

    async def work() -> None:
        verifier, proof = ledger.verifier(), proof_of(ledger.world)
        verified = await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
        apply(ledger)
        await verifier.confirm(verified, [verified.run.dataset(FLIGHTS)])

    assert refusal(work()) == code


@pytest.mark.parametrize("change", [*CHANGES, *DOCUMENT_CHANGES])
def test_a_change_after_the_releases_is_refused_by_the_last_step(ledger: Ledger, change: str) -> None:
    """Pods execute nothing before the consent receipt, for which everything is read again."""
    apply, code = (CHANGES | DOCUMENT_CHANGES)[change]

    async def work() -> VerifiedRun:
        verifier, proof = ledger.verifier(), proof_of(ledger.world)
        await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
        apply(ledger)
        return await verifier.verify_run(ledger.world.ticket, proof)

    assert refusal(work()) == code


def test_an_approval_that_expires_after_the_full_verification_is_refused_by_the_release(ledger: Ledger) -> None:
    ledger.world.decide("litware", expires=ledger.now + dt.timedelta(hours=1))

    async def work() -> VerifiedRun:
        verifier, proof = ledger.verifier(), proof_of(ledger.world)
        await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
        ledger.now += dt.timedelta(hours=2)
        return await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)

    assert refusal(work()) == "ApprovalExpired"


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"governance does not answer"}))
async def test_a_refused_release_drops_the_snapshot(ledger: Ledger, change: str) -> None:
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    genuine = (dict(ledger.world.documents), dict(ledger.world.users), ledger.now)
    CHANGES[change][0](ledger)
    ledger.clock += SHARED_SECONDS
    with pytest.raises(CleanRoomError):
        await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    ledger.world.documents, ledger.world.users, ledger.now = genuine
    ledger.withdrawn.clear()
    ledger.closed.clear()
    ledger.reads.clear()
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    assert all(ledger.reads[name] for name in OTHER_DATASETS), "verified in full again"


async def test_withdrawn_consent_to_another_dataset_is_refused_by_the_last_step(ledger: Ledger) -> None:
    """A release of one dataset does not read the others; the full verification before the consent receipt does."""
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    ledger.withdrawn.add("litware-planes")
    await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    with pytest.raises(CleanRoomError) as caught:
        await verifier.verify_run(ledger.world.ticket, proof)
    assert caught.value.code == "UserDocumentRuntimeOptionDisabled"


async def test_a_release_checks_the_consent_to_every_document_when_nothing_has_yet(ledger: Ledger) -> None:
    """An operator who leaves out ``check_execution_consent`` gains nothing."""
    verifier, proof = ledger.verifier(), proof_of(ledger.world)
    await verifier.verify_approvals(ledger.world.ticket)
    ledger.withdrawn.add("litware-planes")
    with pytest.raises(CleanRoomError) as caught:
        await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    assert caught.value.code == "UserDocumentRuntimeOptionDisabled"


# ---------------------------------------------------------------------- forged tickets and proofs


def test_a_snapshot_is_found_only_with_the_same_ticket_and_proof(ledger: Ledger) -> None:
    world = ledger.world
    other = world.another_run(dt.timedelta())
    own, foreign = proof_of(world), proof_of(other)
    head, body, signature = world.ticket.request.split(".")
    forged: dict[str, tuple[RunTicket, ServiceProof, str]] = {
        "another run's proof": (world.ticket, foreign, "NonceMismatch"),
        "another run's request": (world.ticket.model_copy(update={"request": other.ticket.request}), own, "TicketMismatch"),
        "another run's ID": (world.ticket.model_copy(update={"run_id": other.run_id}), own, "TicketMismatch"),
        "another query": (world.ticket.model_copy(update={"query": "another"}), own, "TicketMismatch"),
        "another collaboration": (world.ticket.model_copy(update={"collaboration": "another"}), own, "CollaborationMismatch"),
        "an edited signature": (
            world.ticket.model_copy(update={"request": f"{head}.{body}.{signature[:-8]}AAAAAAAA"}), own, "SignatureInvalid"
        ),
        "policies of another proof": (world.ticket, own.model_copy(update={"policies": foreign.policies}), "PolicySignatureInvalid"),
        "a report of another proof": (world.ticket, own.model_copy(update={"report": foreign.report}), "NonceMismatch"),
        "policies for another job": (
            world.ticket,
            proof_for(world, world.ticket, world.job.model_copy(update={"query_version": "9.9"})),
            "PolicyJobMismatch",
        ),
    }  # fmt: skip

    async def work() -> dict[str, str]:
        verifier, found = ledger.verifier(), {}
        await verifier.verify_release(world.ticket, own, FLIGHTS)
        await verifier.verify_release(other.ticket, foreign, FLIGHTS)
        for name, (ticket, proof, _) in forged.items():
            for release in (verifier.verify_release(ticket, proof, FLIGHTS), verifier.verify_token_release(ticket, proof)):
                with pytest.raises(CleanRoomError) as caught:
                    await release
                found[name] = caught.value.code
        # The genuine ones are still accepted.
        await verifier.verify_release(world.ticket, own, FLIGHTS)
        await verifier.verify_release(other.ticket, foreign, FLIGHTS)
        return found

    assert asyncio.run(work()) == {name: code for name, (_, _, code) in forged.items()}


async def test_a_dataset_that_the_query_does_not_name_is_refused(ledger: Ledger) -> None:
    verifier = ledger.verifier()
    with pytest.raises(CleanRoomError) as caught:
        await verifier.verify_release(ledger.world.ticket, proof_of(ledger.world), "another")
    assert caught.value.code == "DatasetNotInQuery"


# ---------------------------------------------------------------------- shared requests


class SlowReader:
    """Answers how many requests it had got when this one arrived; each takes until the test lets it go."""

    def __init__(self) -> None:
        self.sent = 0
        self.go_on = asyncio.Event()

    async def active_users(self) -> frozenset[str]:
        self.sent += 1
        mine = self.sent
        await self.go_on.wait()
        return frozenset({str(mine)})


async def test_an_answer_is_shared_only_by_callers_that_asked_before_its_request_was_sent() -> None:
    slow = SlowReader()
    reader: Any = SharedReader(slow)  # type: ignore[arg-type]
    early = [asyncio.create_task(reader.active_users()) for _ in range(5)]
    while not slow.sent:
        await asyncio.sleep(0)
    late = [asyncio.create_task(reader.active_users()) for _ in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.sent == 1, "the second request waits for the first"
    slow.go_on.set()
    assert set(await asyncio.gather(*early)) == {frozenset({"1"})}
    assert set(await asyncio.gather(*late)) == {frozenset({"2"})}


async def test_a_cancelled_caller_does_not_cancel_the_request_of_the_others() -> None:
    slow = SlowReader()
    reader: Any = SharedReader(slow)  # type: ignore[arg-type]
    first, second = (asyncio.create_task(reader.active_users()) for _ in range(2))
    while not slow.sent:
        await asyncio.sleep(0)
    first.cancel()
    slow.go_on.set()
    assert await second == frozenset({"1"})


def test_page_lists_the_checks() -> None:
    """``cleanroom/runs/verification.py`` is the page that docs/architecture.md points at: nine numbered checks."""
    source = Path(__file__).resolve().parents[2] / "cleanroom/runs/verification.py"
    assert [line[0] for line in source.read_text("utf-8").splitlines() if line[1:3] == ". "][:9] == list("123456789")


# ---------------------------------------------------------------------- the trust document


def accept_another_trust_document(world: AuditWorld) -> None:
    """The members accept a document with another Spark service and another image of the pods."""
    pods = world.trust_document.pods.model_copy(update={"layers": ("9" * 64,)})
    world.accept_trust(world.trust_document.model_copy(update={"number": 2, "pods": pods, "spark_service_host_data": ("77" * 32,)}))


@pytest.fixture
def changing(genuine: AuditWorld) -> Ledger:
    """A ledger whose trust documents a test may change."""
    world = copy.copy(genuine)
    world.member_documents = dict(genuine.member_documents)
    return Ledger(world)


async def test_a_new_trust_document_ends_the_releases_of_a_run(changing: Ledger) -> None:
    verifier, world = changing.verifier(), changing.world
    proof = proof_of(world)
    await verifier.verify_release(world.ticket, proof, FLIGHTS)
    accept_another_trust_document(world)
    changing.clock += SHARED_SECONDS
    for verify in (verifier.verify_release(world.ticket, proof, FLIGHTS), verifier.verify_token_release(world.ticket, proof)):
        with pytest.raises(CleanRoomError) as caught:
            await verify
        assert caught.value.code in ("TrustDocumentChanged", "HostDataMismatch", "PolicyJobMismatch")
    with pytest.raises(CleanRoomError, match="HostDataMismatch"):
        await verifier.verify_run(world.ticket, proof)


async def test_a_release_names_the_new_trust_document_as_its_reason(changing: Ledger) -> None:
    verifier, world = changing.verifier(), changing.world
    proof = proof_of(world)
    await verifier.verify_run(world.ticket, proof)
    accept_another_trust_document(world)
    changing.clock += SHARED_SECONDS
    with pytest.raises(CleanRoomError, match="TrustDocumentChanged"):
        await verifier.verify_release(world.ticket, proof, FLIGHTS)


async def test_a_service_that_only_an_older_trust_document_names_is_refused(changing: Ledger) -> None:
    world = changing.world
    proof = proof_of(world)
    assert (await changing.verifier().verify_service(world.ticket, proof.report)).host_data == SPARK_HOST
    accept_another_trust_document(world)
    with pytest.raises(CleanRoomError, match="HostDataMismatch"):
        await changing.verifier().verify_service(world.ticket, proof.report)


async def test_undoing_covers_the_pods_of_every_trust_document(changing: Ledger) -> None:
    world = changing.world
    await changing.verifier().verify_release(world.ticket, proof_of(world), FLIGHTS)
    before = await changing.verifier().past_run(world.ticket)
    accept_another_trust_document(world)
    after = await changing.verifier().past_run(world.ticket)
    assert set(before.host_data) < set(after.host_data)
    assert len(after.host_data) == 2 * len(before.host_data)


async def test_nothing_is_released_while_the_trust_document_cannot_be_read(changing: Ledger) -> None:
    verifier, world = changing.verifier(), changing.world
    proof = proof_of(world)
    await verifier.verify_run(world.ticket, proof)

    async def away(document_id: str) -> MemberDocument:
        raise Unavailable("GovernanceUnreachable", document_id)

    changing.member_document = away  # type: ignore[method-assign]
    later = changing.verifier()
    with pytest.raises(Unavailable):
        await later.verify_run(world.ticket, proof)


async def test_minimum_firmware_and_revocation_lists_of_the_trust_document_reach_the_verifier(changing: Ledger) -> None:
    world = changing.world
    product = world.trust.roots[-1].product
    newest = dict.fromkeys(("bootloader", "tee", "snp", "microcode"), 255)
    oldest = dict.fromkeys(newest, 0)
    for policy, reason in (
        ({"minimum_tcb": {product: {"reported": newest, "committed": oldest}}}, "TcbTooOld"),
        ({"minimum_tcb": {product: {"reported": oldest, "committed": newest}}}, "TcbTooOld"),
        ({"minimum_uvm_svn": 10**6}, "UvmSvnTooOld"),
        ({"minimum_report_version": 5}, "ReportVersionUnsupported"),
        ({"require_crl": True}, "RevocationStatusUnknown"),
    ):
        document = world.trust_document.model_copy(update={"attestation": AttestationPolicy.model_validate(policy)})
        world.accept_trust(document)
        with pytest.raises(CleanRoomError) as caught:
            await changing.verifier().verify_service(world.ticket, proof_of(world).report)
        assert caught.value.code == reason, policy


# ---------------------------------------------------------------------- what the memory of a run keeps


def test_a_full_verification_replaces_the_result_of_an_earlier_one(ledger: Ledger) -> None:
    async def work() -> list[dt.datetime]:
        verifier, proof, found = ledger.verifier(), proof_of(ledger.world), []
        for hours in (3, 2):
            ledger.world.decide("litware", expires=ledger.now + dt.timedelta(hours=hours))
            await verifier.verify_run(ledger.world.ticket, proof)
            found.append((await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)).run.expires - ledger.now)
        return found

    assert asyncio.run(work()) == [dt.timedelta(hours=3), dt.timedelta(hours=2)]


async def test_the_trust_document_in_force_is_taken_over_for_ten_seconds(changing: Ledger) -> None:
    proof, reads, genuine = proof_of(changing.world), list[str](), changing.member_document

    async def counted(document_id: str) -> MemberDocument:
        reads.append(document_id)
        return await genuine(document_id)

    changing.member_document = counted  # type: ignore[method-assign]
    verifier = changing.verifier()
    await verifier.verify_run(changing.world.ticket, proof)
    for age, more in ((0.0, 0), (SHARED_SECONDS - 1, 0), (1.0, 1)):
        reads.clear()
        changing.clock += age
        await verifier.verify_release(changing.world.ticket, proof, FLIGHTS)
        assert len(reads) == more
    await verifier.verify_release(changing.world.ticket, proof, FLIGHTS, fresh=True)
    assert len(reads) == 2


async def test_a_proof_is_verified_once_and_another_one_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, proof, verified = ledger.verifier(), proof_of(ledger.world), list[ServiceProof]()
    genuine = ServiceVerifier.policies

    def counted(self: ServiceVerifier, proof: ServiceProof, *arguments: Any, **options: Any) -> Any:
        verified.append(proof)
        return genuine(self, proof, *arguments, **options)

    monkeypatch.setattr(ServiceVerifier, "policies", counted)
    for _ in range(3):
        await verifier.verify_release(ledger.world.ticket, proof, FLIGHTS)
    assert verified == [proof]
    other = proof_of(ledger.world)
    await verifier.verify_release(ledger.world.ticket, other, FLIGHTS)
    assert verified == [proof, other]


async def test_the_second_look_of_the_last_dataset_waits_for_nothing(ledger: Ledger) -> None:
    async def pause(seconds: float) -> None:
        raise AssertionError("it waited")

    verifier, proof = ledger.verifier(pause=pause), proof_of(ledger.world)
    verified = await verifier.verify_run(ledger.world.ticket, proof)
    verifier.finish(verified, DATASETS[1:])
    await asyncio.wait_for(verifier.confirm(verified, [], DATASETS), PATIENCE)


async def test_a_run_without_a_verification_has_no_snapshot(ledger: Ledger) -> None:
    verifier = ledger.verifier()
    assert verifier.snapshot(ledger.world.ticket) is None
    job = await verifier.build_job(ledger.world.ticket)
    snapshot = verifier.snapshot(ledger.world.ticket)
    assert snapshot is not None
    assert snapshot.job == job


# ---------------------------------------------------------------------- references to a ticket and a proof


def references(ticket: RunTicket, proof: ServiceProof) -> tuple[Reference, Reference]:
    return Reference(digest=message_digest(ticket)), Reference(digest=message_digest(proof))


async def test_a_reference_stands_for_what_this_process_has_verified(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    await verifier.verify_policies(ticket, proof)
    assert verifier.resolve(*references(ticket, proof)) == (ticket, proof)
    assert verifier.resolve(ticket, references(ticket, proof)[1]) == (ticket, proof)


async def test_a_process_that_has_not_verified_the_run_asks_for_ticket_and_proof(ledger: Ledger) -> None:
    """After a restart, or on another worker."""
    ticket, proof = ledger.world.ticket, proof_of(ledger.world)
    await ledger.verifier().verify_policies(ticket, proof)
    other = ledger.verifier()
    with pytest.raises(PreconditionFailed) as caught:
        other.resolve(*references(ticket, proof))
    assert (caught.value.code, caught.value.retryable) == (NOT_REMEMBERED, False)
    assert other.resolve(ticket, proof) == (ticket, proof)
    await other.verify_release(ticket, proof, FLIGHTS)
    assert other.resolve(*references(ticket, proof)) == (ticket, proof)


def test_nothing_that_failed_a_check_can_be_referred_to(ledger: Ledger) -> None:
    verifier, world = ledger.verifier(), ledger.world
    foreign = proof_of(world.another_run(dt.timedelta()))
    assert refusal(verifier.verify_policies(world.ticket, foreign)) == "NonceMismatch"
    with pytest.raises(PreconditionFailed):
        verifier.resolve(world.ticket, references(world.ticket, foreign)[1])


async def test_a_reference_to_a_message_of_another_kind_is_refused(ledger: Ledger) -> None:
    verifier, ticket, proof = ledger.verifier(), ledger.world.ticket, proof_of(ledger.world)
    await verifier.verify_policies(ticket, proof)
    with pytest.raises(PreconditionFailed):
        verifier.resolve(*reversed(references(ticket, proof)))


def test_references_to_two_runs_are_verified_together_and_refused(ledger: Ledger) -> None:
    """References are no evidence: what they stand for must belong together, as in full."""
    verifier, world = ledger.verifier(), ledger.world
    other = world.another_run(dt.timedelta())
    foreign = proof_of(other)

    async def work() -> VerifiedRun:
        await verifier.verify_policies(world.ticket, proof_of(world))
        await verifier.verify_policies(other.ticket, foreign)
        return await verifier.verify_release(*verifier.resolve(*references(world.ticket, foreign)), FLIGHTS)

    assert refusal(work()) == "NonceMismatch"


def test_what_the_sender_has_seen_is_not_a_part_of_a_reference(ledger: Ledger) -> None:
    ticket = ledger.world.ticket
    assert message_digest(ticket) == message_digest(ticket.model_copy(update={"seen": "2.70"}))
    for change in ({"run_id": "another"}, {"query": "another"}, {"collaboration": "another"}, {"request": "another"}):
        assert message_digest(ticket) != message_digest(ticket.model_copy(update=change))
