"""Sign-in to Entra ID through the unmodified ``azure-identity``."""

from __future__ import annotations

import time
import uuid
from typing import Any

import azure.identity
import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError

from cleanroom import entra_codes
from cleanroom.clients.azure import (
    ARM_SCOPE,
    Federation,
    ManagedIdentity,
    credential,
    federated_credential,
)
from cleanroom.clients.azure_credentials import sign_in_error
from cleanroom.errors import InvalidInput, PreconditionFailed, Unavailable
from cleanroom.secret import write_secret_file
from cleanroom.upstream import from_upstream
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


def test_a_chain_without_any_credential_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    chain = azure.identity.ChainedTokenCredential(azure.identity.EnvironmentCredential())
    with pytest.raises(ClientAuthenticationError) as caught:
        chain.get_token(ARM_SCOPE)
    error = sign_in_error(caught.value)
    assert (type(error), error.code, error.retryable) == (PreconditionFailed, "CredentialUnavailable", False)
    assert "`az login`" in (error.hint or "")


def test_a_wrapped_transport_error_is_unavailable() -> None:
    wrapped = ClientAuthenticationError("Authentication failed: connection refused")
    wrapped.__cause__ = ServiceRequestError("connection refused")
    error = sign_in_error(wrapped)
    assert (error.code, error.exit_code, error.retryable) == ("EntraUnreachable", 7, True)
    assert sign_in_error(ClientAuthenticationError("Authentication failed: no")).code == "AuthenticationFailed"


PRESENTED = Federation(issuer="https://issuer", subject="Contract-Owner")
REGISTERED = Federation(issuer="https://issuer", subject="contract-owner")


@pytest.mark.parametrize("registered", [None, REGISTERED, PRESENTED])
def test_a_subject_in_another_case_never_comes_right(registered: Federation | None) -> None:
    text = "AADSTS7002138: No matching federated identity record found. The subject matches with case-insensitive comparison."
    error = sign_in_error(ClientAuthenticationError(text), presented=PRESENTED, registered=registered)
    assert (type(error), error.code, error.retryable) == (PreconditionFailed, "AADSTS7002138", False)
    assert "another case" in error.message
    assert "'Contract-Owner'" in error.message
    raw = from_upstream(ClientAuthenticationError(text))
    assert raw is not None
    assert (raw.code, raw.retryable) == ("AADSTS7002138", False)


@pytest.mark.parametrize(("code", "waits"), [("AADSTS70021", True), ("AADSTS70025", True), ("AADSTS700213", True)])
def test_a_credential_that_may_propagate_is_retried(code: str, waits: bool) -> None:
    error = sign_in_error(ClientAuthenticationError(f"{code}: no match"), presented=PRESENTED)
    assert (type(error), error.retryable) == (Unavailable, waits)
    assert sign_in_error(ClientAuthenticationError(f"{code}: no match"), presented=PRESENTED, registered=REGISTERED).retryable is False


@pytest.mark.parametrize("code", ["AADSTS700211", "AADSTS700212"])
def test_another_issuer_or_audience_is_retried_only_for_the_registered_credential(code: str) -> None:
    error = ClientAuthenticationError(f"{code}: no match")
    assert sign_in_error(error, presented=PRESENTED).retryable is False
    assert sign_in_error(error, presented=PRESENTED, registered=PRESENTED).retryable is True


@pytest.mark.parametrize("code", sorted(entra_codes.TRANSIENT))
def test_a_transient_code_is_retried(code: str) -> None:
    error = sign_in_error(ClientAuthenticationError(f"{code}: later"))
    assert (type(error), error.code) == (Unavailable, code)
    raw = from_upstream(ClientAuthenticationError(f"{code}: later"))
    assert raw is not None
    assert raw.retryable


@pytest.mark.parametrize("code", sorted(entra_codes.PERMANENT))
def test_a_permanent_code_has_its_own_words_and_is_not_retried(code: str) -> None:
    error = sign_in_error(ClientAuthenticationError(f"{code}: no"))
    assert (type(error), error.code, error.retryable) == (PreconditionFailed, code, False)
    assert error.message == entra_codes.PERMANENT[code][0] != "Entra ID refused to issue a token."
    assert error.hint
    raw = from_upstream(ClientAuthenticationError(f"{code}: no"))
    assert raw is not None
    assert not raw.retryable


def test_each_code_has_one_class() -> None:
    classes = [set(entra_codes.TRANSIENT), set(entra_codes.NO_MATCH), set(entra_codes.PERMANENT)]
    assert sum(map(len, classes)) == len(set.union(*classes))
    assert set(entra_codes.PERMANENT) >= entra_codes.NOT_REPLICATED


@pytest.mark.parametrize("code", sorted(entra_codes.NOT_REPLICATED))
def test_an_identity_that_was_just_federated_may_not_be_replicated(code: str) -> None:
    error = ClientAuthenticationError(f"{code}: not found")
    assert sign_in_error(error, presented=PRESENTED, registered=PRESENTED).retryable is True
    assert sign_in_error(error, presented=PRESENTED, registered=REGISTERED).retryable is False


def test_a_longer_code_is_not_taken_for_a_shorter_one() -> None:
    assert sign_in_error(ClientAuthenticationError("AADSTS7002199: new")).retryable is False


def test_a_tenant_that_does_not_exist_is_named_by_its_code(azure_world: AzureWorld) -> None:
    """MSAL replaces the answer by a text about the authority."""
    settings = azure_world.credential("contosso").model_copy(update={"tenant_id": str(uuid.UUID(int=9))})
    with pytest.raises(PreconditionFailed) as caught:
        credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE)
    assert caught.value.code == "AADSTS90002"


def test_incomplete_settings_name_the_field(azure_world: AzureWorld) -> None:
    with pytest.raises(InvalidInput, match="client_id"):
        credential(azure_world.credential("contosso").model_copy(update={"client_id": None}))
