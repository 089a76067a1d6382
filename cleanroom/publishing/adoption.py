"""Rebuilds the state of a query's workflow from governance, after Temporal has lost the workflow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cleanroom.documents.query import QUERY_LABELS, parse_query
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, PreconditionFailed, Refused, Unavailable
from cleanroom.governance import Document
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import GenerateQueryRequest, HistoryEntry, QueryStage, QueryState
from cleanroom.publishing.query_document import generate_query
from cleanroom.publishing.query_states import decided_version
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.approvals import ask_again, stored_decision
from cleanroom.runs.reader import GovernanceReader

ADOPTED = "adopted"
"""Event in the history of an adopted query."""
LOST = (
    "the history before the adoption, with the times of votes",
    "messages that were refused, and votes that were sent and not cast yet",
    "the period for approvals, which starts again",
)
"""What governance does not hold of any query."""
NO_CARD = "The query was adopted, and its card cannot be computed again ({code}). Read the document before you decide."
_STAGES: Mapping[str, QueryStage] = {"Draft": "Draft", "Proposed": "Proposed", "Accepted": "Approved"}


class AdoptedQuery(NamedTuple):
    """What a query's workflow starts from."""

    spec: QuerySpec
    proposer_id: str
    """User ID of the author, whom the document names."""
    state: QueryState
    approvals_expire_at: dt.datetime | None
    """Earliest expiry of the signed approvals."""
    not_rebuilt: tuple[str, ...]
    """What cannot be rebuilt, for people."""


@dataclass(frozen=True)
class _Text:
    id: str
    digest: str
    proposal_id: str


async def adopted_query(
    documents: UserDocuments, reader: GovernanceReader, collaboration: str, name: str, names: Mapping[str, str], by: str, now: dt.datetime
) -> AdoptedQuery:
    """Read everything that governance holds of a query.

    Args:
        documents: The collaboration's documents.
        reader: Reads governance for the same user.
        collaboration: The contract ID.
        name: Name of the query.
        names: Names of the collaborators by user ID.
        by: Name of the collaborator who adopts the query.
        now: The current time.

    Raises:
        NotFound: ``UserDocumentNotFound``.
        Refused: ``QueryNotPinned`` for a document that this system did not write; ``DocumentIsNoQuery``.
        PreconditionFailed: ``ApprovalExpired`` for an approved query whose approvals have expired.
    """
    document = await documents.get(name)
    spec, proposer_id = query_specification(document, collaboration)
    text = _Text(name, document_digest(str(document.data)), document.proposal_id)
    stage = _STAGES[document.state]
    ballots = await _ballots(documents, document)
    expires_at, run_limit, missing = await _terms_of_approvals(reader, collaboration, text, ballots, names, now)
    if stage == "Approved" and expires_at is not None and expires_at <= now:
        raise PreconditionFailed(
            "ApprovalExpired",
            f"query {name!r}: its approvals have expired, so no run can use it.",
            hint=ask_again(name),
        )
    version = await decided_version(documents, document)
    card, no_card = await _card(reader, collaboration, spec, proposer_id, text)
    state = QueryState(
        query=name,
        stage=stage,
        version=version,
        digest=text.digest,
        proposal_id=document.proposal_id,
        accepted=_voters(ballots, "accepted", names),
        rejected=_voters(ballots, "rejected", names),
        expires=expires_at,
        run_limit=run_limit,
        card=card,
        owners=tuple(sorted(item.approver_id for item in document.approvers or ())),
        history=(HistoryEntry(at=now, event=ADOPTED, by=by, detail=f"{stage} at version {version}, rebuilt from governance"),),
        spec=spec,
    )
    return AdoptedQuery(spec, proposer_id, state, expires_at, (*LOST, *missing, *no_card))


def query_specification(document: Document, collaboration: str) -> tuple[QuerySpec, str]:
    """Return the query as its author would write it, and the author's user ID.

    Raises:
        Refused: ``DocumentIsNoQuery``; ``QueryNotPinned`` for a document that this system did not write.
    """
    if (document.labels or {}).get("type") != QUERY_LABELS["type"]:
        raise Refused("DocumentIsNoQuery", f"document {document.id!r} is not a query.", hint="`cleanroom query list` shows the queries.")
    query = parse_query(str(document.data), document_id=document.id)
    approval = query.approval
    if approval is None or approval.collaboration != collaboration or query.name != document.id:
        raise Refused(
            "QueryNotPinned", f"query {document.id!r}: this system did not write its document for collaboration {collaboration!r}."
        )
    spec = QuerySpec(
        name=query.name,
        inputs={item.view: item.specification for item in query.application.input_dataset},
        output=query.application.output_dataset.specification,
        segments=query.application.segments().segments,
        parameters=approval.parameters,
    )
    return spec, approval.proposer_id


async def _ballots(documents: UserDocuments, document: Document) -> dict[str, str]:
    """Return the ballots on the document's proposal by user ID."""
    if document.state == "Accepted":
        return {vote.approver_id: str(vote.ballot) for vote in document.final_votes or ()}
    if document.state != "Proposed":
        return {}
    status = await documents.client.proposal_status(document.proposal_id)
    return {ballot.approver_id: str(ballot.ballot) for ballot in status.ballots}


def _voters(ballots: Mapping[str, str], wanted: str, names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(names.get(user, user) for user, ballot in ballots.items() if ballot == wanted))


async def _terms_of_approvals(
    reader: GovernanceReader, collaboration: str, text: _Text, ballots: Mapping[str, str], names: Mapping[str, str], now: dt.datetime
) -> tuple[dt.datetime | None, int | None, Sequence[str]]:
    """Return when the first approval expires, the smallest limit of runs, and the approvals without a valid signed decision."""
    expiries: list[dt.datetime] = []
    limits: list[int] = []
    missing: list[str] = []
    for user in sorted(user for user, ballot in ballots.items() if ballot == "accepted"):
        try:
            decision = await stored_decision(reader, collaboration, text, user, now)
            expiries.append(decision.expires)
            limits += [decision.max_runs] if decision.max_runs is not None else []
        except Refused as error:
            if error.code == "ApprovalExpired":
                expiries.append(now)
            else:
                missing.append(f"the expiry of {names.get(user, user)}'s approval ({error.code}); no run is possible with it")
    return min(expiries, default=None), min(limits, default=None), missing


async def _card(reader: GovernanceReader, collaboration: str, spec: QuerySpec, proposer_id: str, text: _Text) -> tuple[str, Sequence[str]]:
    """Compute the card again. It describes the document only if the same text results."""
    try:
        draft = await generate_query(reader, GenerateQueryRequest(collaboration=collaboration, spec=spec, proposer_id=proposer_id))
    except Unavailable:
        raise
    except CleanRoomError as error:
        code = error.code
    else:
        if draft.digest == text.digest:
            return draft.card, ()
        code = "DatasetChanged"
    return NO_CARD.format(code=code), (f"the approval card on the workflow's page ({code})",)
