"""Does what is about to be published say what its author signed? Compared member by member by whoever holds the author's credentials.

The texts are made elsewhere (the frontend) and carried by Temporal. Both could be replaced on the way, by a descriptor with another
storage address, without privacy floors, or with a key that somebody else knows; therefore the author's own worker makes the text
again from the signed specification and from its own settings, and proposes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from cleanroom.documents.dataset import DatasetDocument, parse_dataset
from cleanroom.documents.query import QueryDocument, parse_query
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, QuerySpec
from cleanroom.errors import Refused
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject, user_secret_name
from cleanroom.messages.publish import CleanRoomIdentity, DescriptorRequest, EncryptionKey, ManagedIdentity, StoredSecret
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.settings import Settings


@dataclass(frozen=True)
class OwnAzure:
    """What the owner's worker knows by itself about an Azure dataset."""

    identity: ManagedIdentity
    issuer_url: str
    """Of governance's OIDC issuer, read from governance."""
    key_name: str
    wrapped_here: frozenset[str]
    """Every wrapping of the dataset's key that this worker has made."""


def require_descriptor(data: str, spec: DatasetSpec, settings: Settings, owner_id: str, azure: OwnAzure | None) -> None:
    """``data`` is the dataset document of ``spec`` for this owner, byte for byte.

    Raises:
        Refused: ``DescriptorMismatch`` naming the members that differ.
        InvalidInput: ``DatasetDocumentInvalid``.
    """
    found = parse_dataset(data, document_id=spec.name)
    if isinstance(spec.store, BlobStoreSpec):
        if azure is None:
            raise Refused("DescriptorMismatch", f"dataset {spec.name!r}: this worker has no Azure subscription, the dataset needs one.")
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
            StoredSecret(kind=kind, secret_id=f"{owner_id}_{user_secret_name(spec.name, kind)}") for kind in ("connection", "key")
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
        members = _differing(found, parse_dataset(expected.data, document_id=spec.name))
        raise Refused(
            "DescriptorMismatch",
            f"dataset {spec.name!r}: the descriptor is not what its owner signed; it differs in {', '.join(members) or 'its form'}.",
            details={"members": members},
            hint="Publish again; if it happens again, somebody changes what the workflow carries.",
        )


def _own_key(found: DatasetDocument, spec: DatasetSpec, settings: Settings, azure: OwnAzure) -> EncryptionKey | None:
    """The key as this worker would describe it; the random wrapping is taken from ``found`` if it was made here."""
    if spec.encryption == "SSE":
        return None
    secrets = found.dataset_access_point.protection.encryption_secrets
    wrapped = secrets.dek.wrapped_key if secrets is not None else None
    key_id = secrets.kek.secret.backing_resource.id if secrets is not None and secrets.kek is not None else ""
    vault = settings.azure.key_vault_url
    if wrapped not in azure.wrapped_here or not key_id.startswith(f"{vault.rstrip('/')}/keys/{azure.key_name}"):
        raise Refused(
            "DescriptorMismatch",
            f"dataset {spec.name!r}: its descriptor holds a key that this owner's worker has not wrapped, or of another vault.",
            details={"members": ["datasetAccessPoint.protection.encryptionSecrets"]},
        )
    assert wrapped is not None
    return EncryptionKey(key_name=azure.key_name, key_id=key_id, key_vault_url=vault, authority=settings.azure.maa_url, wrapped_key=wrapped)


def _differing(found: DatasetDocument, expected: DatasetDocument) -> list[str]:
    ours, theirs = (item.model_dump(mode="json", by_alias=True) for item in (expected, found))
    members = [name for name in ours if ours[name] != theirs[name] and name != "datasetAccessPoint"]
    point, other = ours["datasetAccessPoint"], theirs["datasetAccessPoint"]
    return members + [f"datasetAccessPoint.{name}" for name in point if point[name] != other[name]]


def require_query(data: str, spec: QuerySpec, collaboration: str) -> QueryDocument:
    """``data`` asks for what ``spec`` says: the same segments on the same datasets under the same bounds. Pins are not compared: the
    clean room holds every run against them.

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
        raise Refused("DraftMismatch", f"query {spec.name!r}: the draft does not ask for what its author signed.")
    return query
