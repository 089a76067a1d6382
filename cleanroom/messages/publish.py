"""Messages of the two dataset-publishing diagrams."""

from __future__ import annotations

from typing import Literal

from cleanroom.documents.specs import DatasetSpec
from cleanroom.identifiers import HexDigest, Name
from cleanroom.messages.base import Message


class PublishDatasetInput(Message):
    """Start of ``PublishAzureDataset`` and ``PublishS3Dataset``."""

    collaboration: str
    party: Name
    owner_id: str
    """The owner's user id in governance."""
    spec: DatasetSpec
    authorisation: str
    """JWS of :class:`cleanroom.statements.Authorisation` (``publish-dataset``) by the owner over ``spec.digest()``."""


class OwnerOrder(Message):
    """What an activity on a collaborator's queue needs to know that its own owner wants this."""

    collaboration: str
    spec: DatasetSpec
    authorisation: str


class ManagedIdentity(Message):
    """A user-assigned managed identity in the owner's subscription."""

    name: str
    resource_id: str
    client_id: str
    principal_id: str
    tenant_id: str


class AccessOrder(Message):
    order: OwnerOrder
    identity: ManagedIdentity


class AccessGranted(Message):
    """Role assignments that now exist (``role`` at ``scope``)."""

    roles: tuple[str, ...]
    scope: str


class CleanRoomDetailsRequest(Message):
    collaboration: str
    owner_id: str


class CleanRoomIdentity(Message):
    """As whom the clean room appears to Entra ID: the three fields that a federated credential must match byte for byte."""

    issuer_url: str
    subject: str
    audience: str


class CleanRoomPolicy(Message):
    """Which code is the clean room: the claims of the contract's policy in governance."""

    host_data: tuple[HexDigest, ...]
    claims: dict[str, tuple[str | bool | int, ...]]
    digest: HexDigest
    """SHA-256 of the canonical claims."""


class FederationOrder(Message):
    order: OwnerOrder
    identity: ManagedIdentity
    clean_room: CleanRoomIdentity


class FederationSet(Message):
    name: str
    issuer_url: str
    subject: str
    audience: str


class KeyOrder(Message):
    order: OwnerOrder
    policy: CleanRoomPolicy


class EncryptionKey(Message):
    """The dataset key as it may be published: wrapped by a Key Vault key that only the clean room can have released."""

    key_name: str
    key_id: str
    key_vault_url: str
    authority: str
    """Attestation authority (MAA) named in the release policy."""
    wrapped_key: str
    """base64(RSA-OAEP-SHA-256(KEK public key, dataset key))."""


class SecretOrder(Message):
    order: OwnerOrder
    kind: Literal["connection", "key"]
    policy: CleanRoomPolicy


class ConnectionSecret(Message):
    """That the connection secret is there and opens the store; never the secret."""

    reference: str
    store: str


class StoredSecret(Message):
    kind: Literal["connection", "key", "consent"]
    secret_id: str


class DescriptorRequest(Message):
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
    """A document ready to be proposed: ``data`` is what governance will hold, byte for byte."""

    document_id: Name
    data: str
    digest: HexDigest
    labels: dict[str, str]


class ProposeOrder(Message):
    order: OwnerOrder
    descriptor: Descriptor


class ProposedDocument(Message):
    document_id: str
    proposal_id: str
    version: str
    digest: HexDigest


class AcceptOrder(Message):
    order: OwnerOrder
    proposed: ProposedDocument


class PublishedDataset(Message):
    """Result of publishing: the accepted document."""

    document_id: str
    version: str
    digest: HexDigest
    proposal_id: str
    owner_id: str


class StoreLocation(Message):
    """Where a dataset's objects are, without credentials."""

    url: str
    region: str = ""
