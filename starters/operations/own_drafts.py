"""Remembers, on the collaborator's machine, which text of a draft the collaborator wrote, and checks a draft against it.

Governance lets every user edit a draft, and the operator of Temporal chooses what the workflow shows. So the text that a proposer
signs is compared with what this machine knows: the draft that it wrote last, or a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cleanroom.errors import CleanRoomError, Conflict, NotFound, PreconditionFailed
from cleanroom.identifiers import document_digest, require_name
from cleanroom.joining import hashed
from cleanroom.lifecycle.state import WorkflowEnd
from cleanroom.publishing.verification import verify_draft_matches_spec
from cleanroom.secret import require_private_folder, write_secret_file
from starters.operations.query_standing import state_with
from starters.operations.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from cleanroom.documents.specs import QuerySpec
    from cleanroom.governance import Document


async def read_query_document(session: Session, name: str) -> Document:
    """Read the document of a query from governance.

    Raises:
        PreconditionFailed: ``QueryNotDraft`` if governance holds no document yet.
    """
    async with session.governance() as client:
        try:
            return await session.documents(client).get(name)
        except NotFound as error:
            raise PreconditionFailed(
                "QueryNotDraft",
                f"query {name!r}: governance holds no draft of it.",
                hint=f"`cleanroom query show {name}` says whether its author's worker is missing.",
            ) from error


async def remember_own_draft(session: Session, spec: QuerySpec) -> None:
    """Record the digest of the draft in governance, if its text is ``spec``. Otherwise another user changed it at the same time."""
    document = await read_query_document(session, spec.name)
    try:
        verify_draft_matches_spec(str(document.data), spec, session.collaboration)
    except CleanRoomError:
        return
    write_secret_file(_record(session, spec.name), document_digest(str(document.data)).encode())


def require_own_draft(session: Session, document: Document, spec: QuerySpec | None = None) -> None:
    """Require that governance holds a draft with the text in ``spec``, or without one with the text that was recorded last.

    Raises:
        PreconditionFailed: ``QueryNotDraft``.
        Conflict: ``DraftChanged``.
        Refused: ``DraftMismatch``.
    """
    if document.state != "Draft":
        raise PreconditionFailed(
            "QueryNotDraft",
            f"propose: query {document.id!r} is {state_with(document.state, (WorkflowEnd.OPEN, '')).word}, not a draft.",
            hint=f"Withdraw the proposal first: `cleanroom query withdraw {document.id} --only-proposal`."
            if document.state == "Proposed"
            else f"An approved query does not change. Propose a new version: `cleanroom query renew {document.id}`, with --file.",
        )
    _require_own_text(session, document, spec)


def has_own_text(session: Session, document: Document, spec: QuerySpec | None = None) -> bool:
    """Return whether a document, in any state, has the text in ``spec``, or without one the text that was recorded last."""
    try:
        _require_own_text(session, document, spec)
    except CleanRoomError:
        return False
    return True


def _require_own_text(session: Session, document: Document, spec: QuerySpec | None) -> None:
    if spec is not None:
        if spec.name != document.id:
            raise Conflict("DraftChanged", f"query {document.id!r}: the file describes query {spec.name!r}.")
        verify_draft_matches_spec(str(document.data), spec, session.collaboration)
        return
    record = _record(session, document.id)
    require_private_folder(record.parent)
    if not record.exists() or record.read_text("ascii").strip() != document_digest(str(document.data)):
        raise Conflict(
            "DraftChanged",
            f"query {document.id!r}: version {document.version} is not the text that you wrote last on this machine.",
            hint=f"To propose the text of a file, run `cleanroom query propose {document.id} --file FILE`. "
            "To replace the draft by it, run `cleanroom query update FILE` first.",
        )


def _record(session: Session, query: str) -> Path:
    folder = hashed("own-drafts", session.collaboration, prefix="drafts", max_length=100, readable=session.collaboration)
    return session.settings.keys_dir.expanduser() / folder / f"{require_name('query', query)}.digest"
