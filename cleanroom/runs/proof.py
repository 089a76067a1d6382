"""The clean room's side of "Verify Spark": is this the service we accept, answering this run, with the policies that the job gives?"""

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
    """What this deployment demands of any guest's evidence, besides host data and report data."""
    return Expectations(
        require_uvm=settings.require_uvm,
        refuse_host_data=ALLOW_ALL_HOST_DATA if settings.refuse_allow_all else frozenset(),
        minimum_report_version=settings.report_version_floor,
    )


class ServiceVerifier:
    """Verifies the Spark service's report and statements.

    Args:
        trust: Attestation roots.
        accepted: Host data of the services that are accepted.
        profile: What pods run; must be the service's own.
        settings: What else is demanded of a report.
    """

    def __init__(self, trust: TrustStore, accepted: frozenset[str], profile: PodProfile, settings: AttestationSettings) -> None:
        self._trust = trust
        self._accepted = accepted
        self._profile = profile
        self._expectations = expectations(settings)

    def compute(self, job: JobConfig) -> PodPolicies:
        """The pod policies of ``job``."""
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
            Refused: the reason of the first failed check; ``NonceMismatch`` for another run's report.
        """
        return self._service(report, nonce, at)[1]

    def policies(self, proof: ServiceProof, nonce: str, job: JobConfig, *, at: dt.datetime) -> PodPolicies:
        """Verify report and statement, and return the policies of ``job`` as computed here.

        Raises:
            Refused: as :meth:`report`; ``PolicySignatureInvalid``, ``PolicyJobMismatch``, ``PodPolicyMismatch``.
        """
        service, _ = self._service(proof.report, nonce, at)
        computed = self.compute(job)
        return verify_signed_policies(
            SignedPolicies(policies=computed, statement=proof.policies.statement), service, job, self._profile, nonce
        )
