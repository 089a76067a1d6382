"""``cleanroom key``: publish the key that signs your decisions. Also ``python -m starters.keys``."""

from __future__ import annotations

from typing import Any

import typer

from cleanroom.errors import Conflict
from cleanroom.identifiers import approver_key_document_id
from cleanroom.statements.keys import KEY_LABELS, KeyDocument, parse_key_document
from starters.entry import command_line
from starters.output import ConfigFile, Format, Output, Profile, print_record, reported
from starters.session import Session, run_async

app = typer.Typer(help="Your signing key.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The key that signs your decisions lies in your key folder; its public half is published once."""


@app.command()
def publish(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Publish the public half of your signing key in governance, accepted by you alone.

    Example: cleanroom key publish --profile litware
    """
    with reported(output):
        print_record(run_async(publish_key(Session.load(profile, config))), output, title="signing key")


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


if __name__ == "__main__":
    command_line(app)
