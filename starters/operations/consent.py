"""Gives, withdraws and reads consent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from cleanroom.errors import CleanRoomError
from cleanroom.governance import Consent, GovernanceUserClient
from starters.operations.collaboration import user_governance
from starters.operations.session import Session


async def set_consent(
    session: Session, document: str, *, enabled: bool, option: Literal["execution", "telemetry"] = "execution"
) -> dict[str, Any]:
    """Give or withdraw this person's consent; returns what holds now. Other approvers' withdrawals stay (spec/governance.md 6.2).

    Raises:
        NotFound: ``UserDocumentNotFound``.
        PreconditionFailed: ``UserDocumentNotAccepted``.
        Refused: ``NotUserDocumentApprover``.
        InvalidInput: ``ProfileIsNoPerson``.
    """
    async with user_governance(session) as client:
        with consent_hints(document):
            # Governance does not compare the contract here; a document of another collaboration must not be switched by mistake.
            await session.documents(client).get(document)
            await client.set_document_consent(session.collaboration, document, option, enabled=enabled)
            return await consent_record(session, client, document, option)


@contextmanager
def consent_hints(document: str) -> Iterator[None]:
    """Around governance: what it refuses gets a hint, in the words of the command line."""
    try:
        yield
    except CleanRoomError as error:
        error.hint = error.hint or {
            "UserDocumentNotFound": "`cleanroom query list` and `cleanroom dataset list` show what there is.",
            "UserDocumentNotAccepted": "Consent is about what has been approved; reject an open proposal: `cleanroom query reject`.",
            "NotUserDocumentApprover": f"Only those who approved {document!r} give or withdraw consent to it.",
        }.get(error.code)
        raise


async def consent_record(
    session: Session, client: GovernanceUserClient, document: str, option: Literal["execution", "telemetry"]
) -> dict[str, Any]:
    """``{document, state, option, status, reason, disabledBy}``; ``disabledBy`` names parties where they are known."""
    found = await session.documents(client).get(document)
    consent = await client.document_consent(session.collaboration, document, option)
    return {
        "document": document,
        "state": found.state,
        "option": option,
        "status": consent.status,
        "reason": consent.reason.code if consent.reason else None,
        "disabledBy": disabled_by(consent, [item.approver_id for item in found.approvers or ()], session.settings.parties),
    }


def disabled_by(consent: Consent, approvers: list[str], parties: dict[str, str]) -> list[str]:
    """Which approvers withdrew, read from the reason's text (it embeds ``m[id1,id2]``, spec/governance.md 6.1)."""
    found = re.search(r"\bm\[([^\]]*)\]", consent.reason.message) if consent.reason else None
    if found is None:
        return []
    names = {user: name for name, user in parties.items()}
    listed = [item.strip() for item in found.group(1).split(",")]
    return [names.get(user, user) for user in listed if user in approvers]
