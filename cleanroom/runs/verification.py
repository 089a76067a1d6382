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
datasets. ``verify_release`` therefore starts from a snapshot: the result of an earlier full verification of the same ticket,
kept in this process's memory. It then repeats every check whose answer can have changed, on a fresh reading: checks 1
(active), 2, 5 (expiry), and for the query and the datasets whose secrets are released 3, 4 and 6. Checks 7 to 9 depend only
on the ticket, the proof, the ledger's earliest entry and documents that governance never changes once they are accepted
(docs/decisions/008-what-a-release-reads-again.md).

Rules for the snapshot:

* Its key is the digest of the whole ticket. Another request, run, query or collaboration has another key.
* Its content is computed here. Nothing in it comes from an activity input except the ticket and the proof, which are verified.
* A proof that was not verified for this ticket is verified in full; a proof is recognised by the digest of all its bytes.
* It is dropped when a later check fails or a document differs, the trust document included. It also expires, and the number of
  snapshots is bounded.
* The last step before pods can execute (the consent receipt), each renewal of the receipt and the audit statement use
  ``verify_run``, not the snapshot.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cachetools import TTLCache
from pydantic import BaseModel

from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.messages.run import RunTicket, ServiceProof, SparkVerdict
from cleanroom.runs.assembly import assemble_job
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.runs.authority import RunAuthority, service_nonce
from cleanroom.runs.ledger import RUNS_SCOPE, PinnedRequest, pin_entry, pinned_event_id
from cleanroom.runs.reader import GovernanceReader
from cleanroom.runs.trust import RunTrust, TrustInForce
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import PodPolicies
from cleanroom.spark.signed import ServiceReport
from cleanroom.statements.model import RunRequest

SNAPSHOT_SECONDS = 300.0
"""How long a snapshot is used. Consent to datasets that a release does not concern may be this old at that release."""
SNAPSHOTS = 64
"""How many runs have a snapshot at the same time; the least recently used one is dropped."""


class LedgerWriter(Protocol):
    """Enters events into governance's ledger; :class:`cleanroom.governance.CleanRoomClient` does."""

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None) -> None:
        """Write an entry, and return when it is committed."""
        ...


@dataclass(frozen=True)
class VerifiedRun:
    """A verified run, its job and its pod policies, all computed by this process."""

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
class _Snapshot:
    run: AuthorisedRun
    job: JobConfig
    trust: TrustInForce
    consented: bool
    """Whether the consent to every document was checked."""
    proof_digest: str = ""
    policies: PodPolicies | None = None


