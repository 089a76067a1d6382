"""Publishes a collaborator's sealing key, and hands the keyring of the payload codec over to another collaborator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cleanroom.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from cleanroom.identifiers import sealing_document_id
from cleanroom.runs.published_keys import MAX_SEALING_KEYS, published_keys, published_sealing_keys
from cleanroom.runs.reader import UserReader
from cleanroom.secret import Secret, read_secret_file, write_secret_file
from cleanroom.statements import Handover
from cleanroom.statements.sealing import (
    SEALING_LABELS,
    SealedSecret,
    SealingKeyDocument,
    load_or_create_sealing_key,
    open_sealed,
    parse_sealed,
    seal,
)
from cleanroom.statements.signing import peek
from cleanroom.temporal.keyring import Keyring
from starters.operations.keys import publish_under_free_name
from starters.operations.session import Session, now


async def publish_sealing_key(session: Session) -> tuple[str, bool]:
    """Publish the key that others seal secrets for; create it at first use. Return its thumbprint, and whether anything changed.

    Raises:
        PreconditionFailed: ``TooManySealingKeys``.
    """
    user, own = session.user_id, load_or_create_sealing_key(session.settings.keys_dir)
    async with session.governance() as client:
        found = await published_sealing_keys(UserReader(client, session.collaboration), session.collaboration, user)
        if found and found[max(found)].key == own.public:
            return own.public.kid, False
        names = [sealing_document_id(user, number) for number in range(max(found, default=0) + 1, MAX_SEALING_KEYS + 1)]
        data = SealingKeyDocument(user_id=user, key=own.public).to_data()
        if await publish_under_free_name(session, client, names, data, SEALING_LABELS) is None:
            message = f"user {user}: all {MAX_SEALING_KEYS} documents for sealing keys are occupied."
            raise PreconditionFailed("TooManySealingKeys", message)
    return own.public.kid, True


async def seal_keyring(session: Session, recipient: str, file: Path) -> dict[str, Any]:
    """Seal the profile's keyring for another collaborator, and write it to ``file``.

    Args:
        session: Session of a collaborator with a keyring.
        recipient: Name or user ID of the recipient.
        file: A new file.

    Raises:
        PreconditionFailed: ``KeyringMissing``, ``SealingKeyNotPublished``.
        NotFound: ``RecipientUnknown``.
        Conflict: ``FileExists``.
    """
    if session.settings.temporal.keyring_file is None:
        message = f"profile {session.settings.profile!r} has no keyring."
        raise PreconditionFailed("KeyringMissing", message, hint="Set temporal.keyring_file in cleanroom.toml.")
    _require_new(file)
    parties = session.settings.parties
    user = parties.get(recipient, recipient if recipient in parties.values() else "")
    if not user:
        known = ", ".join(sorted(parties)) or "none"
        raise NotFound(
            "RecipientUnknown", f"{recipient!r} is not a collaborator of this profile.", hint=f"Known: {known}. See `cleanroom init NAME`."
        )
    async with session.governance() as client:
        found = await published_sealing_keys(UserReader(client, session.collaboration), session.collaboration, user)
    if not found:
        message = f"{recipient} has published no key to seal for."
        raise PreconditionFailed("SealingKeyNotPublished", message, hint=f"{recipient} runs `cleanroom init {recipient}` first.")
    keyring = read_secret_file(session.settings.temporal.keyring_file, what="codec keyring")
    document = found[max(found)]
    sealed = seal(keyring, document, collaboration=session.collaboration, sender=session.user_id, key=session.key(), now=now())
    write_secret_file(file, sealed.model_dump_json().encode() + b"\n")
    return {
        "file": str(file),
        "recipient": recipient,
        "key": document.key.kid,
        "keyring": Keyring.load(session.settings.temporal.keyring_file).current,
    }


async def open_keyring(session: Session, file: Path) -> tuple[str, bool]:
    """Open a sealed keyring and store it where the profile expects it. Return the current key's ID, and whether anything changed.

    Raises:
        NotFound: ``FileNotFound``.
        Refused: The file is not for this user, or not from a collaborator.
        Conflict: ``KeyringExists`` if the profile has another keyring.
        PreconditionFailed: ``SettingMissing``.
    """
    target = session.settings.temporal.keyring_file
    if target is None:
        message = f"profile {session.settings.profile!r}: temporal.keyring_file is not set."
        raise PreconditionFailed("SettingMissing", message, hint="Set it in cleanroom.toml to the file that will hold the keyring.")
    sealed = _read(file)
    sender = peek(Handover, sealed.handover).signer
    if sender not in session.settings.parties.values():
        raise InvalidInput(
            "SenderUnknown", f"{file}: its sender {sender} is not a collaborator of this profile.", hint="Run `cleanroom init NAME`."
        )
    async with session.governance() as client:
        keys = await published_keys(UserReader(client, session.collaboration), session.collaboration, sender)
    own = load_or_create_sealing_key(session.settings.keys_dir)
    secret = open_sealed(sealed, own, collaboration=session.collaboration, recipient=session.user_id, sender_keys=keys, now=now())
    return _store(secret, target)


def _require_new(file: Path) -> None:
    if file.exists():
        raise Conflict("FileExists", f"{file} exists.", hint="Name a new file with --out.")


def _read(file: Path) -> SealedSecret:
    try:
        return parse_sealed(file.read_bytes(), source=str(file))
    except OSError as error:
        raise NotFound("FileNotFound", f"{file} cannot be read.", cause=error.strerror) from error


def _store(secret: Secret, target: Path) -> tuple[str, bool]:
    new = target.with_name(f".{target.name}.new")
    write_secret_file(new, secret.reveal())
    try:
        opened = Keyring.load(new)
        if not target.exists():
            opened.save(target)
            return opened.current, True
    finally:
        new.unlink()
    stored = Keyring.load(target)
    if set(stored.key_ids) >= set(opened.key_ids):
        return stored.current, False
    raise Conflict("KeyringExists", f"{target} holds another keyring.", hint="Move it away if the received one replaces it, then repeat.")
