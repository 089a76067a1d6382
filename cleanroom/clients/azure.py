"""Azure Resource Manager for one subscription: managed identities, role assignments and federated credentials.

Through ``azure-mgmt-msi`` and ``azure-mgmt-authorization``; every operation is idempotent: it compares what is there with what is
asked. Synchronous: an ``async`` caller uses :func:`asyncio.to_thread`. Credentials come from :mod:`cleanroom.clients.azure_credentials`
and are re-exported here. The management SDKs take most of a second to import, so that only who makes a client imports one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError
from pydantic import BaseModel, ConfigDict

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
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
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
    "azure_error",
    "azure_errors",
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
"""Ids of the built-in roles that this project assigns; the same in every tenant."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class ManagedIdentity(_Value):
    """A user-assigned managed identity. ``principal_id`` is what roles are given to, ``client_id`` what signs in."""

    id: str
    name: str
    client_id: str
    principal_id: str
    tenant_id: str
    location: str


class RoleAssignment(_Value):
    """A role assignment that exists. Its data plane may take minutes to honour it."""

    id: str
    scope: str
    role: str
    principal_id: str


def azure_error(error: AzureError, doing: str) -> CleanRoomError:
    """An error of an Azure SDK as ours; ``code`` is the service's own code.

    Args:
        doing: What was attempted on what, such as ``"create managed identity dataset-flights"``.
    """
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return Unavailable("AzureUnreachable", f"Could not {doing}: the service could not be reached.", cause=str(error))
    if not isinstance(error, HttpResponseError):
        return Internal("AzureProtocolError", f"Could not {doing}.", cause=str(error))
    status = error.status_code or 0
    code = _service_code(error)
    cause = error.message
    if status in (408, 429) or status >= 500:
        return Unavailable(code or f"Http{status}", f"Could not {doing}: the service asked to try again later.", cause=cause)
    if code == "PrincipalNotFound":
        # A new identity is not known everywhere at once; ARM's own text calls it a replication delay.
        return Unavailable(code, f"Could not {doing}: the principal is not known yet.", cause=cause)
    if status == 401:
        return PreconditionFailed(code or "Unauthorized", f"Could not {doing}: the token was not accepted.", cause=cause)
    if status == 403:
        return PreconditionFailed(
            code or "Forbidden",
            f"Could not {doing}: the identity lacks a role there, or the role has not propagated yet.",
            cause=cause,
            hint="Role assignments take up to 30 minutes; if it stays so, assign the role that the text names.",
            retryable=True,
        )
    if status == 404:
        return NotFound(code or "NotFound", f"Could not {doing}: it does not exist.", cause=cause)
    if status in (409, 412):
        return Conflict(code or "Conflict", f"Could not {doing}: it exists with other content, or somebody else changed it.", cause=cause)
    if 300 <= status < 400:
        return Refused("RedirectRefused", f"Could not {doing}: the service answered with a redirect, which is never followed.", cause=cause)
    return InvalidInput(code or f"Http{status}", f"Could not {doing}: the service refused the request.", cause=cause)


@contextmanager
def azure_errors(doing: str) -> Iterator[None]:
    """Raise Azure's errors as :func:`azure_error` has them."""
    try:
        yield
    except AzureError as error:
        raise azure_error(error, doing) from error


def _service_code(error: HttpResponseError) -> str | None:
    blob_code = getattr(error, "error_code", None)  # azure-storage-blob; an enum or a str
    if blob_code:
        return str(getattr(blob_code, "value", blob_code))
    return str(error.error.code) if error.error is not None and error.error.code else None


def _arm_options(settings: AzureSettings, ca_file: Path | None) -> dict[str, Any]:
    return client_options(ca_file) | {"base_url": settings.arm_url.rstrip("/"), "credential_scopes": [ARM_SCOPE]}


def _msi_client(credential: Credential, settings: AzureSettings, ca_file: Path | None) -> Any:
    from azure.mgmt.msi.v2024_11_30 import ManagedServiceIdentityClient

    return ManagedServiceIdentityClient(credential, settings.subscription_id, **_arm_options(settings, ca_file))


