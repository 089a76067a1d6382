"""Participant "Azure Blob Storage", called with the Azure collaborator's credentials."""

from __future__ import annotations

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import require_own_identity
from cleanroom.clients.azure import STORAGE_CONTRIBUTOR, STORAGE_READER, ManagedIdentities, RoleAssignments
from cleanroom.errors import PreconditionFailed
from cleanroom.messages.publish import AccessGranted, AccessRequest, AuthorisedDataset, StoreLocation
from cleanroom.settings import Settings


class Blob:
    """Roles on the collaborator's storage account."""

    def __init__(
        self, settings: Settings, authorisations: AuthorisationVerifier, roles: RoleAssignments, identities: ManagedIdentities
    ) -> None:
        self._settings = settings
        self._authorisations = authorisations
        self._roles = roles
        self._identities = identities

    @activity.defn
    def allow_access_blob(self, request: AccessRequest) -> AccessGranted:
        """Assign the dataset's identity the least role on the storage account that the dataset's access mode requires."""
        self._authorisations.verify_dataset(request.dataset)
        require_own_identity(self._identities, request)
        scope = self._settings.azure.storage_account_id
        if not scope:
            raise PreconditionFailed(
                "SettingMissing", "settings: azure.storage_account_id is not set.", hint="Set it to the ARM resource ID."
            )
        role = STORAGE_READER if request.dataset.spec.access == "read" else STORAGE_CONTRIBUTOR
        self._roles.allow(scope, role, request.identity.principal_id)
        return AccessGranted(roles=(role,), scope=scope)

    @activity.defn
    def locate_blob_store(self, dataset: AuthorisedDataset) -> StoreLocation:
        """Return the URL of the collaborator's storage account."""
        self._authorisations.verify_dataset(dataset)
        url = self._settings.azure.storage_account_url
        if not url:
            raise PreconditionFailed("SettingMissing", "settings: azure.storage_account_url is not set.")
        return StoreLocation(url=url)
