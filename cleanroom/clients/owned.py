"""An owner's own store, opened with her own credentials: for uploading rows, checking a connection secret, reading a result."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cleanroom.clients.azure_credentials import credential
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import ObjectStore
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, S3StoreSpec
from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed
from cleanroom.identifiers import require_name
from cleanroom.secret import Secret, read_secret_file
from cleanroom.settings import Settings

SECRET_VARIABLE_PREFIX = "CLEANROOM_SECRET_"  # noqa: S105 - the name of a variable
"""Only such variables may be named in a reference, so that a forged reference cannot fetch others."""


def secret_path(settings: Settings, name: str) -> Path:
    """The file of the profile's secret ``name``: named in the settings, else in the key folder."""
    return settings.secret_files.get(name) or settings.keys_dir.expanduser() / f"{require_name('secret', name)}.secret"


def read_secret_reference(reference: str, settings: Settings) -> Secret:
    """The secret behind ``secret:NAME`` (of the profile), ``file:PATH`` (mode 0600) or ``env:NAME``.

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
            error.hint = f"Its owner stores it: cleanroom secret set {name} --secret-stdin --profile {settings.profile}"
            raise
    if kind == "file" and name:
        return read_secret_file(os.path.expanduser(name), what="connection secret")
    if kind == "env" and name.startswith(SECRET_VARIABLE_PREFIX):
        value = os.environ.get(name)
        if not value:
            raise NotFound("SecretVariableNotSet", f"connection secret: the worker has no environment variable {name}.")
        return Secret(value.encode())
    raise InvalidInput(
        "SecretReferenceInvalid",
        f"connection secret: {reference!r} is not secret:NAME, file:PATH or env:{SECRET_VARIABLE_PREFIX}NAME.",
        hint="Give a reference, never the secret itself.",
    )


def open_blob(settings: Settings, store: BlobStoreSpec, *, customer_key: Callable[[], Secret] | None = None) -> BlobStore:
    """The container of ``store`` in the profile's storage account, below its subdirectory."""
    if not settings.azure.storage_account_url:
        raise PreconditionFailed(
            "SettingMissing", "settings: azure.storage_account_url is not set.", hint="Name the storage account's URL."
        )
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
    """The bucket of ``store``, opened with the connection secret that it references."""
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


def open_store(
    settings: Settings, spec: DatasetSpec, *, create: bool = False, customer_key: Callable[[], Secret] | None = None
) -> ObjectStore:
    """The store of a dataset; ``create`` makes its container or bucket where it is missing. ``customer_key`` is asked, once the credentials
    are there, for a dataset whose key is given to the store with every object (CPK, SSE-C)."""
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
            # Asked first: a key that may write to its bucket is seldom allowed to create one.
            s3.create_bucket()
    return s3
