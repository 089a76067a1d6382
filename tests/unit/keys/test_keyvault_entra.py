"""The Key Vault stand-in with the Entra ID and ARM stand-ins: tokens through azure-identity, and changing roles."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import KeyClient

from cleanroom.keys import ReleasePolicy, set_key_with_skr
from cleanroom.keys.vault import KeyVaultSettings
from localcloud.standins.arm.roles import BY_NAME
from localcloud.standins.keyvault.auth import ArmRoles, TokenIssuer
from localcloud.standins.keyvault.server import KeyVaultConfig, create_app
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.servers import AzureWorld
from tests.unit.keys.conftest import AUTHORITY


class World:
    """A vault of Contosso with its roles in ARM."""

    def __init__(self, azure: AzureWorld, url: str, vault_id: str) -> None:
        self.azure = azure
        self.url = url
        self.vault_id = vault_id

    def credential(self, name: str = "user", company: str = "contosso") -> ClientSecretCredential:
        return ClientSecretCredential(
            self.azure.tenant_id(company),
            self.azure.client_id(company, name),
            self.azure.secret_file(company, name).read_text(),
            authority=self.azure.url,
            disable_instance_discovery=True,
            connection_verify=str(self.azure.ca_file),
        )

    def client(self, name: str = "user", company: str = "contosso") -> KeyClient:
        return KeyClient(
            self.url,
            self.credential(name, company),
            verify_challenge_resource=False,
            connection_verify=str(self.azure.ca_file),
            retry_total=0,
        )

    @contextmanager
    def role(self, role: str, name: str = "user") -> Iterator[None]:
        """Assign a role at the vault for the duration of the block."""
        token = self.credential().get_token("https://management.azure.com/.default").token
        url = f"{self.azure.url}{self.vault_id}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}?api-version=2022-04-01"
        subscription = f"/subscriptions/{self.azure.subscription_id('contosso')}"
        body = {
            "properties": {
                "roleDefinitionId": f"{subscription}/providers/Microsoft.Authorization/roleDefinitions/{BY_NAME[role].id}",
                "principalId": self.azure.object_id("contosso", name),
                "principalType": "User" if name == "user" else "ServicePrincipal",
            }
        }
        with self.azure.http() as http:
            http.headers["Authorization"] = f"Bearer {token}"
            http.put(url, json=body).raise_for_status()
            yield
            http.delete(url).raise_for_status()


def config_of(azure: AzureWorld, authority: LocalAuthority, state: Path, **changes: Any) -> KeyVaultConfig:
    tls = authority.issue("keyvault")
    tenant = azure.tenant_id("contosso")
    values: dict[str, Any] = {
        "tls_cert": tls.cert,
        "tls_key": tls.key,
        "state": state,
        "authority_url": f"{azure.url}/{tenant}",
        "issuers": [
            TokenIssuer(issuer=f"{azure.url}/{tenant}/v2.0", jwks_uri=f"{azure.url}/{tenant}/discovery/v2.0/keys", ca_file=azure.ca_file)
        ],
        "arm": ArmRoles(
            url=azure.url,
            vault_id=f"{azure.group('contosso')}/providers/Microsoft.KeyVault/vaults/contosso",
            token_url=f"{azure.url}/{tenant}/oauth2/v2.0/token",
            client_id=azure.client_id("contosso", "vault"),
            client_secret_file=azure.secret_file("contosso", "vault"),
            ca_file=azure.ca_file,
        ),
        "release_authority": authority.folder,
        **changes,
    }
    return KeyVaultConfig(**values)


@pytest.fixture(scope="module")
def world(azure_world: AzureWorld, local_authority: LocalAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    config = config_of(azure_world, local_authority, tmp_path_factory.mktemp("vault"))
    assert config.arm is not None
    with ExitStack() as stack:
        url = stack.enter_context(serving(create_app(config), "keyvault", local_authority.issue("keyvault")))
        yield World(azure_world, url, config.arm.vault_id)


def test_role_grants_access_until_it_is_removed(world: World, name: str) -> None:
    with pytest.raises(HttpResponseError) as error:
        world.client().create_ec_key(name, curve="P-256")
    inner = error.value.response.json()["error"]["innererror"]["code"]
    assert (error.value.status_code, inner) == (403, "ForbiddenByRbac")
    with world.role("Key Vault Crypto Officer"):
        assert world.client().create_ec_key(name, curve="P-256").name == name
    with pytest.raises(HttpResponseError) as error:
        world.client().get_key(name)
    assert error.value.status_code == 403


def test_role_permits_only_its_actions(world: World, name: str) -> None:
    with world.role("Key Vault Crypto Officer"):
        world.client().create_rsa_key(name, size=2048)
    with world.role("Key Vault Crypto Service Release User", "nobody"):
        with pytest.raises(HttpResponseError) as error:
            world.client("nobody").get_key(name)
        assert error.value.response.json()["error"]["innererror"]["code"] == "ForbiddenByRbac"
        with pytest.raises(HttpResponseError) as error:
            world.client("nobody").release_key(name, "token")
        # The role check passed; the key is not exportable.
        assert error.value.response.json()["error"]["code"] == "BadParameter"


def test_token_of_another_tenant_is_rejected(world: World) -> None:
    with pytest.raises(ClientAuthenticationError):
        world.client("user", "litware").get_key("any")


def test_token_for_another_resource_is_rejected(world: World) -> None:
    token = world.credential().get_token("https://management.azure.com/.default").token
    with world.azure.http() as http:
        answer = http.get(f"{world.url}/keys", params={"api-version": "7.4"}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "AKV10022: Invalid audience."
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
def test_malformed_token_is_rejected(world: World, token: str) -> None:
    with world.azure.http() as http:
        answer = http.get(f"{world.url}/keys", params={"api-version": "7.4"}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_unsigned_copy_of_a_token_is_rejected(world: World) -> None:
    token = world.credential().get_token("https://vault.azure.net/.default").token
    head, payload, signature = token.split(".")
    forged = f"{head}.{payload}.{signature[:-8]}AAAAAAAA"
    with world.azure.http() as http:
        parameters = {"api-version": "7.4"}
        assert http.get(f"{world.url}/keys", params=parameters, headers={"Authorization": f"Bearer {forged}"}).status_code == 401
        assert http.get(f"{world.url}/keys", params=parameters, headers={"Authorization": f"Bearer {token}"}).status_code == 403


def test_unreadable_roles_are_unavailable_and_not_forbidden(
    world: World, azure_world: AzureWorld, local_authority: LocalAuthority, tmp_path: Path
) -> None:
    config = config_of(azure_world, local_authority, tmp_path)
    assert config.arm is not None
    config = config.model_copy(update={"arm": config.arm.model_copy(update={"url": "https://localhost:1"})})
    token = world.credential().get_token("https://vault.azure.net/.default").token
    with serving(create_app(config), "keyvault", local_authority.issue("keyvault")) as url, world.azure.http() as http:
        answer: httpx.Response = http.get(f"{url}/keys", params={"api-version": "7.4"}, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ServiceUnavailable")


async def test_set_key_with_skr_through_entra(world: World, name: str) -> None:
    settings = KeyVaultSettings(vault_url=world.url, ca_file=world.azure.ca_file, verify_challenge_resource=False)
    policy = ReleasePolicy.for_clean_room(AUTHORITY, "ab" * 32)
    with world.role("Key Vault Crypto Officer"):
        reference = await set_key_with_skr(vault=settings, credential=world.credential(), name=name, policy=policy)
    assert reference.created
