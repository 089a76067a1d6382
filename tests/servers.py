"""Session fixtures of real servers and of the Entra ID and ARM stand-in; ``tests/conftest.py`` loads them for all tests.

``local_authority``, ``azure_world`` (Entra ID and ARM), ``azurite`` (real Azurite), ``seaweedfs`` (real SeaweedFS).
"""

from __future__ import annotations

import base64
import os
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import StorageUrl, check_storage_url
from cleanroom.secret import Secret, write_secret_file
from cleanroom.settings import AzureSettings, CredentialSettings
from localcloud.launcher.processes import free_ports, running
from localcloud.standins.directory import Principal, RoleGrant, Subscription, Tenant
from localcloud.standins.entra.server import EntraConfig, create_app
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority

RESOURCE_GROUP = "clean-room"


def fixed_id(*words: str) -> str:
    """Return a GUID that is the same in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, ".".join(words)))


@pytest.fixture(scope="session")
def local_authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    """The certificate authority of this test session."""
    return LocalAuthority(tmp_path_factory.mktemp("tls"))


@dataclass(frozen=True)
class AzureWorld:
    """Two tenants, each with a user (Owner of the subscription), a principal for a vault (Reader) and one without roles."""

    url: str
    ca_file: Path
    secrets: Path

    def http(self) -> httpx.Client:
        """Return an HTTP client that trusts the local certificate authority."""
        return httpx.Client(verify=ssl.create_default_context(cafile=str(self.ca_file)))

    def tenant_id(self, company: str) -> str:
        return fixed_id("tenant", company)

    def subscription_id(self, company: str) -> str:
        return fixed_id("subscription", company)

    def client_id(self, company: str, name: str = "user") -> str:
        return fixed_id("client", company, name)

    def object_id(self, company: str, name: str = "user") -> str:
        return fixed_id("object", company, name)

    def secret_file(self, company: str, name: str = "user") -> Path:
        return self.secrets / f"{company}-{name}"

    def credential(self, company: str, name: str = "user") -> CredentialSettings:
        return CredentialSettings(
            kind="client-secret",
            authority=self.url,
            tenant_id=self.tenant_id(company),
            client_id=self.client_id(company, name),
            client_secret_file=self.secret_file(company, name),
            disable_instance_discovery=True,
        )

    def azure(self, company: str) -> AzureSettings:
        return AzureSettings(subscription_id=self.subscription_id(company), resource_group=RESOURCE_GROUP, arm_url=self.url)

    def group(self, company: str) -> str:
        return f"/subscriptions/{self.subscription_id(company)}/resourceGroups/{RESOURCE_GROUP}"

    def storage_id(self, company: str) -> str:
        return f"{self.group(company)}/providers/Microsoft.Storage/storageAccounts/{company}"


@pytest.fixture(scope="session")
def start_azure_world(tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority):
    """Return a function that starts a world: ``with start_azure_world(propagation_seconds=0) as world``."""

    @contextmanager
    def start(propagation_seconds: float = 0, token_seconds: int = 3600) -> Iterator[AzureWorld]:
        folder = tmp_path_factory.mktemp("entra")
        world = AzureWorld("", local_authority.ca_file, folder / "secrets")
        tenants, principals, subscriptions = [], [], []
        for company in ("contosso", "litware"):
            tenants.append(Tenant(id=world.tenant_id(company), domain=f"{company}.example"))
            for name, kind in (("user", "user"), ("vault", "service-principal"), ("nobody", "service-principal")):
                write_secret_file(world.secret_file(company, name), uuid.uuid4().hex.encode())
                principals.append(
                    Principal(
                        kind=kind,
                        tenant_id=world.tenant_id(company),
                        client_id=world.client_id(company, name),
                        object_id=world.object_id(company, name),
                        name=f"{company} {name}",
                        username=f"{name}@{company}.example" if kind == "user" else None,
                        client_secret_file=world.secret_file(company, name),
                    )
                )
            grants = (
                RoleGrant(object_id=world.object_id(company), role="Owner"),
                RoleGrant(object_id=world.object_id(company, "vault"), role="Reader"),
            )
            subscriptions.append(
                Subscription(
                    id=world.subscription_id(company),
                    tenant_id=world.tenant_id(company),
                    name=company,
                    resource_groups=(RESOURCE_GROUP,),
                    grants=grants,
                )
            )
        tls = local_authority.issue("entra")
        config = EntraConfig(
            tls_cert=tls.cert,
            tls_key=tls.key,
            state=folder / "state",
            tenants=tuple(tenants),
            principals=tuple(principals),
            subscriptions=tuple(subscriptions),
            issuer_ca_file=local_authority.ca_file,
            propagation_seconds=propagation_seconds,
            token_seconds=token_seconds,
        )
        with serving(create_app(config), "entra", tls) as url:
            yield AzureWorld(url, local_authority.ca_file, world.secrets)

    return start


@pytest.fixture(scope="session")
def azure_world(start_azure_world) -> Iterator[AzureWorld]:
    """Entra ID and ARM where everything is effective at once."""
    with start_azure_world() as world:
        yield world


@dataclass(frozen=True)
class BlobServer:
    """Azurite with the accounts ``contosso`` and ``litware``: ``account_url(name)`` takes the storage tokens of ``azure_world``."""

    url: str
    ca_file: Path

    @property
    def host(self) -> str:
        """What ``Settings.storage_hosts`` must declare."""
        return self.url.removeprefix("https://")

    def account_url(self, account: str = "contosso") -> str:
        return f"{self.url}/{account}"

    def checked_url(self, account: str = "contosso") -> StorageUrl:
        return check_storage_url(self.account_url(account), "azure-blob", declared=[self.host])


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority) -> Iterator[BlobServer]:
    """A real Azurite."""
    from localcloud.launcher import azurite as program

    folder = tmp_path_factory.mktemp("azurite")
    service = program.service(
        folder=folder / "data",
        tls=local_authority.issue("azurite"),
        ca_file=local_authority.ca_file,
        accounts={name: base64.b64encode(os.urandom(64)).decode() for name in ("contosso", "litware")},
        port=free_ports(1)[0],
        main=program.install(program.default_install_folder()),
        log=folder / "log",
    )
    with running([service]):
        yield BlobServer(service.url, local_authority.ca_file)


@dataclass(frozen=True)
class S3Server:
    """SeaweedFS with an administrator, and with ``litware``, which has access to the bucket ``litware`` only."""

    url: str
    ca_file: Path
    admin: S3Credentials
    litware: S3Credentials

    @property
    def host(self) -> str:
        """What ``Settings.storage_hosts`` must declare."""
        return self.url.removeprefix("https://")

    def endpoint(self) -> StorageUrl:
        return check_storage_url(self.url, "s3", declared=[self.host])

    def store(self, bucket: str = "litware", credentials: S3Credentials | None = None, **options: Any) -> S3Store:
        return S3Store(
            bucket, region="us-east-1", endpoint=self.endpoint(), credentials=credentials or self.litware, ca_file=self.ca_file, **options
        )


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority) -> Iterator[S3Server]:
    """A real SeaweedFS with the buckets ``litware`` and ``private`` (the administrator's)."""
    with s3_server(tmp_path_factory.mktemp("seaweedfs"), local_authority) as server:
        yield server


@contextmanager
def s3_server(folder: Path, authority: LocalAuthority) -> Iterator[S3Server]:
    """Run the SeaweedFS of :func:`seaweedfs`."""
    from localcloud.launcher import seaweedfs as program

    admin_key, litware_key = (Secret(uuid.uuid4().hex.encode()) for _ in range(2))
    service = program.service(
        folder=folder / "data",
        tls=authority.issue("seaweedfs"),
        ca_file=authority.ca_file,
        identities=[
            program.S3Identity("admin", "ADMINKEY", admin_key, ("Admin",)),
            program.S3Identity.owner("litware", "LITWAREKEY", litware_key, ["litware"]),
        ],
        ports=free_ports(program.PORTS),
        log=folder / "log",
    )
    with running([service]):
        server = S3Server(
            service.url,
            authority.ca_file,
            S3Credentials(Secret(b"ADMINKEY"), admin_key),
            S3Credentials(Secret(b"LITWAREKEY"), litware_key),
        )
        for bucket in ("litware", "private"):
            server.store(bucket, server.admin).create_bucket()
        yield server
