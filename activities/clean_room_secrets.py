"""What the Clean Room Application releases: dataset secrets, tokens, the consent receipt. Each step proves its right anew.

No secret is ever an input or a result here: the activity that obtains one stores it in governance for this run's pods and
returns its id.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import secrets

from temporalio import activity

from activities.clean_room_context import CleanRoomContext
from activities.clean_room_grants import grant, revoke
from cleanroom.clients.azure import Federation, federated_credential
from cleanroom.clients.urls import check_storage_url
from cleanroom.datasets.encryption import decode_dataset_key, encode_dataset_key
from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, clean_room_secret_id, federated_subject, run_secret_name
from cleanroom.keys import KeyVaultSettings, release_key
from cleanroom.keys.maa import MaaClient
from cleanroom.messages.run import (
    ConsentReceiptRequest,
    ConsentWatchRequest,
    ConsentWithdrawn,
    Grant,
    GrantRequest,
    Grants,
    Revoked,
    RevokeRequest,
    StagedSecret,
    StageRequest,
)
from cleanroom.runs.assembly import owned_secret
from cleanroom.runs.authority import AuthorisedRun, Dataset
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, runs_event_id
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig
from cleanroom.temporal.heartbeat import Heartbeater

TOMBSTONE = Secret(b"revoked")
SECRETS, SUBJECTS, EVENTS = "secrets", "oauth-federation-subjects", "events"
WRITER = "writer"
RECEIPT_SECONDS = 120


class CleanRoomSecrets:
    """Obtain, stage, grant, revoke."""

    def __init__(self, room: CleanRoomContext) -> None:
        self._room = room

    # ------------------------------------------------------------------ obtain and stage

    @activity.defn
    async def get_key_with_skr(self, request: StageRequest) -> StagedSecret:
        """AKV branch: become the owner's managed identity, have the key released to this attested guest, unwrap the dataset key,
        and stage it for this run.

        Raises:
            InvalidInput: ``AccessIdentityMissing``, ``KekNotSet``, ``KekProviderConfigurationAuthorityMissing``.
            Refused: what Key Vault, Entra ID or MAA refuse, each with both sides of the comparison.
            Unavailable: not propagated yet, or not reachable.
        """
        async with Heartbeater(str):
            run, job, _ = await self._room.verify_run(request.ticket, request.proof)
            dataset = run.dataset(request.dataset)
            key = await self._release(run, dataset)
            return await self._stage(request, job, encode_dataset_key(key))

    async def _release(self, run: AuthorisedRun, item: Dataset) -> Secret:
        room, point = self._room, item.dataset.dataset_access_point
        secrets, identity = point.protection.encryption_secrets, point.identity
        if identity is None:
            raise InvalidInput("AccessIdentityMissing", f"dataset {point.name!r}: it names no identity.")
        if secrets is None or secrets.kek is None or not secrets.dek.wrapped_key:
            raise InvalidInput("KekNotSet", f"dataset {point.name!r}: it names no key encryption key, or holds no wrapped key.")
        kek = secrets.kek.secret.backing_resource
        authority = kek.provider.decoded().get("authority")
        if not authority:
            raise InvalidInput(
                "KekProviderConfigurationAuthorityMissing", f"dataset {point.name!r}: its key names no attestation authority."
            )
        declared = room.settings.storage_hosts
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
            authority=room.settings.credential.authority,
            ca_file=room.ca_file,
            registered=federation,
        )
        vault = KeyVaultSettings(
            vault_url=vault_url,
            ca_file=room.ca_file,
            verify_challenge_resource=room.settings.azure.verify_challenge_resource,
            release_ca_file=room.settings.azure.key_vault_release_ca_file,
        )
        try:
            released = await release_key(
                vault=vault,
                credential=credential,
                name=kek.name,
                version=_key_version(kek.id),
                attestor=room.attestor,
                maa=MaaClient(maa_url, room.ca_file),
            )
        except Refused as error:
            if error.code == "ForbiddenByRbac":
                # A role assignment takes minutes to reach the vault and looks exactly like a missing one; waited for, boundedly.
                error.retryable = True
            raise
        return released.unwrap_data_key(secrets.dek.wrapped_key)

    @activity.defn
    async def get_secret(self, request: StageRequest) -> StagedSecret:
        """CGS branch: read the owner's own secret under the clean room policy and stage a copy for this run."""
        run, job, _ = await self._room.verify_run(request.ticket, request.proof)
        item = run.dataset(request.dataset)
        value = await self._room.client.get_secret(_source(item, request.kind))
        if request.kind == "key":
            value = encode_dataset_key(decode_dataset_key(value))
        return await self._stage(request, job, value)

    async def _stage(self, request: StageRequest, job: JobConfig, value: Secret) -> StagedSecret:
        name = run_secret_name(job.run_id, request.dataset, request.kind)
        if clean_room_secret_id(name) not in _staged_ids(job):
            raise Refused("SecretNotInJob", f"run {job.run_id!r} has no {request.kind} secret for dataset {request.dataset!r}.")
        secret_id = await self._room.client.put_secret(name, value)
        return StagedSecret(dataset=request.dataset, kind=request.kind, secret_id=secret_id)

    # ------------------------------------------------------------------ grant

    @activity.defn
    async def set_secret(self, request: GrantRequest) -> Grants:
        """Let the pods of one role, measured by their policy, read one staged secret of this run."""
        _, job, policies = await self._room.verify_run(request.ticket, request.proof)
        if request.secret is None or request.secret.secret_id not in _staged_ids(job):
            raise Refused("SecretNotInJob", f"run {job.run_id!r}: this secret is not one of its own.")
        host_data = policies.of(request.role).host_data
        return Grants(grants=(await grant(self._room.client, SECRETS, request.secret.secret_id, host_data),))

    @activity.defn
    async def configure_idp(self, request: GrantRequest) -> Grants:
        """Let the pods of one role get ID tokens for the owners' managed identities, and write the run's audit events."""
        run, _, policies = await self._room.verify_run(request.ticket, request.proof)
        host_data = policies.of(request.role).host_data
        made = [await grant(self._room.client, SUBJECTS, subject, host_data) for subject in _subjects(run)]
        made.append(await grant(self._room.client, EVENTS, WRITER, host_data))
        return Grants(grants=tuple(made))

    # ------------------------------------------------------------------ consent

    @activity.defn
    async def issue_consent_receipt(self, request: ConsentReceiptRequest) -> StagedSecret:
        """Check consent once more and give this run's pods a short-lived receipt that says so, and the secret by which they know each
        other."""
        run, job, policies = await self._room.verify_run(request.ticket, request.proof)
        await self._count(run, job)
        await self._write_receipt(job, "enabled", request.seconds)
        await self._make_network_secret(job)
        for secret_id in _own_ids(job):
            for host_data in policies.host_data():
                await grant(self._room.client, SECRETS, secret_id, host_data)
        return StagedSecret(dataset=job.query_id, kind="consent", secret_id=job.consent_secret_id)

    async def _make_network_secret(self, job: JobConfig) -> None:
        """Give the run its random network secret, once: what a pod has read already must not change under it."""
        existing = await self._room.user.list_secrets(job.contract_id)
        if job.network_secret_id is None or job.network_secret_id in existing:
            return
        name = run_secret_name(job.run_id, job.query_id, "network")
        await self._room.client.put_secret(name, Secret(secrets.token_urlsafe(32).encode()))

    async def _count(self, run: AuthorisedRun, job: JobConfig) -> None:
        """Enter the start of the run into the ledger, which the owners' limits are counted by. Here, because no pod executes without the
        receipt: whoever leaves out other steps cannot leave out this one. Concurrent runs that together exceed a limit are all
        refused."""
        body = {
            "source": "cleanroom-application",
            "name": "RUN_STARTED",
            "message": "counted",
            "runId": job.run_id,
            "query": job.query_id,
            "queryDigest": job.query_digest,
            "caller": run.request.signer,
            "digests": {"job": job.digest()},
        }
        await self._room.client.put_event(body, event_id=runs_event_id(job.query_id), scope=RUNS_SCOPE)
        if run.runs_left is not None:
            await self._room.authority.still_counted(run)

    async def _write_receipt(self, job: JobConfig, consent: str, seconds: int) -> None:
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        receipt = {
            "runId": job.run_id,
            "queryDigest": job.query_digest,
            "consent": consent,
            "expires": expires.isoformat(timespec="seconds"),
        }
        name = run_secret_name(job.run_id, job.query_id, "consent")
        await self._room.client.put_secret(name, Secret(json.dumps(receipt, separators=(",", ":")).encode()))

    @activity.defn
    async def watch_consent(self, request: ConsentWatchRequest) -> ConsentWithdrawn:
        """Look at everybody's consent until somebody withdraws it; renew the receipt meanwhile.

        Governance being away is not a withdrawal, but the receipt then runs out and the pods stop by themselves: it fails closed.
        """
        # The run's end waits for this one to stop, so its cancellation should arrive within a second or two.
        async with Heartbeater(str, every=1.0) as heartbeat:
            run, job, _ = await self._room.verify_run(request.ticket, request.proof)
            documents = [run.document.id, *(item.document.id for item in run.datasets)]
            renewed = 0.0
            loop = asyncio.get_running_loop()
            while True:
                try:
                    await self._room.authority.consent(documents)
                    if loop.time() - renewed > RECEIPT_SECONDS / 4:
                        await self._write_receipt(job, "enabled", RECEIPT_SECONDS)
                        renewed = loop.time()
                    heartbeat.record("enabled")
                except Unavailable as error:
                    activity.logger.warning("consent could not be checked: %s", error.code)
                    heartbeat.record(error.code)
                except Refused as error:
                    await self._write_receipt(job, "withdrawn", RECEIPT_SECONDS)
                    return ConsentWithdrawn(document_id=str(error.details.get("document", "")), message=error.message)
                await asyncio.sleep(request.interval_seconds)

    # ------------------------------------------------------------------ revoke

    @activity.defn
    async def revoke_grants(self, request: RevokeRequest) -> Revoked:
        """Take back everything this run was given: secrets are overwritten, host data leaves every policy. Repeatable.

        What to undo is derived from governance and the signed request, not from what the caller lists, so that a crash in the
        middle of the preparation is undone as well.
        """
        try:
            run = await self._room.authority.authorise(request.ticket, consent=False, past=True)
            job = self._room.job(run)
        except (Refused, NotFound, PreconditionFailed, InvalidInput) as error:
            # Nothing is ever granted to a run that does not pass these checks.
            activity.logger.info("nothing to revoke: %s", error.code)
            return Revoked(secrets=0, grants=0)
        hosts = self._room.policies(job).host_data()
        contract = run.document.contract_id
        # First of all: from here on nothing is given to this run any more, whatever is replayed.
        closing = {"source": "cleanroom-application", "name": "RUN_CLOSED", "runId": job.run_id, "query": job.query_id}
        await self._room.client.put_event(closing, event_id=closed_event_id(job.run_id), scope=RUNS_SCOPE)
        existing = set(await self._room.user.list_secrets(contract))
        removed: list[Grant] = []
        overwritten = 0
        for secret_id in sorted({*_staged_ids(job), *_own_ids(job)}):
            removed += await revoke(self._room.client, self._room.user, contract, SECRETS, secret_id, hosts)
            if secret_id in existing:
                await self._room.client.put_secret(secret_id.removeprefix("cleanroom_"), TOMBSTONE)
                overwritten += 1
        for subject in _subjects(run):
            removed += await revoke(self._room.client, self._room.user, contract, SUBJECTS, subject, hosts)
        removed += await revoke(self._room.client, self._room.user, contract, EVENTS, WRITER, hosts)
        return Revoked(secrets=overwritten, grants=len(removed), removed=tuple(removed))


