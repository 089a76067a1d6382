"""Creates or imports a key with a release policy (``setKeyWithSKR`` in the publishing diagrams). Idempotent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyReleasePolicy, KeyVaultKey
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import BaseModel, ConfigDict

from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput
from cleanroom.jose.encoding import b64_any
from cleanroom.jose.jwk import private_jwk, public_jwk, public_key
from cleanroom.keys.policy import CONTENT_TYPE, ReleasePolicy
from cleanroom.keys.vault import KeyVaultSettings, translate, well_formed_answers

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

PURPOSE_TAG = "cleanroom-purpose"
KEK_PURPOSE = "dataset-kek"
KEK_SIZES = (2048, 3072, 4096)
"""Supported RSA key sizes of Key Vault, in bits."""


class KeyReference(BaseModel):
    """The location and public half of a key, which may be published and persisted."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    """``https://<vault>/keys/<name>/<version>``."""
    name: str
    version: str
    public_jwk: dict[str, Any]
    """``{kty: RSA, n, e}``."""
    policy: dict[str, Any]
    """The release policy document."""
    created: bool
    """False if the key existed with the same content."""

    def public_key(self) -> rsa.RSAPublicKey:
        """Return the RSA public key that wraps a DEK."""
        key = public_key(self.public_jwk)
        assert isinstance(key, rsa.RSAPublicKey)
        return key


async def set_key_with_skr(
    *,
    vault: KeyVaultSettings,
    credential: TokenCredential,
    name: str,
    policy: ReleasePolicy,
    key: rsa.RSAPrivateKey | None = None,
    size: int = 2048,
    tags: Mapping[str, str] | None = None,
    immutable: bool = False,
) -> KeyReference:
    """Import ``key``, or create an RSA key in the HSM, exportable under ``policy``.

    An existing key is reused if it is exportable, HSM-protected and enabled, has the same parsed policy and the same tags and, for an
    import, the same public key. Any other key of that name is a conflict, because a policy is never replaced silently.

    Args:
        vault: The vault.
        credential: An identity with the role Key Vault Crypto Officer.
        name: The key's name; derive it from collaboration and dataset.
        policy: The condition for the release of the key.
        key: The key to import. None creates one, which never exists outside the HSM.
        size: Bits of a created key, one of ``KEK_SIZES``.
        tags: Further tags. They are part of the comparison.
        immutable: Whether the policy can never be changed.

    Raises:
        InvalidInput: ``UnsupportedKekSize``, or the service's BadParameter.
        Conflict: ``KeyExistsWithOtherContent``; ``ObjectIsDeletedButRecoverable`` with the remedy.
        Refused: ``ForbiddenByRbac`` and the service's other refusals.
        Unavailable: The vault did not respond.
        Internal: ``KeyVaultAnswerUnexpected``.
    """
    bits = size if key is None else key.key_size
    if bits not in KEK_SIZES:
        raise InvalidInput("UnsupportedKekSize", f"KEK: {bits} bits are not supported; use one of {', '.join(map(str, KEK_SIZES))}.")
    wanted_tags = {PURPOSE_TAG: KEK_PURPOSE, **(tags or {})}
    return await asyncio.to_thread(_set, vault, credential, name, policy, key, bits, wanted_tags, immutable)


def _set(
    vault: KeyVaultSettings,
    credential: TokenCredential,
    name: str,
    policy: ReleasePolicy,
    key: rsa.RSAPrivateKey | None,
    bits: int,
    tags: dict[str, str],
    immutable: bool,
) -> KeyReference:
    what = f"set key {vault.key_id(name)}"
    with well_formed_answers(what), vault.client(credential) as client:
        try:
            existing = client.get_key(name)
        except ResourceNotFoundError:
            existing = None
        except AzureError as error:
            raise translate(error, what) from error
        if existing is not None:
            return _reuse(existing, policy, key, tags, immutable, what)
        try:
            made = _make(client, name, policy, key, bits, tags, immutable)
        except ResourceExistsError as error:
            raise translate(error, what, party="key-owner") from error
        except AzureError as error:
            translated = translate(error, what)
            if translated.details.get("skr_code") != "AKV.SKR.1020":
                raise translated from error
            # A concurrent attempt created the key with an immutable policy: compare it like any existing key.
            try:
                return _reuse(client.get_key(name), policy, key, tags, immutable, what)
            except AzureError as unread:
                raise translate(unread, what) from unread
        # A vault that stored another policy than the given one could release the key to another guest.
        if differences := _differences(made, policy, key, tags, immutable):
            raise Internal(
                "KeyVaultAnswerUnexpected", f"{what}: the key that Key Vault created differs from the request.", details=differences
            )
        return _reference(made, created=True)


