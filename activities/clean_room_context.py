"""What the Clean Room Application has in hand: its attested client, its registered identity, and what it trusts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from cleanroom.attestation import GuestAttestor, TrustStore
from cleanroom.errors import PreconditionFailed
from cleanroom.governance import CleanRoomClient, GovernanceUserClient
from cleanroom.identifiers import canonical_json
from cleanroom.messages.run import RunTicket, ServiceProof, SparkVerdict
from cleanroom.runs.assembly import JobEnvironment, assemble_job
from cleanroom.runs.authority import AuthorisedRun, RunAuthority, service_nonce
from cleanroom.runs.proof import ServiceVerifier
from cleanroom.runs.reader import AttestedReader
from cleanroom.settings import Settings
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import PodPolicies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.signed import ServiceReport


def job_environment(settings: Settings) -> JobEnvironment:
    """Where this deployment's pods find the world; the clean room and the Spark service must be configured alike."""
    roots = [file.read_text("ascii") for file in (settings.governance.service_cert_file, settings.ca_file) if file is not None]
    return JobEnvironment(
        governance_url=settings.governance.url,
        authority=settings.credential.authority,
        ca_pem="\n".join(roots),
        storage_hosts=settings.storage_hosts,
    )


def trust_store(settings: Settings) -> TrustStore:
    """The attestation roots of the settings."""
    return TrustStore.load(amd=settings.attestation.amd_roots, root_files=settings.attestation.trust_files)


class CleanRoomContext:
    """The Clean Room Application's means. One a worker."""

    def __init__(self, settings: Settings, client: CleanRoomClient, user: GovernanceUserClient, profile: PodProfile) -> None:
        if not settings.spark.service_host_data:
            raise PreconditionFailed(
                "SettingMissing", "settings: spark.service_host_data names no Spark service that is trusted.", party="operator"
            )
        self.settings = settings
        self.client = client
        self.user = user
        self.reader = AttestedReader(client, user, settings.collaboration)
        self.authority = RunAuthority(self.reader, settings.collaboration)
        self.attestor = GuestAttestor(settings.attestation.url, ca_file=settings.ca_file)
        self.trust = trust_store(settings)
        self._environment = job_environment(settings)
        self._services = ServiceVerifier(self.trust, frozenset(settings.spark.service_host_data), profile, settings.attestation)

    @property
    def ca_file(self) -> Path | None:
        return self.settings.ca_file

    def job(self, run: AuthorisedRun) -> JobConfig:
        """The job of an authorised run."""
        return assemble_job(run, self._environment)

    def policies(self, job: JobConfig) -> PodPolicies:
        """The pod policies of a job, computed here."""
        return self._services.compute(job)

    def verify_service(self, ticket: RunTicket, report: ServiceReport) -> SparkVerdict:
        """That ``report`` is of an accepted Spark service and was made for this very run."""
        return self._services.report(report, service_nonce(ticket), at=dt.datetime.now(dt.UTC))

    async def verify_run(self, ticket: RunTicket, proof: ServiceProof) -> tuple[AuthorisedRun, JobConfig, PodPolicies]:
        """Everything that must hold before anything is released, checked again from governance and from the evidence itself.

        Returns:
            The run, its job, and the pod policies as computed here and signed by the attested Spark service.
        """
        run = await self.authority.authorise(ticket)
        job = self.job(run)
        policies = self._services.policies(proof, service_nonce(ticket), job, at=dt.datetime.now(dt.UTC))
        return run, job, policies

    async def attested_statement(self, ticket: RunTicket, proof: ServiceProof, body: dict[str, Any]) -> dict[str, Any]:
        """What a verified run adds to an audit event ``body``: digests, and a report of this guest that binds the event's canonical
        JSON, so that an auditor can tell years later which code vouched for it."""
        run, job, policies = await self.verify_run(ticket, proof)
        facts: dict[str, Any] = {
            "jobDigest": job.digest(),
            "hostData": {"driver": policies.driver.host_data, "executor": policies.executor.host_data},
            "documents": {item.id: item.digest for item in (run.document, *(dataset.document for dataset in run.datasets))},
            "approvedBy": list(run.approved_by),
        }
        evidence = await self.attestor.attest(canonical_json(body | facts))
        return facts | {"attestation": evidence.model_dump(mode="json", exclude_none=True)}
