"""A collaborator's worker on :mod:`tests.unit.activities.governance`, with an Azure subscription in memory."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import AzureAd
from activities.blob import Blob
from activities.collaborator import CollaboratorGovernance
from activities.key_vault import KeyVault
from activities.s3 import S3
from cleanroom.clients.azure import Federation, ManagedIdentity
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import NotFound
from cleanroom.identifiers import approver_key_document_id
from cleanroom.messages.publish import AuthorisedDataset
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.reader import UserReader
from cleanroom.settings import AzureSettings, S3Settings, Settings
from cleanroom.statements import Authorisation, SigningKey, load_or_create_signing_key, sign
from cleanroom.statements.keys import KEY_LABELS, KeyDocument
from tests.unit.activities.governance import COLLABORATION, Caller, Governance

NAMES = ("contosso", "fabrikam", "litware")
PARTIES = {name: f"u-{name}" for name in NAMES}
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
STORES: dict[str, dict[str, str]] = {
    "azure-blob": {"kind": "azure-blob", "container": "orders"},
    "aws-s3": {"kind": "aws-s3", "bucket": "orders", "subdirectory": "orders", "connectionSecret": "file:s3"},
}


def dataset_spec(kind: str = "aws-s3", **changes: Any) -> DatasetSpec:
    """The dataset ``orders``."""
    values = {"name": "orders", "format": "csv", "access": "read", "schema": {"region": "string"}, "store": STORES[kind]}
    return DatasetSpec.model_validate(values | changes)


def query_spec(minimum: int = 10) -> QuerySpec:
    """The query ``totals``."""
    sql = f"SELECT o.region AS region, COUNT(*) AS total FROM o GROUP BY o.region HAVING COUNT(*) >= {minimum}"
    return QuerySpec(name="totals", inputs={"o": "orders"}, output="out", sql=sql)


@dataclass
class Azure:
    """Managed identities, role assignments and federated credentials, and what was changed."""

    identities: dict[str, ManagedIdentity] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    roles: list[tuple[str, str, str]] = field(default_factory=list)
    federations: list[tuple[str, str, Federation]] = field(default_factory=list)

    def create_or_update(self, name: str, *, tags: dict[str, str]) -> ManagedIdentity:
        self.tags[name] = tags
        return self.identities.setdefault(
            name,
            ManagedIdentity(
                id=f"/mi/{name}", name=name, location="westeurope", client_id=f"client-{name}", principal_id=f"principal-{name}",
                tenant_id="tenant",
            ),
        )  # fmt: skip

    def get(self, name: str) -> ManagedIdentity:
        if name not in self.identities:
            raise NotFound("ResourceNotFound", name)
        return self.identities[name]

    def allow(self, scope: str, role: str, principal: str) -> None:
        self.roles.append((scope, role, principal))

    def set(self, identity: str, name: str, federation: Federation) -> Federation:
        self.federations.append((identity, name, federation))
        return federation


class Owner:
    """One collaborator's worker."""

    def __init__(self, governance: Governance, folder: Path, name: str = "contosso", *, mode: Any = "app") -> None:
        self.name, self.user, self.governance, self.now = name, PARTIES[name], governance, NOW
        self.settings = Settings(
            profile=name,
            collaboration=COLLABORATION,
            party=name,
            parties=PARTIES,
            keys_dir=folder / name,
            azure=AzureSettings(
                storage_account_url="https://orders.blob.example",
                storage_account_id="/subscriptions/s/account/",
                key_vault_url="https://vault.example",
                key_vault_id="/subscriptions/s/vault/",
                maa_url="https://maa.example",
            ),
            s3=S3Settings(endpoint_url="https://s3.example", region="eu-west-1"),
        )
        self.client = Caller(governance, self.user, mode)
        client: Any = self.client
        self.azure = Azure()
        azure: Any = self.azure
        self.documents = UserDocuments(client, COLLABORATION)
        self.reader = UserReader(client, COLLABORATION)
        self.keys = KeyStore(self.settings.keys_dir, COLLABORATION)
        self.authorisations = AuthorisationVerifier(self.settings, self.reader, lambda: self.now)
        self.worker = CollaboratorGovernance(self.settings, self.authorisations, self.documents, self.keys, azure)
        self.azure_ad = AzureAd(self.authorisations, azure, azure, client)
        self.blob = Blob(self.settings, self.authorisations, azure, azure)
        self.key_vault = KeyVault(self.settings, self.authorisations, azure, azure, azure, client, self.keys)
        self.s3 = S3(self.settings, self.authorisations)

    @property
    def key(self) -> SigningKey:
        """The collaborator's signing key."""
        return load_or_create_signing_key(self.settings.keys_dir)

    def sign(self, action: str, subject: str, digest: str, *, key: SigningKey | None = None, hours: float = 1, **claims: str) -> str:
        """Return an authorisation."""
        values = {
            "collaboration": COLLABORATION, "signer": self.user, "expires": NOW + dt.timedelta(hours=hours),
            "action": action, "subject": subject, "digest": digest,
        }  # fmt: skip
        return sign(Authorisation.model_validate(values | claims), key or self.key)

    def dataset(self, kind: str = "aws-s3", **changes: Any) -> AuthorisedDataset:
        """The dataset ``orders`` with the authorisation to publish it."""
        spec = dataset_spec(kind, **changes)
        token = self.sign("publish-dataset", spec.name, spec.digest())
        return AuthorisedDataset(collaboration=COLLABORATION, spec=spec, authorisation=token)

    async def publish_key(self) -> None:
        """Publish the signing key in governance."""
        body = KeyDocument(user_id=self.user, keys=(self.key.public,)).to_data()
        await self.documents.publish_own(approver_key_document_id(self.user), body, KEY_LABELS, self.user)
