"""Signs a collaborator's decision on a query, sends it to the query's workflow, and waits until it is counted."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal

from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import DecisionMessage, QueryState, RefusedMessage, decision_mark
from starters.operations.query_workflow import (
    find_query,
    query_closed_as_error,
    query_closed_error,
    serve_own_queue,
    state_of,
    wait_for_state,
)
from starters.operations.session import Session, now, run_async
from starters.operations.workflow_names import APPROVE, REJECT

if TYPE_CHECKING:
    from cleanroom.governance.models import Document


def sign_decision(
    session: Session,
    state: QueryState,
    decision: Literal["approve", "reject"],
    *,
    version: str | None = None,
    expires_days: float = 30,
    max_runs: int | None = None,
    reason: str = "",
) -> DecisionMessage:
    """Sign a decision on the text that governance holds.

    The text comes from governance, not from the workflow, because the operator of Temporal must not choose what is signed.

    Args:
        session: Session of the collaborator who decides.
        state: State of the query as the workflow shows it; must match governance.
        decision: Approve or reject.
        version: Version of the query that the collaborator expects; None accepts the current one.
        expires_days: Days until the decision expires.
        max_runs: Maximum number of runs that an approval allows.
        reason: Reason shown to the other collaborators.

    Raises:
        Conflict: ``VersionMismatch``.
        PreconditionFailed: ``QueryNotProposed``.
    """
    from cleanroom.statements import Decision, sign

    document = run_async(_document(session, state.query))
    digest = document_digest(str(document.data))
    current = _current_version(document, digest, state, version)
    statement = Decision(
        collaboration=session.collaboration,
        signer=session.user_id,
        expires=now() + dt.timedelta(days=expires_days),
        query=state.query,
        version=current,
        proposal_id=document.proposal_id,
        digest=digest,
        decision=decision,
        reason=reason,
        max_runs=max_runs,
    )
    return DecisionMessage(decision=sign(statement, session.key()))


def _current_version(document: Document, digest: str, state: QueryState, expected: str | None) -> str:
    """Return the version in governance; it must be proposed, the expected one, and the one that the workflow shows."""
    if document.state != "Proposed":
        raise PreconditionFailed(
            "QueryNotProposed", f"query {state.query!r} is {document.state} in governance; only a proposed query accepts votes."
        )
    current = document.version or ""
    if expected not in (None, current):
        raise Conflict(
            "VersionMismatch",
            f"query {state.query!r} is at version {current}, not {expected}.",
            hint=f"Review the current version: cleanroom query show {state.query}",
        )
    if (current, digest) != (state.version, state.digest):
        raise Conflict(
            "VersionMismatch",
            f"query {state.query!r}: the workflow shows version {state.version}, but governance holds {current}.",
            hint="Repeat the command. If the versions still differ, inform the operator.",
        )
    return current


async def _document(session: Session, name: str) -> Document:
    async with session.governance() as client:
        return await session.documents(client).get(name)


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

    async with serve_own_queue(session):
        state = await wait_for_state(
            found.client, found.handle, lambda state: counted(state) or refusal(state) is not None, f"The vote of {session.party}"
        )
    refused = refusal(state)
    if refused is not None:
        error = refused.model_dump(include={"code", "message", "cause", "hint", "category"})
        raise CleanRoomError.from_dict({key: value or None for key, value in error.items()})
    if not counted(state):
        raise query_closed_error(name)
    return state
