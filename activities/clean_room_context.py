"""What the Clean Room Application's activities share: its clients, its identity and its verifier."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cleanroom.attestation import GuestAttestor
from cleanroom.errors import NotFound
from cleanroom.governance import CleanRoomClient, GovernanceUserClient, MemberDocument
from cleanroom.identifiers import canonical_json, clean_room_secret_id, sha256_hex
from cleanroom.messages.run import RunTicket, ServiceProof
from cleanroom.runs.reader import AttestedReader
from cleanroom.runs.shared_reader import SharedReader
from cleanroom.runs.trust import RunTrust
from cleanroom.runs.verification import RunVerifier, no_origin
from cleanroom.settings import Settings
from cleanroom.spark.tombstone import is_tombstone, new_tombstone
from cleanroom.trust import Bootstrap, TrustSource

BARRIER = "barrier"
"""Name of the clean room's secret that :meth:`CleanRoomContext.write_barrier` writes."""


def run_trust(settings: Settings, bootstrap: Bootstrap, read: Callable[[str], Awaitable[MemberDocument]]) -> RunTrust:
    """Return the trust documents of an attested worker.

    Args:
        settings: The worker's settings, which only name the files with revocation lists.
        bootstrap: The measured bootstrap file.
        read: Reads a member document from governance.
    """
    source = TrustSource(read, bootstrap.contract_id, development=bootstrap.development)
    # Read at every use, because the operator refreshes the files. A list is signed by AMD; a missing file fails the verification.
    return RunTrust(source, bootstrap, lambda: tuple(file.read_bytes() for file in settings.attestation.crl_files))


class CleanRoomContext:
    """Clients, identity and verifier of the Clean Room Application. One instance per worker process.

    Args:
        settings: Settings of the boundary ``clean-room``, from :func:`cleanroom.trust.attested_settings`.
        bootstrap: The measured bootstrap file.
        client: Governance, called with this guest's attestation.
        user: Governance, called with the clean room's registered identity.
        origin: Returns the ID of the Temporal namespace that runs the current activity, or the empty string.
        now: Returns the current time, with a time zone.
        timer: The clock of what the activities of a run share, in seconds.
        pause: Waits for a number of seconds.
    """

    def __init__(
        self,
        settings: Settings,
        bootstrap: Bootstrap,
        client: CleanRoomClient,
        user: GovernanceUserClient,
        *,
        origin: Callable[[], Awaitable[str]] = no_origin,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        timer: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.client = client
        self.user = user
        self.now = now
        self.pause = pause
        self.attestor = GuestAttestor(settings.attestation.url, ca_file=settings.ca_file)
        self.collaboration = bootstrap.contract_id
        self.reader = SharedReader(AttestedReader(client, user, bootstrap.contract_id))
        self.verifier = RunVerifier(
            self.reader,
            bootstrap.contract_id,
            run_trust(settings, bootstrap, client.accepted_member_document),
            client,
            origin=origin,
            now=now,
            timer=timer,
            pause=pause,
        )
        self.authority = self.verifier.authority

    async def write_barrier(self) -> None:
        """Write something that means nothing. Later reads of this worker then show everything that governance has had until now.

        A worker that has just started, or that waits for another process's write, may read from a node that does not have it yet.
        """
        await self.client.put_secret(BARRIER, new_tombstone())

    async def overwrite(self, secret_id: str) -> None:
        """Overwrite a staged secret of a run with a random tombstone."""
        await self.client.put_secret(secret_id.removeprefix(clean_room_secret_id("")), new_tombstone())

    async def has_value(self, secret_id: str) -> bool:
        """Whether governance has a secret with this ID that is not overwritten."""
        try:
            return not is_tombstone(await self.client.get_secret(secret_id))
        except NotFound as error:
            if error.code != "SecretNotFound":
                raise
            return False

    async def attested_statement(self, ticket: RunTicket, proof: ServiceProof, body: dict[str, Any]) -> dict[str, Any]:
        """Return what a verified run adds to the audit event ``body``: digests, and an attestation report over the whole event.

        The report binds the event's canonical JSON (RFC 8785), so an auditor can verify later which code made the statement.
        """
        verified = await self.verifier.verify_statement(ticket, proof)
        run, policies = verified.run, verified.policies
        facts: dict[str, Any] = {
            "jobDigest": verified.job.digest(),
            "hostData": {"driver": policies.driver.host_data, "executor": policies.executor.host_data},
            "documents": {item.id: item.digest for item in (run.document, *(dataset.document for dataset in run.datasets))},
            "approvedBy": list(run.approved_by),
            "proof": {"report": proof.report.evidence.digest(), "policies": sha256_hex(proof.policies.statement.encode())},
            "trust": {"id": verified.trust.trust.id, "digest": verified.trust.trust.digest},
        }
        evidence = await self.attestor.attest(canonical_json(body | facts))
        return facts | {"attestation": evidence.model_dump(mode="json", exclude_none=True)}
