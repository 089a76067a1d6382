"""What the pods of a job read and are granted: secrets in governance, and the subjects of ID tokens. Nothing here has an effect."""

from __future__ import annotations

import re

from cleanroom.errors import InvalidInput
from cleanroom.identifiers import federated_subject
from cleanroom.messages.run import StagedSecret
from cleanroom.runs.assembly import owned_secret
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.spark.job import JobConfig


def key_version(key_id: str) -> str | None:
    """Return the version in ``https://<vault>/keys/<name>/<version>``, so that a newer version of the key is not used instead."""
    match = re.fullmatch(r"https://[^/]+/keys/[^/]+/([0-9a-zA-Z]+)", key_id)
    return match[1] if match else None


def source_secret(item: Dataset, kind: str) -> str:
    """Return the ID of the owner's secret that a dataset document names.

    Raises:
        Refused: ``SecretOwnerMismatch``.
        InvalidInput: ``StoreConfigurationSecretIdMissing``, ``UnexpectedSecretBackingResourceType``.
    """
    point = item.dataset.dataset_access_point
    if kind == "connection":
        return owned_secret(point.store.provider.decoded().get("secretId"), item)
    secrets = point.protection.encryption_secrets
    if secrets is None or secrets.dek.secret.backing_resource.type != "Cgs":
        raise InvalidInput("UnexpectedSecretBackingResourceType", f"dataset {point.name!r}: its key is not stored in governance.")
    return owned_secret(secrets.dek.secret.backing_resource.name, item)


def staged_secrets(job: JobConfig) -> tuple[StagedSecret, ...]:
    """Return every dataset secret that the job's pods read."""
    staged: list[StagedSecret] = []
    for dataset in (*job.datasets, job.datasink):
        if dataset.key_secret_id:
            staged.append(StagedSecret(dataset=dataset.name, kind="key", secret_id=dataset.key_secret_id))
        if dataset.access.kind == "aws-s3":
            staged.append(StagedSecret(dataset=dataset.name, kind="connection", secret_id=dataset.access.connection_secret_id))
    return tuple(staged)


def datasets_with_secrets(job: JobConfig) -> frozenset[str]:
    """Return the names of the datasets of which secrets are released."""
    return frozenset(secret.dataset for secret in staged_secrets(job))


def own_secrets(job: JobConfig) -> tuple[str, ...]:
    """Return the IDs of the secrets that the clean room itself creates for the job's pods."""
    return (job.consent_secret_id, *((job.network_secret_id,) if job.network_secret_id else ()))


def federated_subjects(run: AuthorisedRun) -> list[str]:
    """Return the federated subjects of the owners whose datasets pods read with a managed identity."""
    owners = {item.owner_id for item in run.identity_datasets}
    return [federated_subject(run.document.contract_id, owner) for owner in sorted(owners)]
