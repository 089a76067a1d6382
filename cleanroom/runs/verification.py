"""What the clean room verifies before it releases a secret, a token or a consent receipt. This is the page to review.

An activity's input comes from Temporal, whose operator is not trusted. So each activity that releases something calls
:meth:`RunVerifier.verify_run` or :meth:`RunVerifier.verify_release` first and uses only what these return. After its write it
calls :meth:`RunVerifier.confirm`, and undoes the write if that fails (``activities/clean_room_release.py``).

``verify_run`` checks everything, on a fresh reading of governance:

1. The caller is an active user, and signed this request for this run of this query (``RunAuthority.verify_caller``).
2. The run is not closed.
3. The query document is accepted and has the digest in the signed request; the parameters lie within its bounds
   (``RunAuthority.fetch_query``).
4. Every dataset document has the version and digest that the query document pins.
5. Every owner of a dataset, the output included, accepted the query and published a signed approval of this proposal that
   has not expired and whose run limit is not exhausted.
6. The query and every dataset have execution consent (``RunAuthority.verify_consent``).
7. The job follows from these documents: the query passes the gate, and each dataset names only its owner's secrets
   (:func:`cleanroom.runs.assembly.assemble_job`).
8. The Spark service's report is genuine, of an accepted service and made for this run; its signed pod policies are those
   that we compute from the job (:class:`cleanroom.runs.proof.ServiceVerifier`).
9. The run is this signed request: the earliest entry in the ledger under its run ID pins the ID to the request's digest
   (:meth:`RunVerifier.pin`). The first activity that releases or records something enters the pin. Activities that undo or
   record demand the pin too, so a request with the same run ID, or of a caller without a right to the query, does nothing.

``confirm`` repeats after a write the checks that a delayed write can outlive: 2, 5 (expiry) and 6.

What checks 7 and 8 compare with comes from the trust document that the consortium's members accepted in governance, and not
from settings: accepted services, roots, minimum firmware, the pods' program, storage hosts (:mod:`cleanroom.runs.trust`). It is
read again for every full verification and before every release; a document that was accepted in between ends the run.

``verify_run`` reads two things per dataset. If each of a run's activities did that, the requests would grow with the square of the
datasets. So the activities of one run share readings (:mod:`cleanroom.runs.readings`); docs/decisions/008-what-a-release-reads-again.md
says which, and within which bound. ``verify_release`` starts from a snapshot: the result of an earlier full verification of the same
ticket. It repeats the checks whose answer can change: 1 (active), 2, 5 (expiry), and 6 for the query and the datasets whose secrets are
released. For this it takes over answers that are at most ten seconds old, or none if the release cannot be undone. Checks 3, 4 and 7
to 9 depend only on the ticket, the proof, the ledger's earliest entry and documents that governance never changes once they are accepted.
``confirm`` takes over nothing.

Rules for the memory of a run, which holds readings and snapshot:

* Its key is the digest of the ticket. Another request, run, query or collaboration has another key.
* Its content is computed or read here. Nothing in it comes from an activity input except the ticket and the proof, which are verified.
* A proof that was not verified for this ticket is verified in full.
* It is dropped when a later check fails, also in ``confirm``. It also expires, and the number of memories is bounded.
* The last step before pods can execute (the consent receipt) and each renewal of the receipt use ``verify_run``, which reads everything
  again. The audit statement uses ``verify_statement``, because no fact in it can change.
* A reference (:meth:`RunVerifier.resolve`) only saves bytes: it stands for a ticket and a proof that are verified as if sent in full.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from cachetools import LRUCache, TTLCache

from cleanroom.documents.query import QueryDocument
from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.messages.run import NOT_REMEMBERED, Reference, RunTicket, ServiceProof, SparkVerdict, message_digest
from cleanroom.runs.assembly import assemble_job
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.runs.authority import RunAuthority, service_nonce
from cleanroom.runs.ledger import RUNS_SCOPE, PinnedRequest, pin_entry, pinned_event_id
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader
from cleanroom.runs.readings import SHARED_SECONDS, RunReadings
from cleanroom.runs.second_look import SecondLooks
from cleanroom.runs.trust import RunTrust, TrustInForce
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import PodPolicies
from cleanroom.spark.service_report import ServiceReport
from cleanroom.statements.model import RunRequest

SNAPSHOT_SECONDS = 300.0
"""How long a run's memory is used."""
SNAPSHOTS = 64
"""How many runs a process remembers at the same time; the least recently used one is dropped."""


KNOWN = 4 * SNAPSHOTS
"""How many verified tickets and proofs a process keeps for the references to them."""


async def no_origin() -> str:
    """Return the origin of a run that begins outside of Temporal."""
    return ""


