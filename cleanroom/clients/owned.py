"""Opens an owner's store with the owner's credentials, to upload a dataset, check a connection secret or read a result."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cleanroom.clients.azure_credentials import credential
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import ObjectStore
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.documents.dataset_rules import SECRET_VARIABLE_PREFIX
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, S3StoreSpec
from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed
from cleanroom.identifiers import require_name
from cleanroom.secret import Secret, read_secret_file
from cleanroom.settings import Settings


def secret_path(settings: Settings, name: str) -> Path:
    """Return the file of the profile's secret ``name``: the one in the settings, else in the keys directory."""
    return settings.secret_files.get(name) or settings.keys_dir.expanduser() / f"{require_name('secret', name)}.secret"


def read_secret_reference(reference: str, settings: Settings) -> Secret:
    """Read the secret that ``secret:NAME`` (of the profile), ``file:PATH`` (mode 0600) or ``env:NAME`` refers to.

    Raises:
        InvalidInput: ``SecretReferenceInvalid``.
        NotFound: ``SecretFileNotFound``, ``SecretVariableNotSet``.
        Refused: ``SecretFileTooOpen``.
    """
    kind, _, name = reference.partition(":")
    if kind == "secret" and name:
        try:
            return read_secret_file(secret_path(settings, name), what=f"secret {name!r}")
        except NotFound as error:
            error.hint = f"Store it: cleanroom secret set {name} --secret-stdin --profile {settings.profile}"
            raise
    if kind == "file" and name:
        return read_secret_file(os.path.expanduser(name), what="connection secret")
    if kind == "env" and name.startswith(SECRET_VARIABLE_PREFIX):
        value = os.environ.get(name)
        if not value:
            raise NotFound("SecretVariableNotSet", f"connection secret: the worker's environment variable {name} is not set.")
        return Secret(value.encode())
    raise InvalidInput(
        "SecretReferenceInvalid",
        f"connection secret: {reference!r} is not secret:NAME, file:PATH or env:{SECRET_VARIABLE_PREFIX}NAME.",
        hint="Use a reference, not the secret itself.",
    )


_PUBLISHED_WITH = (
    "subscription_id",
    "resource_group",
    "storage_account_url",
    "storage_account_id",
    "key_vault_url",
    "key_vault_id",
    "maa_url",
)


def require_azure(settings: Settings, *fields: str) -> None:
    """Require the settings of the owner's Azure resources.

    Raises:
        PreconditionFailed: ``SettingMissing``.
    """
    missing = [f"azure.{field}" for field in fields if not getattr(settings.azure, field)]
    if missing:
        raise PreconditionFailed(
            "SettingMissing",
            f"settings: profile {settings.profile!r} lacks {', '.join(missing)}, which a dataset in Azure needs.",
            hint="Choose the owner's profile with --profile, set them in cleanroom.toml, or write another `store` into the dataset's file.",
        )


def require_publishable(settings: Settings, spec: DatasetSpec) -> None:
    """Require what the owner's worker needs to publish a dataset. Without Azure resources it has no step for a dataset in Azure.

    Raises:
        PreconditionFailed: ``SettingMissing``.
    """
    if isinstance(spec.store, BlobStoreSpec):
        require_azure(settings, *_PUBLISHED_WITH)


def open_blob(settings: Settings, store: BlobStoreSpec, *, customer_key: Callable[[], Secret] | None = None) -> BlobStore:
    """Open the subdirectory of a container in the profile's storage account."""
    require_azure(settings, "storage_account_url")
    account = check_storage_url(
        settings.azure.storage_account_url, "azure-blob", declared=settings.storage_hosts, field="azure.storage_account_url"
    )
    return BlobStore(
        account,
        store.container,
        credential(settings.credential, ca_file=settings.ca_file),
        prefix=store.subdirectory,
        ca_file=settings.ca_file,
        customer_key=customer_key() if customer_key else None,
    )


def open_s3(settings: Settings, store: S3StoreSpec, *, customer_key: Callable[[], Secret] | None = None) -> S3Store:
    """Open a bucket with the connection secret that the store refers to."""
    secret = read_secret_reference(store.connection_secret, settings)
    url = settings.s3.endpoint_url
    endpoint = check_storage_url(url, "s3", declared=settings.storage_hosts, field="s3.endpoint_url") if url else None
    return S3Store(
        store.bucket,
        region=settings.s3.region,
        endpoint=endpoint,
        credentials=S3Credentials.parse(secret),
        prefix=store.subdirectory,
        ca_file=settings.ca_file,
        customer_key=customer_key() if customer_key else None,
    )


def other_bucket_hint(settings: Settings, spec: DatasetSpec) -> str:
    """Return the hint for a store that refuses access because the dataset's file names another bucket than the profile; empty otherwise."""
    own = settings.s3.bucket
    if not isinstance(spec.store, S3StoreSpec) or not own or spec.store.bucket == own:
        return ""
    return f"The bucket of profile {settings.profile!r} is {own!r}: write `bucket: {own}` into the dataset's file, with a subdirectory."


def open_store(
    settings: Settings, spec: DatasetSpec, *, create: bool = False, customer_key: Callable[[], Secret] | None = None
) -> ObjectStore:
    """Open the store of a dataset.

    Args:
        settings: The owner's profile.
        spec: The dataset.
        create: Whether to create a missing container or bucket.
        customer_key: Returns the key of a dataset that the store encrypts (CPK, SSE-C). Called after the credentials are known.
    """
    given = customer_key if spec.encryption == "CPK" else None
    if isinstance(spec.store, BlobStoreSpec):
        blob = open_blob(settings, spec.store, customer_key=given)
        if create:
            blob.create_container()
        return blob
    s3 = open_s3(settings, spec.store, customer_key=given)
    if create:
        try:
            s3.check()
        except NotFound:
            # Checked first, because a key that can write to its bucket can seldom create one.
            s3.create_bucket()
    return s3
