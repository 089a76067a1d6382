"""The participants of the local cloud: the three collaborators, the operator of the clean room, and their accounts in Entra ID.

IDs are derived from names, so that they stay the same when the state folder is deleted. Secrets are generated at first use.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path

from cleanroom.secret import write_secret_file
from localcloud.standins.directory import Principal, RoleGrant, Subscription, Tenant

RESOURCE_GROUP = "clean-room"
COLLABORATION = "flights"
"""ID of the contract in governance."""
S3_BUCKET = "litware"
S3_REGION = "us-east-1"


def derived_id(*words: str) -> str:
    """Return the GUID that belongs to these words."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, "/".join((*words, "cleanroom.example"))))


@dataclass(frozen=True)
class Account:
    """An account in Entra ID: of a company's user, or of a service."""

    company: str
    name: str
    person: bool

    @property
    def tenant_id(self) -> str:
        """ID of the company's tenant."""
        return derived_id("tenant", self.company)

    @property
    def client_id(self) -> str:
        """The ``appid`` or ``azp`` of the account's tokens."""
        return derived_id("client", self.company, self.name)

    @property
    def object_id(self) -> str:
        """The ``oid`` of the account's tokens."""
        return derived_id("object", self.company, self.name)

    @property
    def username(self) -> str:
        """Sign-in name."""
        return f"{self.name}@{self.company}.example"

    def secret_file(self, folder: Path) -> Path:
        """Return the file of the client secret in ``folder``; generate the secret at first use."""
        file = folder / f"{self.company}-{self.name}"
        if not file.exists():
            write_secret_file(file, secrets.token_urlsafe(32).encode())
        return file


CONTOSSO = Account("contosso", "contosso", person=True)
"""Publishes from Azure: has a subscription, a storage account and a key vault."""
LITWARE = Account("litware", "litware", person=True)
"""Publishes from S3 and receives the result."""
FABRIKAM = Account("fabrikam", "fabrikam", person=True)
"""Proposes the query and starts the runs."""
PEOPLE = (CONTOSSO, LITWARE, FABRIKAM)

FRONTEND = Account("operator", "frontend", person=False)
CLEAN_ROOM = Account("operator", "clean-room", person=False)
SPARK_SERVICE = Account("operator", "spark-service", person=False)
SERVICES = (FRONTEND, CLEAN_ROOM, SPARK_SERVICE)

CONTOSSO_VAULT = Account("contosso", "vault", person=False)
"""Account with which Contosso's key vault reads role assignments from ARM."""

CONTOSSO_STORAGE = Account("contosso", "storage", person=False)
"""Account with which Contosso's storage account reads role assignments from ARM."""

ACCOUNTS = (*PEOPLE, *SERVICES, CONTOSSO_VAULT, CONTOSSO_STORAGE)
SUBSCRIPTION_ID = derived_id("subscription", "contosso")


def tenants() -> tuple[Tenant, ...]:
    """Return one tenant per company."""
    return tuple(Tenant(id=derived_id("tenant", name), domain=f"{name}.example") for name in dict.fromkeys(a.company for a in ACCOUNTS))


def principals(secret_folder: Path) -> tuple[Principal, ...]:
    """Return the Entra ID principals of all accounts; ``secret_folder`` holds their client secrets."""
    return tuple(
        Principal(
            kind="user" if account.person else "service-principal",
            tenant_id=account.tenant_id,
            client_id=account.client_id,
            object_id=account.object_id,
            name=account.name,
            username=account.username if account.person else None,
            client_secret_file=account.secret_file(secret_folder),
        )
        for account in ACCOUNTS
    )


def subscriptions() -> tuple[Subscription, ...]:
    """Return Contosso's subscription with its role assignments.

    Contosso's user owns it and manages keys and blobs. The key vault and the storage account may read role assignments.
    """
    roles = ("Owner", "Key Vault Crypto Officer", "Storage Blob Data Contributor")
    grants = [RoleGrant(object_id=CONTOSSO.object_id, role=role) for role in roles]
    grants += [RoleGrant(object_id=account.object_id, role="Reader") for account in (CONTOSSO_VAULT, CONTOSSO_STORAGE)]
    return (
        Subscription(
            id=SUBSCRIPTION_ID, tenant_id=CONTOSSO.tenant_id, name="Contosso", resource_groups=(RESOURCE_GROUP,), grants=tuple(grants)
        ),
    )


def vault_id() -> str:
    """Return the ARM resource ID of Contosso's key vault."""
    return _resource_id("Microsoft.KeyVault/vaults", "contosso")


def storage_account_id() -> str:
    """Return the ARM resource ID of Contosso's storage account."""
    return _resource_id("Microsoft.Storage/storageAccounts", "contosso")


def _resource_id(kind: str, name: str) -> str:
    return f"/subscriptions/{SUBSCRIPTION_ID}/resourceGroups/{RESOURCE_GROUP}/providers/{kind}/{name}"