class LedgerWriter(Protocol):
    """Enters events into governance's ledger; :class:`cleanroom.governance.CleanRoomClient` does."""

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None) -> None:
        """Write an entry, and return when it is committed."""
        ...


@dataclass(frozen=True)
class VerifiedRun:
    """A verified run, its job and its pod policies, all computed by this process."""

    ticket: RunTicket
    run: AuthorisedRun
    job: JobConfig
    policies: PodPolicies
    trust: TrustInForce
    """The trust document that the job follows from."""
    host_data: tuple[str, ...]
    """Host data of the pods. For a run that may be over, under every trust document that the members ever accepted."""
    past_jobs: tuple[JobConfig, ...] = ()
    """For a run that may be over: its job under each of these trust documents, oldest first."""


@dataclass
class Snapshot:
    """The result of a full verification."""

    run: AuthorisedRun
    job: JobConfig
    trust: TrustInForce
    consented: bool
    """Whether the consent to every document was checked."""
    proof: ServiceProof | None = None
    """The proof that passed check 8."""
    policies: PodPolicies | None = None


class _Memory:
    """What a process remembers of one run."""

    def __init__(self, authority: RunAuthority, readings: RunReadings) -> None:
        self.readings = readings
        self.recent, self.fresh = authority.reading_with(readings.recent), authority.reading_with(readings.fresh)
        self.snapshot: Snapshot | None = None
        self.in_progress: asyncio.Task[Snapshot] | None = None
        """The full verification that concurrent activities wait for."""


