"""Creates or imports a key with a release policy (``setKeyWithSKR`` in the publishing diagrams). Idempotent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyReleasePolicy, KeyVaultKey
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import BaseModel, ConfigDict

from cleanroom.bulkheads import bulkhead
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput
from cleanroom.jose.encoding import b64_any
from cleanroom.jose.jwk import private_jwk, public_jwk, public_key
from cleanroom.keys.release_policy import CONTENT_TYPE, ReleasePolicy
from cleanroom.keys.vault import KeyVaultSettings, convert_error, convert_malformed_responses

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
    request = _KeyRequest(name, policy, key, bits, {PURPOSE_TAG: KEK_PURPOSE, **(tags or {})}, immutable)
    return await bulkhead("key-vault").run(_set, vault, credential, request)


@dataclass(frozen=True)
class _KeyRequest:
    name: str
    policy: ReleasePolicy
    key: rsa.RSAPrivateKey | None
    bits: int
    tags: dict[str, str]
    immutable: bool


def _set(vault: KeyVaultSettings, credential: TokenCredential, request: _KeyRequest) -> KeyReference:
    what = f"set key {vault.key_id(request.name)}"
    with convert_malformed_responses(what), vault.client(credential) as client:
        try:
            existing = client.get_key(request.name)
        except ResourceNotFoundError:
            existing = None
        except AzureError as error:
            raise convert_error(error, what) from error
        if existing is not None:
            return _reuse(existing, request, what)
        try:
            created = _create(client, request)
        except ResourceExistsError as error:
            raise convert_error(error, what, party="key-owner") from error
        except AzureError as error:
            converted = convert_error(error, what)
            if converted.details.get("skr_code") != "AKV.SKR.1020":
                raise converted from error
            # A concurrent attempt created the key with an immutable policy: compare it like any existing key.
            try:
                return _reuse(client.get_key(request.name), request, what)
            except AzureError as unread:
                raise convert_error(unread, what) from unread
        # A vault that stored another policy than the given one could release the key to another guest.
        if differences := _differences(created, request):
            raise Internal(
                "KeyVaultAnswerUnexpected", f"{what}: the key that Key Vault created differs from the request.", details=differences
            )
        return _reference(created, request, created=True)


def _create(client: KeyClient, request: _KeyRequest) -> KeyVaultKey:
    options: dict[str, Any] = {
        "hardware_protected": True,
        "exportable": True,
        "release_policy": KeyReleasePolicy(request.policy.encode(), content_type=CONTENT_TYPE, immutable=request.immutable),
        "tags": request.tags,
    }
    operations = ["encrypt", "wrapKey"]
    if request.key is None:
        return client.create_rsa_key(request.name, size=request.bits, key_operations=operations, **options)
    members = {name: b64_any(value) for name, value in private_jwk(request.key).items() if name != "kty"}
    return client.import_key(request.name, JsonWebKey(kty="RSA-HSM", key_ops=operations, **members), **options)


def _differences(existing: KeyVaultKey, request: _KeyRequest) -> dict[str, Any]:
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
    if actual != request.policy:
        differences["release_policy"] = {"expected": request.policy.document(), "actual": shown}
    if request.immutable and not (found is not None and found.immutable):
        differences["immutable"] = {"expected": True, "actual": False}
    existing_tags = properties.tags or {}
    if any(existing_tags.get(tag) != value for tag, value in request.tags.items()):
        differences["tags"] = {"expected": request.tags, "actual": {tag: existing_tags.get(tag) for tag in request.tags}}
    if request.key is not None and _numbers(existing.key) != request.key.public_key().public_numbers():
        differences["public_key"] = {"expected": "the key to import", "actual": "another key"}
    return differences


def _reuse(existing: KeyVaultKey, request: _KeyRequest, what: str) -> KeyReference:
    if differences := _differences(existing, request):
        raise Conflict(
            "KeyExistsWithOtherContent",
            f"{what}: a key of that name exists and differs in {', '.join(differences)}.",
            hint="Choose another key name, or ask the key's owner to delete and purge the existing key. A policy is never replaced.",
            party="key-owner",
            details=differences,
        )
    return _reference(existing, request, created=False)


def _numbers(key: JsonWebKey) -> rsa.RSAPublicNumbers:
    # The SDK's JsonWebKey has no static members.
    return rsa.RSAPublicNumbers(int.from_bytes(getattr(key, "e", b""), "big"), int.from_bytes(getattr(key, "n", b""), "big"))


def _reference(key: KeyVaultKey, request: _KeyRequest, *, created: bool) -> KeyReference:
    """Return the reference of a key that does not differ from the request."""
    return KeyReference(
        key_id=str(key.id),
        name=str(key.name),
        version=str(key.properties.version),
        public_jwk=public_jwk(_numbers(key.key).public_key()),
        policy=request.policy.document(),
        created=created,
    )
