"""What the Clean Room Application's activities share: its clients, its identity and its verifier."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cleanroom.attestation import GuestAttestor, TrustStore
from cleanroom.errors import PreconditionFailed
from cleanroom.governance import CleanRoomClient, GovernanceUserClient
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.messages.run import RunTicket, ServiceProof
from cleanroom.runs.assembly import JobEnvironment
from cleanroom.runs.proof import ServiceVerifier
from cleanroom.runs.reader import AttestedReader
from cleanroom.runs.shared_reader import SharedReader
from cleanroom.runs.verification import RunVerifier
from cleanroom.settings import Settings
from cleanroom.spark.profile import PodProfile


def job_environment(settings: Settings) -> JobEnvironment:
    """Return the deployment's part of every job. The clean room and the Spark service must have the same settings."""
    roots = [file.read_text("ascii") for file in (settings.governance.service_cert_file, settings.ca_file) if file is not None]
    return JobEnvironment(
        governance_url=settings.governance.url,
        authority=settings.credential.authority,
        ca_pem="\n".join(roots),
        storage_hosts=settings.storage_hosts,
    )


def trust_store(settings: Settings) -> TrustStore:
    """Return the attestation roots of the settings."""
    return TrustStore.load(amd=settings.attestation.amd_roots, root_files=settings.attestation.trust_files)


class CleanRoomContext:
    """Clients, identity and verifier of the Clean Room Application. One instance per worker process.

    Args:
        settings: Settings of the boundary ``clean-room``.
        client: Governance, called with this guest's attestation.
        user: Governance, called with the clean room's registered identity.
        profile: The pod profile; the Spark service must have the same one.
        now: Returns the current time, with a time zone.
        pause: Waits for a number of seconds.

    Raises:
        PreconditionFailed: ``SettingMissing``.
    """

    def __init__(
        self,
        settings: Settings,
        client: CleanRoomClient,
        user: GovernanceUserClient,
        profile: PodProfile,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not settings.spark.service_host_data:
            raise PreconditionFailed(
                "SettingMissing",
                "settings: spark.service_host_data is empty, so no Spark service would be accepted.",
                hint="List the host data of the Spark services that this deployment accepts.",
                party="operator",
            )
        self.settings = settings
        self.client = client
        self.user = user
        self.now = now
        self.pause = pause
        self.attestor = GuestAttestor(settings.attestation.url, ca_file=settings.ca_file)
        self.verifier = RunVerifier(
            SharedReader(AttestedReader(client, user, settings.collaboration)),
            settings.collaboration,
            job_environment(settings),
            ServiceVerifier(trust_store(settings), frozenset(settings.spark.service_host_data), profile, settings.attestation),
            client,
            now=now,
        )
        self.authority = self.verifier.authority

    @property
    def ca_file(self) -> Path | None:
        """The CA file of the settings."""
        return self.settings.ca_file

    async def attested_statement(self, ticket: RunTicket, proof: ServiceProof, body: dict[str, Any]) -> dict[str, Any]:
        """Return what a verified run adds to the audit event ``body``: digests, and an attestation report over the whole event.

        The report binds the event's canonical JSON (RFC 8785), so an auditor can verify later which code made the statement.
        """
        verified = await self.verifier.verify_run(ticket, proof)
        run, policies = verified.run, verified.policies
        facts: dict[str, Any] = {
            "jobDigest": verified.job.digest(),
            "hostData": {"driver": policies.driver.host_data, "executor": policies.executor.host_data},
            "documents": {item.id: item.digest for item in (run.document, *(dataset.document for dataset in run.datasets))},
            "approvedBy": list(run.approved_by),
            "proof": {"report": proof.report.evidence.digest(), "policies": sha256_hex(proof.policies.statement.encode())},
        }
        evidence = await self.attestor.attest(canonical_json(body | facts))
        return facts | {"attestation": evidence.model_dump(mode="json", exclude_none=True)}