def _key_version(key_id: str) -> str | None:
    """Version in ``https://<vault>/keys/<name>/<version>``: a later version of the key must not change which one is asked for."""
    match = re.fullmatch(r"https://[^/]+/keys/[^/]+/([0-9a-zA-Z]+)", key_id)
    return match[1] if match else None


def _source(item: Dataset, kind: str) -> str:
    """Id of the owner's own secret that a dataset document names.

    Raises:
        Refused: ``SecretOwnerMismatch``.
        InvalidInput: ``StoreConfigurationSecretIdMissing``, ``UnexpectedSecretBackingResourceType``.
    """
    point = item.dataset.dataset_access_point
    if kind == "connection":
        return owned_secret(point.store.provider.decoded().get("secretId"), item)
    secrets = point.protection.encryption_secrets
    if secrets is None or secrets.dek.secret.backing_resource.type != "Cgs":
        raise InvalidInput("UnexpectedSecretBackingResourceType", f"dataset {point.name!r}: its key is not held by governance.")
    return owned_secret(secrets.dek.secret.backing_resource.name, item)


def _staged_ids(job: JobConfig) -> set[str]:
    """Ids of every dataset secret that the pods of this job read."""
    ids: set[str] = set()
    for dataset in (*job.datasets, job.datasink):
        if dataset.key_secret_id:
            ids.add(dataset.key_secret_id)
        if dataset.access.kind == "aws-s3":
            ids.add(dataset.access.connection_secret_id)
    return ids


def _own_ids(job: JobConfig) -> tuple[str, ...]:
    """Ids of what the clean room itself makes for the pods of this job: no owner's secret."""
    return (job.consent_secret_id, *((job.network_secret_id,) if job.network_secret_id else ()))


def _subjects(run: AuthorisedRun) -> list[str]:
    owners = {item.owner_id for item in run.datasets if item.dataset.dataset_access_point.identity is not None}
    return [federated_subject(run.document.contract_id, owner) for owner in sorted(owners)]
