"""The Spark service: attests itself, makes and signs pod policies, and runs SparkApplications.

It runs in a confidential container next to the cluster and handles references, digests and policies, never a
secret. The clean room verifies its report and its policies with :mod:`cleanroom.spark.signed`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Protocol

from cleanroom.attestation import AttestationEvidence, GuestAttestor
from cleanroom.bulkheads import bulkhead
from cleanroom.errors import CleanRoomError, NotFound, Refused
from cleanroom.models import FrozenModel
from cleanroom.settings import Settings
from cleanroom.spark.application import QUERY_LABEL, RUN_LABEL, build_application
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.job import JobConfig
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_objects import SubmittedJob, submitted_job
from cleanroom.spark.outcome import Outcome, creation_error
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import PolicySigner, SignedPolicies
from cleanroom.spark.status import JobStatus
from cleanroom.spark.watch import ApplicationWatch


class Attestor(Protocol):
    """Produces this guest's evidence, as :class:`cleanroom.attestation.GuestAttestor` does."""

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        """Return evidence whose report data binds ``runtime_data``."""
        ...


class Submission(FrozenModel):
    """A submitted application. ``tracking_id`` is its name; ``created`` is False if an earlier attempt created it."""

    tracking_id: str
    uid: str
    created: bool
    namespace: str


