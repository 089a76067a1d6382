"""Keys: release policies, key wrap, and secure key release from Azure Key Vault.

The names that need the Azure client (:func:`release_key`, :func:`set_key_with_skr`, :class:`KeyVaultSettings` …) are imported at first use,
so a pod that only unwraps a secret does not load it. The formats and rules, with their sources, are in ``docs/facts/key-release.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cleanroom.jose.jwk import private_jwk, public_jwk, thumbprint
from cleanroom.keys.evaluate import ClaimRow, PolicyVerdict, evaluate
from cleanroom.keys.kek import unwrap_data_key, wrap_data_key
from cleanroom.keys.release_policy import AuthorityBlock, ClaimEquals, ConditionGroup, ReleasePolicy
from cleanroom.keys.response import ReleaseExpectation, VerifiedRelease, verify_release_response
from cleanroom.keys.wrap import KeyWrapAlgorithm, unwrap_key, wrap_key
from cleanroom.keys.wrapping_key import runtime_data

if TYPE_CHECKING:
    from cleanroom.keys.provision import KeyReference, set_key_with_skr
    from cleanroom.keys.release import ReleasedKey, release_key
    from cleanroom.keys.vault import KeyVaultSettings

_LAZY = {
    "KeyReference": "cleanroom.keys.provision",
    "KeyVaultSettings": "cleanroom.keys.vault",
    "ReleasedKey": "cleanroom.keys.release",
    "release_key": "cleanroom.keys.release",
    "set_key_with_skr": "cleanroom.keys.provision",
}

__all__ = [
    "AuthorityBlock",
    "ClaimEquals",
    "ClaimRow",
    "ConditionGroup",
    "KeyReference",
    "KeyVaultSettings",
    "KeyWrapAlgorithm",
    "PolicyVerdict",
    "ReleaseExpectation",
    "ReleasePolicy",
    "ReleasedKey",
    "VerifiedRelease",
    "evaluate",
    "private_jwk",
    "public_jwk",
    "release_key",
    "runtime_data",
    "set_key_with_skr",
    "thumbprint",
    "unwrap_data_key",
    "unwrap_key",
    "verify_release_response",
    "wrap_data_key",
    "wrap_key",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
