"""Publishes a collaborator's signing key."""

from __future__ import annotations

from typing import Any

from cleanroom.errors import Conflict
from cleanroom.identifiers import approver_key_document_id
from cleanroom.statements.keys import KEY_LABELS, KeyDocument, parse_key_document
from starters.operations.session import Session


async def publish_key(session: Session) -> dict[str, Any]:
    """Publish the public key of the collaborator as a document in governance; create the key on first use.

    Idempotent.

    Returns:
        The ID and state of the document, the key's thumbprint, and the user ID.

    Raises:
        Conflict: ``ApproverKeyDiffers`` when the user has published another key.
    """
    public = session.key().public
    document_id = approver_key_document_id(session.user_id)
    async with session.governance() as client:
        documents = session.documents(client)
        existing = await documents.find(document_id)
        if existing is not None and existing.state == "Accepted":
            published = parse_key_document(str(existing.data), document_id=document_id)
            if public.kid not in {key.kid for key in published.keys}:
                raise Conflict(
                    "ApproverKeyDiffers",
                    f"document {document_id} contains another signing key, and an accepted document never changes.",
                    hint="Set keys_dir in cleanroom.toml to the folder of the published key. If that key is lost, ask for a new user.",
                )
            document = existing
        else:
            body = KeyDocument(user_id=session.user_id, keys=(public,)).to_data()
            document = await documents.publish_own(document_id, body, KEY_LABELS, session.user_id)
    return {"document": document.id, "state": document.state, "kid": public.kid, "user": session.user_id}
