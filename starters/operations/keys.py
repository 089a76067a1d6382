"""Publishes a collaborator's signing key."""

from __future__ import annotations

from typing import Any

from cleanroom.errors import Conflict
from cleanroom.identifiers import approver_key_document_id
from cleanroom.statements.keys import KEY_LABELS, KeyDocument, parse_key_document
from starters.operations.session import Session


async def publish_key(session: Session) -> dict[str, Any]:
    """Publish the person's key; publishing the same key again changes nothing.

    Raises:
        Conflict: ``ApproverKeyDiffers`` when another key was published before.
    """
    public = session.key().public
    document_id = approver_key_document_id(session.user_id)
    async with session.governance() as client:
        documents = session.documents(client)
        existing = await documents.find(document_id)
        if existing is not None and existing.state == "Accepted":
            held = parse_key_document(str(existing.data), document_id=document_id)
            if public.kid not in {key.kid for key in held.keys}:
                raise Conflict(
                    "ApproverKeyDiffers",
                    f"{document_id}: another signing key was published, and accepted documents never change.",
                    hint="Use that key's folder (settings: keys_dir), or ask for a new user.",
                )
            document = existing
        else:
            body = KeyDocument(user_id=session.user_id, keys=(public,)).to_data()
            document = await documents.publish_own(document_id, body, KEY_LABELS, session.user_id)
    return {"document": document.id, "state": document.state, "kid": public.kid, "user": session.user_id}
