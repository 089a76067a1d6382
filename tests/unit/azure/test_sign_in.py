"""Sign-in to Entra ID through the unmodified ``azure-identity``."""

from __future__ import annotations

import time
import uuid
from typing import Any

import azure.identity
import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError

from cleanroom.clients.azure import (
    ARM_SCOPE,
    ManagedIdentity,
    credential,
    federated_credential,
)
from cleanroom.clients.azure_credentials import sign_in_error
from cleanroom.errors import InvalidInput, PreconditionFailed, Unavailable
from cleanroom.secret import write_secret_file
from tests.azure_factories import (
    STORAGE_SCOPE,
    claims_of,
    user_credential,
)
from tests.servers import AzureWorld


def test_a_user_token_verifies_against_discovery_and_has_the_users_claims(azure_world: AzureWorld) -> None:
    token = user_credential(azure_world).get_token("api://cleanroom-governance/.default")
    assert token.expires_on > time.time() + 3000
    tenant = azure_world.tenant_id("contosso")
    with azure_world.http() as http:
        document = http.get(f"{azure_world.url}/{tenant}/v2.0/.well-known/openid-configuration").json()
        keys = http.get(document["jwks_uri"]).json()
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token.token)["kid"]]
    claims = jwt.decode(token.token, key.key, algorithms=["RS256"], audience="api://cleanroom-governance", issuer=document["issuer"])
    assert claims["tid"] == tenant
    assert claims["oid"] == azure_world.object_id("contosso")
    assert claims["appid"] == azure_world.client_id("contosso")
    assert claims["preferred_username"] == "user@contosso.example"
    assert claims["idtyp"] == "user"


def test_a_storage_token_has_version_1_claims(azure_world: AzureWorld) -> None:
    claims = claims_of(user_credential(azure_world).get_token(STORAGE_SCOPE).token)
    assert claims["iss"] == f"https://sts.windows.net/{azure_world.tenant_id('contosso')}/"
    assert claims["aud"] == "https://storage.azure.com"


def test_a_tenant_may_be_named_by_its_domain(azure_world: AzureWorld) -> None:
    settings = azure_world.credential("contosso").model_copy(update={"tenant_id": "contosso.example"})
    assert claims_of(credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE).token)["tid"] == azure_world.tenant_id(
        "contosso"
    )


def test_a_wrong_client_secret_is_not_quoted(azure_world: AzureWorld, tmp_path) -> None:
    write_secret_file(tmp_path / "wrong", b"not the secret")
    settings = azure_world.credential("contosso").model_copy(update={"client_secret_file": tmp_path / "wrong"})
    with pytest.raises(PreconditionFailed) as caught:
        credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE)
    assert caught.value.code == "AADSTS7000215"
    assert "not the secret" not in str(caught.value.to_dict())


@pytest.mark.parametrize(
    ("change", "scope", "code"),
    [
        ({"client_id": str(uuid.UUID(int=7))}, ARM_SCOPE, "AADSTS700016"),
        ({}, "https://unknown.example/.default", "AADSTS500011"),
        ({}, "https://management.azure.com/user_impersonation", "AADSTS70011"),
    ],
)
def test_unknown_clients_resources_and_scopes_have_their_aadsts_code(
    azure_world: AzureWorld, change: dict[str, Any], scope: str, code: str
) -> None:
    settings = azure_world.credential("contosso").model_copy(update=change)
    with pytest.raises(PreconditionFailed) as caught:
        credential(settings, ca_file=azure_world.ca_file).get_token(scope)
    assert caught.value.code == code


def test_a_client_of_another_tenant_is_unknown(azure_world: AzureWorld) -> None:
    settings = azure_world.credential("contosso").model_copy(update={"tenant_id": azure_world.tenant_id("litware")})
    with pytest.raises(PreconditionFailed) as caught:
        credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE)
    assert caught.value.code == "AADSTS700016"


def test_an_unknown_tenant_is_a_400_with_entras_error_body(azure_world: AzureWorld) -> None:
    with azure_world.http() as http:
        answer = http.post(f"{azure_world.url}/{uuid.UUID(int=9)}/oauth2/v2.0/token", data={"grant_type": "client_credentials"})
    body = answer.json()
    assert answer.status_code == 400
    assert body["error_codes"] == [90002]
    assert body["error_description"].startswith("AADSTS90002: Tenant")
    assert {"error", "timestamp", "trace_id", "correlation_id", "error_uri"} <= set(body)


def test_unmodified_azure_identity_reports_the_aadsts_code(azure_world: AzureWorld) -> None:
    sdk = azure.identity.ClientSecretCredential(
        azure_world.tenant_id("contosso"),
        azure_world.client_id("contosso"),
        "wrong",
        authority=azure_world.url,
        disable_instance_discovery=True,
        connection_verify=str(azure_world.ca_file),
    )
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215: Invalid client secret provided"):
        sdk.get_token(ARM_SCOPE)


def test_an_unreachable_authority_is_unavailable(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    gone = federated_credential(
        identity.tenant_id, identity.client_id, lambda: "x", authority="https://localhost:9", ca_file=azure_world.ca_file
    )
    with pytest.raises(Unavailable) as caught:
        gone.get_token(STORAGE_SCOPE)
    assert caught.value.code == "EntraUnreachable"


def test_a_wrapped_transport_error_is_unavailable() -> None:
    wrapped = ClientAuthenticationError("Authentication failed: connection refused")
    wrapped.__cause__ = ServiceRequestError("connection refused")
    error = sign_in_error(wrapped)
    assert (error.code, error.exit_code, error.retryable) == ("EntraUnreachable", 7, True)
    assert sign_in_error(ClientAuthenticationError("Authentication failed: no")).code == "AuthenticationFailed"


def test_incomplete_settings_name_the_field(azure_world: AzureWorld) -> None:
    with pytest.raises(InvalidInput, match="client_id"):
        credential(azure_world.credential("contosso").model_copy(update={"client_id": None}))
