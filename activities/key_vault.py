"""Participant "Azure Key Vault", called with the Azure collaborator's credentials."""

from __future__ import annotations

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import require_own_identity
from activities.governance_policy import require_same_policy
from cleanroom.bulkheads import bulkhead
from cleanroom.clients.azure import RELEASE_USER, Credential, ManagedIdentities, RoleAssignments
from cleanroom.clients.owned import require_azure
from cleanroom.datasets.keystore import KeyStore
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import key_encryption_key_name
from cleanroom.keys import KeyVaultSettings, ReleasePolicy, set_key_with_skr, wrap_data_key
from cleanroom.messages.publish import AccessGranted, AccessRequest, EncryptionKey, KeyRequest
from cleanroom.settings import Settings


def vault_settings(settings: Settings) -> KeyVaultSettings:
    """Return the Key Vault part of ``settings``."""
    return KeyVaultSettings(
        vault_url=settings.azure.key_vault_url,
        ca_file=settings.ca_file,
        verify_challenge_resource=settings.azure.verify_challenge_resource,
        release_ca_file=settings.azure.key_vault_release_ca_file,
    )


def key_scope(vault_id: str, collaboration: str, dataset: str) -> str:
    """Return the ARM resource ID of a dataset's key encryption key (https://learn.microsoft.com/azure/key-vault/general/rbac-guide)."""
    return f"{vault_id.rstrip('/')}/keys/{key_encryption_key_name(collaboration, dataset)}"


class KeyVault:
    """Roles and keys in the collaborator's vault."""

    def __init__(
        self,
        settings: Settings,
        authorisations: AuthorisationVerifier,
        roles: RoleAssignments,
        identities: ManagedIdentities,
        credential: Credential,
        governance: GovernanceUserClient,
        keys: KeyStore,
    ) -> None:
        self._settings = settings
        self._authorisations = authorisations
        self._roles = roles
        self._identities = identities
        self._credential = credential
        self._governance = governance
        self._keys = keys

    @activity.defn
    async def allow_access_key_vault(self, request: AccessRequest) -> AccessGranted:
        """Assign the dataset's identity the role to request the release of the dataset's key. The key's release policy still applies.

        The scope is this one key, because the vault may hold keys of other datasets and collaborations.
        """
        await self._authorisations.verify_dataset(request.dataset)
        await bulkhead("azure").run(require_own_identity, self._identities, request)
        await self._authorisations.verify_unpublished(request.dataset)
        require_azure(self._settings, "key_vault_id")
        scope = key_scope(self._settings.azure.key_vault_id, request.dataset.collaboration, request.dataset.spec.name)
        await bulkhead("azure").run(self._roles.allow, scope, RELEASE_USER, request.identity.principal_id)
        return AccessGranted(roles=(RELEASE_USER,), scope=scope)

    @activity.defn
    async def set_key_with_skr(self, request: KeyRequest) -> EncryptionKey:
        """Create the key encryption key, to be released only to the clean room, and wrap the dataset key with it.

        The policy in the request must equal the policy in governance, because Temporal could have changed it.
        """
        dataset = request.dataset
        await self._authorisations.verify_dataset(dataset)
        await require_same_policy(self._governance, dataset.collaboration, request.policy)
        require_azure(self._settings, "key_vault_url", "maa_url")
        await self._authorisations.verify_unpublished(dataset)
        policy = ReleasePolicy.for_clean_room(self._settings.azure.maa_url, list(request.policy.host_data))
        vault = vault_settings(self._settings)
        key = await set_key_with_skr(
            vault=vault,
            credential=self._credential,
            name=key_encryption_key_name(dataset.collaboration, dataset.spec.name),
            policy=policy,
            tags={"collaboration": dataset.collaboration, "dataset": dataset.spec.name},
        )
        wrapped = wrap_data_key(key.public_key(), self._keys.get_or_create(dataset.spec.name))
        self._keys.remember_wrapping(dataset.spec.name, wrapped)
        return EncryptionKey(
            key_name=key.name,
            key_id=key.key_id,
            key_vault_url=vault.vault_url,
            authority=self._settings.azure.maa_url,
            wrapped_key=wrapped,
        )
