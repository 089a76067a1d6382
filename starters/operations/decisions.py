"""Signs a collaborator's decision on a query, sends it to the query's workflow, and waits until it is counted."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed
from cleanroom.messages.query import DecisionMessage, QueryState, RefusedMessage, decision_mark
from starters.operations.query_workflow import (
    find_query,
    query_closed_as_error,
    query_closed_error,
    read_state,
    serve_own_queue,
    state_of,
    wait_for_state,
)
from starters.operations.session import Session, now
from starters.operations.workflow_names import APPROVE, REJECT

if TYPE_CHECKING:
    from cleanroom.publishing.approval_card import ApprovalCard, Terms


BALLOT_PENDING: Final = "BallotPending"
"""Code with which a query's workflow refuses a decision of a collaborator whose vote is being cast."""


async def read_card(session: Session, name: str, *, current: bool = True) -> ApprovalCard:
    """Compute the approval card of a query on this machine, from governance's documents alone.

    Args:
        session: Session of the collaborator.
        name: Name of the query.
        current: Whether to wait until governance shows what the query's workflow has seen, if that answers. The workflow can only
            delay the card.

    Raises:
        NotFound: ``UserDocumentNotFound``.
        Unavailable: ``GovernanceBehind``.
    """
    if current:
        with suppress(CleanRoomError):
            session.expect((await state_of(await find_query(session, name))).seen)
    from cleanroom.publishing.approval_card import read_approval_card

    async with session.governance() as client:
        return await read_approval_card(client, session.collaboration, name)


async def recorded_decision(session: Session, card: ApprovalCard, decision: Literal["approve", "reject"]) -> QueryState | None:
    """Return the state of a query that has ended its proposal with this decision of the collaborator, or None.

    A command that was killed before its answer can then be repeated. While the proposal is open, the workflow itself recognises the
    repetition. The answer is shown and decides nothing, so it may come from the workflow.
    """
    document = card.document
    if decision == "approve":
        votes = document.final_votes or () if document.state == "Accepted" else ()
        if not any(vote.approver_id == session.user_id and vote.ballot == "accepted" for vote in votes):
            return None
        return await read_state(session, card.name)
    if document.state != "Draft":
        return None
    state = await read_state(session, card.name)
    return state if _rejected_by(session.party, state) else None


def _rejected_by(party: str, state: QueryState) -> bool:
    """Return whether a collaborator has rejected the latest proposal of a query."""
    for entry in reversed(state.history):
        if entry.event == "rejected" and entry.by == party:
            return True
        if entry.event in ("proposed", "updated"):
            break
    return False


def decision_terms(expires_days: float, max_runs: int | None) -> Terms:
    """Return the terms of a decision that is signed now."""
    from cleanroom.publishing.approval_card import Terms

    return Terms(days=expires_days, expires=now() + dt.timedelta(days=expires_days), max_runs=max_runs)


def require_decidable(card: ApprovalCard, decision: Literal["approve", "reject"], *, version: str | None = None) -> None:
    """Check that the query is proposed, at the version that the collaborator expects, and approvable if it is to be approved.

    Args:
        card: What governance holds.
        decision: Approve or reject. A query that has a problem can be rejected.
        version: Version that the collaborator expects; None accepts the current one.

    Raises:
        Conflict: ``VersionMismatch``.
        PreconditionFailed: ``QueryNotProposed``.
        CleanRoomError: The problem of the query, such as ``QueryRefusedByGate`` or ``DatasetChanged``.
    """
    if card.document.state != "Proposed":
        draft = card.document.state == "Draft"
        raise PreconditionFailed(
            "QueryNotProposed",
            f"query {card.name!r} is {'a draft' if draft else 'approved'}; only a proposed query accepts votes.",
            hint=f"Its author proposes it: `cleanroom query propose {card.name}`." if draft else f"`cleanroom query show {card.name}`",
        )
    if version not in (None, card.version):
        raise Conflict(
            "VersionMismatch",
            f"query {card.name!r} is at version {card.version}, not {version}.",
            hint=f"Review the current version: `cleanroom query show {card.name}`.",
        )
    if decision == "approve":
        card.require_approvable()


def sign_decision(
    session: Session,
    card: ApprovalCard,
    decision: Literal["approve", "reject"],
    *,
    version: str | None = None,
    expires_days: float = 30,
    max_runs: int | None = None,
    reason: str = "",
    terms: Terms | None = None,
) -> DecisionMessage:
    """Sign a decision on exactly the document that ``card`` describes.

    Args:
        session: Session of the collaborator who decides.
        card: From :func:`read_card`. No part of the statement comes from a workflow, because the operator of Temporal must not choose
            what is signed.
        decision: Approve or reject.
        version: Version of the query that the collaborator expects; None accepts the current one.
        expires_days: Days until the decision expires.
        max_runs: Maximum number of runs that an approval allows.
        reason: Reason shown to the other collaborators.
        terms: Terms that the collaborator saw; they replace ``expires_days`` and ``max_runs``.

    Raises:
        Conflict, PreconditionFailed, CleanRoomError: As :func:`require_decidable`.
    """
    from cleanroom.statements import Decision, sign

    require_decidable(card, decision, version=version)
    terms = terms or decision_terms(expires_days, max_runs)
    statement = Decision(
        collaboration=session.collaboration,
        signer=session.user_id,
        expires=terms.expires,
        query=card.name,
        version=card.version,
        proposal_id=card.document.proposal_id,
        digest=card.digest,
        trust=card.trust.digest if card.trust is not None else None,
        decision=decision,
        reason=reason,
        max_runs=terms.max_runs,
    )
    return DecisionMessage(decision=sign(statement, session.key()), seen=session.seen)


async def send_decision(
    session: Session, name: str, decision: Literal["approve", "reject"], message: DecisionMessage, *, wait: bool = True
) -> QueryState:
    """Send a signed decision as a signal and return the state of the query.

    Args:
        session: Session of the collaborator who decides.
        name: Name of the query.
        decision: Approve or reject; selects the signal.
        message: The signed decision.
        wait: Whether to wait until the vote is counted. Otherwise the state is the one before the signal.

    Raises:
        CleanRoomError: The reason why the workflow refused the decision.
    """
    session.require_encryption()
    found = await find_query(session, name)
    before = await state_of(found)
    with query_closed_as_error(name):
        await found.handle.signal(APPROVE if decision == "approve" else REJECT, message.model_dump())
    if not wait:
        return before
    mark = decision_mark(message.decision)

    def refusal(state: QueryState) -> RefusedMessage | None:
        return next((item for item in state.refused if item.about == mark), None)

    def counted(state: QueryState) -> bool:
        return session.party in (*state.accepted, *state.rejected) or state.stage in ("Approved", "Draft")

    def ended(state: QueryState) -> bool:
        refused = refusal(state)
        # While another vote of this collaborator is being cast, wait for it: it may be the same decision, sent by an earlier command.
        return counted(state) or (refused is not None and refused.code != BALLOT_PENDING)

    def agrees(state: QueryState) -> bool:
        if decision == "approve":
            return session.party in state.accepted
        return session.party in state.rejected or _rejected_by(session.party, state)

    async with serve_own_queue(session):
        state = await wait_for_state(found.client, found.handle, ended, f"The vote of {session.party}")
    refused = refusal(state)
    if refused is not None and not (refused.code in (BALLOT_PENDING, "QueryNotProposed") and agrees(state)):
        error = refused.model_dump(include={"code", "message", "cause", "hint", "category"})
        raise CleanRoomError.from_dict({key: value or None for key, value in error.items()})
    if not counted(state):
        raise query_closed_error(name)
    return state
