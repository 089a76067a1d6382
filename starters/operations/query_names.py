"""Names of renewed queries.

Governance never changes an accepted document. So a renewal is another document, whose name is the query's with a number:
``totals``, ``totals-r2``, ``totals-r3``. Commands accept the first name and find the renewal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cleanroom.errors import CleanRoomError
from starters.operations.session import Session
from starters.terminal.output import print_status, safe

# Other modules are imported on use: commands import this one before they know what they need.
if TYPE_CHECKING:
    from cleanroom.governance import Document
    from cleanroom.publishing.user_documents import UserDocuments

_RENEWAL = re.compile(r"(.+)-r([1-9][0-9]{0,3})")


def first_name(name: str, known: set[str]) -> str:
    """Return the name of the query that ``name`` renews, or ``name`` if it renews none of ``known``."""
    found = _RENEWAL.fullmatch(name)
    return found[1] if found and int(found[2]) > 1 and found[1] in known else name


def renewal_number(name: str, first: str) -> int:
    """Return which renewal of ``first`` this is: 1 for ``first`` itself, 0 for another query."""
    if name == first:
        return 1
    found = _RENEWAL.fullmatch(name)
    return int(found[2]) if found and found[1] == first and int(found[2]) > 1 else 0


def renewed_name(first: str, number: int) -> str:
    """Return the name of a renewal.

    Raises:
        InvalidInput: ``InvalidName`` if it is too long.
    """
    from cleanroom.identifiers import require_name

    return require_name("query", f"{first}-r{number}")


def names_before(name: str) -> list[str]:
    """Return the names of the versions that ``name`` can renew, latest first, as its number says."""
    found = _RENEWAL.fullmatch(name)
    if found is None or int(found[2]) < 2:
        return []
    return [*(f"{found[1]}-r{number}" for number in range(int(found[2]) - 1, 1, -1)), found[1]]


async def generations(session: Session, name: str) -> list[Document]:
    """Return the documents of a query and of its renewals, oldest first. Empty if governance does not have the query.

    A document with such a name counts only if it has the same proposer: any user can store one.

    Args:
        session: Session of the command.
        name: Name of the query or of one of its renewals.
    """
    from cleanroom.documents.query import QUERY_LABELS
    from cleanroom.identifiers import is_name

    if not is_name(name):
        return []
    async with session.governance() as client:
        documents = session.documents(client)
        listed = {row.id for row in await client.list_documents(QUERY_LABELS)}
        first = first_name(name, listed)
        numbered = sorted((number, other) for other in listed if (number := renewal_number(other, first)))
        found = [document for _, other in numbered if (document := await _read(documents, other)) is not None]
    if not found or found[0].id != first:
        return [document for document in found if document.id == name]
    proposer = author(found[0])
    return [document for document in found if author(document) == proposer]


async def _read(documents: UserDocuments, name: str) -> Document | None:
    """Read a document; None if it does not exist, cannot be read, or belongs to another collaboration."""
    try:
        return await documents.find(name)
    except CleanRoomError as error:
        if error.retryable:
            raise
        return None


def author(document: Document) -> str:
    """Return the user ID of a query's author: as governance names it, or for a draft as its text does."""
    from cleanroom.documents.query import parse_query

    if document.state != "Draft" and document.proposer_id:
        return document.proposer_id
    try:
        approval = parse_query(str(document.data), document_id=document.id).approval
    except CleanRoomError:
        return ""
    return approval.proposer_id if approval else ""


async def latest_name(session: Session, name: str, *, accepted: bool = False) -> str:
    """Return the name of the latest renewal of a query, or ``name`` without renewals.

    Args:
        session: Session of the command.
        name: What the user typed. The name of a renewal stays as it is.
        accepted: Only renewals that all owners have approved: a proposal does not replace the query that it renews.
    """
    found = await generations(session, name)
    if not found or found[0].id != name:
        return name
    latest = next((document.id for document in reversed(found) if not accepted or document.state == "Accepted"), name)
    if latest != name:
        print_status(f"[dim]{safe(name)} was renewed as {safe(latest)}[/dim]")
    return latest


async def accepted_versions(session: Session, name: str) -> list[str]:
    """Return the names of the accepted versions of a query, oldest first. For any other document, and for a renewal: its own name."""
    found = await generations(session, name)
    if not found or found[0].id != name:
        return [name]
    return [document.id for document in found if document.state == "Accepted"] or [name]
