"""Azure Resource Manager for one subscription: managed identities, role assignments and federated credentials.

Every operation is idempotent: it compares the existing resource with the wanted one. Everything is synchronous, so ``async`` callers use
:func:`asyncio.to_thread`. The management SDKs take most of a second to import and are imported when a client is created.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cleanroom.azure_http import BoundedRetryPolicy
from cleanroom.clients.azure_credentials import (
    PUBLIC_AUTHORITY,
    AsyncCredential,
    Credential,
    Federation,
    client_options,
    credential,
    federated_credential,
    federation_of,
    sign_in_error,
)
from cleanroom.clients.azure_faults import azure_errors
from cleanroom.errors import Conflict, InvalidInput, Unavailable
from cleanroom.joining import parts_digest
from cleanroom.models import FrozenModel
from cleanroom.settings import AzureSettings

__all__ = [
    "ARM_SCOPE",
    "CRYPTO_OFFICER",
    "PUBLIC_AUTHORITY",
    "RELEASE_USER",
    "ROLE_IDS",
    "STORAGE_CONTRIBUTOR",
    "STORAGE_READER",
    "AsyncCredential",
    "Credential",
    "FederatedCredentials",
    "Federation",
    "ManagedIdentities",
    "ManagedIdentity",
    "RoleAssignment",
    "RoleAssignments",
    "client_options",
    "credential",
    "federated_credential",
    "federation_of",
    "sign_in_error",
]

ARM_SCOPE = "https://management.azure.com/.default"

STORAGE_READER = "Storage Blob Data Reader"
STORAGE_CONTRIBUTOR = "Storage Blob Data Contributor"
RELEASE_USER = "Key Vault Crypto Service Release User"
CRYPTO_OFFICER = "Key Vault Crypto Officer"

ROLE_IDS: Final[Mapping[str, str]] = {
    STORAGE_READER: "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    STORAGE_CONTRIBUTOR: "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "Storage Blob Data Owner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    RELEASE_USER: "08bbd89e-9f13-488c-ac41-acfcb10c90ab",
    CRYPTO_OFFICER: "14b46e9e-c2b7-41b4-b07b-48a6ebf60603",
}
"""IDs of the built-in roles that this project assigns; they are the same in every tenant
(https://learn.microsoft.com/azure/role-based-access-control/built-in-roles)."""


class ManagedIdentity(FrozenModel):
    """A user-assigned managed identity. Roles are assigned to ``principal_id``, and ``client_id`` signs in."""

    id: str
    name: str
    client_id: str
    principal_id: str
    tenant_id: str
    location: str


class RoleAssignment(FrozenModel):
    """An existing role assignment. It can take minutes until it takes effect."""

    id: str
    scope: str
    role: str
    principal_id: str


def _arm_options(settings: AzureSettings, ca_file: Path | None) -> dict[str, Any]:
    options = client_options(ca_file)
    return options | {
        "base_url": settings.arm_url.rstrip("/"),
        "credential_scopes": [ARM_SCOPE],
        "retry_policy": BoundedRetryPolicy(**options),
    }


def _msi_client(credential: Credential, settings: AzureSettings, ca_file: Path | None) -> Any:
    from azure.mgmt.msi.v2024_11_30 import ManagedServiceIdentityClient

    return ManagedServiceIdentityClient(credential, settings.subscription_id, **_arm_options(settings, ca_file))


class ManagedIdentities:
    """User-assigned managed identities in the resource group of ``settings``."""

    def __init__(self, credential: Credential, settings: AzureSettings, *, ca_file: Path | None = None) -> None:
        self._settings = settings
        self._client = _msi_client(credential, settings, ca_file)

    def create_or_update(self, name: str, *, tags: Mapping[str, str] | None = None) -> ManagedIdentity:
        """Create an identity, or return the existing one.

        Raises:
            CleanRoomError: See :mod:`cleanroom.clients.azure_faults`; ``InvalidResourceLocation`` if it exists in another region.
        """
        from azure.mgmt.msi.v2024_11_30.models import Identity

        with azure_errors(f"create managed identity {name}"):
            body = Identity(location=self._settings.location, tags=dict(tags) if tags is not None else None)
            return _identity(self._client.user_assigned_identities.create_or_update(self._settings.resource_group, name, body))

    def get(self, name: str) -> ManagedIdentity:
        """Read an identity.

        Raises:
            NotFound: ``ResourceNotFound``.
        """
        with azure_errors(f"get managed identity {name}"):
            return _identity(self._client.user_assigned_identities.get(self._settings.resource_group, name))

    def delete(self, name: str) -> None:
        """Delete an identity and its federated credentials. A missing identity is not an error."""
        with azure_errors(f"delete managed identity {name}"):
            self._client.user_assigned_identities.delete(self._settings.resource_group, name)


class FederatedCredentials:
    """Federated credentials: the external tokens that a managed identity trusts."""

    def __init__(self, credential: Credential, settings: AzureSettings, *, ca_file: Path | None = None) -> None:
        self._settings = settings
        self._operations = _msi_client(credential, settings, ca_file).federated_identity_credentials

    def set(self, identity: str, name: str, federation: Federation) -> Federation:
        """Make ``identity`` trust tokens of exactly ``federation``, under the credential ``name``.

        Raises:
            Conflict: ``FederatedCredentialDiffers`` if ``name`` exists with another issuer, subject or audience. It is not overwritten,
                because another clean room may use it. ``Conflict`` if another credential has this issuer and subject.
        """
        from azure.mgmt.msi.v2024_11_30.models import FederatedIdentityCredential

        doing = f"set federated credential {name} of {identity}"
        with azure_errors(doing):
            existing = {item.name.lower(): _federation(item) for item in self._operations.list(self._settings.resource_group, identity)}
        found = existing.get(name.lower())
        if found == federation:
            return federation
        if found is not None:
            differing = [field for field in ("issuer", "subject", "audience") if getattr(found, field) != getattr(federation, field)]
            raise Conflict(
                "FederatedCredentialDiffers",
                f"The federated credential {name} of {identity} exists with another {', '.join(differing)}.",
                hint="Use another name, or delete the old credential if no clean room uses it.",
                details={"existing": found.model_dump(), "wanted": federation.model_dump()},
            )
        body = FederatedIdentityCredential(issuer=federation.issuer, subject=federation.subject, audiences=[federation.audience])
        with azure_errors(doing):
            return _federation(self._operations.create_or_update(self._settings.resource_group, identity, name, body))

    def get(self, identity: str, name: str) -> Federation | None:
        """Return what the federated credential ``name`` of ``identity`` trusts; None if it does not exist."""
        with azure_errors(f"list the federated credentials of {identity}"):
            found = {item.name.lower(): _federation(item) for item in self._operations.list(self._settings.resource_group, identity)}
        return found.get(name.lower())

    def delete(self, identity: str, name: str) -> None:
        """Delete a federated credential. A missing one is not an error."""
        with azure_errors(f"delete federated credential {name} of {identity}"):
            self._operations.delete(self._settings.resource_group, identity, name)


class RoleAssignments:
    """Role assignments on resources."""

    def __init__(self, credential: Credential, settings: AzureSettings, *, ca_file: Path | None = None) -> None:
        from azure.mgmt.authorization.v2022_04_01 import AuthorizationManagementClient

        client: Any = AuthorizationManagementClient(credential, settings.subscription_id, **_arm_options(settings, ca_file))
        self._operations = client.role_assignments

    def allow(self, scope: str, role: str, principal_id: str) -> RoleAssignment:
        """Assign the built-in ``role`` on ``scope`` to ``principal_id``.

        The assignment's name is derived from the three, so that a repeated call finds it. An assignment with another name counts too.

        Args:
            scope: ARM resource ID.
            role: A name in :data:`ROLE_IDS`.
            principal_id: Object ID of the identity.

        Raises:
            InvalidInput: ``UnknownRole``, ``InvalidScope``.
            Unavailable: ``PrincipalNotFound`` while a new identity propagates, ``RoleAssignmentExists`` while an existing assignment is
                not listed yet.
        """
        from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters

        role_id = ROLE_IDS.get(role)
        if role_id is None:
            raise InvalidInput(
                "UnknownRole", f"role: {role!r} is not a role that this project assigns.", hint=f"Use one of: {', '.join(ROLE_IDS)}."
            )
        parts = scope.split("/")
        if len(parts) < 3 or parts[:2] != ["", "subscriptions"]:
            raise InvalidInput(
                "InvalidScope", f"scope: {scope!r} is not an ARM resource ID.", hint="It must start with /subscriptions/<id>."
            )
        target = scope.lstrip("/")
        name = str(uuid.UUID(bytes=parts_digest("role-assignment", scope.lower(), role_id, principal_id.lower())[:16], version=5))
        body = RoleAssignmentCreateParameters(
            role_definition_id=f"/subscriptions/{parts[2]}/providers/Microsoft.Authorization/roleDefinitions/{role_id}",
            principal_id=principal_id,
            principal_type="ServicePrincipal",
        )
        doing = f"assign role {role} on {scope}"
        try:
            with azure_errors(doing):
                return _assignment(self._operations.create(target, name, body), role)
        except Conflict as conflict:
            if conflict.code != "RoleAssignmentExists":
                raise
        with azure_errors(doing):
            for item in self._operations.list_for_scope(target, filter=f"principalId eq '{principal_id}'"):
                same_scope = str(item.scope).lower() == scope.lower()
                if same_scope and str(item.role_definition_id).rpartition("/")[2].lower() == role_id:
                    return _assignment(item, role)
        raise Unavailable("RoleAssignmentExists", f"Could not {doing}: it exists under another name and is not listed yet.")

    def has(self, scope: str, role: str, principal_id: str) -> bool:
        """Return whether ``principal_id`` has the built-in ``role`` on exactly ``scope``."""
        role_id = ROLE_IDS[role]
        with azure_errors(f"list the role assignments on {scope}"):
            found = self._operations.list_for_scope(scope.lstrip("/"), filter=f"principalId eq '{principal_id}'")
            return any(
                str(item.scope).lower() == scope.lower() and str(item.role_definition_id).rpartition("/")[2].lower() == role_id
                for item in found
            )

    def revoke(self, assignment: RoleAssignment) -> None:
        """Delete a role assignment. A missing one is not an error."""
        with azure_errors(f"revoke role {assignment.role} on {assignment.scope}"):
            self._operations.delete(assignment.scope.lstrip("/"), assignment.id.rpartition("/")[2])


def _identity(item: Any) -> ManagedIdentity:
    return ManagedIdentity(
        id=item.id,
        name=item.name,
        client_id=item.client_id,
        principal_id=item.principal_id,
        tenant_id=item.tenant_id,
        location=item.location,
    )


def _federation(item: Any) -> Federation:
    return Federation(issuer=item.issuer, subject=item.subject, audience=" ".join(item.audiences))


def _assignment(item: Any, role: str) -> RoleAssignment:
    return RoleAssignment(id=item.id, scope=item.scope, role=role, principal_id=item.principal_id)
