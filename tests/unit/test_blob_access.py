"""Azure's access checks in front of a real Azurite: ARM's role assignments decide about reads and writes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from azure.core.credentials import AccessToken
from cryptography.hazmat.primitives.asymmetric import rsa

from activities.blob import container_scope
from cleanroom.clients.azure import (
    STORAGE_CONTRIBUTOR,
    STORAGE_READER,
    RoleAssignments,
    credential,
)
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import BLOCK_BYTES
from cleanroom.clients.urls import check_storage_url
from cleanroom.errors import PreconditionFailed
from localcloud.standins.blobaccess import BlobAccessConfig, StorageAccount, action_of, create_app
from localcloud.standins.keyvault.auth import ArmRoles
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.patience import PATIENCE
from tests.servers import AzureWorld, BlobServer


@pytest.fixture(scope="module")
def front(azure_world: AzureWorld, azurite: BlobServer, local_authority: LocalAuthority, tmp_path_factory) -> Iterator[str]:
    """URL of the account, through the access checks."""
    tls = local_authority.issue("blobaccess")
    tenant = f"{azure_world.url}/{azure_world.tenant_id('contosso')}"
    roles = ArmRoles(
        url=azure_world.url,
        vault_id=azure_world.storage_id("contosso"),
        token_url=f"{tenant}/oauth2/v2.0/token",
        client_id=azure_world.client_id("contosso", "vault"),
        client_secret_file=azure_world.secret_file("contosso", "vault"),
        ca_file=azure_world.ca_file,
    )
    account = StorageAccount(tenant_id=azure_world.tenant_id("contosso"), jwks_uri=f"{tenant}/discovery/v2.0/keys", roles=roles)
    config = BlobAccessConfig(
        tls_cert=tls.cert,
        tls_key=tls.key,
        state=tmp_path_factory.mktemp("blobaccess"),
        azurite_url=azurite.url,
        azurite_ca_file=azurite.ca_file,
        accounts={"contosso": account},
    )
    with serving(create_app(config), "blobaccess", tls) as url:
        yield f"{url}/contosso"


@pytest.fixture(scope="module")
def roles(azure_world: AzureWorld) -> RoleAssignments:
    return RoleAssignments(user(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)


def user(world: AzureWorld, company: str = "contosso", name: str = "user"):
    return credential(world.credential(company, name), ca_file=world.ca_file)


def open_store(front: str, who, ca_file: Path, container: str = "rows") -> BlobStore:
    host = front.removeprefix("https://").partition("/")[0]
    return BlobStore(check_storage_url(front, "azure-blob", declared=[host]), container, who, ca_file=ca_file)


def until_allowed(act):
    """Wait until cached role assignments have expired (one second)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return act()
        except PreconditionFailed as error:
            refused = error
            if error.code != "AuthorizationPermissionMismatch":
                raise
    raise refused


def read_until_refused(store: BlobStore, key: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        store.read(key)


@pytest.fixture(scope="module")
def owner(front: str, azure_world: AzureWorld, roles: RoleAssignments) -> BlobStore:
    roles.allow(azure_world.storage_id("contosso"), STORAGE_CONTRIBUTOR, azure_world.object_id("contosso"))
    store = open_store(front, user(azure_world), azure_world.ca_file)
    until_allowed(store.create_container)
    store.put("first", b"")
    return store


def test_permitted_requests_pass_unchanged(owner: BlobStore):
    data = os.urandom(BLOCK_BYTES + 1234)
    for key in ("2013/part 0+1%.csv", "ünï/ö~'()", "plain"):
        assert owner.put(key, data).size == len(data)
        assert owner.read_range(key, BLOCK_BYTES - 3, 10) == data[BLOCK_BYTES - 3 : BLOCK_BYTES + 7]
        assert owner.size(key) == len(data)
    assert owner.read("plain") == data
    assert {"2013/part 0+1%.csv", "ünï/ö~'()", "plain"} <= {item.key for item in owner.list()}
    owner.delete("plain")
    assert not owner.exists("plain")


def test_owner_of_the_subscription_cannot_read_data(front: str, azure_world: AzureWorld):
    """Azure's role Owner has no data actions."""
    stranger = user(azure_world, name="vault")
    with pytest.raises(PreconditionFailed) as caught:
        open_store(front, stranger, azure_world.ca_file).read("a")
    assert caught.value.code == "AuthorizationPermissionMismatch"
    assert caught.value.retryable


def test_managed_identity_reads_with_a_role_and_cannot_write(front: str, owner: BlobStore, azure_world: AzureWorld, roles: RoleAssignments):
    owner.put("shared", b"rows")
    nobody = user(azure_world, name="nobody")
    store = open_store(front, nobody, azure_world.ca_file)
    with pytest.raises(PreconditionFailed, match="AuthorizationPermissionMismatch"):
        store.read("shared")
    assignment = roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, azure_world.object_id("contosso", "nobody"))
    assert until_allowed(lambda: store.read("shared")) == b"rows"
    assert "shared" in {item.key for item in store.list()}
    for act in (lambda: store.put("shared", b"forged"), lambda: store.delete("shared"), store.create_container):
        with pytest.raises(PreconditionFailed, match="AuthorizationPermissionMismatch"):
            act()
    roles.revoke(assignment)
    with pytest.raises(PreconditionFailed, match="AuthorizationPermissionMismatch"):
        read_until_refused(store, "shared")


