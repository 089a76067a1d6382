"""The owners' approvals of a query: who must approve, what they signed, and for how many runs."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Sequence
from typing import Protocol

from cleanroom.documents.query import QueryDocument
from cleanroom.errors import CleanRoomError, NotFound, Refused
from cleanroom.identifiers import decision_document_id
from cleanroom.runs.authorised import Dataset
from cleanroom.runs.decisions import DECISION_LABELS, parse_decision_document
from cleanroom.runs.deputies import verify_decision
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader
from cleanroom.statements.model import Decision, RunRequest


class Decided(Protocol):
    """The text that a decision is about: a query document, accepted or proposed."""

    @property
    def id(self) -> str:
        """Document ID of the query."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the text."""
        ...

    @property
    def proposal_id(self) -> str:
        """The proposal with this text."""
        ...


def ask_again(query: str) -> str:
    """Return the hint for approvals that a run cannot use. Governance accepts no other decision on an accepted query."""
    return f"Ask the owners again: `cleanroom query renew {query}`."


def proposers(document: AcceptedDocument, query: QueryDocument) -> frozenset[str]:
    """Return the user IDs of the query's proposer, as the document names it and as governance does."""
    assert query.approval is not None
    return frozenset({query.approval.proposer_id, document.proposer_id})


def verify_owners(request: RunRequest, document: AcceptedDocument, query: QueryDocument, datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Derive the owners from the dataset documents, and check that each accepted the query and that the caller may run it.

    The approver list of the query document is not used: its author wrote it.

    Raises:
        Refused: ``QueryMissingApprovalsFromDatasetOwners``, ``CallerNotAuthorized``.
    """
    owners = require_owners(document, query, datasets)
    require_right(request, document, query, owners)
    return owners


def require_owners(document: AcceptedDocument, query: QueryDocument, datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Derive the owners from the dataset documents, and check that each accepted the query.

    Raises:
        Refused: ``QueryMissingApprovalsFromDatasetOwners``.
    """
    owners = tuple(sorted({item.owner_id for item in datasets}))
    missing = [owner for owner in owners if owner not in document.accepted_by]
    if missing:
        lacking = sorted({item.dataset.name for item in datasets if item.owner_id in missing})
        raise Refused(
            "QueryMissingApprovalsFromDatasetOwners",
            f"query {query.name!r}: the owners of {', '.join(lacking)} have not approved it.",
            details={"datasets": lacking, "owners": missing},
            hint=f"Every owner of an input and of the output must approve this exact version. {ask_again(document.id)}",
        )
    return owners


def require_right(request: RunRequest, document: AcceptedDocument, query: QueryDocument, owners: Collection[str]) -> None:
    """Require that the caller proposed the query or owns one of its datasets.

    Raises:
        Refused: ``CallerNotAuthorized``.
    """
    if request.signer not in {*proposers(document, query), *owners}:
        raise Refused(
            "CallerNotAuthorized", f"caller: user {request.signer} neither proposed query {query.name!r} nor owns one of its datasets."
        )


async def verify_decisions(
    reader: GovernanceReader, collaboration: str, document: AcceptedDocument, owners: Sequence[str], now: dt.datetime
) -> tuple[Decision, ...]:
    """Read and verify every owner's signed approval of this proposal.

    Raises:
        Refused: ``QueryMissingApprovalsFromDatasetOwners``, ``SignedDecisionMissing``, ``SignedDecisionInvalid``, ``ApprovalExpired``.
    """
    reading = (stored_decision(reader, collaboration, document, owner, now) for owner in owners)
    found = await asyncio.gather(*reading, return_exceptions=True)
    decisions: list[Decision] = []
    # Of several problems, the first owner's counts, so that everything that verifies the decisions names the same one.
    for owner, decision in zip(owners, found, strict=True):
        if isinstance(decision, BaseException):
            raise decision
        require_approval(document, owner, decision)
        decisions.append(decision)
    return tuple(decisions)


def require_approval(document: Decided, owner: str, decision: Decision) -> None:
    """Require that an owner's decision is an approval.

    Raises:
        Refused: ``QueryMissingApprovalsFromDatasetOwners``.
    """
    if decision.decision != "approve":
        raise Refused(
            "QueryMissingApprovalsFromDatasetOwners",
            f"query {document.id!r}: owner {owner} signed a rejection.",
            hint=ask_again(document.id),
        )


async def stored_decision(reader: GovernanceReader, collaboration: str, document: Decided, owner: str, now: dt.datetime) -> Decision:
    """Read and verify one owner's signed decision on a proposal.

    Raises:
        Refused: ``SignedDecisionMissing``, ``SignedDecisionInvalid``, ``ApprovalExpired``.
    """
    document_id = decision_document_id(document.proposal_id, owner)
    try:
        stored = await reader.accepted_document(document_id)
    except NotFound as error:
        raise Refused(
            "SignedDecisionMissing",
            f"query {document.id!r}: owner {owner} voted, but published no signed decision on this version.",
            cause=str(error),
            hint=ask_again(document.id),
        ) from error
    if stored.proposer_id != owner or stored.accepted_by != (owner,) or stored.labels.get("type") != DECISION_LABELS["type"]:
        raise Refused("SignedDecisionInvalid", f"{document_id}: not published by owner {owner} alone.", hint=ask_again(document.id))
    token = parse_decision_document(stored.data)
    try:
        keys = await published_keys(reader, collaboration, owner)
        decision = (await verify_decision(reader, token, keys, collaboration=collaboration, now=now, recorded_at=stored.position)).decision
    except CleanRoomError as error:
        if error.retryable:
            # Governance failed, which says nothing about the approval.
            raise
        message = f"query {document.id!r}: owner {owner}'s approval: {error.message}"
        if error.code == "StatementExpired":
            raise Refused("ApprovalExpired", message, hint=ask_again(document.id)) from error
        raise Refused(error.code, message, hint=ask_again(document.id)) from error
    if (decision.query, decision.digest, decision.proposal_id) != (document.id, document.digest, document.proposal_id):
        raise Refused(
            "SignedDecisionInvalid",
            f"{document_id}: it is a decision on another text or proposal of query {document.id!r}.",
            hint=ask_again(document.id),
        )
    return decision


async def count_runs(reader: GovernanceReader, own: str, document: AcceptedDocument, decisions: Sequence[Decision]) -> int | None:
    """Count the runs that the ledger has seen start; returns how many the strictest owner's limit leaves.

    Raises:
        Refused: ``ApprovalRunsExhausted``.
    """
    limits = [decision.max_runs for decision in decisions if decision.max_runs is not None]
    if not limits:
        return None
    others = await reader.runs_started(document.id) - {own}
    left = min(limits) - len(others)
    if left < 1:
        raise Refused(
            "ApprovalRunsExhausted",
            f"query {document.id!r}: approved for {min(limits)} runs, and {len(others)} have started.",
            hint=ask_again(document.id),
        )
    return left
