"""The participants of a local cloud: its companies, the operator of the clean room, and their accounts in Entra ID.

IDs are derived from names, so that they stay the same when the state folder is deleted. Secrets are generated at first use.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cleanroom.secret import write_secret_file
from localcloud.standins.directory import Principal, RoleGrant, Subscription, Tenant

RESOURCE_GROUP = "clean-room"
S3_REGION = "us-east-1"
OPERATOR = "operator"
"""The company that runs the clean room's services; also the access key and the profile of their administrator."""


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
        file = folder / f"{self.company}.{self.name}"
        if not file.exists():
            write_secret_file(file, secrets.token_urlsafe(32).encode())
        return file


class Kind(StrEnum):
    """Where a company keeps its datasets."""

    AZURE = "azure"
    """A subscription with a storage account and a key vault."""
    S3 = "s3"
    """A bucket; its dataset keys are in governance."""
    ANALYST = "analyst"
    """Nowhere: the company has no data. It proposes queries and starts runs."""


@dataclass(frozen=True)
class Company:
    """A company of the local cloud. Its name is also that of its user, profile and worker."""

    name: str
    kind: Kind

    @property
    def user(self) -> Account:
        """The company's user."""
        return Account(self.name, self.name, person=True)

    @property
    def vault_account(self) -> Account:
        """The account with which the company's key vault reads role assignments from ARM."""
        return Account(self.name, "service.vault", person=False)

    @property
    def storage_service(self) -> Account:
        """The account with which the company's storage account reads role assignments from ARM."""
        return Account(self.name, "service.storage", person=False)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts of the company."""
        return (self.user, *((self.vault_account, self.storage_service) if self.kind is Kind.AZURE else ()))

    @property
    def bucket(self) -> str:
        """The S3 bucket. Its name has at least three characters (docs.aws.amazon.com: bucket naming rules)."""
        return self.name if len(self.name) >= 3 else f"{self.name}-{derived_id('bucket', self.name)[:8]}"

    @property
    def access_key(self) -> str:
        """Access key of the bucket."""
        return self.name.upper()

    @property
    def storage_account(self) -> str:
        """Name of the storage account: 3 to 24 lower-case letters and digits, as Azure requires."""
        if re.fullmatch(r"[a-z0-9]{3,24}", self.name):
            return self.name
        return self.name.replace("-", "")[:16] + derived_id("storage", self.name)[:8]

    @property
    def subscription_id(self) -> str:
        """ID of the Azure subscription."""
        return derived_id("subscription", self.name)

    @property
    def vault_id(self) -> str:
        """ARM resource ID of the key vault."""
        return self._resource_id("Microsoft.KeyVault/vaults", self.name)

    @property
    def storage_account_id(self) -> str:
        """ARM resource ID of the storage account."""
        return self._resource_id("Microsoft.Storage/storageAccounts", self.storage_account)

    def _resource_id(self, kind: str, name: str) -> str:
        return f"/subscriptions/{self.subscription_id}/resourceGroups/{RESOURCE_GROUP}/providers/{kind}/{name}"


FRONTEND = Account(OPERATOR, "frontend", person=False)
CLEAN_ROOM = Account(OPERATOR, "clean-room", person=False)
SPARK_SERVICE = Account(OPERATOR, "spark-service", person=False)
SERVICES = (FRONTEND, CLEAN_ROOM, SPARK_SERVICE)


@dataclass(frozen=True)
class Companies:
    """All companies of one local cloud, and their collaboration."""

    collaboration: str
    """ID of the contract in governance."""
    members: tuple[Company, ...]

    @property
    def people(self) -> tuple[Account, ...]:
        """The companies' users."""
        return tuple(company.user for company in self.members)

    @property
    def workers(self) -> tuple[str, ...]:
        """The profiles that have a worker: those of the users and of the operator's services."""
        return tuple(account.name for account in (*self.people, *SERVICES))

    def of(self, kind: Kind) -> tuple[Company, ...]:
        """Return the companies of a kind."""
        return tuple(company for company in self.members if company.kind is kind)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The accounts of the companies and of the operator's services."""
        return (*(account for company in self.members for account in company.accounts), *SERVICES)


DEMO = Companies("flights", (Company("contosso", Kind.AZURE), Company("litware", Kind.S3), Company("fabrikam", Kind.ANALYST)))
"""The companies of the demo: Contosso and Litware publish, Litware receives the result, Fabrikam proposes the query and starts the runs."""


def tenants(companies: Companies) -> tuple[Tenant, ...]:
    """Return one tenant per company, and that of the operator."""
    names = dict.fromkeys(account.company for account in companies.accounts)
    return tuple(Tenant(id=derived_id("tenant", name), domain=f"{name}.example") for name in names)


def principals(accounts: Iterable[Account], secret_folder: Path) -> tuple[Principal, ...]:
    """Return the Entra ID principals of the accounts; ``secret_folder`` holds their client secrets."""
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
        for account in accounts
    )


def subscriptions(companies: Companies) -> tuple[Subscription, ...]:
    """Return the subscription of each company on Azure, with its role assignments.

    The company's user owns it and manages keys and blobs. The key vault and the storage account may read role assignments.
    """
    return tuple(_subscription(company) for company in companies.of(Kind.AZURE))


def _subscription(company: Company) -> Subscription:
    roles = ("Owner", "Key Vault Crypto Officer", "Storage Blob Data Contributor")
    grants = [RoleGrant(object_id=company.user.object_id, role=role) for role in roles]
    grants += [RoleGrant(object_id=account.object_id, role="Reader") for account in (company.vault_account, company.storage_service)]
    return Subscription(
        id=company.subscription_id,
        tenant_id=company.user.tenant_id,
        name=company.name.capitalize(),
        resource_groups=(RESOURCE_GROUP,),
        grants=tuple(grants),
    )