def test_role_on_one_container_opens_no_other_container_of_the_account(
    front: str, owner: BlobStore, azure_world: AzureWorld, roles: RoleAssignments
):
    other = open_store(front, user(azure_world), azure_world.ca_file, "other-rows")
    until_allowed(other.create_container)
    for store in (owner, other):
        store.put("scoped", b"rows")
    nobody = user(azure_world, name="nobody")
    scope = container_scope(azure_world.storage_id("contosso"), "rows")
    assignment = roles.allow(scope, STORAGE_READER, azure_world.object_id("contosso", "nobody"))
    assert until_allowed(lambda: open_store(front, nobody, azure_world.ca_file).read("scoped")) == b"rows"
    with pytest.raises(PreconditionFailed, match="AuthorizationPermissionMismatch"):
        open_store(front, nobody, azure_world.ca_file, "other-rows").read("scoped")
    roles.revoke(assignment)


class Token:
    """A credential with one fixed token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **kwargs) -> AccessToken:
        return AccessToken(self._token, int(time.time()) + 3600)


def test_forged_or_foreign_token_is_rejected(front: str, owner: BlobStore, azure_world: AzureWorld):
    honest = user(azure_world).get_token("https://storage.azure.com/.default").token
    claims = jwt.decode(honest, options={"verify_signature": False})
    header = jwt.get_unverified_header(honest)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tokens = {
        "forged": jwt.encode(claims, key, algorithm="RS256", headers={"kid": header["kid"]}),
        "unsigned": jwt.encode(claims, None, algorithm="none", headers={"kid": header["kid"]}),
        "another resource": user(azure_world).get_token("https://vault.azure.net/.default").token,
        "another tenant": user(azure_world, "litware").get_token("https://storage.azure.com/.default").token,
        "garbage": "x.y.z",
    }
    assert open_store(front, Token(honest), azure_world.ca_file).read("first") == b""
    for name, token in tokens.items():
        with pytest.raises(PreconditionFailed) as caught:
            open_store(front, Token(token), azure_world.ca_file).read("first")
        assert caught.value.code == "InvalidAuthenticationInfo", name


def test_missing_authorization_is_rejected(front: str, azure_world: AzureWorld):
    with azure_world.http() as http:
        answer = http.get(f"{front}/rows/first")
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (401, "NoAuthenticationInformation")
        assert http.get(f"{front}x/rows/first").headers["x-ms-error-code"] == "ResourceNotFound"
        signed = http.get(f"{front}/rows/first", headers={"Authorization": "SharedKey contosso:forged", "x-ms-date": "now"})
        assert signed.status_code in (400, 403)  # the response of Azurite


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "rows/a", {}, (True, "containers/blobs/read")),
        ("HEAD", "rows/a/b", {}, (True, "containers/blobs/read")),
        ("PUT", "rows/a", {"comp": "block", "blockid": "x"}, (True, "containers/blobs/write")),
        ("PUT", "rows/a", {"comp": "metadata"}, (True, "containers/blobs/write")),
        ("DELETE", "rows/a", {}, (True, "containers/blobs/delete")),
        ("GET", "rows", {"restype": "container", "comp": "list"}, (True, "containers/blobs/read")),
        ("PUT", "rows", {"restype": "container"}, (False, "containers/write")),
        ("DELETE", "rows", {"restype": "container"}, (False, "containers/delete")),
        ("GET", "rows", {"restype": "container"}, (False, "containers/read")),
        ("GET", "", {"comp": "list"}, (False, "containers/read")),
        ("POST", "", {"comp": "batch"}, (False, "containers/write")),
        ("POST", "", {"restype": "service", "comp": "userdelegationkey"}, (False, "generateUserDelegationKey/action")),
    ],
)
def test_action_of_operation(method: str, path: str, query: dict[str, str], expected: tuple[bool, str]):
    data, action = action_of(method, path, query)
    assert (data, action.removeprefix("Microsoft.Storage/storageAccounts/blobServices/")) == expected
