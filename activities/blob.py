"""Azure Blob Storage, called by the Azure collaborator."""

from __future__ import annotations

from temporalio import activity

from activities.azure_ad import require_own_identity
from activities.orders import Orders
from cleanroom.clients.azure import STORAGE_CONTRIBUTOR, STORAGE_READER, ManagedIdentities, RoleAssignments
from cleanroom.errors import PreconditionFailed
from cleanroom.messages.publish import AccessGranted, AccessOrder, OwnerOrder, StoreLocation
from cleanroom.settings import Settings


class Blob:
    """Who may read the encrypted rows."""

    def __init__(self, settings: Settings, orders: Orders, roles: RoleAssignments, identities: ManagedIdentities) -> None:
        self._settings = settings
        self._orders = orders
        self._roles = roles
        self._identities = identities

    @activity.defn
    def allow_access_blob(self, request: AccessOrder) -> AccessGranted:
        """Give the dataset's identity the least role on the storage account that its access mode needs."""
        self._orders.dataset(request.order)
        require_own_identity(self._identities, request)
        scope = self._settings.azure.storage_account_id
        if not scope:
            raise PreconditionFailed("SettingMissing", "settings: azure.storage_account_id is not set.", hint="Name its ARM resource id.")
        role = STORAGE_READER if request.order.spec.access == "read" else STORAGE_CONTRIBUTOR
        self._roles.allow(scope, role, request.identity.principal_id)
        return AccessGranted(roles=(role,), scope=scope)

    @activity.defn
    def locate_blob_store(self, order: OwnerOrder) -> StoreLocation:
        """The storage account of this collaborator."""
        self._orders.dataset(order)
        url = self._settings.azure.storage_account_url
        if not url:
            raise PreconditionFailed("SettingMissing", "settings: azure.storage_account_url is not set.")
        return StoreLocation(url=url)
