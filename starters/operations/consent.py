"""Gives, withdraws and reads consent to the use of a query or a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from cleanroom.errors import CleanRoomError
from starters.operations.session import Session

# The clients of governance are imported on use.
if TYPE_CHECKING:
    from cleanroom.governance import Consent, GovernanceUserClient

ConsentOption = Literal["execution", "telemetry"]


async def set_consent(session: Session, document: str, *, enabled: bool, option: ConsentOption = "execution") -> dict[str, Any]:
    """Give or withdraw the consent of this collaborator; another approver's withdrawal stays in effect.

    Args:
        session: Session of an approver of the document.
        document: Name of a query or dataset.
        enabled: Whether the collaborator consents.
        option: What the consent is about.

    Returns:
        The consent afterwards, see :func:`read_consent`.

    Raises:
        NotFound: ``UserDocumentNotFound``.
        PreconditionFailed: ``UserDocumentNotAccepted``.
        Refused: ``NotUserDocumentApprover``.
        InvalidInput: ``ProfileIsNoPerson``.
    """
    from starters.operations.collaboration import user_governance

    async with user_governance(session) as client:
        with _consent_hints(document):
            # Governance accepts any document ID here. This read refuses a document of another collaboration.
            await session.documents(client).get(document)
            await client.set_document_consent(session.collaboration, document, option, enabled=enabled)
            return await _consent_record(session, client, document, option)


async def read_consent(session: Session, document: str, option: ConsentOption = "execution") -> dict[str, Any]:
    """Return ``{document, state, option, status, reason, disabledBy}``; ``disabledBy`` lists collaborators by name if known.

    Raises:
        NotFound: ``UserDocumentNotFound``.
    """
    from starters.operations.collaboration import governance_reader

    async with governance_reader(session) as client:
        with _consent_hints(document):
            return await _consent_record(session, client, document, option)


@contextmanager
def _consent_hints(document: str) -> Iterator[None]:
    """Add hints about consent to errors of governance."""
    try:
        yield
    except CleanRoomError as error:
        error.hint = error.hint or {
            "UserDocumentNotFound": "List the names with `cleanroom query list` and `cleanroom dataset list`.",
            "UserDocumentNotAccepted": "Consent applies to approved documents. To oppose an open proposal: cleanroom query reject",
            "NotUserDocumentApprover": f"Only the approvers of {document!r} can give or withdraw consent.",
        }.get(error.code)
        raise


async def _consent_record(session: Session, client: GovernanceUserClient, document: str, option: ConsentOption) -> dict[str, Any]:
    found = await session.documents(client).get(document)
    consent = await client.document_consent(session.collaboration, document, option)
    return {
        "document": document,
        "state": found.state,
        "option": option,
        "status": consent.status,
        "reason": consent.reason.code if consent.reason else None,
        "disabledBy": _disabled_by(consent, [item.approver_id for item in found.approvers or ()], session.settings.user_names),
    }


async def disabled_by(session: Session, client: GovernanceUserClient, document: str) -> list[str]:
    """Return the names of the approvers who withdrew their consent to the execution of a document."""
    found = await client.document_consent(session.collaboration, document)
    approvers = [item.approver_id for item in (await session.documents(client).get(document)).approvers or ()]
    return _disabled_by(found, approvers, session.settings.user_names)


def _disabled_by(consent: Consent, approvers: list[str], names: dict[str, str]) -> list[str]:
    """Return the approvers who withdrew their consent.

    Governance reports them only within the text of the reason, as ``m[id1,id2]``.

    Args:
        consent: Consent as governance reports it.
        approvers: User IDs of the document's approvers.
        names: Names of collaborators by user ID.
    """
    found = re.search(r"\bm\[([^\]]*)\]", consent.reason.message) if consent.reason else None
    if found is None:
        return []
    listed = [item.strip() for item in found.group(1).split(",")]
    return [names.get(user, user) for user in listed if user in approvers]
