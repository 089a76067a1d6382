"""The Spark service: what its worker's activities call. It attests itself, makes and signs pod policies, and runs SparkApplications.

It is meant to run in a confidential container beside the cluster. It never sees a secret: it handles references, digests and policies.
The verifying side (:func:`verify_service_report`, :func:`verify_signed_policies`) runs in the clean room.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from cleanroom.attestation import AttestationEvidence, GuestAttestor
from cleanroom.errors import CleanRoomError, NotFound, Refused, Unavailable
from cleanroom.settings import Settings
from cleanroom.spark.application import build_application
from cleanroom.spark.job import JobConfig
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_stream import StopSignal
from cleanroom.spark.outcome import FailureCode, Outcome, failed_outcome, outcome_of, waiting_reason
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.signed import (
    PolicySigner,
    ServiceReport,
    SignedPolicies,
    VerifiedService,
    new_nonce,
    verify_service_report,
    verify_signed_policies,
)
from cleanroom.spark.status import KNOWN_STATES, JobStatus

__all__ = [
    "Deadlines",
    "ServiceReport",
    "SignedPolicies",
    "SparkService",
    "Submission",
    "VerifiedService",
    "new_nonce",
    "verify_service_report",
    "verify_signed_policies",
]

_log = logging.getLogger(__name__)
_HOPELESS = ("not found", "denied", "unauthorized", "InvalidImageName", "ErrImageNeverPull")


_STARTED_STATES = ("RUNNING", "SUCCEEDING", "FAILING")
"""States in which the operator has seen the driver run."""


class Attestor(Protocol):
    """Whoever produces this guest's evidence: :class:`cleanroom.attestation.GuestAttestor`."""

    async def attest(self, runtime_data: bytes) -> AttestationEvidence: ...


class Deadlines(BaseModel):
    """How long things may take, in seconds from the application's creation or the driver's start as the cluster dates them, so that a
    watch that is resumed by another worker does not start counting again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver_start_seconds: float = Field(default=900, gt=0)
    run_seconds: float = Field(default=6 * 3600, gt=0)
    image_pull_seconds: float = Field(default=120, ge=0)
    """How long an image that cannot be pulled is waited for, when its registry may come back."""
    unreachable_seconds: float = Field(default=120, ge=0)
    """How long the Kubernetes API may be away before the watch gives up with ``Unavailable`` (the application goes on)."""


class Submission(BaseModel):
    """A submitted application: ``tracking_id`` is its name; ``created`` is False when an earlier attempt had made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_id: str
    uid: str
    created: bool
    namespace: str


