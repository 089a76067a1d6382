"""Verifies the Spark service for the clean room: its attestation report, and its signed statement on the pod policies."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cleanroom.identifiers import sha256_hex
from cleanroom.messages.run import ServiceProof, SparkVerdict
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import SignedPolicies, VerifiedService, verify_service_report, verify_signed_policies
from cleanroom.trust import TrustDocument


class ServiceVerifier:
    """Verifies Spark services under one trust document.

    Args:
        trust: The trust document. It names the accepted services, the roots, the requirements on reports, and the pods' program.
        crls: Revocation lists, DER or PEM.
    """

    def __init__(self, trust: TrustDocument, crls: Sequence[bytes] = ()) -> None:
        self._trust = trust.trust_store()
        self._accepted = trust.spark_service_host_data
        self._profile = PodProfile(**dict(trust.pods))
        self._expectations = trust.expectations(crls)

    def compute(self, job: JobConfig) -> PodPolicies:
        """Compute the pod policies of ``job``."""
        return pod_policies(job, self._profile)

    def _service(self, report: ServiceReport, nonce: str, at: dt.datetime) -> tuple[VerifiedService, SparkVerdict]:
        service, verdict = verify_service_report(report, nonce, self._trust, self._accepted, at, expectations=self._expectations)
        return service, SparkVerdict(
            host_data=service.host_data,
            product=str(verdict.product),
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
