"""Reads from governance what it holds of a query, and whether that is what the query's workflow knows."""

from __future__ import annotations

from cleanroom.errors import NotFound
from cleanroom.governance import observed_transactions
from cleanroom.identifiers import document_digest
from cleanroom.messages.known import KnownState, proposal_digest
from cleanroom.messages.query import GovernanceQueryState
from cleanroom.publishing.user_documents import UserDocuments


async def read_query_state(documents: UserDocuments, query: str) -> GovernanceQueryState:
    """Read the state of a query: two requests for a proposal, one otherwise."""
    with observed_transactions() as answers:
        document = await documents.find(query)
    seen = str(answers[0]) if answers else ""
    if document is None:
        return GovernanceQueryState(state="Missing", seen=seen)
    state = GovernanceQueryState(
        state=document.state,
        version=document.version or "",
        digest=document_digest(str(document.data)),
        proposal_id=document.proposal_id,
        approvers=tuple(sorted(item.approver_id for item in document.approvers or ())),
        seen=seen,
    )
    if not document.proposal_id:
        return state
    status = await documents.client.proposal_status(document.proposal_id)
    ballots = {ballot.approver_id: ballot.ballot for ballot in status.ballots}
    return state.model_copy(update={"proposal_state": status.state, "ballots": ballots})


async def is_current(documents: UserDocuments, query: str, known: KnownState) -> bool:
    """Whether governance holds what ``known`` says. One request: for a proposal its status, which is much shorter than its text.

    A proposal that is open is the only one of its document, and its text never changes.
    """
    if known.state == "Accepted":
        return True
    if known.state == "Draft" or not known.proposal_id:
        return known.is_same(KnownState.of(await read_query_state(documents, query)))
    try:
        status = await documents.client.proposal_status(known.proposal_id)
    except NotFound:
        return False
    ballots = {ballot.approver_id: str(ballot.ballot) for ballot in status.ballots}
    return status.state == "Open" and known.digest == proposal_digest(known.proposal_id, ballots)
