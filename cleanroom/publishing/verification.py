"""Verifies that a generated document matches the specification that its author signed.

The frontend generates documents, and Temporal carries them. Either could replace a document on its way, for example by one with
another storage address, without privacy floors, or with a key that an attacker knows. The author's worker therefore generates
the document again from the signed specification and from its own settings, and proposes only an equal one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cleanroom.documents.dataset import DatasetDocument, parse_dataset
from cleanroom.documents.query import QueryDocument, parse_query
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, QuerySpec
from cleanroom.errors import Refused
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject, user_secret_id, user_secret_name
from cleanroom.messages.publish import CleanRoomIdentity, DescriptorRequest, EncryptionKey, ManagedIdentity, StoredSecret
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.settings import Settings


@dataclass(frozen=True)
class OwnAzureValues:
    """Values of an Azure dataset that the owner's worker reads itself, from Azure, governance and its key store."""

    identity: ManagedIdentity
    issuer_url: str
    """OIDC issuer of governance."""
    key_name: str
    own_wrappings: frozenset[str]
    """Every wrapping of the dataset's key that this worker made. Wrapping is randomised, so it cannot be computed again."""


def verify_descriptor_matches_spec(data: str, spec: DatasetSpec, settings: Settings, owner_id: str, azure: OwnAzureValues | None) -> None:
    """Verify that ``data`` is the dataset document of ``spec`` for this owner, byte for byte.

    Raises:
        Refused: ``DescriptorMismatch``, with the members that differ.
        InvalidInput: ``DatasetDocumentInvalid``.
    """
    found = parse_dataset(data, document_id=spec.name)
    if isinstance(spec.store, BlobStoreSpec):
        if azure is None:
            raise Refused("DescriptorMismatch", f"dataset {spec.name!r}: it needs an Azure subscription, and this worker has none.")
        request = DescriptorRequest(
            collaboration=settings.collaboration,
            owner_id=owner_id,
            spec=spec,
            store_url=settings.azure.storage_account_url,
            identity=azure.identity,
            clean_room=CleanRoomIdentity(
                issuer_url=azure.issuer_url,
                subject=federated_subject(settings.collaboration, owner_id),
                audience=TOKEN_EXCHANGE_AUDIENCE,
            ),
            encryption_key=_own_key(found, spec, settings, azure),
        )
    else:
        stored = tuple(
            StoredSecret(kind=kind, secret_id=user_secret_id(owner_id, user_secret_name(spec.name, kind))) for kind in ("connection", "key")
        )
        request = DescriptorRequest(
            collaboration=settings.collaboration,
            owner_id=owner_id,
            spec=spec,
            store_url=settings.s3.endpoint_url or "",
            region=settings.s3.region,
            secrets=stored,
        )
    expected = generate_descriptor(request)
    if expected.data != data:
        members = _differing_members(found, parse_dataset(expected.data, document_id=spec.name))
        raise Refused(
            "DescriptorMismatch",
            f"dataset {spec.name!r}: the descriptor is not what its owner signed; it differs in {', '.join(members) or 'its form'}.",
            details={"members": members},
            hint="Publish again. If the error repeats, a component changes what the workflow carries.",
        )


def _own_key(found: DatasetDocument, spec: DatasetSpec, settings: Settings, azure: OwnAzureValues) -> EncryptionKey | None:
    """Describe the dataset's key with this worker's own values, and with the wrapping in ``found`` if this worker made it."""
    if spec.encryption == "SSE":
        return None
    secrets = found.dataset_access_point.protection.encryption_secrets
    wrapped = secrets.dek.wrapped_key if secrets is not None else None
    key_id = secrets.kek.secret.backing_resource.id if secrets is not None and secrets.kek is not None else ""
    vault = settings.azure.key_vault_url
    own_id = f"{vault.rstrip('/')}/keys/{azure.key_name}"
    if wrapped is None or wrapped not in azure.own_wrappings or not (key_id == own_id or key_id.startswith(f"{own_id}/")):
        raise Refused(
            "DescriptorMismatch",
            f"dataset {spec.name!r}: the descriptor contains a key that this worker did not wrap, or a key in a different vault.",
            details={"members": ["datasetAccessPoint.protection.encryptionSecrets"]},
        )
    return EncryptionKey(key_name=azure.key_name, key_id=key_id, key_vault_url=vault, authority=settings.azure.maa_url, wrapped_key=wrapped)


def _differing_members(found: DatasetDocument, expected: DatasetDocument) -> list[str]:
    ours, theirs = (item.model_dump(mode="json", by_alias=True) for item in (expected, found))
    members = [name for name in ours if ours[name] != theirs[name] and name != "datasetAccessPoint"]
    point, other = ours["datasetAccessPoint"], theirs["datasetAccessPoint"]
    return members + [f"datasetAccessPoint.{name}" for name in point if point[name] != other[name]]


def verify_draft_matches_spec(data: str, spec: QuerySpec, collaboration: str) -> QueryDocument:
    """Verify that ``data`` has the segments, datasets and parameters of ``spec``, and return the query document.

    The pinned dataset versions are not compared: every run compares them with the datasets themselves.

    Raises:
        Refused: ``DraftMismatch``.
        InvalidInput: ``QueryDocumentInvalid``.
    """
    query = parse_query(data, document_id=spec.name)
    application, approval = query.application, query.approval
    same = (
        query.name == spec.name
        and application.segments() == spec.to_segments()
        and application.input_dataset == spec.input_datasets()
        and application.output_dataset.specification == spec.output
        and approval is not None
        and approval.collaboration == collaboration
        and approval.parameters == spec.parameters
    )
    if not same:
        raise Refused("DraftMismatch", f"query {spec.name!r}: the draft differs from the text that its author signed.")
    return query
