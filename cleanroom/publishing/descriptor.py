"""Generates the descriptor of a dataset from its specification and from the results of the preceding steps."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from cleanroom.documents.dataset import (
    DATASET_LABELS,
    AccessPoint,
    DatasetAccessPolicy,
    DatasetDocument,
    DatasetSchema,
    EncryptionSecret,
    EncryptionSecrets,
    Identity,
    Protection,
    Provider,
    Resource,
    SecretReference,
    TokenIssuer,
    encode_configuration,
    parse_dataset,
)
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, S3StoreSpec
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import document_digest
from cleanroom.messages.publish import CleanRoomIdentity, Descriptor, DescriptorRequest, EncryptionKey, ManagedIdentity, StoredSecret

T = TypeVar("T")

KEY_FORMAT = "TINK_AES256_GCM_HKDF_1MB"


def generate_descriptor(request: DescriptorRequest) -> Descriptor:
    """Generate the dataset document of ``request``. The same request gives the same text.

    Raises:
        InvalidInput: ``DescriptorIncomplete``, ``DatasetDocumentInvalid``.
    """
    spec = request.spec
    if spec.manifest == "pinned" and spec.manifest_digest is None:
        raise InvalidInput(
            "DescriptorIncomplete", f"dataset {spec.name!r}: manifest is pinned, but manifestDigest is missing.", hint="Set manifestDigest."
        )
    identity: Identity | None
    if isinstance(spec.store, BlobStoreSpec):
        store, identity, protection = _azure(request, spec.store)
    else:
        store, identity, protection = _s3(request, spec.store)
    try:
        document = _document(spec, store, identity, protection)
    except ValidationError as error:
        # The rules of the file are those of the document, so this is a file of an older version.
        raise InvalidInput(
            "DatasetDocumentInvalid",
            f"dataset {spec.name!r}: {describe_validation(error)}.",
            hint="Correct the file. `cleanroom dataset check FILE` shows all problems.",
        ) from error
    data = document.to_data()
    parse_dataset(data, document_id=spec.name)  # Fail here, not when a run reads the document.
    return Descriptor(document_id=spec.name, data=data, digest=document_digest(data), labels=DATASET_LABELS)


def _document(spec: DatasetSpec, store: Resource, identity: Identity | None, protection: Protection) -> DatasetDocument:
    return DatasetDocument(
        name=spec.name,
        dataset_schema=schema_of(spec),
        dataset_access_policy=DatasetAccessPolicy(
            access_mode=spec.access, allowed_fields=spec.allowed_columns or tuple(spec.columns), privacy_floors=spec.privacy
        ),
        dataset_access_point=AccessPoint(
            name=spec.name,
            type="Volume_ReadOnly" if spec.access == "read" else "Volume_ReadWrite",
            subdirectory=spec.store.subdirectory,
            store=store,
            identity=identity,
            protection=protection,
            manifest=spec.manifest_rule(),
            manifest_digest=spec.manifest_digest,
        ),
    )


def schema_of(spec: DatasetSpec) -> DatasetSchema:
    """Return the schema of the dataset document."""
    return spec.dataset_schema()


def _azure(request: DescriptorRequest, store: BlobStoreSpec) -> tuple[Resource, Identity, Protection]:
    owner = _identity(_required(request.identity, request, "identity"), _required(request.clean_room, request, "clean_room"))
    mode = request.spec.encryption
    key = None if mode == "SSE" else _required(request.encryption_key, request, "encryption key")
    return (
        Resource(
            id=store.container,
            name=store.container,
            type="Azure_BlobStorage",
            provider=Provider(protocol="Azure_BlobStorage", url=request.store_url),
        ),
        owner,
        Protection(
            proxy_type=f"SecureVolume__{_volume(request.spec)}__Azure__BlobStorage",
            configuration=encode_configuration({"KeyType": "KEK", "EncryptionMode": mode, "KeyFormat": KEY_FORMAT}),
            encryption_secrets=_wrapped(request.spec.name, key) if key else None,
            encryption_secret_access_identity=owner if key else None,
        ),
    )


def _wrapped(dataset: str, key: EncryptionKey) -> EncryptionSecrets:
    """The DEK is in the descriptor, wrapped by the KEK. The KEK is in Key Vault, for release to the clean room only."""
    return EncryptionSecrets(
        dek=EncryptionSecret(
            name=f"{dataset}-dek",
            wrapped_key=key.wrapped_key,
            secret=SecretReference(
                backing_resource=Resource(
                    id=f"{dataset}-dek", name=f"{dataset}-dek", type="Descriptor", provider=Provider(protocol="Wrapped_Key")
                )
            ),
        ),
        kek=EncryptionSecret(
            name=key.key_name,
            secret=SecretReference(
                backing_resource=Resource(
                    id=key.key_id,
                    name=key.key_name,
                    type="AzureKeyVault",
                    provider=Provider(
                        protocol="AzureKeyVault_SecureKey",
                        url=key.key_vault_url,
                        configuration=encode_configuration({"authority": key.authority}),
                    ),
                )
            ),
        ),
    )


def _identity(identity: ManagedIdentity, clean_room: CleanRoomIdentity) -> Identity:
    return Identity(
        name=identity.name,
        client_id=identity.client_id,
        tenant_id=identity.tenant_id,
        token_issuer=TokenIssuer(
            issuer_type="FederatedIdentityBasedTokenIssuer",
            issuer=Provider(protocol="AzureAD_Federated", url=clean_room.issuer_url),
            federated_identity=Identity(
                name="cleanroom_cgs_oidc",
                token_issuer=TokenIssuer(
                    issuer_type="AttestationBasedTokenIssuer", issuer=Provider(protocol="Attested_OIDC", url=clean_room.issuer_url)
                ),
            ),
        ),
    )


def _s3(request: DescriptorRequest, store: S3StoreSpec) -> tuple[Resource, None, Protection]:
    secrets: dict[str, StoredSecret] = {secret.kind: secret for secret in request.secrets}
    connection = _required(secrets.get("connection"), request, "connection secret")
    mode = request.spec.encryption
    key = None if mode == "SSE" else _required(secrets.get("key"), request, "encryption key")
    configuration = encode_configuration({"secretId": connection.secret_id, "region": request.region})
    return (
        Resource(
            id=store.bucket,
            name=store.bucket,
            type="Aws_S3",
            provider=Provider(protocol="Aws_S3", url=request.store_url, configuration=configuration),
        ),
        None,
        Protection(
            proxy_type=f"SecureVolume__{_volume(request.spec)}__Aws__S3",
            configuration=encode_configuration({"KeyType": "DEK", "EncryptionMode": mode, "KeyFormat": KEY_FORMAT}),
            encryption_secrets=_held(request.spec.name, key) if key else None,
        ),
    )


def _held(dataset: str, key: StoredSecret) -> EncryptionSecrets:
    return EncryptionSecrets(
        dek=EncryptionSecret(
            name=f"{dataset}-dek",
            secret=SecretReference(
                backing_resource=Resource(id=key.secret_id, name=key.secret_id, type="Cgs", provider=Provider(protocol="Cgs_Secret"))
            ),
        )
    )


def _volume(spec: DatasetSpec) -> str:
    return "ReadOnly" if spec.access == "read" else "ReadWrite"


def _required(value: T | None, request: DescriptorRequest, what: str) -> T:
    if value is None:
        raise InvalidInput("DescriptorIncomplete", f"dataset {request.spec.name!r}: the descriptor needs its {what}.")
    return value
