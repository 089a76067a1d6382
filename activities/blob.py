"""Participant "Azure Blob Storage", called with the Azure collaborator's credentials."""

from __future__ import annotations

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import require_own_identity
from cleanroom.bulkheads import bulkhead
from cleanroom.clients.azure import STORAGE_CONTRIBUTOR, STORAGE_READER, ManagedIdentities, RoleAssignments
from cleanroom.clients.owned import require_azure
from cleanroom.documents.specs import BlobStoreSpec
from cleanroom.errors import Refused
from cleanroom.messages.publish import AccessGranted, AccessRequest, AuthorisedDataset, StoreLocation
from cleanroom.settings import Settings


def container_scope(storage_account_id: str, container: str) -> str:
    """Return the ARM resource ID of a container (https://learn.microsoft.com/azure/role-based-access-control/scope-overview)."""
    return f"{storage_account_id.rstrip('/')}/blobServices/default/containers/{container}"


class Blob:
    """Roles on containers of the collaborator's storage account."""

    def __init__(
        self, settings: Settings, authorisations: AuthorisationVerifier, roles: RoleAssignments, identities: ManagedIdentities
    ) -> None:
        self._settings = settings
        self._authorisations = authorisations
        self._roles = roles
        self._identities = identities

    @activity.defn
    async def allow_access_blob(self, request: AccessRequest) -> AccessGranted:
        """Assign the dataset's identity the least role that the dataset's access mode requires.

        The scope is the dataset's container, because the account may hold containers of other datasets and collaborations.
        """
        await self._authorisations.verify_dataset(request.dataset)
        await bulkhead("azure").run(require_own_identity, self._identities, request)
        await self._authorisations.verify_unpublished(request.dataset)
        store = request.dataset.spec.store
        require_azure(self._settings, "storage_account_id")
        if not isinstance(store, BlobStoreSpec):
            raise Refused("StoreKindMismatch", f"dataset {request.dataset.spec.name!r}: its store is not Azure Blob.")
        scope = container_scope(self._settings.azure.storage_account_id, store.container)
        role = STORAGE_READER if request.dataset.spec.access == "read" else STORAGE_CONTRIBUTOR
        await bulkhead("azure").run(self._roles.allow, scope, role, request.identity.principal_id)
        return AccessGranted(roles=(role,), scope=scope)

    @activity.defn
    async def locate_blob_store(self, dataset: AuthorisedDataset) -> StoreLocation:
        """Return the URL of the collaborator's storage account."""
        await self._authorisations.verify_dataset(dataset)
        require_azure(self._settings, "storage_account_url")
        return StoreLocation(url=self._settings.azure.storage_account_url)