def _make(
    client: KeyClient, name: str, policy: ReleasePolicy, key: rsa.RSAPrivateKey | None, bits: int, tags: dict[str, str], immutable: bool
) -> KeyVaultKey:
    release_policy = KeyReleasePolicy(policy.encode(), content_type=CONTENT_TYPE, immutable=immutable)
    operations = ["encrypt", "wrapKey"]
    if key is None:
        return client.create_rsa_key(
            name, size=bits, hardware_protected=True, exportable=True, release_policy=release_policy, key_operations=operations, tags=tags
        )
    members = {name: b64_any(value) for name, value in private_jwk(key).items() if name != "kty"}
    web_key = JsonWebKey(kty="RSA-HSM", key_ops=operations, **members)
    return client.import_key(name, web_key, hardware_protected=True, exportable=True, release_policy=release_policy, tags=tags)


def _differences(
    existing: KeyVaultKey, policy: ReleasePolicy, key: rsa.RSAPrivateKey | None, tags: dict[str, str], immutable: bool
) -> dict[str, Any]:
    """Return the differences between the key and the request, by aspect."""
    properties = existing.properties
    differences: dict[str, Any] = {}
    if existing.key_type != "RSA-HSM" or not properties.exportable or not properties.enabled:
        differences["protection"] = {
            "expected": "RSA-HSM, exportable, enabled",
            "actual": f"{existing.key_type}, exportable={properties.exportable}, enabled={properties.enabled}",
        }
    found = properties.release_policy
    try:
        actual = ReleasePolicy.parse(bytes(found.encoded_policy)) if found is not None else None
        shown: Any = actual.document() if actual is not None else None
    except CleanRoomError as error:
        actual, shown = None, str(error)
    if actual != policy:
        differences["release_policy"] = {"expected": policy.document(), "actual": shown}
    if immutable and not (found is not None and found.immutable):
        differences["immutable"] = {"expected": True, "actual": False}
    have = properties.tags or {}
    if any(have.get(tag) != value for tag, value in tags.items()):
        differences["tags"] = {"expected": tags, "actual": {tag: have.get(tag) for tag in tags}}
    if key is not None and not differences and _numbers(existing.key) != key.public_key().public_numbers():
        differences["public_key"] = {"expected": "the key to import", "actual": "another key"}
    return differences


def _reuse(
    existing: KeyVaultKey, policy: ReleasePolicy, key: rsa.RSAPrivateKey | None, tags: dict[str, str], immutable: bool, what: str
) -> KeyReference:
    if differences := _differences(existing, policy, key, tags, immutable):
        raise Conflict(
            "KeyExistsWithOtherContent",
            f"{what}: a key of that name exists and differs in {', '.join(differences)}.",
            hint="Choose another key name, or ask the key's owner to delete and purge the existing key. A policy is never replaced.",
            party="key-owner",
            details=differences,
        )
    return _reference(existing, created=False)


def _numbers(key: JsonWebKey) -> rsa.RSAPublicNumbers:
    # The SDK's JsonWebKey has no static members.
    return rsa.RSAPublicNumbers(int.from_bytes(getattr(key, "e", b""), "big"), int.from_bytes(getattr(key, "n", b""), "big"))


def _reference(key: KeyVaultKey, *, created: bool) -> KeyReference:
    found = key.properties.release_policy
    if found is None:
        raise Internal("KeyWithoutPolicy", f"{key.id}: Key Vault returned an exportable key without a release policy.")
    return KeyReference(
        key_id=str(key.id),
        name=str(key.name),
        version=str(key.properties.version),
        public_jwk=public_jwk(_numbers(key.key).public_key()),
        policy=ReleasePolicy.parse(bytes(found.encoded_policy)).document(),
        created=created,
    )