class SparkService:
    """The service of one process.

    Args:
        attestor: Produces this guest's evidence.
        client: The cluster.
        profile: What pods run.
        beat_seconds: The longest silence of ``on_progress`` during :meth:`watch`.
    """

    def __init__(self, attestor: Attestor, client: KubernetesClient, profile: PodProfile, *, beat_seconds: float = 10) -> None:
        self._attestor, self._client, self._profile, self._beat = attestor, client, profile, beat_seconds
        self._signer = PolicySigner()

    @staticmethod
    def from_settings(settings: Settings) -> SparkService:
        """A service as the settings describe it.

        Raises:
            PreconditionFailed: ``SparkImageNotConfigured``, ``KubeconfigInvalid``.
        """
        return SparkService(
            GuestAttestor(settings.attestation.url, ca_file=settings.ca_file),
            KubernetesClient.connect(settings.kubernetes),
            PodProfile.from_settings(settings),
        )

    async def __aenter__(self) -> SparkService:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the cluster."""
        self._client.close()

    @property
    def profile(self) -> PodProfile:
        """What pods run."""
        return self._profile

    # --- trust

    async def attestation_report(self, nonce: str) -> ServiceReport:
        """A report that binds this process's signing key to the caller's nonce.

        Raises:
            Refused: ``NonceTooShort``; the sidecar's refusals.
            Unavailable: the sidecar did not answer.
        """
        payload = self._signer.payload(nonce)
        return ServiceReport(evidence=await self._attestor.attest(payload.encode("utf-8")), payload=payload)

    async def security_policy(self, job: JobConfig, nonce: str) -> SignedPolicies:
        """The pod policies of ``job``, signed by the key that :meth:`attestation_report` binds.

        Raises:
            InvalidInput: ``JobConfigTooLarge``.
            Refused: ``NonceTooShort``.
        """
        return self._signer.sign(job, self._profile, pod_policies(job, self._profile), nonce)

    # --- running

    async def submit(self, job: JobConfig, policies_digest: str) -> Submission:
        """Create the job's SparkApplication, or find the one that an earlier attempt made.

        ``policies_digest`` is :meth:`PodPolicies.digest` of what the grants were made for: host data at submit must equal host data at
        grant, or the pods would get no secrets (spec/execute.md, trap 7).

        Raises:
            Refused: ``PodPolicyChanged``.
            Conflict: ``SparkApplicationDiffers``.
        """
        policies = pod_policies(job, self._profile)
        if policies.digest() != policies_digest:
            raise Refused(
                "PodPolicyChanged",
                "submit: the pod policies are not those that the secrets were granted to.",
                hint="The Spark service was updated since; prepare the run again.",
                party="operator",
                details={"granted": policies_digest, "now": policies.digest()},
            )
        found, created = await asyncio.to_thread(self._create, job, policies)
        return found.model_copy(update={"created": created})

    def _create(self, job: JobConfig, policies: PodPolicies) -> tuple[Submission, bool]:
        application = build_application(job, self._profile, policies)
        found, created = self._client.create_or_get(application)
        metadata = found["metadata"]
        return Submission(tracking_id=metadata["name"], uid=metadata["uid"], created=created, namespace=metadata["namespace"]), created

    async def status(self, tracking_id: str) -> JobStatus:
        """One reading of application, pods and events.

        Raises:
            NotFound: ``NotFound``.
        """
        return await asyncio.to_thread(self._client.status, tracking_id)

    async def delete(self, tracking_id: str, *, uid: str | None = None, seconds: float = 60) -> bool:
        """Delete the application and wait until none of its pods is left; False when there was none. The way to cancel.

        Raises:
            TimedOut: ``PodsRemain``.
        """
        return await asyncio.to_thread(self._client.delete, tracking_id, uid=uid, seconds=seconds)

    async def logs(self, tracking_id: str, *, tail: int = 200) -> str:
        """The end of the driver's log, without control characters (users-and-threats.md T20).

        Raises:
            NotFound: no such application, or no driver pod yet.
        """
        status = await self.status(tracking_id)
        if status.driver_pod is None:
            raise NotFound("DriverPodNotFound", f"{tracking_id}: has no driver pod yet.")
        text = await asyncio.to_thread(self._client.logs, status.driver_pod, tail=tail)
        return "".join(char for char in text if char in "\n\t" or (char.isprintable() and not "\u202a" <= char <= "\u202e"))

    async def watch(
        self,
        tracking_id: str,
        on_progress: Callable[[JobStatus], None],
        deadlines: Deadlines | None = None,
        *,
        uid: str | None = None,
    ) -> Outcome:
        """Follow the application to its end, or to the first sign that it cannot get there.

        ``on_progress`` gets every new reading, and another one after ``beat_seconds`` of silence: heartbeat there. Nothing is
        deleted; after a failure that leaves pods behind, call :meth:`delete`. Can be cancelled and called again at any time.

        Args:
            tracking_id: From :meth:`submit`.
            on_progress: Called on this event loop; must not block.
            deadlines: Defaults of :class:`Deadlines`.
            uid: From :meth:`submit`; with it, another object of the same name ends the watch as ``Replaced``.

        Raises:
            Unavailable: the Kubernetes API stayed away for ``unreachable_seconds``.
            Refused: the API refuses us.
        """
        return await _Watch(self._client, tracking_id, on_progress, deadlines or Deadlines(), uid, self._beat).run()


class _Watch:
    """One call of :meth:`SparkService.watch`: two threads wait for the API to tell of changes, the event loop reads and judges."""

    def __init__(
        self,
        client: KubernetesClient,
        name: str,
        on_progress: Callable[[JobStatus], None],
        deadlines: Deadlines,
        uid: str | None,
        beat: float,
    ) -> None:
        self._client, self._name, self._on_progress = client, name, on_progress
        self._deadlines, self._uid, self._beat = deadlines, uid, beat
        self._changed = asyncio.Event()
        self._stop = StopSignal()
        self._loop = asyncio.get_running_loop()
        self._last: JobStatus | None = None
        self._unknown: set[str] = set()
        self._away_since: float | None = None

    async def run(self) -> Outcome:
        threads = [
            threading.Thread(target=self._wake, args=(follow,), daemon=True, name=f"watch-{self._name}")
            for follow in (self._follow_application, self._follow_pods)
        ]
        for thread in threads:
            thread.start()
        try:
            while True:
                self._changed.clear()
                outcome = await self._look()
                if outcome is not None:
                    return outcome
                try:
                    async with asyncio.timeout(self._patience()):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._stop.set()
            await asyncio.gather(*(asyncio.to_thread(thread.join, 5) for thread in threads))

    # --- threads

    def _wake(self, follow: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                follow()
            except CleanRoomError as error:
                # Reading tells the same error to the caller; here it only slows the watch down.
                _log.info("watch of %s: %s", self._name, error.code)
                self._stop.wait(1.0)
            self._tell()

    def _tell(self) -> None:
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._changed.set)

    def _follow_application(self) -> None:
        for change in self._client.changes(self._name, seconds=30, stop=self._stop):
            self._tell()
            if change.object is None:
                self._stop.wait(1.0)

    def _follow_pods(self) -> None:
        version: str | None = None
        while not self._stop.is_set():
            before = version
            version = self._client.await_pod_change(self._name, 30, version, stop=self._stop)
            if version != before:
                self._tell()

    # --- judgement

    async def _look(self) -> Outcome | None:
        try:
            status = await asyncio.to_thread(self._client.status, self._name)
        except NotFound:
            return self._gone("the SparkApplication was deleted while the run waited for it", FailureCode.DELETED)
        except Unavailable:
            now = self._loop.time()
            self._away_since = self._away_since or now
            if now - self._away_since >= self._deadlines.unreachable_seconds:
                raise
            if self._last is not None:
                self._on_progress(self._last)
            await asyncio.sleep(min(1.0, self._beat))
            self._changed.set()
            return None
        self._away_since = None
        if self._uid is not None and status.uid != self._uid:
            return self._gone("another SparkApplication has taken the name", FailureCode.REPLACED)
        if status.state not in KNOWN_STATES and status.state not in self._unknown:
            self._unknown.add(status.state)
            _log.warning("%s is in state %r, which this version does not know; waiting on", self._name, status.state)
        self._last = status
        self._on_progress(status)
        outcome = outcome_of(status)
        if outcome is not None and not self._may_recover(outcome, status):
            return outcome
        return deadline_outcome(status, self._deadlines)

    def _may_recover(self, outcome: Outcome, status: JobStatus) -> bool:
        if outcome.code is FailureCode.IMAGE_PULL and not any(word in outcome.message for word in _HOPELESS):
            return _age(status) < self._deadlines.image_pull_seconds
        return False

    def _gone(self, message: str, code: FailureCode) -> Outcome:
        status = self._last or JobStatus(tracking_id=self._name, uid=self._uid or "")
        return failed_outcome(status, code, message)

    def _patience(self) -> float:
        """Seconds until something is due even if nothing changes."""
        due = [self._beat]
        status = self._last
        if status is not None:
            container = status.driver_container()
            started = container.started_at if container is not None else None
            if started is not None:
                due.append(self._deadlines.run_seconds - _since(started))
            else:
                due += [limit - _age(status) for limit in (self._deadlines.driver_start_seconds, self._deadlines.image_pull_seconds)]
        return max(0.05, min(seconds for seconds in due if seconds > 0))


def deadline_outcome(status: JobStatus, deadlines: Deadlines) -> Outcome | None:
    """The failure of an application that takes too long, or None while it may go on.

    Once the operator says that the driver runs, a pod that is not to be seen (it is short-lived, or its node is away) has started
    nevertheless: one reading without it must not fail a run that may be about to complete.
    """
    container = status.driver_container()
    started = container.started_at if container is not None and container.state != "waiting" else None
    if started is None and status.state not in _STARTED_STATES:
        if _age(status) < deadlines.driver_start_seconds:
            return None
        reason = waiting_reason(status) or f"the application is {status.state or 'not seen by the operator yet'}"
        pod = status.driver()
        code = FailureCode.CAPACITY if pod is not None and not pod.scheduled else FailureCode.START_DEADLINE
        return failed_outcome(status, code, f"the driver has not started within {deadlines.driver_start_seconds:g} s: {reason}")
    if (_age(status) if started is None else _since(started)) < deadlines.run_seconds:
        return None
    return failed_outcome(status, FailureCode.RUN_DEADLINE, f"the run has taken longer than {deadlines.run_seconds:g} s")


def _age(status: JobStatus) -> float:
    return _since(status.created_at) if status.created_at is not None else 0.0


def _since(instant: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - instant).total_seconds())