class RunVerifier:
    """Verifies runs for the clean room's activities. One instance per worker process.

    Args:
        reader: Reads governance.
        collaboration: The contract ID that this process serves.
        trust: The trust documents.
        ledger: Enters the pin of a run.
        origin: Returns the ID of the Temporal namespace that runs the current activity. The pin names it; nothing is decided by it.
        now: Returns the current time, with a time zone.
        timer: The clock of the memory, in seconds.
        pause: Waits for a number of seconds.
    """

    def __init__(
        self,
        reader: GovernanceReader,
        collaboration: str,
        trust: RunTrust,
        ledger: LedgerWriter,
        *,
        origin: Callable[[], Awaitable[str]] = no_origin,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        timer: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.authority = RunAuthority(reader, collaboration, now)
        self._reader = reader
        self._trust = trust
        self._ledger = ledger
        self._origin = origin
        self._now = now
        self._timer = timer
        self._memories: TTLCache[str, _Memory] = TTLCache(SNAPSHOTS, SNAPSHOT_SECONDS, timer)
        self._known: LRUCache[str, RunTicket | ServiceProof] = LRUCache(KNOWN)
        self._looks = SecondLooks(pause)

    def resolve(self, ticket: RunTicket | Reference, proof: ServiceProof | Reference) -> tuple[RunTicket, ServiceProof]:
        """Return the messages that references stand for. This verifies nothing: what a reference stands for is verified as usual.

        Raises:
            PreconditionFailed: ``RunNotRemembered`` if this process does not know one of them. The caller must send both.
        """
        known = [self._known.get(item.digest) if isinstance(item, Reference) else item for item in (ticket, proof)]
        if not isinstance(known[0], RunTicket) or not isinstance(known[1], ServiceProof):
            raise PreconditionFailed(NOT_REMEMBERED, "this worker has not verified the run that the input refers to; send the whole input.")
        return known[0], known[1]

    # ------------------------------------------------------------------ before and after a release

    async def verify_run(self, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Verify everything that must hold before pods can use anything, on a fresh reading of governance.

        Raises:
            Refused: The code of the check that failed.
        """
        async with self._memory(ticket) as memory:
            snapshot = await self._verify_documents(memory, ticket, consent=True, fresh=True)
            verified = self._verify_proof(snapshot, ticket, proof)
            await self._pin(verified.run)
            return verified

    async def verify_release(self, ticket: RunTicket, proof: ServiceProof, *datasets: str, fresh: bool = False) -> VerifiedRun:
        """Verify the release of secrets of ``datasets`` (names).

        Args:
            ticket: The run.
            proof: The Spark service's proof.
            datasets: Names of the datasets.
            fresh: Whether to take over no answers of other activities: for a release that cannot be undone.

        Raises:
            Refused: The code of the check that failed; ``DatasetNotInQuery``.
        """
        return await self._verify_release(ticket, proof, lambda run: [run.dataset(name) for name in datasets], fresh=fresh)

    async def verify_token_release(self, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Verify the release of ID tokens, for every dataset that pods read with its owner's managed identity.

        Raises:
            Refused: The code of the check that failed.
        """
        return await self._verify_release(ticket, proof, lambda run: run.identity_datasets)

    async def verify_statement(self, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Verify a run for an entry in the ledger that the clean room attests. It names no fact that can change.

        Raises:
            Refused: The code of the check that failed.
        """
        return await self._verify_release(ticket, proof, lambda run: ())

    async def _verify_release(
        self, ticket: RunTicket, proof: ServiceProof, released: Callable[[AuthorisedRun], Sequence[Dataset]], *, fresh: bool = False
    ) -> VerifiedRun:
        async with self._memory(ticket) as memory:
            snapshot = await self._snapshot(memory, ticket)
            datasets = released(snapshot.run)
            authority = memory.fresh if fresh else memory.recent
            _, trust = await asyncio.gather(authority.still_authorised(snapshot.run, datasets), self._in_force(memory, fresh=fresh))
            snapshot.trust.require_same(trust)
            if not snapshot.consented:
                await memory.recent.verify_consent(snapshot.run.document_ids)
                snapshot.consented = True
            policies = snapshot.policies
            if policies is None or snapshot.proof != proof:
                verified = self._verify_proof(snapshot, ticket, proof)
            else:
                verified = VerifiedRun(ticket, snapshot.run, snapshot.job, policies, snapshot.trust, policies.host_data())
            await self._pin(verified.run)
            return verified

    async def confirm(self, verified: VerifiedRun, datasets: Sequence[Dataset], together: Collection[str] = ()) -> None:
        """Look again after a release of secrets of ``datasets``. Raises the code of the check that no longer holds.

        Args:
            verified: The run.
            datasets: The datasets.
            together: Names of the datasets of which secrets are released at the same time. Their looks share requests.
        """
        await self._looks.gather(verified.run.token, together)
        async with self._memory(verified.ticket) as memory:
            await memory.fresh.confirm(verified.run, datasets)

    def finish(self, verified: VerifiedRun, datasets: Iterable[str]) -> None:
        """Take note that all secrets of ``datasets`` (names) are released."""
        self._looks.finish(verified.run.token, datasets)

    # ------------------------------------------------------------------ the pin

    async def pin(self, ticket: RunTicket) -> RunRequest:
        """Return the request if the ledger pins the run to it. Enter the pin first if the run has none.

        Raises:
            Refused: ``RunPinnedToAnotherRequest``; the codes of :meth:`RunAuthority.verify_pin` when there is no pin yet.
        """
        async with self._memory(ticket) as memory:
            if await memory.recent.pinned_request(ticket.run_id) is None:
                await self._enter_pin(await memory.recent.verify_pin(ticket), ticket.request)
            return await memory.recent.verify_pinned(ticket)

    async def _pin(self, run: AuthorisedRun) -> None:
        """Perform check 9 for an authorised run."""
        pinned = await self.authority.pinned_request(run.request.run_id)
        if pinned is None:
            pinned = await self._enter_pin(run.request, run.token)
        self.authority.require_pinned_to(pinned, run.token)

    async def _enter_pin(self, request: RunRequest, token: str) -> PinnedRequest:
        """Enter the pin, and return the pin that counts: another activity may have entered one at the same time.

        Raises:
            Unavailable: ``GovernanceBehind``.
        """
        entry = pin_entry(request, token, await self._origin())
        await self._ledger.put_event(entry, event_id=pinned_event_id(request.run_id), scope=RUNS_SCOPE)
        pinned = await self.authority.pinned_request(request.run_id)
        if pinned is None:
            raise Unavailable("GovernanceBehind", f"run {request.run_id!r}: governance does not show the run's pin yet.")
        return pinned

    # ------------------------------------------------------------------ steps of the Prepare diagram, which release nothing

    async def verify_caller(self, ticket: RunTicket) -> tuple[RunRequest, int]:
        """Perform check 1; see :meth:`RunAuthority.verify_caller`."""
        async with self._memory(ticket) as memory:
            return await memory.recent.verify_caller(ticket)

    async def fetch_query(self, ticket: RunTicket) -> tuple[AcceptedDocument, QueryDocument]:
        """Perform checks 1 and 3; see :meth:`RunAuthority.fetch_query`."""
        async with self._memory(ticket) as memory:
            request, _ = await memory.recent.verify_caller(ticket)
            return await memory.recent.fetch_query(ticket, request)

    async def verify_approvals(self, ticket: RunTicket) -> AuthorisedRun:
        """Perform checks 1 to 5."""
        async with self._memory(ticket) as memory:
            return (await self._verify_documents(memory, ticket, consent=False)).run

    async def verify_consent(self, ticket: RunTicket) -> AuthorisedRun:
        """Perform check 6 on a fresh reading of governance, for the query and every dataset."""
        async with self._memory(ticket) as memory:
            snapshot = await self._snapshot(memory, ticket)
            snapshot.consented = False
            await memory.fresh.verify_consent(snapshot.run.document_ids)
            snapshot.consented = True
            return snapshot.run

    async def build_job(self, ticket: RunTicket) -> JobConfig:
        """Return the job of a verified run (check 7)."""
        async with self._memory(ticket) as memory:
            return (await self._snapshot(memory, ticket)).job

    async def verify_service(self, ticket: RunTicket, report: ServiceReport) -> SparkVerdict:
        """Verify that ``report`` comes from an accepted Spark service and was made for this run.

        Raises:
            Refused: The code of the check that failed; ``NonceMismatch`` for another run's report.
        """
        async with self._memory(ticket) as memory:
            return (await self._in_force(memory)).services.report(report, service_nonce(ticket), at=self._now())

    async def verify_policies(self, ticket: RunTicket, proof: ServiceProof) -> None:
        """Perform check 8.

        Raises:
            Refused: The code of the check that failed.
        """
        async with self._memory(ticket) as memory:
            self._verify_proof(await self._snapshot(memory, ticket), ticket, proof)

    async def past_run(self, ticket: RunTicket) -> VerifiedRun:
        """Derive a pinned run that may be over, to undo what it was given or to compare its result. It authorises no release."""
        await self.authority.verify_pinned(ticket)
        run, accepted = await asyncio.gather(self.authority.authorise(ticket, consent=False, past=True), self._trust.accepted())
        if not accepted:
            raise PreconditionFailed("TrustDocumentMissing", "the members have accepted no trust document, so the run was given nothing.")
        jobs = [assemble_job(run, trust.environment) for trust in accepted]
        policies = [trust.services.compute(job) for trust, job in zip(accepted, jobs, strict=True)]
        hosts = dict.fromkeys(host for each in policies for host in each.host_data())
        return VerifiedRun(ticket, run, jobs[-1], policies[-1], accepted[-1], tuple(hosts), tuple(jobs))

    # ------------------------------------------------------------------ the memory

    def snapshot(self, ticket: RunTicket) -> Snapshot | None:
        """Return the result of the last full verification of exactly this ticket, if this process remembers it."""
        memory = self._memories.get(message_digest(ticket))
        return memory.snapshot if memory is not None else None

    @asynccontextmanager
    async def _memory(self, ticket: RunTicket) -> AsyncIterator[_Memory]:
        """Yield what this process remembers of the run, and forget it when a check fails."""
        key = message_digest(ticket)
        memory = self._memories.get(key)
        if memory is None:
            memory = self._memories[key] = _Memory(self.authority, RunReadings(self._reader, self._timer))
        try:
            yield memory
        except CleanRoomError as error:
            if not isinstance(error, Unavailable) and self._memories.get(key) is memory:
                del self._memories[key]
            raise

    async def _in_force(self, memory: _Memory, *, fresh: bool = False) -> TrustInForce:
        """Read the trust document in force."""
        return await memory.readings.get(("trust", ""), self._trust.in_force, within=0.0 if fresh else SHARED_SECONDS)

    async def _verify_documents(self, memory: _Memory, ticket: RunTicket, *, consent: bool, fresh: bool = False) -> Snapshot:
        """Perform checks 1 to 7 (6 only with ``consent``), and keep the result."""
        authority = memory.fresh if fresh else memory.recent
        run, trust = await asyncio.gather(authority.authorise(ticket, consent=consent), self._in_force(memory, fresh=fresh))
        known = memory.snapshot
        # The job depends on nothing else, and the gate takes a while.
        if known is None or known.run != run or known.trust.trust.digest != trust.trust.digest:
            known = memory.snapshot = Snapshot(run, assemble_job(run, trust.environment), trust, consent)
        known.consented = consent
        return known

    def _verify_proof(self, snapshot: Snapshot, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Perform check 8, and keep the result."""
        policies = snapshot.trust.services.policies(proof, service_nonce(ticket), snapshot.job, at=self._now())
        snapshot.policies, snapshot.proof = policies, proof
        for message in (ticket, proof):
            self._known[message_digest(message)] = message
        return VerifiedRun(ticket, snapshot.run, snapshot.job, policies, snapshot.trust, policies.host_data())

    async def _snapshot(self, memory: _Memory, ticket: RunTicket) -> Snapshot:
        """Return the run's snapshot. Without one, verify the run in full; concurrent callers share that verification."""
        if memory.snapshot is not None:
            return memory.snapshot
        task = memory.in_progress
        if task is None or task.done():
            task = memory.in_progress = asyncio.create_task(self._verify_documents(memory, ticket, consent=True))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)
