"""Checks of an owner's stores and Azure resources, and that published datasets can still be opened by clean rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from cleanroom.errors import NotFound, PreconditionFailed, Refused
from cleanroom.identifiers import federated_subject, federation_name, identity_name
from cleanroom.settings import Settings
from starters.operations.doctor.checks import Check, NotApplicable
from starters.operations.doctor.governance import GOVERNANCE, SIGN_IN
from starters.operations.session import Session

UNUSED = "cleanroom-doctor"
"""Name of a managed identity that does not exist."""
AZURE = "Azure Resource Manager"


def store_checks(session: Session) -> Iterator[Check]:
    """Yield the checks of the stores that the settings name."""
    settings = session.settings

    async def arm() -> str:
        return await asyncio.to_thread(_read_group, session)

    async def vault() -> str:
        return await asyncio.to_thread(_list_keys, session)

    async def maa() -> str:
        return await _read_certificates(settings)

    async def bucket() -> str:
        return await asyncio.to_thread(_open_bucket, settings)

    async def datasets() -> str:
        return await _look_at_datasets(session)

    if settings.azure.subscription_id:
        yield Check("stores", AZURE, arm, (SIGN_IN,))
        yield Check("stores", "Key Vault", vault, (SIGN_IN,))
        yield Check("stores", "Azure Attestation", maa)
        yield Check("stores", "identities of datasets", datasets, (AZURE, GOVERNANCE))
    if settings.s3.bucket:
        yield Check("stores", "S3 bucket", bucket, ("files with secrets",))


def _read_group(session: Session) -> str:
    from cleanroom.clients.azure import ManagedIdentities

    settings = session.settings
    identities = ManagedIdentities(session.credential(), settings.azure, ca_file=settings.ca_file)
    try:
        identities.get(UNUSED)
    except NotFound as error:
        # The group exists and may be read, and the identity does not exist.
        if error.code != "ResourceNotFound":
            raise
    return f"resource group {settings.azure.resource_group}"


def _list_keys(session: Session) -> str:
    from azure.core.exceptions import AzureError

    from cleanroom.keys.vault import KeyVaultSettings, convert_error

    settings = session.settings
    vault = KeyVaultSettings(
        vault_url=settings.azure.key_vault_url,
        ca_file=settings.ca_file,
        verify_challenge_resource=settings.azure.verify_challenge_resource,
        retries=0,
    )
    try:
        with vault.client(session.credential()) as client:
            found = sum(1 for _ in client.list_properties_of_keys())
    except AzureError as error:
        raise convert_error(error, "list the keys of the vault") from error
    return f"{settings.azure.key_vault_url}, {found} keys"


async def _read_certificates(settings: Settings) -> str:
    import httpx

    from cleanroom.errors import Unavailable
    from cleanroom.transport import async_http_client, ssl_context

    if not settings.azure.maa_url:
        raise NotApplicable("azure.maa_url is not set")
    try:
        async with async_http_client(ssl_context(settings.ca_file), timeout=httpx.Timeout(10)) as client:
            answer = await client.get(f"{settings.azure.maa_url.rstrip('/')}/certs")
            keys = answer.raise_for_status().json()["keys"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            "AttestationServiceUnavailable",
            "Azure Attestation does not return its certificates.",
            cause=type(error).__name__,
            hint="Check azure.maa_url. Key releases trust this instance.",
        ) from error
    return f"{settings.azure.maa_url}, {len(keys)} certificates"


def _open_bucket(settings: Settings) -> str:
    from cleanroom.clients.owned import open_s3
    from cleanroom.documents.specs import S3StoreSpec

    name = next(iter(settings.secret_files), None)
    if name is None:
        raise NotApplicable("secret_files names no connection secret")
    open_s3(settings, S3StoreSpec(kind="aws-s3", bucket=settings.s3.bucket, connection_secret=f"secret:{name}")).check()
    return f"{settings.s3.bucket} in {settings.s3.region}, with secret {name}"


async def _look_at_datasets(session: Session) -> str:
    """Compare identity, federated credential and role of each own dataset in Azure with what clean rooms need."""
    from cleanroom.documents.dataset import DATASET_LABELS, parse_dataset
    from cleanroom.publishing.user_documents import UnreadableDocument

    async with session.governance() as client:
        issuer = (await client.oidc_issuer_info()).issuer_url
        found = await session.documents(client).select(DATASET_LABELS)
    own = [item for item in found if not isinstance(item, UnreadableDocument) and item.proposer_id == session.user_id]
    parsed = [parse_dataset(item.data, document_id=item.id) for item in own if item.state == "Accepted"]
    in_azure = [item for item in parsed if item.dataset_access_point.identity is not None]
    if not in_azure:
        raise NotApplicable("this collaborator has published no dataset in Azure")
    await asyncio.to_thread(_require_identities, session, in_azure, issuer or "")
    return f"{len(in_azure)} datasets have identity, federated credential and role"


def _require_identities(session: Session, datasets: list[Any], issuer: str) -> None:
    from activities.blob import container_scope
    from cleanroom.clients.azure import STORAGE_CONTRIBUTOR, STORAGE_READER, FederatedCredentials, ManagedIdentities, RoleAssignments

    settings, own = session.settings, session.credential()
    subject = federated_subject(session.collaboration, session.user_id)
    identities = ManagedIdentities(own, settings.azure, ca_file=settings.ca_file)
    federations = FederatedCredentials(own, settings.azure, ca_file=settings.ca_file)
    roles = RoleAssignments(own, settings.azure, ca_file=settings.ca_file)
    again = f"Publish it again: cleanroom dataset publish FILE --profile {settings.profile}"
    for dataset in datasets:
        name = identity_name(session.collaboration, dataset.name)
        try:
            identity = identities.get(name)
        except NotFound as error:
            raise PreconditionFailed(
                "ManagedIdentityMissing", f"dataset {dataset.name!r}: its managed identity {name} does not exist.", hint=again
            ) from error
        trusted = federations.get(name, federation_name(subject, issuer))
        if trusted is None or (trusted.issuer, trusted.subject) != (issuer, subject):
            raise PreconditionFailed(
                "FederatedCredentialMissing",
                f"dataset {dataset.name!r}: identity {name} does not trust {subject} of {issuer}.",
                hint=again,
            )
        point = dataset.dataset_access_point
        wanted = STORAGE_READER if point.type == "Volume_ReadOnly" else STORAGE_CONTRIBUTOR
        scope = container_scope(settings.azure.storage_account_id, point.store.name)
        if not roles.has(scope, wanted, identity.principal_id):
            raise Refused(
                "RoleAssignmentMissing",
                f"dataset {dataset.name!r}: identity {name} does not have the role {wanted} on its container.",
                hint=again,
            )