class ManagedIdentities:
    """User-assigned managed identities in the resource group of ``settings``."""

    def __init__(self, credential: Credential, settings: AzureSettings, *, ca_file: Path | None = None) -> None:
        self._settings = settings
        self._client = _msi_client(credential, settings, ca_file)

    def create_or_update(self, name: str, *, tags: Mapping[str, str] | None = None) -> ManagedIdentity:
        """The identity ``name``, made if it is not there; calling it again gives the same ids.

        Raises:
            CleanRoomError: as :func:`azure_error`; ``InvalidResourceLocation`` when it is in another region.
        """
        from azure.mgmt.msi.v2024_11_30.models import Identity

        with azure_errors(f"create managed identity {name}"):
            body = Identity(location=self._settings.location, tags=dict(tags) if tags is not None else None)
            return _identity(self._client.user_assigned_identities.create_or_update(self._settings.resource_group, name, body))

    def get(self, name: str) -> ManagedIdentity:
        """The identity ``name``.

        Raises:
            NotFound: ``ResourceNotFound``.
        """
        with azure_errors(f"get managed identity {name}"):
            return _identity(self._client.user_assigned_identities.get(self._settings.resource_group, name))

    def delete(self, name: str) -> None:
        """Delete the identity and its federated credentials; nothing happens when it is not there."""
        with azure_errors(f"delete managed identity {name}"):
            self._client.user_assigned_identities.delete(self._settings.resource_group, name)


class FederatedCredentials:
    """Which external tokens a managed identity trusts."""

    def __init__(self, credential: Credential, settings: AzureSettings, *, ca_file: Path | None = None) -> None:
        self._settings = settings
        self._operations = _msi_client(credential, settings, ca_file).federated_identity_credentials

    def set(self, identity: str, name: str, federation: Federation) -> Federation:
        """Make ``identity`` trust tokens of exactly ``federation`` under ``name``; nothing is written when it does already.

        Raises:
            Conflict: ``FederatedCredentialDiffers`` when ``name`` exists with another issuer, subject or audience: it may serve another
                clean room, so it is not overwritten. ``Conflict`` when another name already holds this issuer and subject.
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

    def delete(self, identity: str, name: str) -> None:
        """Stop trusting; nothing happens when it is not there."""
        with azure_errors(f"delete federated credential {name} of {identity}"):
            self._operations.delete(self._settings.resource_group, identity, name)


class RoleAssignments:
    """Who may do what on a resource."""

    def __init__(self, credential: Credential, settings: AzureSettings, *, ca_file: Path | None = None) -> None:
        from azure.mgmt.authorization.v2022_04_01 import AuthorizationManagementClient

        client: Any = AuthorizationManagementClient(credential, settings.subscription_id, **_arm_options(settings, ca_file))
        self._operations = client.role_assignments

    def allow(self, scope: str, role: str, principal_id: str) -> RoleAssignment:
        """Give ``principal_id`` the built-in ``role`` on ``scope`` (an ARM resource id).

        The assignment's name is derived from the three, so that a repetition finds the first one; an assignment that somebody made
        under another name is returned as it is.

        Raises:
            InvalidInput: ``UnknownRole``, ``InvalidScope``.
            Unavailable: ``PrincipalNotFound`` while a new identity is not known to ARM yet.
        """
        from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters

        role_id = ROLE_IDS.get(role)
        if role_id is None:
            raise InvalidInput(
                "UnknownRole", f"role: {role!r} is not a role that this project assigns.", hint=f"Known: {', '.join(ROLE_IDS)}."
            )
        parts = scope.split("/")
        if len(parts) < 3 or parts[:2] != ["", "subscriptions"]:
            raise InvalidInput("InvalidScope", f"scope: {scope!r} is not an ARM resource id.", hint="It starts with /subscriptions/<id>.")
        target = scope.lstrip("/")
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope.lower()}|{role_id}|{principal_id.lower()}"))
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
        raise Unavailable("RoleAssignmentExists", f"Could not {doing}: it exists by another name and is not listed yet.")

    def revoke(self, assignment: RoleAssignment) -> None:
        """Take the role away; nothing happens when it is gone."""
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
