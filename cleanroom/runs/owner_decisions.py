"""What a run of an accepted query would meet, and each owner's decision with its expiry, its limit and the runs used.

A run is refused by the clean room, which verifies everything. This uses the same functions on the same documents, so that the state of
a query that commands show is the one that a run would meet. It decides nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass

from cleanroom.errors import CleanRoomError, Refused, Unavailable
from cleanroom.identifiers import decision_document_id
from cleanroom.runs.approvals import count_runs, stored_decision
from cleanroom.runs.decisions import parse_decision_document
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader
from cleanroom.runs.standing import require_consent
from cleanroom.statements.model import Decision
from cleanroom.statements.signing import peek

STATES = {
    "ApprovalExpired": "Expired",
    "ApprovalRunsExhausted": "Exhausted",
    "UserDocumentRuntimeOptionDisabled": "Consent Withdrawn",
}
"""State of an accepted query by the code with which a run would be refused. Other codes are shown as ``Refused``."""


@dataclass(frozen=True)
class OwnerDecision:
    """One owner's vote and signed decision."""

    owner: str
    """User ID."""
    decision: Decision | None
    """None if there is no valid signed decision."""
    problem: Refused | None = None
    """Why a run cannot use the decision."""


@dataclass(frozen=True)
class OwnerDecisions:
    """The decisions on an accepted query."""

    decisions: tuple[OwnerDecision, ...]
    runs_used: int
    refusal: CleanRoomError | None
    """What a run would meet; None if it may begin."""

    @property
    def state(self) -> str:
        """The state in one word or two."""
        return "Approved" if self.refusal is None else STATES.get(self.refusal.code, "Refused")

    @property
    def expires(self) -> dt.datetime | None:
        """When the first decision expires."""
        return min((item.decision.expires for item in self.decisions if item.decision), default=None)


async def read_owner_decisions(
    reader: GovernanceReader, collaboration: str, document: AcceptedDocument, now: dt.datetime
) -> OwnerDecisions:
    """Read the owners' decisions on an accepted query, the runs that have started, and its consent.

    Raises:
        Unavailable: Governance does not respond.
    """
    reading = asyncio.gather(*(_owner_decision(reader, collaboration, document, owner, now) for owner in document.accepted_by))
    decisions, started, consent = await asyncio.gather(reading, reader.runs_started(document.id), reader.consent(document.id))
    found = tuple(decisions)
    refusal: CleanRoomError | None = next((item.problem for item in found if item.problem), None)
    try:
        if refusal is None:
            await count_runs(reader, "", document, [item.decision for item in found if item.decision])
            require_consent([document.id], [consent])
    except Unavailable:
        raise
    except CleanRoomError as error:
        refusal = error
    return OwnerDecisions(found, len(started), refusal)


async def _owner_decision(
    reader: GovernanceReader, collaboration: str, document: AcceptedDocument, owner: str, now: dt.datetime
) -> OwnerDecision:
    try:
        return OwnerDecision(owner, await stored_decision(reader, collaboration, document, owner, now))
    except Refused as error:
        if error.code != "ApprovalExpired":
            return OwnerDecision(owner, None, error)
        expired = error
    # Verified at a time at which it was valid: what is shown of an expired decision is still what the owner signed.
    stored = await reader.accepted_document(decision_document_id(document.proposal_id, owner))
    before = peek(Decision, parse_decision_document(stored.data)).expires - dt.timedelta(seconds=1)
    try:
        return OwnerDecision(owner, await stored_decision(reader, collaboration, document, owner, before), expired)
    except Refused as error:
        return OwnerDecision(owner, None, error)
