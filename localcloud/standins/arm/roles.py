"""Those of Azure's built-in roles that the project uses, and how a role permits an action.

Ids, actions and data actions are Azure's own (learn.microsoft.com, "Azure built-in roles"); the lists are shortened to the
resource providers that exist here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"


@dataclass(frozen=True)
class Role:
    """A built-in role definition."""

    id: str
    name: str
    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()

    def permits(self, action: str) -> bool:
        """Whether the role permits a control-plane action, such as ``Microsoft.Authorization/roleAssignments/write``."""
        return _any(self.actions, action) and not _any(self.not_actions, action)

    def permits_data(self, action: str) -> bool:
        """Whether the role permits a data-plane action, such as ``Microsoft.KeyVault/vaults/keys/release/action``."""
        return _any(self.data_actions, action)


def _any(patterns: tuple[str, ...], action: str) -> bool:
    return any(_pattern(pattern).fullmatch(action) for pattern in patterns)


@lru_cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*"), re.IGNORECASE)


_ROLES = (
    Role("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Owner", ("*",)),
    Role(
        "b24988ac-6180-42a0-ab88-20f7382dd24c",
        "Contributor",
        ("*",),
        ("Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action"),
    ),
    Role("acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", ("*/read",)),
    Role("18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", "User Access Administrator", ("*/read", "Microsoft.Authorization/*")),
    Role(
        "e40ec5ca-96e0-45a2-b4ff-59039f2c2b59",
        "Managed Identity Contributor",
        (
            "Microsoft.ManagedIdentity/userAssignedIdentities/*",
            "Microsoft.Authorization/*/read",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        ),
    ),
    Role("f1a07417-d97a-45cb-824c-7a7467783830", "Managed Identity Operator", ("Microsoft.ManagedIdentity/userAssignedIdentities/*/read",)),
    Role("b7e6dc6d-f1e8-4753-8033-0f276bb0955b", "Storage Blob Data Owner", (f"{_CONTAINERS}/*",), (), (f"{_BLOBS}/*",)),
    Role(
        "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
        "Storage Blob Data Contributor",
        (f"{_CONTAINERS}/delete", f"{_CONTAINERS}/read", f"{_CONTAINERS}/write"),
        (),
        (f"{_BLOBS}/delete", f"{_BLOBS}/read", f"{_BLOBS}/write", f"{_BLOBS}/move/action", f"{_BLOBS}/add/action"),
    ),
    Role("2a2b9908-6ea1-4ae2-8e65-a410df84e7d1", "Storage Blob Data Reader", (f"{_CONTAINERS}/read",), (), (f"{_BLOBS}/read",)),
    Role("00482a5a-887f-4fb3-b363-3b7fe8e74483", "Key Vault Administrator", ("*/read",), (), ("Microsoft.KeyVault/vaults/*",)),
    Role(
        "14b46e9e-c2b7-41b4-b07b-48a6ebf60603",
        "Key Vault Crypto Officer",
        ("Microsoft.KeyVault/vaults/read",),
        (),
        ("Microsoft.KeyVault/vaults/keys/*", "Microsoft.KeyVault/vaults/keyrotationpolicies/*"),
    ),
    Role(
        "12338af0-0e69-4776-bea7-57ae8d297424",
        "Key Vault Crypto User",
        (),
        (),
        tuple(
            f"Microsoft.KeyVault/vaults/keys/{verb}"
            for verb in (
                "read",
                "update/action",
                "backup/action",
                "encrypt/action",
                "decrypt/action",
                "wrap/action",
                "unwrap/action",
                "sign/action",
                "verify/action",
            )
        ),
    ),
    Role(
        "08bbd89e-9f13-488c-ac41-acfcb10c90ab",
        "Key Vault Crypto Service Release User",
        (),
        (),
        ("Microsoft.KeyVault/vaults/keys/release/action",),
    ),
)

BY_ID: dict[str, Role] = {role.id: role for role in _ROLES}
BY_NAME: dict[str, Role] = {role.name: role for role in _ROLES}


def role_of(definition_id: str) -> Role | None:
    """Return the role with a role definition ID, in full or as GUID only; None if it is unknown."""
    return BY_ID.get(definition_id.rstrip("/").rpartition("/")[2].lower())
