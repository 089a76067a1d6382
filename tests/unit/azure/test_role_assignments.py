"""Role assignments through ARM and the unmodified ``azure-mgmt-authorization``."""

from __future__ import annotations

import uuid

import pytest
from azure.core.exceptions import HttpResponseError

from cleanroom.clients.azure import (
    RELEASE_USER,
    STORAGE_READER,
    ManagedIdentity,
    RoleAssignments,
    credential,
)
from cleanroom.errors import InvalidInput, PreconditionFailed, Unavailable
from tests.azure_factories import (
    authorization_sdk,
    role_assignments,
)
from tests.servers import AzureWorld


def test_assigning_a_role_is_idempotent(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    roles = role_assignments(azure_world)
    scope = azure_world.storage_id("contosso")
    first = roles.allow(scope, STORAGE_READER, identity.principal_id)
    assert roles.allow(scope, STORAGE_READER, identity.principal_id) == first
    assert first.scope == scope


def test_a_duplicate_assignment_conflicts_and_others_are_created(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    scope, sdk = azure_world.storage_id("contosso"), authorization_sdk(azure_world)
    reader, release = (next(sdk.role_definitions.list(scope, filter=f"roleName eq '{name}'")) for name in (STORAGE_READER, RELEASE_USER))
    other = azure_world.object_id("contosso")
    name = str(uuid.uuid4())

    def put(name: str, role: str = reader.id, principal: str = identity.principal_id, scope: str = scope) -> str:
        try:
            sdk.role_assignments.create(scope, name, {"properties": {"roleDefinitionId": role, "principalId": principal}})
        except HttpResponseError as error:
            return f"{error.status_code} {error.error and error.error.code}"
        return "set"

    assert [put(name), put(name)] == ["set", "set"]
    assert put(str(uuid.uuid4())) == put(str(uuid.uuid4()), scope=scope.upper().replace("/SUBSCRIPTIONS", "/subscriptions", 1))
    assert put(str(uuid.uuid4())) == "409 RoleAssignmentExists"
    assert put(name, role=release.id) == put(name, principal=other) == "400 RoleAssignmentUpdateNotPermitted"
    assert put(str(uuid.uuid4()), role=release.id) == put(str(uuid.uuid4()), scope=azure_world.group("contosso")) == "set"


def test_an_assignment_under_another_name_is_found(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    scope = azure_world.storage_id("contosso")
    sdk = authorization_sdk(azure_world)
    role = next(sdk.role_definitions.list(scope, filter=f"roleName eq '{STORAGE_READER}'"))
    name = str(uuid.uuid4())
    sdk.role_assignments.create(scope, name, {"properties": {"roleDefinitionId": role.id, "principalId": identity.principal_id}})
    roles = role_assignments(azure_world)
    assert roles.allow(scope, STORAGE_READER, identity.principal_id).id.endswith(name)


def test_assigned_to_filter_includes_parent_scopes_of_that_principal(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    roles = role_assignments(azure_world)
    vault = f"{azure_world.group('contosso')}/providers/Microsoft.KeyVault/vaults/contosso"
    roles.allow(vault, RELEASE_USER, identity.principal_id)
    roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, identity.principal_id)
    sdk = authorization_sdk(azure_world, "vault")
    found = list(sdk.role_assignments.list_for_scope(vault, filter=f"assignedTo('{identity.principal_id}')"))
    assert [item.scope for item in found] == [vault]
    owner = list(sdk.role_assignments.list_for_scope(vault, filter=f"assignedTo('{azure_world.object_id('contosso')}')"))
    assert [item.scope for item in owner] == [f"/subscriptions/{azure_world.subscription_id('contosso')}"]


def test_an_unknown_principal_is_retryable(azure_world: AzureWorld) -> None:
    roles = role_assignments(azure_world)
    with pytest.raises(Unavailable) as caught:
        roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, str(uuid.uuid4()))
    assert caught.value.code == "PrincipalNotFound"


def test_an_unknown_role_and_a_malformed_scope_are_invalid_input(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    roles = role_assignments(azure_world)
    with pytest.raises(InvalidInput, match="UnknownRole"):
        roles.allow(azure_world.storage_id("contosso"), "Emperor", identity.principal_id)
    with pytest.raises(InvalidInput, match="InvalidScope"):
        roles.allow("storage", STORAGE_READER, identity.principal_id)


def test_a_reader_cannot_assign_roles(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    reader = credential(azure_world.credential("contosso", "vault"), ca_file=azure_world.ca_file)
    with pytest.raises(PreconditionFailed) as caught:
        RoleAssignments(reader, azure_world.azure("contosso"), ca_file=azure_world.ca_file).allow(
            azure_world.storage_id("contosso"), STORAGE_READER, identity.principal_id
        )
    assert caught.value.code == "AuthorizationFailed"


def test_revoking_a_role_is_idempotent(azure_world: AzureWorld, identity: ManagedIdentity) -> None:
    roles = role_assignments(azure_world)
    assignment = roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, identity.principal_id)
    roles.revoke(assignment)
    roles.revoke(assignment)
    with pytest.raises(HttpResponseError, match="RoleAssignmentNotFound"):
        authorization_sdk(azure_world).role_assignments.get(assignment.scope, assignment.id.rpartition("/")[2])