class SparkService:
    """The Spark service of one process.

    Args:
        attestor: Produces this guest's evidence.
        client: The cluster.
        beat_seconds: The longest time between two calls of ``on_progress`` during :meth:`watch`.
        signer: Signs the pod policies; by default with a new key.
    """

    def __init__(
        self,
        attestor: Attestor,
        client: KubernetesClient,
        *,
        beat_seconds: float = 10,
        signer: PolicySigner | None = None,
    ) -> None:
        self._attestor, self._client, self._beat = attestor, client, beat_seconds
        self._signer = signer or PolicySigner()

    @staticmethod
    def from_settings(settings: Settings) -> SparkService:
        """Return a service for a deployment's settings.

        Raises:
            PreconditionFailed: ``KubeconfigInvalid``.
        """
        return SparkService(
            GuestAttestor(settings.attestation.url, ca_file=settings.ca_file),
            KubernetesClient.connect(settings.kubernetes),
        )

    async def __aenter__(self) -> SparkService:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the cluster."""
        self._client.close()

    # --- trust

    async def attestation_report(self, nonce: str) -> ServiceReport:
        """Return a report that binds this process's signing key to the caller's nonce.

        Raises:
            Refused: ``NonceTooShort``, or the attestation sidecar refused.
            Unavailable: The attestation sidecar did not answer.
        """
        payload = self._signer.payload(nonce)
        return ServiceReport(evidence=await self._attestor.attest(payload.encode("utf-8")), payload=payload)

    async def security_policy(self, job: JobConfig, profile: PodProfile, nonce: str) -> SignedPolicies:
        """Return the pod policies of ``job``, signed by the key that :meth:`attestation_report` binds.

        Raises:
            InvalidInput: ``JobConfigTooLarge``.
            Refused: ``NonceTooShort``.
        """
        return self._signer.sign(job, profile, pod_policies(job, profile), nonce)

    # --- running

    async def submit(self, job: JobConfig, profile: PodProfile, granted: Collection[str]) -> Submission:
        """Create the job's SparkApplication, or find the one that an earlier attempt created. Idempotent.

        Args:
            job: The job to run.
            profile: The pod profile.
            granted: Host data (hex) to which governance grants the run's secrets. Pods with other host data could not read
                them.

        Raises:
            Refused: ``PodPolicyChanged``; retryable while nothing is granted, because another node of governance may know of a grant later.
            Conflict: ``SparkApplicationDiffers``.
            CleanRoomError: ``SparkRightMissing``, ``SparkAdmission``, ``SparkCapacity``; otherwise the API's own error.
        """
        policies = pod_policies(job, profile)
        missing = [role for role in ("driver", "executor") if getattr(policies, role).host_data not in granted]
        if missing:
            error = Refused(
                "PodPolicyChanged",
                f"submit: the run's secrets are not granted to the policy of its {' and '.join(missing)} pods.",
                hint="The Spark service or the trust document has changed since the run was prepared. Start a new run.",
                party="operator",
                details={"granted": sorted(granted), "now": list(policies.host_data())},
            )
            error.retryable = not granted
            raise error
        return await bulkhead("kubernetes").run(self._create, job, profile, policies)

    def _create(self, job: JobConfig, profile: PodProfile, policies: PodPolicies) -> Submission:
        try:
            found, created = self._client.create_or_get(build_application(job, profile, policies))
        except CleanRoomError as error:
            raise creation_error(error) from error.__cause__
        metadata = found["metadata"]
        return Submission(tracking_id=metadata["name"], uid=metadata["uid"], created=created, namespace=metadata["namespace"])

    async def status(self, tracking_id: str) -> JobStatus:
        """Return one reading of the application, its pods and their events.

        Raises:
            NotFound: ``NotFound``.
        """
        return await bulkhead("kubernetes").run(self._client.status, tracking_id)

    async def jobs(self, contract_id: str) -> list[SubmittedJob]:
        """List the applications of a contract's runs that have not ended."""
        found = await bulkhead("kubernetes").run(self._client.applications, f"{RUN_LABEL},{QUERY_LABEL}")
        return [job for job in map(submitted_job, found) if job is not None and job.contract_id == contract_id and not job.ended]

    async def delete(self, tracking_id: str, *, uid: str | None = None, seconds: float = 60) -> bool:
        """Cancel the application: delete it and wait until its pods are gone. Idempotent.

        Args:
            tracking_id: From :meth:`submit`.
            uid: If given, an object with another UID is left alone.
            seconds: How long to wait for the pods.

        Returns:
            Whether the application existed.

        Raises:
            TimedOut: ``PodsRemain``.
        """
        return await bulkhead("kubernetes").run(self._client.delete, tracking_id, uid=uid, seconds=seconds)

    async def logs(self, tracking_id: str, *, tail: int = 200) -> str:
        """Return the last ``tail`` lines of the driver's log.

        Control characters and bidirectional overrides are removed, so that a log cannot control a terminal.

        Raises:
            NotFound: The application does not exist, or has no driver pod yet (``DriverPodNotFound``).
        """
        status = await self.status(tracking_id)
        if status.driver_pod is None:
            raise NotFound(
                "DriverPodNotFound", f"{tracking_id}: the driver pod does not exist yet.", hint="Try again when the run has started."
            )
        text = await bulkhead("kubernetes").run(self._client.logs, status.driver_pod, tail=tail)
        return "".join(char for char in text if char in "\n\t" or char.isprintable())

    async def watch(
        self,
        tracking_id: str,
        on_progress: Callable[[JobStatus], None],
        deadlines: Deadlines | None = None,
        *,
        uid: str | None = None,
    ) -> Outcome:
        """Watch the application until it ends, or until it is clear that it cannot start.

        ``on_progress`` receives every new reading, and the last one again after ``beat_seconds`` without a change:
        send heartbeats there. Nothing is deleted; call :meth:`delete` after a failure that leaves pods. A watch can
        be cancelled and started again at any time.

        Args:
            tracking_id: From :meth:`submit`.
            on_progress: Called on this event loop; must not block.
            deadlines: Time limits; by default those of :class:`Deadlines`.
            uid: From :meth:`submit`. If given, another object with the same name ends the watch with ``Replaced``.

        Raises:
            Unavailable: The Kubernetes API was unreachable for ``unreachable_seconds``.
            Refused: The API denied access.
        """
        watch = ApplicationWatch(self._client, tracking_id, on_progress, deadlines or Deadlines(), uid=uid, beat_seconds=self._beat)
        return await watch.run()
