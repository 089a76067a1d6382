"""Managed identities through ARM and the unmodified ``azure-mgmt-msi``."""

from __future__ import annotations

import uuid

import pytest
from azure.mgmt.msi.models import Identity

from cleanroom.clients.azure import (
    ManagedIdentities,
    credential,
)
from cleanroom.errors import Conflict, NotFound, PreconditionFailed
from tests.azure_factories import (
    STORAGE_SCOPE,
    identities,
    msi_sdk,
    user_credential,
)
from tests.servers import AzureWorld


def test_creating_an_identity_is_idempotent(azure_world: AzureWorld) -> None:
    clients = identities(azure_world)
    first = clients.create_or_update("flights", tags={"dataset": "flights"})
    assert clients.create_or_update("flights") == first
    assert clients.get("flights") == first
    assert first.tenant_id == azure_world.tenant_id("contosso")
    uuid.UUID(first.client_id), uuid.UUID(first.principal_id)


def test_an_identity_in_another_location_conflicts(azure_world: AzureWorld) -> None:
    settings = azure_world.azure("contosso")
    ManagedIdentities(user_credential(azure_world), settings, ca_file=azure_world.ca_file).create_or_update("somewhere")
    moved = settings.model_copy(update={"location": "northeurope"})
    with pytest.raises(Conflict) as caught:
        ManagedIdentities(user_credential(azure_world), moved, ca_file=azure_world.ca_file).create_or_update("somewhere")
    assert caught.value.code == "InvalidResourceLocation"


def test_a_missing_identity_or_resource_group_is_not_found(azure_world: AzureWorld) -> None:
    settings = azure_world.azure("contosso")
    with pytest.raises(NotFound) as caught:
        ManagedIdentities(user_credential(azure_world), settings, ca_file=azure_world.ca_file).get("nothing")
    assert caught.value.code == "ResourceNotFound"
    elsewhere = settings.model_copy(update={"resource_group": "no-group"})
    with pytest.raises(NotFound) as caught:
        ManagedIdentities(user_credential(azure_world), elsewhere, ca_file=azure_world.ca_file).create_or_update("flights")
    assert caught.value.code == "ResourceGroupNotFound"


def test_deleting_an_identity_is_idempotent(azure_world: AzureWorld) -> None:
    clients = identities(azure_world)
    clients.create_or_update("short-lived")
    clients.delete("short-lived")
    clients.delete("short-lived")
    with pytest.raises(NotFound):
        clients.get("short-lived")


def test_another_tenants_subscription_is_refused(azure_world: AzureWorld) -> None:
    clients = ManagedIdentities(user_credential(azure_world), azure_world.azure("litware"), ca_file=azure_world.ca_file)
    with pytest.raises(PreconditionFailed) as caught:
        clients.create_or_update("flights")
    assert caught.value.code == "InvalidAuthenticationTokenTenant"


def test_a_principal_without_a_role_is_refused_and_may_retry(azure_world: AzureWorld) -> None:
    without_role = credential(azure_world.credential("contosso", "nobody"), ca_file=azure_world.ca_file)
    with pytest.raises(PreconditionFailed) as caught:
        ManagedIdentities(without_role, azure_world.azure("contosso"), ca_file=azure_world.ca_file).create_or_update("flights")
    assert caught.value.code == "AuthorizationFailed"
    assert caught.value.retryable
    assert "Microsoft.ManagedIdentity/userAssignedIdentities/write" in (caught.value.cause or "")


def test_missing_malformed_and_foreign_tokens_are_unauthorized(azure_world: AzureWorld) -> None:
    token = user_credential(azure_world).get_token(STORAGE_SCOPE).token
    url = f"{azure_world.url}{azure_world.group('contosso')}?api-version=2024-11-30"
    with azure_world.http() as http:
        answers = {
            name: http.get(url, headers=headers)
            for name, headers in {
                "none": {},
                "audience": {"Authorization": f"Bearer {token}"},
                "garbage": {"Authorization": "Bearer x.y.z"},
            }.items()
        }
    assert {answer.status_code for answer in answers.values()} == {401}
    assert answers["none"].json()["error"]["code"] == "AuthenticationFailed"
    assert answers["audience"].json()["error"]["code"] == "InvalidAuthenticationTokenAudience"
    assert answers["garbage"].json()["error"]["code"] == "InvalidAuthenticationToken"
    assert "Bearer" in answers["none"].headers["www-authenticate"]


def test_unmodified_sdk_lists_identities(azure_world: AzureWorld) -> None:
    client = msi_sdk(azure_world)
    client.user_assigned_identities.create_or_update("clean-room", "listed", Identity(location="westeurope"))
    assert "listed" in {item.name for item in client.user_assigned_identities.list_by_subscription()}
    assert "listed" in {item.name for item in client.user_assigned_identities.list_by_resource_group("clean-room")}
