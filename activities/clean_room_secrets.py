"""Activities of the Clean Room Application that release something: dataset secrets, ID tokens, the consent receipt.

Each of them calls :class:`cleanroom.runs.verification.RunVerifier` first and uses only what it returns. After its write it looks
again, and undoes the write if the run was closed or lost its consent in the meantime (:mod:`activities.clean_room_release`).

No secret is an input or a result of an activity. The activity that obtains a secret stores a copy in governance for this
run's pods, and returns the ID of the copy.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Mapping, Sequence

from temporalio import activity

from activities.clean_room_context import CleanRoomContext
from activities.clean_room_grants import grant, revoke
from activities.clean_room_job_secrets import (
    datasets_with_secrets,
    federated_subjects,
    key_version,
    own_secrets,
    source_secret,
    staged_secrets,
)
from activities.clean_room_release import all_done, undo_unless_confirmed
from activities.clean_room_revocation import revoke_everything
from cleanroom.clients.azure import Federation, federated_credential
from cleanroom.clients.urls import check_storage_url
from cleanroom.datasets.encryption import decode_dataset_key, encode_dataset_key
from cleanroom.display_names import with_names
from cleanroom.errors import CleanRoomError, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.governance import committed_later, committed_together
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject, run_secret_name
from cleanroom.keys import KeyVaultSettings, release_key
from cleanroom.keys.maa import MaaClient
from cleanroom.messages.run import (
    ConfigureIdpRequest,
    ConsentReceiptRequest,
    ConsentWatchRequest,
    ConsentWithdrawn,
    GrantRequest,
    Grants,
    Revoked,
    RevokeRequest,
    RunTicket,
    StagedSecret,
    StagedSecrets,
    StageRequest,
)
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.runs.held import EVENTS, SECRETS, SUBJECTS, WRITER
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, run_facts, runs_event_id
from cleanroom.runs.verification import VerifiedRun
from cleanroom.secret import Secret
from cleanroom.spark.consent_receipt import RECEIPT_SECONDS, ConsentReceipt, enabled_receipt, withdrawn_receipt
from cleanroom.spark.job import JobConfig
from cleanroom.spark.network import new_network_secret
from cleanroom.temporal.heartbeat import Heartbeater
from cleanroom.temporal.metrics import GRANTS, KEY_RELEASES
from cleanroom.trust import AcceptedTrust

RENEWAL = dt.timedelta(seconds=RECEIPT_SECONDS / 4)
"""Age at which a consent receipt is renewed."""
LONGEST_CONSENT_CHECK = RECEIPT_SECONDS / 8
"""Longest pause in seconds between two consent checks of a running job, whatever the caller asked for."""


class CleanRoomSecrets:
    """Obtains, stages, grants and revokes what the pods of a run need.

    Preparation waits once for its commits: the entry PREPARED commits the copies of secrets and the grants too. Without them, pods
    fail; nothing is released.
    """

    def __init__(self, room: CleanRoomContext) -> None:
        self._room = room

    # ------------------------------------------------------------------ obtain and stage

    @activity.defn
    @committed_later
    async def get_key_with_skr(self, request: StageRequest) -> StagedSecrets:
        """Get a dataset key that is wrapped by a key in Azure Key Vault, and stage it for this run.

        Signs in as the owner's managed identity, lets Key Vault release the key encryption key to this attested guest
        (secure key release), and unwraps the dataset key.

        Raises:
            InvalidInput: ``AccessIdentityMissing``, ``KekNotSet``, ``KekProviderConfigurationAuthorityMissing``.
            Refused: What Key Vault, Entra ID or Azure Attestation refused, with both sides of the comparison.
            Unavailable: The service did not answer, or a role is not propagated yet.
        """
        async with Heartbeater(str):
            # Key Vault's release cannot be undone, so nothing that another activity has read counts for it.
            messages = self._room.verifier.resolve(request.ticket, request.proof)
            verified = await self._room.verifier.verify_release(*messages, request.dataset, fresh=True)
            key = await self._release_key(verified.run, verified.run.dataset(request.dataset), verified.trust.trust)
            KEY_RELEASES.add(activity.metric_meter(), source="key-vault")
            return await self._stage(request.dataset, verified, {"key": encode_dataset_key(key)})

    async def _release_key(self, run: AuthorisedRun, item: Dataset, trust: AcceptedTrust) -> Secret:
        room, point = self._room, item.dataset.dataset_access_point
        secrets, identity = point.protection.encryption_secrets, point.identity
        if identity is None:
            raise InvalidInput("AccessIdentityMissing", f"dataset {point.name!r}: its document names no identity.")
        if secrets is None or secrets.kek is None or not secrets.dek.wrapped_key:
            raise InvalidInput("KekNotSet", f"dataset {point.name!r}: its document names no key encryption key or no wrapped key.")
        kek = secrets.kek.secret.backing_resource
        authority = kek.provider.decoded().get("authority")
        if not authority:
            raise InvalidInput(
                "KekProviderConfigurationAuthorityMissing", f"dataset {point.name!r}: its key names no attestation authority."
            )
        declared, roots = trust.document.storage_hosts, trust.tls_roots_file
        private = trust.document.development
        vault_url = check_storage_url(kek.provider.url, "key-vault", declared=declared, field="kek.provider.url").url
        maa_url = check_storage_url(str(authority), "maa", declared=declared, field="kek.provider.configuration.authority").url
        federation = Federation(
            issuer=identity.token_issuer.issuer.url,
            subject=federated_subject(run.document.contract_id, item.owner_id),
            audience=TOKEN_EXCHANGE_AUDIENCE,
        )
        assertion = await room.client.token(federation.subject, identity.tenant_id, issuer=federation.issuer)
        credential = federated_credential(
            identity.tenant_id,
            identity.client_id,
            assertion.reveal_text,
            authority=trust.document.entra_authority,
            ca_file=roots,
            registered=federation,
        )
        vault = KeyVaultSettings(
            vault_url=vault_url,
            ca_file=roots,
            verify_challenge_resource=private is None or private.verify_challenge_resource,
            release_ca_file=trust.key_release_roots_file,
        )
        try:
            released = await release_key(
                vault=vault,
                credential=credential,
                name=kek.name,
                version=key_version(kek.id),
                attestor=room.attestor,
                maa=MaaClient(maa_url, roots),
            )
        except Refused as error:
            if error.code == "ForbiddenByRbac":
                # A role assignment takes minutes to propagate. Until then the answer is the same as for a missing role,
                # so retry until the deadline of the activity.
                error.retryable = True
            raise
        return released.unwrap_data_key(secrets.dek.wrapped_key)

    @activity.defn
    @committed_later
    async def get_secret(self, request: StageRequest) -> StagedSecrets:
        """Read the owner's secrets of a dataset from governance, under the clean room policy, and stage copies for this run."""
        messages = self._room.verifier.resolve(request.ticket, request.proof)
        verified = await self._room.verifier.verify_release(*messages, request.dataset)
        item = verified.run.dataset(request.dataset)
        kinds = [secret.kind for secret in staged_secrets(verified.job) if secret.dataset == request.dataset]
        sources = [source_secret(item, kind) for kind in kinds]
        values: dict[str, Secret] = dict(zip(kinds, await asyncio.gather(*map(self._room.client.get_secret, sources)), strict=True))
        KEY_RELEASES.add(activity.metric_meter(), len(values), source="governance")
        if "key" in values:
            values["key"] = encode_dataset_key(decode_dataset_key(values["key"]))
        return await self._stage(request.dataset, verified, values)

    async def _stage(self, dataset: str, verified: VerifiedRun, values: Mapping[str, Secret]) -> StagedSecrets:
        """Store this run's copies of a dataset's secrets. Only the clean room can read them until they are granted to pods."""
        run_id = verified.job.run_id
        staged = [secret for secret in staged_secrets(verified.job) if secret.dataset == dataset and secret.kind in values]
        if not staged:
            raise Refused("SecretNotInJob", f"run {run_id!r}: dataset {dataset!r} has no {' or '.join(values) or 'secret'} in governance.")

        async def undo() -> None:
            await all_done(self._room.overwrite(secret.secret_id) for secret in staged)

        async with undo_unless_confirmed(
            self._room, verified, [verified.run.dataset(dataset)], undo, together=datasets_with_secrets(verified.job)
        ):
            await all_done(
                self._room.client.put_secret(run_secret_name(run_id, dataset, secret.kind), values[secret.kind]) for secret in staged
            )
        return StagedSecrets(secrets=tuple(staged))

    # ------------------------------------------------------------------ grant

    @activity.defn
    @committed_later
    async def set_secret(self, request: GrantRequest) -> Grants:
        """Grant staged secrets of this run to its driver and executor pods.

        Raises:
            Refused: ``SecretNotInJob`` when one is not a staged dataset secret of this run.
        """
        names = dict.fromkeys(secret.dataset for secret in request.secrets)
        messages = self._room.verifier.resolve(request.ticket, request.proof)
        verified = await self._room.verifier.verify_release(*messages, *names)
        known = {(item.dataset, item.kind, item.secret_id) for item in staged_secrets(verified.job)}
        for secret in request.secrets:
            if (secret.dataset, secret.kind, secret.secret_id) not in known:
                raise Refused(
                    "SecretNotInJob",
                    f"run {verified.job.run_id!r}: {secret.secret_id!r} is not a staged secret of its dataset {secret.dataset!r}.",
                )
        datasets = [verified.run.dataset(name) for name in names]
        places = [(SECRETS, secret.secret_id) for secret in request.secrets]
        granted = await self._grant(verified, datasets, places, together=datasets_with_secrets(verified.job))
        self._room.verifier.finish(verified, names)
        return granted

    async def _grant(
        self, verified: VerifiedRun, datasets: Sequence[Dataset], places: Sequence[tuple[str, str]], *, together: Collection[str] = ()
    ) -> Grants:
        """Grant delegate policies to the run's driver and executor pods."""
        hosts = verified.policies.host_data()
        async with undo_unless_confirmed(self._room, verified, datasets, lambda: self._ungrant(verified, places), together=together):
            made = await all_done(grant(self._room.client, *place, hosts) for place in places)
        granted = Grants(grants=tuple(item for grants in made for item in grants))
        GRANTS.add(activity.metric_meter(), len(granted.grants), change="made")
        return granted

    async def _ungrant(self, verified: VerifiedRun, places: Sequence[tuple[str, str]]) -> None:
        """Take back grants of the run."""
        room, hosts = self._room, verified.policies.host_data()
        for delegate_type, delegate_id in places:
            await revoke(room.client, room.user, verified.run.document.contract_id, delegate_type, delegate_id, hosts)

    @activity.defn
    @committed_later
    async def configure_idp(self, request: ConfigureIdpRequest) -> Grants:
        """Grant the run's driver and executor pods ID tokens for the owners' managed identities, and the run's audit events."""
        verified = await self._room.verifier.verify_token_release(request.ticket, request.proof)
        if not staged_secrets(verified.job):
            await self._leave_a_secret(verified.job)
        places = [*((SUBJECTS, subject) for subject in federated_subjects(verified.run)), (EVENTS, WRITER)]
        return await self._grant(verified, verified.run.identity_datasets, places)

    # ------------------------------------------------------------------ consent

    @activity.defn
    @committed_together
    async def issue_consent_receipt(self, request: ConsentReceiptRequest) -> StagedSecret:
        """Verify the whole run again, count it, and give its pods the consent receipt and the network secret.

        Without these two secrets no pod executes, so this is the last step before the other grants become usable.
        """
        started = self._room.now()
        verified = await self._room.verifier.verify_run(request.ticket, request.proof)
        run, job = verified.run, verified.job
        await self._count(run, job)
        async with undo_unless_confirmed(self._room, verified, run.datasets, lambda: self._take_back(verified)):
            await self._write_receipt(job, enabled_receipt(job, verified_at=started, authorised_until=run.expires))
            await self._make_network_secret(job)
            for secret_id in own_secrets(job):
                own = await grant(self._room.client, SECRETS, secret_id, verified.policies.host_data())
                GRANTS.add(activity.metric_meter(), len(own), change="made")
        return StagedSecret(dataset=job.query_id, kind="consent", secret_id=job.consent_secret_id)

    async def _take_back(self, verified: VerifiedRun) -> None:
        """Overwrite the run's own secrets, the consent receipt first, and take back their grants."""
        own = own_secrets(verified.job)
        for secret_id in own:
            await self._room.overwrite(secret_id)
        await self._ungrant(verified, [(SECRETS, secret_id) for secret_id in own])

    async def _make_network_secret(self, job: JobConfig) -> None:
        """Create the run's random network secret once. It must not change after a pod has read it."""
        if job.network_secret_id is None or await self._room.has_value(job.network_secret_id):
            return
        await self._room.client.put_secret(run_secret_name(job.run_id, job.query_id, "network"), new_network_secret())

    async def _leave_a_secret(self, job: JobConfig) -> None:
        """Store a tombstone as the consent receipt of a run without secrets of datasets, unless it has one.

        A cleanup finds runs by their secrets. So a run has one before its first grant.
        """
        if job.consent_secret_id not in await self._room.user.list_secrets(self._room.collaboration):
            await self._room.overwrite(job.consent_secret_id)

    async def _count(self, run: AuthorisedRun, job: JobConfig) -> None:
        """Enter the start of the run into the ledger, then check the owners' run limits.

        The count happens here because no pod executes without the receipt: an operator can skip other activities, but not
        this one. Concurrent runs that together exceed a limit are all refused. Runs are counted by their signed request.
        """
        body = run_facts(run.request, run.token) | {"name": "RUN_STARTED", "message": "counted", "digests": {"job": job.digest()}}
        await self._room.client.put_event(body, event_id=runs_event_id(job.query_id), scope=RUNS_SCOPE)
        await self._room.authority.verify_run_limit(run)

    async def _write_receipt(self, job: JobConfig, receipt: ConsentReceipt) -> None:
        await self._room.client.put_secret(run_secret_name(job.run_id, job.query_id, "consent"), receipt.to_secret())

    @activity.defn
    async def watch_consent(self, request: ConsentWatchRequest) -> ConsentWithdrawn:
        """Check the consent to every document until one is withdrawn, and renew the consent receipt in the meantime.

        Each renewal verifies the whole run again. While governance does not answer, the receipt is not renewed. It then
        expires, and the pods stop.

        Raises:
            Refused: The run was closed, or another check than that of consent fails.
        """
        # The end of the run waits for the cancellation, which a server that does not push it delivers with a heartbeat.
        async with Heartbeater(str, every=1.0) as heartbeat:
            verified = await self._room.verifier.verify_run(request.ticket, request.proof)
            renewed: dt.datetime | None = None
            while True:
                try:
                    asked = self._room.now()
                    # A clock that was set back makes the age negative.
                    if renewed is None or not dt.timedelta() <= asked - renewed <= RENEWAL:
                        await self._renew(request)
                        renewed = asked
                    else:
                        await self._room.verifier.confirm(verified, verified.run.datasets)
                    heartbeat.record("enabled")
                except Unavailable as error:
                    activity.logger.warning("consent could not be checked: %s", error.code)
                    heartbeat.record(error.code)
                except Internal:
                    raise
                except CleanRoomError as error:
                    if error.code == "RunClosed":
                        # The run's secrets are overwritten already. A receipt would be a leftover.
                        await self._room.overwrite(verified.job.consent_secret_id)
                        raise
                    await self._write_receipt(verified.job, withdrawn_receipt(verified.job, self._room.now()))
                    if "document" not in error.details:
                        raise
                    shown = with_names(error.message, self._room.settings.user_names)
                    return ConsentWithdrawn(document_id=str(error.details["document"]), message=shown)
                await self._room.pause(min(max(request.interval_seconds, 1), LONGEST_CONSENT_CHECK))

    async def _renew(self, request: ConsentWatchRequest) -> None:
        """Verify the whole run on a fresh reading of governance, and write a new consent receipt."""
        started = self._room.now()
        verified = await self._room.verifier.verify_run(request.ticket, request.proof)
        run, job = verified.run, verified.job
        receipt = enabled_receipt(job, verified_at=started, authorised_until=run.expires)
        async with undo_unless_confirmed(self._room, verified, run.datasets, lambda: self._room.overwrite(job.consent_secret_id)):
            await self._write_receipt(job, receipt)

    # ------------------------------------------------------------------ revoke

    @activity.defn
    @committed_together
    async def revoke_grants(self, request: RevokeRequest) -> Revoked:
        """Close the run, overwrite its staged secrets and remove its host data from every delegate policy. Idempotent.

        What to undo is what governance holds for the run, and what follows from the request that the ledger pins; it is not a list in
        the input. So it also undoes a preparation that crashed halfway, and what another version of the clean room granted. A run that
        never began is pinned to this request before it is closed, so that the request is used up. Another request with the same run ID
        undoes nothing.
        """
        room, ticket = self._room, request.ticket
        # Without it, "nothing to revoke" and the list of trust documents could be the answer of a node that lags behind.
        await room.write_barrier()
        try:
            pinned = await room.verifier.pin(ticket)
        except (Refused, NotFound, PreconditionFailed, InvalidInput) as error:
            # A request to which the ledger does not pin the run was never granted anything.
            activity.logger.info("nothing to revoke: %s", error.code)
            return Revoked(secrets=0, grants=0, closed=False)
        derived = await self._derived_host_data(ticket)
        # Close the run first. From then on every activity that releases something refuses it.
        closing = run_facts(pinned, ticket.request) | {"name": "RUN_CLOSED", "message": "closed"}
        await room.client.put_event(closing, event_id=closed_event_id(pinned.run_id), scope=RUNS_SCOPE)
        if await room.user.latest_event(room.collaboration, event_id=closed_event_id(pinned.run_id), scope=RUNS_SCOPE) is None:
            raise Unavailable("RunNotClosed", f"run {pinned.run_id!r}: governance does not show yet that the run is closed.")
        revoked = await revoke_everything(room, pinned.run_id, derived)
        GRANTS.add(activity.metric_meter(), revoked.grants, change="revoked")
        return revoked

    async def _derived_host_data(self, ticket: RunTicket) -> frozenset[str]:
        """Return the host data of the run's guests, as its documents give it under every accepted trust document."""
        try:
            return frozenset((await self._room.verifier.past_run(ticket)).host_data)
        except (Refused, NotFound, PreconditionFailed, InvalidInput) as error:
            # For example, this version's query gate refuses a query that an earlier version allowed.
            activity.logger.warning("the guests of the run follow from its secrets alone: %s", error.code)
            return frozenset()
