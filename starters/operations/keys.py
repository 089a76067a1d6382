"""Publishes and retires a collaborator's signing key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cleanroom.errors import Conflict, PreconditionFailed
from cleanroom.identifiers import approver_key_document_id, retirement_document_id
from cleanroom.runs.published_keys import MAX_RETIREMENTS, published_keys
from cleanroom.runs.reader import UserReader
from cleanroom.statements.keys import (
    KEY_LABELS,
    KeyDocument,
    KeyHistory,
    RetirementDocument,
    install_next_signing_key,
    next_signing_key,
)
from starters.operations.session import Session

if TYPE_CHECKING:
    from cleanroom.governance import GovernanceUserClient


async def publish_key(session: Session) -> dict[str, Any]:
    """Publish the public key of the collaborator as a document in governance; create the key on first use.

    Idempotent.

    Returns:
        The ID and state of the document, the key's thumbprint, and the user ID.

    Raises:
        Conflict: ``ApproverKeyDiffers`` when the user has published another key, ``ApproverKeyRetired`` when this key is retired.
    """
    public = session.key().public
    document_id = approver_key_document_id(session.user_id)
    async with session.governance() as client:
        documents = session.documents(client)
        existing = await documents.find(document_id)
        if existing is not None and existing.state == "Accepted":
            history = await _history(session, client)
            if public.kid in history.retired:
                raise Conflict(
                    "ApproverKeyRetired",
                    f"signing key: {public.kid} is retired.",
                    hint="Run `cleanroom key retire`, which publishes a new key.",
                )
            if public.kid not in {key.kid for key in history.active}:
                raise Conflict(
                    "ApproverKeyDiffers",
                    f"document {document_id} contains another signing key, and an accepted document never changes.",
                    hint="Set keys_dir in cleanroom.toml to the folder of the published key. If that key is lost or stolen, run "
                    "`cleanroom key retire`, which publishes the key of this folder in its place.",
                )
            document = existing
        else:
            body = KeyDocument(user_id=session.user_id, keys=(public,)).to_data()
            document = await documents.publish_own(document_id, body, KEY_LABELS, session.user_id)
    return {"document": document.id, "state": document.state, "kid": public.kid, "user": session.user_id}


async def retire_key(session: Session, kids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Retire published signing keys, and publish a new one in their place.

    Governance identifies the user by the token of Entra ID, so neither the old nor the new key has to sign. What governance recorded
    with a retired key before stays valid. Idempotent: a repeated call after an error completes the retirement.

    Args:
        session: Session of the collaborator.
        kids: Thumbprints of the keys to retire. Empty retires every published key.

    Returns:
        The retired keys, the thumbprint of the new key, and the user ID.

    Raises:
        PreconditionFailed: ``ApproverKeyNotPublished``, ``ApproverKeyUnknown``, ``TooManyRetirements``.
    """
    local = session.key().public
    async with session.governance() as client:
        history = await _history(session, client)
        known = {key.kid for key in history.keys}
        if unknown := [kid for kid in kids if kid not in known]:
            raise PreconditionFailed(
                "ApproverKeyUnknown", f"key {unknown[0]} is not among your published keys: {', '.join(sorted(known))}."
            )
        active = [key.kid for key in history.active]
        retires = tuple(dict.fromkeys(kids)) or tuple(active) or tuple(known)
        successor = local
        if local.kid in (*retires, *history.retired):
            successor = next_signing_key(session.settings.keys_dir).public
        if successor.kid in active:
            # An earlier call ended before it replaced the local key.
            retires = tuple(history.retired)
        else:
            wanted = RetirementDocument(user_id=session.user_id, retires=retires, keys=(successor,))
            await publish_retirement(session, client, wanted)
            # Readers search for retirements only when this consent is off. No other user can switch it on again.
            await client.set_document_consent(session.collaboration, approver_key_document_id(session.user_id), enabled=False)
    if successor.kid != local.kid:
        install_next_signing_key(session.settings.keys_dir)
    return {"retired": sorted(retires), "kid": successor.kid, "user": session.user_id}


async def _history(session: Session, client: GovernanceUserClient) -> KeyHistory:
    return await published_keys(UserReader(client, session.collaboration), session.collaboration, session.user_id)


async def publish_retirement(session: Session, client: GovernanceUserClient, wanted: RetirementDocument) -> str:
    """Publish the document under the first number that no other document occupies; return its ID."""
    user = session.user_id
    names = [retirement_document_id(user, number) for number in range(1, MAX_RETIREMENTS + 1)]
    published = await publish_under_free_name(session, client, names, wanted.to_data(), KEY_LABELS)
    if published is None:
        raise PreconditionFailed(
            "TooManyRetirements",
            f"user {user}: all {MAX_RETIREMENTS} documents for retirements are occupied.",
            hint="Ask the members for a new user. Until then, switch off the consent to your datasets (`cleanroom consent off NAME`).",
        )
    return published


async def publish_under_free_name(
    session: Session, client: GovernanceUserClient, names: Iterable[str], data: str, labels: Mapping[str, str]
) -> str | None:
    """Publish an own document under the first name that no other document occupies; return the name, or None if all are occupied."""
    documents = session.documents(client)
    for name in names:
        try:
            return (await documents.publish_own(name, data, labels, session.user_id)).id
        except Conflict as error:
            # An earlier document of this user, or one of another user.
            if error.code not in ("DocumentDiffers", "UserDocumentAlreadyProposed", "ContractIdMismatch"):
                raise
    return None
