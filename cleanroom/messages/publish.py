"""Messages of the two "Publish Dataset" diagrams."""

from __future__ import annotations

from typing import Literal

from cleanroom.documents.specs import DatasetSpec
from cleanroom.identifiers import HexDigest, Name
from cleanroom.messages.base import Message


class PublishDatasetInput(Message):
    """Input of ``PublishAzureDataset`` and ``PublishS3Dataset``."""

    collaboration: str
    party: Name
    """Name of the owner; its worker polls the queue ``collaborator.<party>``."""
    owner_id: str
    """User ID of the owner in governance."""
    spec: DatasetSpec
    authorisation: str
    """The owner's signed authorisation to ``publish-dataset``, over ``spec.digest()``."""


class AuthorisedDataset(Message):
    """A dataset and its owner's authorisation to publish it: part of every request to the owner's worker."""

    collaboration: str
    spec: DatasetSpec
    authorisation: str
    """Compact JWS of :class:`cleanroom.statements.Authorisation`."""


class ManagedIdentity(Message):
    """A user-assigned managed identity in the owner's subscription."""

    name: str
    resource_id: str
    client_id: str
    principal_id: str
    tenant_id: str


class AccessRequest(Message):
    """Input of ``allow_access_blob`` and ``allow_access_key_vault``."""

    dataset: AuthorisedDataset
    identity: ManagedIdentity


class AccessGranted(Message):
    """Role assignments that exist now: ``roles`` at ``scope``."""

    roles: tuple[str, ...]
    scope: str


class CleanRoomDetailsRequest(Message):
    """Input of ``get_clean_room_identity`` and ``get_clean_room_policy``."""

    collaboration: str
    owner_id: str


class CleanRoomIdentity(Message):
    """The clean room as Entra ID sees it: the three fields of a federated credential, which are compared byte for byte."""

    issuer_url: str
    subject: str
    audience: str


class CleanRoomPolicy(Message):
    """The claims of the contract's clean room policy in governance: they identify the clean room's code."""

    host_data: tuple[HexDigest, ...]
    claims: dict[str, tuple[str | bool | int, ...]]
    digest: HexDigest
    """SHA-256 of the claims in canonical JSON (RFC 8785)."""


class FederationRequest(Message):
    """Input of ``set_federation``."""

    dataset: AuthorisedDataset
    identity: ManagedIdentity
    clean_room: CleanRoomIdentity


class FederationSet(Message):
    """The federated credential that exists now."""

    name: str
    issuer_url: str
    subject: str
    audience: str


class KeyRequest(Message):
    """Input of ``set_key_with_skr``."""

    dataset: AuthorisedDataset
    policy: CleanRoomPolicy


class EncryptionKey(Message):
    """The dataset key in the form that is published: wrapped by a Key Vault key that is released only to the clean room."""

    key_name: str
    key_id: str
    key_vault_url: str
    authority: str
    """Attestation authority (MAA) named in the release policy."""
    wrapped_key: str
    """base64(RSA-OAEP-SHA-256(KEK public key, dataset key))."""


class SecretRequest(Message):
    """Input of ``set_secret``."""

    dataset: AuthorisedDataset
    kind: Literal["connection", "key"]
    policy: CleanRoomPolicy


class ConnectionSecret(Message):
    """Confirms that the connection secret exists and opens the store. The secret itself is never in a message."""

    reference: str
    store: str


class StoredSecret(Message):
    """A secret that governance holds."""

    kind: Literal["connection", "key"]
    secret_id: str


class DescriptorRequest(Message):
    """Input of ``generate_dataset_descriptor``. Azure datasets set identity and key, S3 datasets set region and secrets."""

    collaboration: str
    owner_id: str
    spec: DatasetSpec
    store_url: str
    region: str = ""
    identity: ManagedIdentity | None = None
    clean_room: CleanRoomIdentity | None = None
    encryption_key: EncryptionKey | None = None
    secrets: tuple[StoredSecret, ...] = ()


class Descriptor(Message):
    """A dataset document that is ready to be proposed."""

    document_id: Name
    data: str
    """The text that governance stores, byte for byte."""
    digest: HexDigest
    labels: dict[str, str]


class ProposeDocumentRequest(Message):
    """Input of ``propose_document``."""

    dataset: AuthorisedDataset
    descriptor: Descriptor


class ProposedDocument(Message):
    """A dataset document with an open proposal."""

    document_id: str
    proposal_id: str
    version: str
    digest: HexDigest


class AcceptDocumentRequest(Message):
    """Input of ``accept_document``."""

    dataset: AuthorisedDataset
    proposed: ProposedDocument


class PublishedDataset(Message):
    """Result of publishing: the accepted document."""

    document_id: str
    version: str
    digest: HexDigest
    proposal_id: str
    owner_id: str


class StoreLocation(Message):
    """Location of a dataset's objects, without credentials."""

    url: str
    region: str = ""
