"""Proposes a query again whose approvals have expired, whose runs are used up, or whose workflow has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cleanroom.errors import Conflict, NotFound, Refused
from cleanroom.lifecycle.query import DEFAULT_APPROVAL_SECONDS
from starters.operations.query_names import author, generations, renewal_number, renewed_name
from starters.operations.session import Session
from starters.terminal.output import print_status, safe

# Imported on use: the query is read before Temporal is needed.
if TYPE_CHECKING:
    from cleanroom.documents.specs import QuerySpec
    from cleanroom.governance import Document


async def renew_query(
    session: Session,
    name: str,
    spec: QuerySpec | None = None,
    *,
    approval_seconds: int = DEFAULT_APPROVAL_SECONDS,
) -> dict[str, Any]:
    """Propose the same text of a query, or another one, to the owners again. Idempotent.

    Governance never changes an accepted document, so an accepted query is renewed by another document: see
    :mod:`starters.operations.query_names`. Its decisions, runs and history stay where they are. A proposal or draft whose workflow has
    ended gets a workflow again.

    Args:
        session: Session of the query's proposer.
        name: Name of the query or of one of its renewals.
        spec: The new text. None proposes the text of the last version.
        approval_seconds: Seconds until the open proposal expires.

    Returns:
        The record of the proposed query, see :func:`starters.operations.queries.query_record`, with ``renews``.

    Raises:
        NotFound: ``UserDocumentNotFound``.
        Refused: ``NotQueryProposer``.
        Conflict: ``DraftChanged`` if the draft is not the text that this collaborator wrote last; ``AlreadyProposed``.
    """
    session.require_encryption()
    found = await generations(session, name)
    if not found:
        raise NotFound("UserDocumentNotFound", f"governance has no query {name!r}.", hint="`cleanroom query list` shows the queries.")
    last = found[-1]
    if author(last) != session.user_id:
        proposer = session.party_of(author(last))
        raise Refused(
            "NotQueryProposer",
            f"only {proposer}, who proposed query {found[0].id!r}, can renew it.",
            hint=f"Ask {proposer} for `cleanroom query renew {found[0].id}`, or choose another name: `cleanroom query create FILE`.",
        )
    if last.state == "Accepted":
        return await _propose_next(session, found, spec, approval_seconds)
    from starters.operations.own_drafts import has_own_text

    if spec is None and last.state == "Draft" and len(found) > 1 and not has_own_text(session, last):
        # The earlier command was killed before it took note of its draft.
        spec = _specification(found[-2], session.collaboration)
    return await _propose_last(session, last, spec, approval_seconds) | {"renews": [document.id for document in found[:-1]]}


async def _propose_next(session: Session, found: list[Document], spec: QuerySpec | None, approval_seconds: int) -> dict[str, Any]:
    """Create and propose another document for a query that was accepted."""
    from starters.operations.queries import create_query, propose_query, query_record
    from starters.operations.query_workflow import read_state

    first, last = found[0].id, found[-1]
    # A name that another user has taken is passed over.
    name = await _free_name(session, first, renewal_number(last.id, first) + 1)
    text = spec or _specification(last, session.collaboration)
    renewed = text.model_copy(update={"name": name})
    record = await create_query(session, renewed, approval_seconds=approval_seconds)
    await propose_query(session, name)
    print_status(f"[dim]{safe(first)} is renewed as {safe(name)}; commands find it by its first name[/dim]")
    return record | query_record(session, await read_state(session, name)) | {"renews": [document.id for document in found]}


async def _free_name(session: Session, first: str, number: int) -> str:
    async with session.governance() as client:
        taken = {row.id for row in await client.list_documents()}
    while (name := renewed_name(first, number)) in taken:
        number += 1
    return name


async def _propose_last(session: Session, last: Document, spec: QuerySpec | None, approval_seconds: int) -> dict[str, Any]:
    """Propose a draft that no workflow or an open one has, or take over an open proposal."""
    from starters.operations.adopt import adopt_query
    from starters.operations.own_drafts import has_own_text
    from starters.operations.queries import propose_query, query_record, update_query
    from starters.operations.query_workflow import read_state

    name = last.id
    text = spec.model_copy(update={"name": name}) if spec is not None else None
    if last.state == "Proposed" and text is not None and not has_own_text(session, last, text):
        raise Conflict(
            "AlreadyProposed",
            f"query {name!r} is proposed with another text.",
            hint=f"Withdraw the proposal with `cleanroom query withdraw {name}`, then renew it.",
        )
    if not await _has_open_workflow(session, name):
        await adopt_query(session, name, approval_seconds=approval_seconds)
    if last.state == "Draft":
        if text is not None and not has_own_text(session, last, text):
            await update_query(session, text)
        await propose_query(session, name, text)
    else:
        print_status(f"[dim]{safe(name)} is proposed already, with this text[/dim]")
    return query_record(session, await read_state(session, name))


async def _has_open_workflow(session: Session, name: str) -> bool:
    from starters.operations.query_workflow import find_query

    try:
        return not (await find_query(session, name)).ended
    except NotFound:
        return False


def _specification(document: Document, collaboration: str) -> QuerySpec:
    from cleanroom.publishing.adoption import query_specification

    return query_specification(document, collaboration)[0]
