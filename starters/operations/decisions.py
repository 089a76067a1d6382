"""A person's decision on a query: signed over what governance holds, sent as the signal of the diagram, waited for until it counts."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

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
    """This person's signed decision on exactly the text that governance holds.

    The text is read from governance, not from the workflow: whoever runs Temporal must not choose what is signed.

    Raises:
        Conflict: ``VersionMismatch``.
        PreconditionFailed: ``QueryNotProposed``.
    """
    from cleanroom.statements import Decision, sign

    document = run_async(_document(session, state.query))
    if document.state != "Proposed":
        raise PreconditionFailed(
            "QueryNotProposed", f"query {state.query!r} is {document.state} in governance; only a proposed query takes votes."
        )
    held = document.version or ""
    if version is not None and version != held:
        raise Conflict("VersionMismatch", f"query {state.query!r} is at version {held}, not {version}.", hint="Look at it again.")
    digest = document_digest(str(document.data))
    if (held, digest) != (state.version, state.digest):
        raise Conflict("VersionMismatch", f"query {state.query!r}: the workflow shows version {state.version}, governance holds {held}.")
    statement = Decision(
        collaboration=session.collaboration,
        signer=session.user_id,
        expires=now() + dt.timedelta(days=expires_days),
        query=state.query,
        version=held,
        proposal_id=document.proposal_id,
        digest=digest,
        decision=decision,
        reason=reason,
        max_runs=max_runs,
    )
    return DecisionMessage(decision=sign(statement, session.key()))


async def _document(session: Session, name: str) -> Any:
    async with session.governance() as client:
        return await session.documents(client).get(name)


async def send_decision(
    session: Session, name: str, decision: Literal["approve", "reject"], message: DecisionMessage, *, wait: bool = True
) -> QueryState:
    """Send the signal of the diagram; with ``wait``, until this vote is counted or refused.

    Raises:
        CleanRoomError: the reason for which it was refused.
    """
    found = await find_query(session, name)
    before = await state_of(found)
    with query_closed_as_error(name):
        await found.handle.signal(APPROVE if decision == "approve" else REJECT, message.model_dump())
    if not wait:
        return before
    mark = decision_mark(message.decision)

    def refusal(state: QueryState) -> RefusedMessage | None:
        return next((item for item in state.refused if item.about == mark), None)

    def voted(state: QueryState) -> bool:
        return session.party in (*state.accepted, *state.rejected) or state.stage in ("Approved", "Draft")

    async with serve_own_queue(session):
        state = await wait_for_state(
            found.client, found.handle, lambda state: voted(state) or refusal(state) is not None, f"the vote of {session.party}"
        )
    refused = refusal(state)
    if refused is not None:
        told = refused.model_dump(include={"code", "message", "cause", "hint", "category"})
        raise CleanRoomError.from_dict({key: value or None for key, value in told.items()})
    if not voted(state):
        raise query_closed_error(name)
    return state
