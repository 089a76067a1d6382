"""What a run of an accepted query would meet, and each owner's decision with its expiry, its limit and the runs used.

A run is refused by the clean room, which verifies everything. This uses the same functions on the same documents, so that the state of
a query that commands show is the one that a run would meet. It decides nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cleanroom.concurrency import gather_limited
from cleanroom.errors import CleanRoomError, Refused, Unavailable
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import decision_document_id
from cleanroom.messages.known import ApprovedTerms
from cleanroom.runs.approvals import count_runs, require_approval, require_owners, stored_decision
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.decisions import parse_decision_document
from cleanroom.runs.reader import AcceptedDocument, Consent, GovernanceReader, UserReader
from cleanroom.runs.standing import require_consent
from cleanroom.statements.model import Decision
from cleanroom.statements.signing import peek

CONCURRENT = 16
"""Documents of one query that are read at the same time."""


@dataclass(frozen=True)
class OwnerDecision:
    """One owner's vote and signed decision."""

    owner: str
    """User ID."""
    decision: Decision | None
    """None if there is no valid signed decision."""
    problem: CleanRoomError | None = None
    """Why a run cannot use the decision."""


@dataclass(frozen=True)
class OwnerDecisions:
    """The decisions on an accepted query."""

    decisions: tuple[OwnerDecision, ...]
    runs_used: int
    refusal: CleanRoomError | None
    """What a run would meet; None if it may begin."""
    datasets: tuple[str, ...] = ()
    """IDs of the datasets."""

    @property
    def expires(self) -> dt.datetime | None:
        """When the first decision expires; None if there is no valid one."""
        return min((item.decision.expires for item in self.decisions if item.decision), default=None)

    @property
    def run_limit(self) -> int | None:
        """The smallest number of runs that a decision allows; None if no decision has a limit."""
        return min((item.decision.max_runs for item in self.decisions if item.decision and item.decision.max_runs), default=None)

    @property
    def version(self) -> str:
        """The version that the owners decided on; empty without a valid decision. An accepted document has another one in governance."""
        return next((item.decision.version for item in self.decisions if item.decision), "")


async def read_owner_decisions(
    reader: GovernanceReader, collaboration: str, document: AcceptedDocument, now: dt.datetime
) -> OwnerDecisions:
    """Read the owners' decisions on an accepted query, the runs that have started, and the consents, in the order of a run's checks.

    Raises:
        Unavailable: Governance does not respond.
    """
    owners, datasets, refusal = await _owners(reader, collaboration, document, now)
    reading = asyncio.gather(*(_owner_decision(reader, collaboration, document, owner, now) for owner in owners))
    asked = [document.id, *datasets]
    decisions, started, consents = await asyncio.gather(
        reading, reader.runs_started(document.id), gather_limited(reader.consent, asked, CONCURRENT)
    )
    found = tuple(decisions)
    refusal = refusal or next((item.problem for item in found if item.problem), None)
    try:
        if refusal is None:
            await count_runs(reader, "", document, [item.decision for item in found if item.decision])
            require_consent(asked, consents)
    except Unavailable:
        raise
    except CleanRoomError as error:
        refusal = error
    return OwnerDecisions(found, len(started), refusal, tuple(datasets))


async def _owners(
    reader: GovernanceReader, collaboration: str, document: AcceptedDocument, now: dt.datetime
) -> tuple[Sequence[str], list[str], CleanRoomError | None]:
    """Return the owners whose decisions a run needs, the datasets, and what a run would meet before it reads the decisions."""
    authority = RunAuthority(reader, collaboration, lambda: now)
    datasets: list[str] = []
    try:
        query = authority.read_query(document)
        inputs, sink = await authority.fetch_datasets(query)
        datasets = [item.document.id for item in (*inputs, sink)]
        return require_owners(document, query, (*inputs, sink)), datasets, None
    except Unavailable:
        raise
    except CleanRoomError as error:
        return document.accepted_by, datasets, error


async def _owner_decision(
    reader: GovernanceReader, collaboration: str, document: AcceptedDocument, owner: str, now: dt.datetime
) -> OwnerDecision:
    try:
        decision = await stored_decision(reader, collaboration, document, owner, now)
        require_approval(document, owner, decision)
        return OwnerDecision(owner, decision)
    except Unavailable:
        raise
    except CleanRoomError as error:
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


async def refusal_under(reader: GovernanceReader, query: str, terms: ApprovedTerms, now: dt.datetime) -> str:
    """Return the code with which a run is refused now, or the empty string, from what can change after the approvals.

    It equals :func:`read_owner_decisions` for a query whose decisions were all valid once.
    """
    if terms.expires <= now:
        return "ApprovalExpired"
    if terms.run_limit is not None and len(await reader.runs_started(query)) >= terms.run_limit:
        return "ApprovalRunsExhausted"
    asked = [query, *terms.datasets]
    try:
        require_consent(asked, await gather_limited(reader.consent, asked, CONCURRENT))
    except Refused as error:
        return error.code
    return ""


class SharedConsents(UserReader):
    """A reader that asks once for the consent of each document, until :meth:`forget`: many queries have the same datasets."""

    def __init__(self, client: GovernanceUserClient, contract_id: str) -> None:
        super().__init__(client, contract_id)
        self._consents: dict[str, asyncio.Future[Consent]] = {}

    async def consent(self, document_id: str) -> Consent:
        """See :meth:`GovernanceReader.consent`."""
        if document_id not in self._consents:
            self._consents[document_id] = asyncio.ensure_future(super().consent(document_id))
        return await asyncio.shield(self._consents[document_id])

    def forget(self) -> None:
        """Ask again from now on."""
        self._consents = {}
