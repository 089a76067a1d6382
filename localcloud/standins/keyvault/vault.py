"""The vault: names, versions, attributes, release policies and soft delete (docs/facts/key-release.md)."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from cleanroom.jose.encoding import b64url
from cleanroom.jose.jwk import base_kty
from cleanroom.keys.release_policy import ReleasePolicy
from localcloud.standins.keyvault import material
from localcloud.standins.keyvault.errors import KeyVaultError, bad_parameter, forbidden, not_found, skr
from localcloud.standins.keyvault.release import AssertionVerifier, ReleaseSigner, parse_release_body, wrapped_for
from localcloud.standins.keyvault.requests import Attributes, Policy, read_policy, read_tags
from localcloud.standins.keyvault.store import KeyRecord, KeyStore, VersionRecord

Mode = Literal["vault", "managed-hsm"]
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}\Z")
_RECOVERABLE_DAYS = 7
_RECOVERY_LEVEL = "CustomizedRecoverable+Purgeable"
_KTYS = {"vault": frozenset({"RSA", "EC", "RSA-HSM", "EC-HSM"}), "managed-hsm": frozenset({"RSA-HSM", "EC-HSM", "oct-HSM"})}


class Vault:
    """The operations on keys. All methods raise :class:`KeyVaultError`; the caller authorises them."""

    def __init__(
        self,
        store: KeyStore,
        mode: Mode,
        verifier: AssertionVerifier,
        signer: ReleaseSigner,
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        new_version: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._store = store
        self._mode: Mode = mode
        self._verifier = verifier
        self._signer = signer
        self.clock = clock
        self._new_version = new_version

    def _now(self) -> int:
        return int(self.clock().timestamp())

    # Making keys

    def create(self, host: str, name: str, body: Mapping[str, Any], api_version: str) -> dict[str, Any]:
        """Generate a key: ``POST /keys/{name}/create``."""
        kty = self._kty(body.get("kty"), hardware=None)
        operations = material.operations(kty, body.get("key_ops"))
        return self._add(host, name, kty, operations, body, api_version, lambda: material.generate(kty, body))

    def import_key(self, host: str, name: str, body: Mapping[str, Any], api_version: str) -> dict[str, Any]:
        """Import a key: ``PUT /keys/{name}``. The members ``Hsm`` and ``hsm`` are equivalent."""
        key = body.get("key")
        if not isinstance(key, Mapping):
            raise bad_parameter("key: a JSON Web Key is required.")
        kty = self._kty(key.get("kty"), hardware=body.get("Hsm", body.get("hsm")))
        operations = material.operations(kty, key.get("key_ops"))
        return self._add(host, name, kty, operations, body, api_version, lambda: material.read_import(key, kty))

    def _kty(self, value: Any, hardware: Any) -> str:
        kty = str(value)
        if hardware is True or (self._mode == "managed-hsm" and base_kty(kty) in {"RSA", "EC", "oct"}):
            kty = f"{base_kty(kty)}-HSM"
        if kty not in _KTYS[self._mode]:
            raise bad_parameter(f"The key type {value!r} is not supported by this {self._mode}.")
        return kty

    def _add(
        self,
        host: str,
        name: str,
        kty: str,
        operations: tuple[str, ...],
        body: Mapping[str, Any],
        api_version: str,
        make: Callable[[], material.Material],
    ) -> dict[str, Any]:
        if not NAME.match(name):
            raise bad_parameter(f"The key name {name!r} does not match ^[0-9a-zA-Z-]+$.")
        attributes, tags, policy = (
            Attributes.read(body.get("attributes")),
            read_tags(body.get("tags")),
            read_policy(body.get("release_policy")),
        )
        if (policy is not None or attributes.exportable) and not supports_release(api_version):
            raise skr(1001, f"Exportable keys are not supported by api-version {api_version}.")
        # Generating an RSA key is slow, so it happens outside of the transaction and after the checks that do not need the key.
        self._check_addition(self._store.key(name), kty, attributes, policy)
        made = make()
        with self._store.transaction():
            current = self._store.key(name)
            record = self._check_addition(current, kty, attributes, policy, name)
            now = self._now()
            version = VersionRecord(
                name=record.name,
                version=self._new_version(),
                jwk=made.jwk,
                ops=operations,
                tags=tags or {},
                enabled=attributes.enabled is not False,
                nbf=attributes.nbf,
                exp=attributes.exp,
                created=now,
                updated=now,
            )
            self._store.put_key(record)
            self._store.add_version(version, made.private)
        return self._bundle(host, record, version)

    def _check_addition(
        self, current: KeyRecord | None, kty: str, attributes: Attributes, policy: Policy | None, name: str = ""
    ) -> KeyRecord:
        """Return the key record with this version added."""
        exportable = bool(attributes.exportable)
        if current is not None:
            if current.deleted is not None:
                raise KeyVaultError(
                    409,
                    "Conflict",
                    f"Key {current.name} is currently in a deleted but recoverable state, and its name cannot be reused; "
                    "in this state, the key can only be recovered or purged.",
                    inner="ObjectIsDeletedButRecoverable",
                )
            if attributes.exportable is not None and exportable != current.exportable:
                raise skr(1003, "The exportable attribute must be the same for all versions of a key.")
            exportable = current.exportable
        if exportable and not kty.endswith("-HSM"):
            raise skr(1006, "Exportable keys must be HSM-protected in a premium vault.")
        if policy is not None and not exportable:
            raise skr(1005, "Non-exportable keys must not have release policy.")
        if current is None:
            if exportable and policy is None:
                raise skr(1004, "Exportable keys must have release policy.")
            document, content_type, immutable = (
                (None, None, False) if policy is None else (policy.document, policy.content_type, policy.immutable)
            )
            return KeyRecord(name, exportable, document, content_type, immutable)
        return self._with_policy(current, policy)

    @staticmethod
    def _with_policy(current: KeyRecord, policy: Policy | None) -> KeyRecord:
        if policy is None:
            return current
        if current.immutable:
            raise skr(1020, "Immutable Key Release Policy cannot be modified.")
        return replace(current, policy=policy.document, content_type=policy.content_type, immutable=policy.immutable)

    # Reading and changing keys

    def _find(self, name: str, version: str | None) -> tuple[KeyRecord, VersionRecord]:
        record = self._store.key(name)
        if record is None or record.deleted is not None:
            raise not_found(name)
        versions = self._store.versions(name)
        found = versions[-1] if version is None else next((entry for entry in versions if entry.version == version), None)
        if found is None:
            raise not_found(f"{name}/{version}")
        return record, found

    def get(self, host: str, name: str, version: str | None) -> dict[str, Any]:
        """Read a key: ``GET /keys/{name}[/{version}]``."""
        return self._bundle(host, *self._find(name, version))

    def update(self, host: str, name: str, version: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
        """Update a key: ``PATCH /keys/{name}[/{version}]``."""
        attributes, tags, policy = (
            Attributes.read(body.get("attributes")),
            read_tags(body.get("tags")),
            read_policy(body.get("release_policy")),
        )
        with self._store.transaction():
            record, found = self._find(name, version)
            if attributes.exportable is not None and attributes.exportable != record.exportable:
                raise skr(1014, "The exportable attribute of a key cannot be changed.")
            if policy is not None:
                if version is not None:
                    raise skr(1016, "The release policy can be updated only on the versionless key identifier.")
                if not record.exportable:
                    raise skr(1005, "Non-exportable keys must not have release policy.")
                record = self._with_policy(record, policy)
                self._store.put_key(record)
            changed = replace(
                found,
                ops=found.ops if body.get("key_ops") is None else material.operations(str(found.jwk["kty"]), body["key_ops"]),
                tags=found.tags if tags is None else tags,
                enabled=found.enabled if attributes.enabled is None else attributes.enabled,
                nbf=found.nbf if attributes.nbf is None else attributes.nbf,
                exp=found.exp if attributes.exp is None else attributes.exp,
                updated=self._now(),
            )
            self._store.update_version(changed)
        return self._bundle(host, record, changed)

    def items(self, host: str, *, deleted: bool = False) -> list[dict[str, Any]]:
        """List keys: ``GET /keys``, ``GET /deletedkeys``. One item per key; its ``kid`` has no version."""
        result = []
        for record in self._store.keys(deleted=deleted):
            latest = self._store.versions(record.name)[-1]
            item = {"kid": f"https://{host}/keys/{record.name}", "attributes": self._attributes(record, latest), "tags": latest.tags}
            result.append({**item, **self._deletion(host, record)} if deleted else item)
        return result

    def version_items(self, host: str, name: str) -> list[dict[str, Any]]:
        """List the versions of a key: ``GET /keys/{name}/versions``."""
        record, _ = self._find(name, None)
        return [
            {"kid": self._kid(host, entry), "attributes": self._attributes(record, entry), "tags": entry.tags}
            for entry in self._store.versions(name)
        ]

    # Soft delete

    def delete(self, host: str, name: str) -> dict[str, Any]:
        """Delete a key, recoverably: ``DELETE /keys/{name}``."""
        with self._store.transaction():
            record, latest = self._find(name, None)
            now = self._now()
            record = replace(record, deleted=now, purge=now + _RECOVERABLE_DAYS * 86400)
            self._store.put_key(record)
        return {**self._bundle(host, record, latest), **self._deletion(host, record)}

    def _deleted(self, name: str) -> KeyRecord:
        record = self._store.key(name)
        if record is None or record.deleted is None:
            raise not_found(name)
        return record

    def get_deleted(self, host: str, name: str) -> dict[str, Any]:
        """Read a deleted key: ``GET /deletedkeys/{name}``."""
        record = self._deleted(name)
        return {**self._bundle(host, record, self._store.versions(name)[-1]), **self._deletion(host, record)}

    def recover(self, host: str, name: str) -> dict[str, Any]:
        """Recover a deleted key: ``POST /deletedkeys/{name}/recover``."""
        with self._store.transaction():
            record = replace(self._deleted(name), deleted=None, purge=None)
            self._store.put_key(record)
        return self.get(host, record.name, None)

    def purge(self, name: str) -> None:
        """Purge a deleted key: ``DELETE /deletedkeys/{name}``."""
        with self._store.transaction():
            self._store.drop_key(self._deleted(name).name)

    # Using keys

    def use(self, host: str, name: str, version: str | None, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Use a key: ``POST /keys/{name}/{version}/{encrypt|decrypt|wrapkey|unwrapkey|sign|verify}``."""
        _, found = self._find(name, version)
        if operation not in {"decrypt", "unwrapkey", "verify"}:
            self._check_usable(found)
        elif not found.enabled:
            raise forbidden("Operation is not allowed on a disabled key.", "KeyDisabled")
        result = material.use(operation, self._store.material(found), str(found.jwk["kty"]), found.ops, body)
        return result if operation == "verify" else {"kid": self._kid(host, found), **result}

    def _check_usable(self, found: VersionRecord) -> None:
        now = self._now()
        if not found.enabled:
            raise forbidden("Operation is not allowed on a disabled key.", "KeyDisabled")
        if (found.nbf is not None and now < found.nbf) or (found.exp is not None and now >= found.exp):
            raise forbidden("Operation is not allowed on a key outside its validity (nbf, exp).", "KeyDisabled")

    def release(self, host: str, name: str, version: str | None, body: Mapping[str, Any] | None, api_version: str) -> dict[str, Any]:
        """Release a key: ``POST /keys/{name}/{version}/release``. Clients see the order of the checks, so it is the service's."""
        if not supports_release(api_version):
            raise bad_parameter(f"Key release is not supported by api-version {api_version}.")
        record, found = self._find(name, version)
        self._check_usable(found)
        if not record.exportable or record.policy is None:
            raise bad_parameter(f"Key {name} is not exportable and has no release policy.")
        if body is None:
            raise bad_parameter("The request body is not a JSON object.")
        target, nonce, algorithm = parse_release_body(body)
        policy = ReleasePolicy.parse(record.policy)
        claims = self._verifier.verify(target, policy, self.clock())
        key_hsm = wrapped_for(claims, policy, self._store.material(found), algorithm)
        request: dict[str, Any] = {"api-version": api_version, "enc": str(algorithm), "kid": f"https://{host}/keys/{record.name}"}
        if version is not None:
            request["kid"] += f"/{version}"
        if nonce is not None:
            request["nonce"] = nonce
        bundle = self._bundle(host, record, found)
        key = {**bundle["key"], "key_hsm": key_hsm}
        if self._mode == "managed-hsm" and found.jwk["kty"] != "oct-HSM":
            key["kty"] = base_kty(key["kty"])
        released = {"attributes": bundle["attributes"], "key": key, "release_policy": bundle["release_policy"]}
        return {"value": self._signer.sign({"request": request, "response": {"key": released}})}

    # Answers

    def _kid(self, host: str, version: VersionRecord) -> str:
        return f"https://{host}/keys/{version.name}/{version.version}"

    def _attributes(self, record: KeyRecord, version: VersionRecord) -> dict[str, Any]:
        result: dict[str, Any] = {"enabled": version.enabled}
        if version.nbf is not None:
            result["nbf"] = version.nbf
        if version.exp is not None:
            result["exp"] = version.exp
        return result | {
            "created": version.created,
            "updated": version.updated,
            "recoveryLevel": _RECOVERY_LEVEL,
            "recoverableDays": _RECOVERABLE_DAYS,
            "exportable": record.exportable,
        }

    def _bundle(self, host: str, record: KeyRecord, version: VersionRecord) -> dict[str, Any]:
        public = {name: member for name, member in version.jwk.items() if name != "key_size"}
        bundle: dict[str, Any] = {
            "key": {"kid": self._kid(host, version), "key_ops": list(version.ops), **public},
            "attributes": self._attributes(record, version),
            "tags": version.tags,
        }
        if record.policy is not None:
            policy: dict[str, Any] = {"contentType": record.content_type, "data": b64url(record.policy.encode())}
            if record.immutable:
                policy["immutable"] = True
            bundle["release_policy"] = policy
        return bundle

    def _deletion(self, host: str, record: KeyRecord) -> dict[str, Any]:
        return {
            "recoveryId": f"https://{host}/deletedkeys/{record.name}",
            "deletedDate": record.deleted,
            "scheduledPurgeDate": record.purge,
        }


def supports_release(api_version: str) -> bool:
    """Whether an API version has secure key release: since 7.3, and the dated versions after 7.6."""
    return api_version.startswith(("7.3", "7.4", "7.5", "7.6", "2025-"))