class RunVerifier:
    """Verifies runs for the clean room's activities. One instance per worker process.

    Args:
        reader: Reads governance.
        collaboration: The contract ID that this process serves.
        trust: The trust documents.
        ledger: Enters the pin of a run.
        now: Returns the current time, with a time zone.
        timer: The clock of the snapshots, in seconds.
    """

    def __init__(
        self,
        reader: GovernanceReader,
        collaboration: str,
        trust: RunTrust,
        ledger: LedgerWriter,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.authority = RunAuthority(reader, collaboration, now)
        self._trust = trust
        self._ledger = ledger
        self._now = now
        self._snapshots: TTLCache[str, _Snapshot] = TTLCache(SNAPSHOTS, SNAPSHOT_SECONDS, timer)
        self._in_progress: dict[str, asyncio.Task[_Snapshot]] = {}

    # ------------------------------------------------------------------ before a release

    async def verify_run(self, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Verify everything that must hold before anything is released, on a fresh reading of governance.

        Raises:
            Refused: The code of the check that failed.
        """
        snapshot = await self._verify_documents(ticket, consent=True)
        verified = self._verify_proof(snapshot, ticket, proof)
        await self._pin(verified.run)
        return verified

    async def verify_release(self, ticket: RunTicket, proof: ServiceProof, *datasets: str) -> VerifiedRun:
        """Verify the release of secrets of ``datasets`` (names).

        Raises:
            Refused: The code of the check that failed; ``DatasetNotInQuery``.
        """
        snapshot = await self._confirmed_snapshot(ticket, lambda run: [run.dataset(name) for name in datasets])
        return await self._with_policies(snapshot, ticket, proof)

    async def verify_token_release(self, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Verify the release of ID tokens, for every dataset that pods read with its owner's managed identity.

        Raises:
            Refused: The code of the check that failed.
        """
        snapshot = await self._confirmed_snapshot(ticket, lambda run: run.identity_datasets)
        return await self._with_policies(snapshot, ticket, proof)

    async def confirm(self, run: AuthorisedRun, datasets: Sequence[Dataset]) -> None:
        """Look again after a release of secrets of ``datasets``. Raises the code of the check that no longer holds."""
        await self.authority.confirm(run, [run.document.id, *(item.document.id for item in datasets)])

    # ------------------------------------------------------------------ the pin

    async def pin(self, ticket: RunTicket) -> RunRequest:
        """Return the request if the ledger pins the run to it. Enter the pin first if the run has none.

        Raises:
            Refused: ``RunPinnedToAnotherRequest``; the codes of :meth:`RunAuthority.verify_pin` when there is no pin yet.
        """
        if await self.authority.pinned_request(ticket.run_id) is None:
            await self._enter_pin(await self.authority.verify_pin(ticket), ticket.request)
        return await self.authority.verify_pinned(ticket)

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
        await self._ledger.put_event(pin_entry(request, token), event_id=pinned_event_id(request.run_id), scope=RUNS_SCOPE)
        pinned = await self.authority.pinned_request(request.run_id)
        if pinned is None:
            raise Unavailable("GovernanceBehind", f"run {request.run_id!r}: governance does not show the run's pin yet.")
        return pinned

    async def verify_service(self, ticket: RunTicket, report: ServiceReport) -> SparkVerdict:
        """Verify that ``report`` comes from an accepted Spark service and was made for this run.

        Raises:
            Refused: The code of the check that failed; ``NonceMismatch`` for another run's report.
        """
        return (await self._trust.in_force()).services.report(report, service_nonce(ticket), at=self._now())

    # ------------------------------------------------------------------ steps of the Prepare diagram

    async def verify_approvals(self, ticket: RunTicket) -> AuthorisedRun:
        """Verify checks 1 to 5 on a fresh reading of governance."""
        return (await self._verify_documents(ticket, consent=False)).run

    async def verify_consent(self, ticket: RunTicket) -> AuthorisedRun:
        """Verify check 6 on a fresh reading of governance, for the query and every dataset."""
        snapshot = await self._snapshot(ticket)
        await self._verify_consent(snapshot)
        return snapshot.run

    async def build_job(self, ticket: RunTicket) -> JobConfig:
        """Return the job of a verified run (check 7). This releases nothing, so a snapshot is sufficient."""
        return (await self._snapshot(ticket)).job

    async def verify_policies(self, ticket: RunTicket, proof: ServiceProof) -> None:
        """Verify check 8. This releases nothing, so a snapshot is sufficient.

        Raises:
            Refused: The code of the check that failed.
        """
        self._verify_proof(await self._snapshot(ticket), ticket, proof)

    async def past_run(self, ticket: RunTicket) -> VerifiedRun:
        """Derive a pinned run that may be over, to undo what it was given or to compare its result. It authorises no release."""
        await self.authority.verify_pinned(ticket)
        run, accepted = await asyncio.gather(self.authority.authorise(ticket, consent=False, past=True), self._trust.accepted())
        if not accepted:
            raise PreconditionFailed("TrustDocumentMissing", "the members have accepted no trust document, so the run was given nothing.")
        jobs = [assemble_job(run, trust.environment) for trust in accepted]
        policies = [trust.services.compute(job) for trust, job in zip(accepted, jobs, strict=True)]
        hosts = dict.fromkeys(host for each in policies for host in each.host_data())
        return VerifiedRun(run, jobs[-1], policies[-1], accepted[-1], tuple(hosts), tuple(jobs))

    # ------------------------------------------------------------------ snapshots

    async def _verify_documents(self, ticket: RunTicket, *, consent: bool) -> _Snapshot:
        """Perform checks 1 to 7 (6 only with ``consent``) on a fresh reading, and keep the result."""
        run, trust = await asyncio.gather(self.authority.authorise(ticket, consent=consent), self._trust.in_force())
        known = self._snapshots.get(_digest(ticket))
        # The job depends on nothing else, and the gate takes a while.
        same = known is not None and known.run == run and known.trust.trust.digest == trust.trust.digest
        snapshot = known if known is not None and same else _Snapshot(run, assemble_job(run, trust.environment), trust, consent)
        snapshot.consented = consent
        self._snapshots[_digest(ticket)] = snapshot
        return snapshot

    async def _verify_consent(self, snapshot: _Snapshot) -> None:
        snapshot.consented = False
        await self.authority.verify_consent(snapshot.run.document_ids)
        snapshot.consented = True

    def _verify_proof(self, snapshot: _Snapshot, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Perform check 8, and keep the result."""
        policies = snapshot.trust.services.policies(proof, service_nonce(ticket), snapshot.job, at=self._now())
        snapshot.policies, snapshot.proof_digest = policies, _digest(proof)
        return VerifiedRun(snapshot.run, snapshot.job, policies, snapshot.trust, policies.host_data())

    async def _with_policies(self, snapshot: _Snapshot, ticket: RunTicket, proof: ServiceProof) -> VerifiedRun:
        """Perform check 8 unless exactly this proof has passed it for this snapshot, then check 9."""
        if snapshot.policies is None or snapshot.proof_digest != _digest(proof):
            verified = self._verify_proof(snapshot, ticket, proof)
        else:
            policies = snapshot.policies
            verified = VerifiedRun(snapshot.run, snapshot.job, policies, snapshot.trust, policies.host_data())
        await self._pin(verified.run)
        return verified

    async def _snapshot(self, ticket: RunTicket) -> _Snapshot:
        """Return the ticket's snapshot. Without one, verify the run in full; concurrent callers share that verification."""
        key = _digest(ticket)
        found = self._snapshots.get(key)
        if found is not None:
            return found
        task = self._in_progress.get(key)
        if task is None:
            task = self._in_progress[key] = asyncio.create_task(self._verify_documents(ticket, consent=True))
            task.add_done_callback(lambda done: (self._in_progress.pop(key, None), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    async def _confirmed_snapshot(self, ticket: RunTicket, datasets: Callable[[AuthorisedRun], Sequence[Dataset]]) -> _Snapshot:
        """Return the ticket's snapshot after every check that can have changed was repeated, for the selected ``datasets``.

        The consent to all other documents was checked when the snapshot was made, or is checked now.
        """
        snapshot = await self._snapshot(ticket)
        released = datasets(snapshot.run)
        try:
            same, trust = await asyncio.gather(self.authority.still_authorised(snapshot.run, released), self._trust.in_force())
            snapshot.trust.require_same(trust)
            if not same:
                return await self._verify_documents(ticket, consent=True)
            if not snapshot.consented:
                await self._verify_consent(snapshot)
            return snapshot
        except CleanRoomError as error:
            if not isinstance(error, Unavailable):
                self._snapshots.pop(_digest(ticket), None)
            raise


def _digest(message: BaseModel) -> str:
    # What the sender has seen decides nothing.
    return sha256_hex(canonical_json(message.model_dump(mode="json", exclude={"seen"})))
