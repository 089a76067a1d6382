"""Reads from governance what it holds of a query, and whether that is what the query's workflow knows."""

from __future__ import annotations

import datetime as dt

from temporalio.common import TypedSearchAttributes

from cleanroom.errors import NotFound
from cleanroom.governance import Document, observed_transactions
from cleanroom.identifiers import document_digest
from cleanroom.lifecycle.query import REFUSED, refused_state
from cleanroom.messages.known import Approved, ApprovedTerms, KnownState, proposal_digest
from cleanroom.messages.query import ApprovalsFound, GovernanceQueryState
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.owner_decisions import read_owner_decisions, refusal_under
from cleanroom.runs.reader import GovernanceReader, to_accepted_document
from cleanroom.temporal import attributes


async def read_query_state(documents: UserDocuments, query: str) -> GovernanceQueryState:
    """Read the state of a query: one request for a draft, two for a proposal, three for an accepted query."""
    with observed_transactions() as answers:
        document = await documents.find(query)
    seen = str(answers[0]) if answers else ""
    if document is None:
        return GovernanceQueryState(state="Missing", seen=seen)
    state = GovernanceQueryState(
        state=document.state,
        version=await decided_version(documents, document),
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


async def decided_version(documents: UserDocuments, document: Document) -> str:
    """Return the version of a query that people see: the one that the owners decide on.

    Governance gives the same text another version when it is accepted. Cards, decisions and the query's workflow name the proposed one.
    """
    if document.state != "Accepted":
        return document.version or ""
    proposed = (await documents.client.get_proposal(document.proposal_id)).args.get("document")
    version = proposed.get("version") if isinstance(proposed, dict) else None
    return version if isinstance(version, str) else document.version or ""


async def read_approvals(
    documents: UserDocuments, reader: GovernanceReader, collaboration: str, query: str, now: dt.datetime
) -> ApprovalsFound:
    """Read what a run of an accepted query would meet, and the terms of its approvals."""
    found = await read_owner_decisions(reader, collaboration, to_accepted_document(await documents.get(query)), now)
    return ApprovalsFound(
        refusal=found.refusal.code if found.refusal else "", expire=found.expires, run_limit=found.run_limit, datasets=found.datasets
    )


def shown_state(values: TypedSearchAttributes) -> KnownState | None:
    """Return what the workflow of a query knows of governance and shows, from its search attributes; None before there is a draft."""
    known = KnownState.parse(values.get(attributes.KNOWN))
    if known is None or known.state != "Accepted":
        return known
    expires, datasets = values.get(attributes.EXPIRES_AT), tuple(values.get(attributes.DATASETS) or ())
    # A list that is cut ends with the number of what is left out.
    complete = expires is not None and not any(name.startswith("+") for name in datasets)
    terms = ApprovedTerms(_utc(expires), values.get(attributes.RUN_LIMIT), datasets) if complete and expires else None
    return known._replace(approved=Approved((values.get(attributes.STAGE) or "").removeprefix("query."), terms))


def _utc(at: dt.datetime) -> dt.datetime:
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)


async def is_current(documents: UserDocuments, reader: GovernanceReader, query: str, known: KnownState, now: dt.datetime) -> bool:
    """Whether governance holds what ``known`` says. One request: for a proposal its status, which is much shorter than its text.

    A proposal that is open is the only one of its document, and its text never changes. Of an accepted query, consent can change, and
    the number of its runs.
    """
    if known.state == "Accepted":
        return known.approved is None or await _same_standing(reader, query, known.approved.stage, known.approved.terms, now)
    if known.state == "Draft" or not known.proposal_id:
        return known.is_same(KnownState.of(await read_query_state(documents, query)))
    try:
        status = await documents.client.proposal_status(known.proposal_id)
    except NotFound:
        return False
    ballots = {ballot.approver_id: str(ballot.ballot) for ballot in status.ballots}
    return status.state == "Open" and known.digest == proposal_digest(known.proposal_id, ballots)


async def _same_standing(reader: GovernanceReader, query: str, stage: str, terms: ApprovedTerms | None, now: dt.datetime) -> bool:
    if terms is None or stage == REFUSED.stage or terms.expires <= now:
        # What is refused for a lasting reason stays so, and the workflow knows itself when approvals expire.
        return True
    return refused_state(await refusal_under(reader, query, terms, now)).stage == stage
