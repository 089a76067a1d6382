"""Verifies the Spark service for the clean room: its attestation report, and its signed statement on the pod policies."""

from __future__ import annotations

import datetime as dt

from cleanroom.attestation import ALLOW_ALL_HOST_DATA, Expectations, TrustStore
from cleanroom.identifiers import sha256_hex
from cleanroom.messages.run import ServiceProof, SparkVerdict
from cleanroom.settings import AttestationSettings
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.signed import ServiceReport, SignedPolicies, VerifiedService, verify_service_report, verify_signed_policies


def expectations(settings: AttestationSettings) -> Expectations:
    """Return what this deployment requires of every guest's evidence, in addition to host data and report data."""
    return Expectations(
        require_uvm=settings.require_uvm,
        refuse_host_data=ALLOW_ALL_HOST_DATA if settings.refuse_allow_all else frozenset(),
        minimum_report_version=settings.report_version_floor,
    )


class ServiceVerifier:
    """Verifies Spark services.

    Args:
        trust: Attestation roots.
        accepted: Host data (hex) of the accepted services.
        profile: The pod profile; the service must have the same one.
        settings: Further requirements on reports.
    """

    def __init__(self, trust: TrustStore, accepted: frozenset[str], profile: PodProfile, settings: AttestationSettings) -> None:
        self._trust = trust
        self._accepted = accepted
        self._profile = profile
        self._expectations = expectations(settings)

    def compute(self, job: JobConfig) -> PodPolicies:
        """Compute the pod policies of ``job``."""
        return pod_policies(job, self._profile)

    def _service(self, report: ServiceReport, nonce: str, at: dt.datetime) -> tuple[VerifiedService, SparkVerdict]:
        service, verdict = verify_service_report(report, nonce, self._trust, self._accepted, at, expectations=self._expectations)
        return service, SparkVerdict(
            host_data=service.host_data,
            product=str(verdict.product or "?"),
            checks=tuple(check.id for check in verdict.checks),
            service_key_digest=sha256_hex(service.public_key.encode()),
        )

    def report(self, report: ServiceReport, nonce: str, *, at: dt.datetime) -> SparkVerdict:
        """Verify the report.

        Raises:
            Refused: The reason of the first failed check; ``NonceMismatch`` for another run's report.
        """
        return self._service(report, nonce, at)[1]

    def policies(self, proof: ServiceProof, nonce: str, job: JobConfig, *, at: dt.datetime) -> PodPolicies:
        """Verify report and statement; return the policies of ``job`` as computed here.

        Raises:
            Refused: As :meth:`report`; ``PolicySignatureInvalid``, ``PolicyJobMismatch``, ``PodPolicyMismatch``.
        """
        service, _ = self._service(proof.report, nonce, at)
        computed = self.compute(job)
        return verify_signed_policies(
            SignedPolicies(policies=computed, statement=proof.policies.statement), service, job, self._profile, nonce
        )
