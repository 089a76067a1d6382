"""Federated credentials: which external tokens a managed identity accepts, and when."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from azure.core.exceptions import HttpResponseError

from cleanroom.clients.azure import (
    STORAGE_READER,
    ManagedIdentity,
)
from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed, Unavailable
from localcloud.standins.arm import authorization
from localcloud.standins.entra import federation
from localcloud.tls import LocalAuthority
from tests.azure_factories import (
    STORAGE_SCOPE,
    Issuer,
    authorization_sdk,
    claims_of,
    federated,
    federated_credentials,
    identities,
    issuing,
    msi_sdk,
    role_assignments,
)
from tests.servers import AzureWorld
from tests.shared_keys import rsa_key


@pytest.fixture
def trusting(azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer) -> ManagedIdentity:
    federated_credentials(azure_world).set(identity.name, "cleanroom", issuer.federation())
    return identity


def test_a_governance_token_is_exchanged_for_the_identitys_token(
    azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer
) -> None:
    claims = claims_of(federated(azure_world, trusting, issuer.assertion()).get_token(STORAGE_SCOPE).token)
    assert claims["oid"] == trusting.principal_id
    assert claims["appid"] == trusting.client_id
    assert claims["tid"] == trusting.tenant_id


def test_setting_a_credential_is_idempotent(azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer) -> None:
    assert federated_credentials(azure_world).set(trusting.name, "cleanroom", issuer.federation()) == issuer.federation()


def test_other_content_under_the_same_name_conflicts(azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer) -> None:
    with pytest.raises(Conflict, match="another subject") as caught:
        federated_credentials(azure_world).set(trusting.name, "cleanroom", issuer.federation(subject="other"))
    assert caught.value.code == "FederatedCredentialDiffers"
    assert federated(azure_world, trusting, issuer.assertion()).get_token(STORAGE_SCOPE)


def test_same_issuer_and_subject_under_another_name_conflicts(azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer) -> None:
    with pytest.raises(Conflict):
        federated_credentials(azure_world).set(trusting.name, "second", issuer.federation())


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": "https://localhost:9/other"}, "AADSTS700211"),
        ({"sub": "Contract-Owner"}, "AADSTS700213"),
        ({"aud": "api://azureadtokenexchange"}, "AADSTS700212"),
    ],
)
def test_a_mismatch_names_the_differing_field(
    azure_world: AzureWorld,
    trusting: ManagedIdentity,
    issuer: Issuer,
    claims: dict[str, Any],
    code: str,
) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        federated(azure_world, trusting, issuer.assertion(**claims), issuer.federation()).get_token(STORAGE_SCOPE)
    assert caught.value.code == code
    field = {"iss": "issuer", "sub": "subject", "aud": "audience"}[next(iter(claims))]
    assert f"differing: {field}" in caught.value.message
    assert caught.value.details["presented"] != caught.value.details["registered"]


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": "1000"}, "AADSTS700024"),
        ({"nbf": "4000000000"}, "AADSTS700024"),
        ({"exp": "soon"}, "AADSTS50027"),
        ({"exp": None}, "AADSTS50027"),
        ({"exp": float("inf")}, "AADSTS50027"),
        ({"aud": {"api://AzureADTokenExchange": 1}}, "AADSTS700212"),
        ({"aud": []}, "AADSTS700212"),
        ({"sub": ["contract-owner"]}, "AADSTS700213"),
        ({"sub": "contract-owner "}, "AADSTS700213"),
    ],
)
def test_expired_and_malformed_claims_are_rejected(
    azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer, claims: dict[str, Any], code: str
) -> None:
    with pytest.raises(CleanRoomError) as caught:
        federated(azure_world, trusting, issuer.assertion(**claims)).get_token(STORAGE_SCOPE)
    assert caught.value.code == code


def test_a_signature_by_another_key_is_rejected(azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer) -> None:
    forged = Issuer(issuer.url, rsa_key("stranger"))
    with pytest.raises(PreconditionFailed) as caught:
        federated(azure_world, trusting, forged.assertion()).get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS700027"
    forged.kid = "other"
    with pytest.raises(PreconditionFailed) as caught:
        federated(azure_world, trusting, forged.assertion()).get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS7000272"


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_unsigned_and_symmetric_assertions_are_rejected(
    azure_world: AzureWorld,
    trusting: ManagedIdentity,
    issuer: Issuer,
    algorithm: str,
) -> None:
    claims = claims_of(issuer.assertion())
    forged = jwt.encode(claims, None if algorithm == "none" else "k" * 32, algorithm=algorithm, headers={"kid": "cgs-1"})
    with pytest.raises(PreconditionFailed) as caught:
        federated(azure_world, trusting, forged).get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS700027"


def test_an_unreachable_issuer_is_retryable(azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer) -> None:
    dead = Issuer("https://localhost:9/oidc", issuer.key)
    federated_credentials(azure_world).set(identity.name, "dead", dead.federation())
    with pytest.raises(Unavailable) as caught:
        federated(azure_world, identity, dead.assertion()).get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS50166"


def test_malformed_duplicate_and_too_many_credentials_are_rejected(
    azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer
) -> None:
    sdk = msi_sdk(azure_world).federated_identity_credentials
    group = azure_world.azure("contosso").resource_group

    def put(name: str, **over: object) -> str:
        body = {"issuer": issuer.url, "subject": f"s-{name}", "audiences": ["api://AzureADTokenExchange"]} | over
        try:
            sdk.create_or_update(group, identity.name, name, {"properties": body})
        except HttpResponseError as error:
            return f"{error.status_code} {error.error and error.error.code}"
        return "set"

    for name, over in (
        ("ab", {}),
        ("no dots.here", {}),
        ("n" * 121, {}),
        ("two", {"audiences": ["a", "b"]}),
        ("none", {"audiences": []}),
        ("plain", {"issuer": "http://localhost/oidc"}),
        ("nobody", {"subject": ""}),
        ("long", {"subject": "s" * 601}),
    ):
        assert put(name, **over) == "400 BadRequest", name
    assert {put(f"credential-{number}") for number in range(20)} == {"set"}
    assert put("credential-20") == "400 BadRequest"
    assert put("credential-19", subject="another") == "set"
    assert put("credential-19", subject="s-credential-0") == "409 Conflict"


def test_an_identity_without_federated_credentials_is_retryable(azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer) -> None:
    with pytest.raises(CleanRoomError) as caught:
        federated(azure_world, identity, issuer.assertion()).get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS70025"
    assert caught.value.retryable


def test_a_deleted_credential_is_no_longer_trusted(azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer) -> None:
    federated_credentials(azure_world).delete(trusting.name, "cleanroom")
    with pytest.raises(CleanRoomError) as caught:
        federated(azure_world, trusting, issuer.assertion()).get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS70025"


def test_an_assertion_that_is_not_a_jwt_is_rejected(azure_world: AzureWorld, trusting: ManagedIdentity) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        federated(azure_world, trusting, "garbage").get_token(STORAGE_SCOPE)
    assert caught.value.code == "AADSTS50027"


def test_federation_and_roles_take_effect_after_propagation(
    start_azure_world: Any, local_authority: LocalAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=time.time)
    for module in (authorization, federation):
        monkeypatch.setattr(module, "time", clock)
    with start_azure_world(propagation_seconds=120) as world, issuing(local_authority) as issuer:
        identity = identities(world).create_or_update("late")
        federated_credentials(world).set("late", "cleanroom", issuer.federation())
        assignment = role_assignments(world).allow(world.storage_id("contosso"), STORAGE_READER, identity.principal_id)
        sdk = authorization_sdk(world, "vault")

        def effective() -> list[Any]:
            return list(sdk.role_assignments.list_for_scope(assignment.scope, filter=f"assignedTo('{identity.principal_id}')"))

        assert effective() == []
        with pytest.raises(Unavailable) as caught:
            federated(world, identity, issuer.assertion(), issuer.federation()).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS700213"
        assert sdk.role_assignments.get(assignment.scope, assignment.id.rpartition("/")[2]).principal_id == identity.principal_id
        clock.time = lambda: time.time() + 121
        assert len(effective()) == 1
        assert federated(world, identity, issuer.assertion(), issuer.federation()).get_token(STORAGE_SCOPE).token
