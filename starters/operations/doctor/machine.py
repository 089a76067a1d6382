"""Checks of what is on this machine: settings, files with secrets, keys, keyring."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from cleanroom.clients.owned import secret_path
from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.secret import read_secret_file, require_private_folder
from cleanroom.settings import Settings
from starters.operations.doctor.checks import Check, NotApplicable

SIGNING_KEY = "signing-key.pem"


def machine_checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks that need no network."""

    async def configured() -> str:
        return _require_settings(settings)

    async def secrets() -> str:
        return await asyncio.to_thread(_read_secrets, settings)

    async def roots() -> str:
        return await asyncio.to_thread(_read_roots, settings)

    async def keys() -> str:
        return await asyncio.to_thread(_look_at_keys, settings)

    async def keyring() -> str:
        return await asyncio.to_thread(_read_keyring, settings)

    yield Check("machine", "settings", configured)
    yield Check("machine", "files with secrets", secrets)
    yield Check("machine", "TLS roots", roots)
    if settings.party is not None:
        yield Check("machine", "signing key", keys)
    yield Check("machine", "payload keyring", keyring)


def _require_settings(settings: Settings) -> str:
    """Require what the profile's boundary needs."""
    needed = {"collaboration": settings.collaboration}
    if not settings.governance.proxy_url:
        needed["governance.url"] = settings.governance.url
    if settings.azure.subscription_id:
        needed |= {
            f"azure.{name}": getattr(settings.azure, name)
            for name in ("resource_group", "storage_account_url", "storage_account_id", "key_vault_url", "key_vault_id", "maa_url")
        }
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise PreconditionFailed(
            "SettingMissing",
            f"profile {settings.profile!r} does not set {', '.join(missing)}.",
            hint=f"Set {missing[0]} in cleanroom.toml (docs/reference/configuration.md). On one machine, `cleanroom up` writes that file.",
        )
    if settings.party is not None and settings.party not in settings.parties:
        raise PreconditionFailed(
            "PartyUnknown",
            f"[default.parties] has no user ID for {settings.party!r}.",
            hint="Add it to [default.parties] in cleanroom.toml. `cleanroom members` lists the user IDs.",
        )
    return f"profile {settings.profile}, boundary {settings.boundary}, collaboration {settings.collaboration}"


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    named = {
        "credential.client_secret_file": settings.credential.client_secret_file,
        "temporal.codec_token_file": settings.temporal.codec_token_file,
        "governance.client_key_file": settings.governance.client_key_file,
        "governance.member_token_file": settings.governance.member_token_file,
        "notifications.url_file": settings.notifications.url_file,
    }
    yield from ((name, path) for name, path in named.items() if path is not None)
    yield from ((f"secret_files.{name}", secret_path(settings, name)) for name in settings.secret_files)


def _read_secrets(settings: Settings) -> str:
    found = list(_secret_files(settings))
    for name, path in found:
        read_secret_file(path, what=name)
    if not found:
        raise NotApplicable("the profile names no file with a secret")
    return f"{len(found)} files, readable for their owner only"


def _read_roots(settings: Settings) -> str:
    from cleanroom.transport import ssl_context

    for path in (settings.ca_file, settings.governance.service_cert_file):
        if path is not None and not path.is_file():
            raise PreconditionFailed("TlsFileNotFound", f"the file with TLS roots {path} does not exist.", hint="Correct the path.")
        ssl_context(path)
    return f"{settings.ca_file or 'those of the operating system'}"


def _look_at_keys(settings: Settings) -> str:
    folder = settings.keys_dir.expanduser()
    if not (folder / SIGNING_KEY).exists():
        raise PreconditionFailed(
            "SigningKeyMissing",
            f"{folder} has no signing key.",
            hint=f"Create and publish it: `cleanroom key publish --profile {settings.profile}`",
        )
    require_private_folder(folder)
    from cleanroom.statements import load_or_create_signing_key

    return f"{load_or_create_signing_key(folder).public.kid}"


def _read_keyring(settings: Settings) -> str:
    from cleanroom.temporal.keyring import Keyring

    if settings.temporal.keyring_file is None:
        raise Refused(
            "PlaintextPayloads",
            "temporal.keyring_file is not set, so the operator of Temporal can read SQL and statements.",
            hint="Create a keyring with `cleanroom codec-keys FILE`, hand it to the others, and set temporal.keyring_file.",
        )
    keyring = Keyring.load(settings.temporal.keyring_file)
    return f"{len(keyring.key_ids)} keys, current {keyring.current}"
