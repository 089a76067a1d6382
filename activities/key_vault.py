"""Azure Key Vault, called by the Azure collaborator: who may ask for a release, and the key with its release policy."""

from __future__ import annotations

from temporalio import activity

from activities.azure_ad import require_own_identity
from activities.governance_policy import require_same_policy
from activities.orders import Orders
from cleanroom.clients.azure import RELEASE_USER, Credential, ManagedIdentities, RoleAssignments
from cleanroom.datasets.keystore import KeyStore
from cleanroom.errors import PreconditionFailed
from cleanroom.governance import GovernanceUserClient
from cleanroom.keys import KeyVaultSettings, ReleasePolicy, set_key_with_skr, wrap_data_key
from cleanroom.messages.publish import AccessGranted, AccessOrder, EncryptionKey, KeyOrder
from cleanroom.settings import Settings


def key_name(collaboration: str, dataset: str) -> str:
    """Name of a dataset's key encryption key."""
    return f"{collaboration}-{dataset}-kek"


def vault_settings(settings: Settings) -> KeyVaultSettings:
    """The vault of ``settings``."""
    return KeyVaultSettings(
        vault_url=settings.azure.key_vault_url,
        ca_file=settings.ca_file,
        verify_challenge_resource=settings.azure.verify_challenge_resource,
        release_ca_file=settings.azure.key_vault_release_ca_file,
    )


class KeyVault:
    """The collaborator's own vault."""

    def __init__(
        self,
        settings: Settings,
        orders: Orders,
        roles: RoleAssignments,
        identities: ManagedIdentities,
        credential: Credential,
        governance: GovernanceUserClient,
        keys: KeyStore,
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._roles = roles
        self._identities = identities
        self._credential = credential
        self._governance = governance
        self._keys = keys

    @activity.defn
    def allow_access_key_vault(self, request: AccessOrder) -> AccessGranted:
        """Give the dataset's identity the role to ask for a release; the release policy still decides."""
        self._orders.dataset(request.order)
        require_own_identity(self._identities, request)
        scope = self._settings.azure.key_vault_id
        if not scope:
            raise PreconditionFailed("SettingMissing", "settings: azure.key_vault_id is not set.", hint="Name its ARM resource id.")
        self._roles.allow(scope, RELEASE_USER, request.identity.principal_id)
        return AccessGranted(roles=(RELEASE_USER,), scope=scope)

    @activity.defn
    async def set_key_with_skr(self, request: KeyOrder) -> EncryptionKey:
        """Create the key encryption key under a release policy that names the clean room, and wrap the dataset key by it.

        The policy is read from governance here again: whoever brought it may have changed it.
        """
        order = request.order
        self._orders.dataset(order)
        await require_same_policy(self._governance, order.collaboration, request.policy)
        if not self._settings.azure.maa_url:
            raise PreconditionFailed("SettingMissing", "settings: azure.maa_url is not set: a release policy names its authority.")
        policy = ReleasePolicy.for_clean_room(self._settings.azure.maa_url, list(request.policy.host_data))
        vault = vault_settings(self._settings)
        key = await set_key_with_skr(
            vault=vault,
            credential=self._credential,
            name=key_name(order.collaboration, order.spec.name),
            policy=policy,
            tags={"collaboration": order.collaboration, "dataset": order.spec.name},
        )
        wrapped = wrap_data_key(key.public_key(), self._keys.get_or_create(order.spec.name))
        self._keys.remember_wrapping(order.spec.name, wrapped)
        return EncryptionKey(
            key_name=key.name,
            key_id=key.key_id,
            key_vault_url=vault.vault_url,
            authority=self._settings.azure.maa_url,
            wrapped_key=wrapped,
        )
