"""The life of a query: the one place that decides in which state a query is, and which command leads on.

`cleanroom query list`, `cleanroom query show`, the Web UI, the search attribute ``CrStage``, the errors of a query's workflow, and the
picture in docs/query-life.md use it. A state is what a run would meet: an accepted query whose approvals have expired is not Approved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cleanroom.lifecycle.state import FILE, State, Transition, WorkflowEnd

DEFAULT_APPROVAL_SECONDS: Final = 14 * 24 * 3600
"""Seconds until an open proposal expires."""
_RENEW: Final = "cleanroom query renew {name}"

CREATING: Final = State(
    "Creating",
    "creating",
    "its draft is not in governance yet: that needs its author's worker",
    f"cleanroom query create {FILE}",
    "proposer",
)
DRAFT: Final = State("Draft", "draft", "no owner decides on it yet", "cleanroom query propose {name}", "proposer")
NOT_APPROVED: Final = State(
    "Not Approved", "proposed", "proposed; `pending` lists the owners whose decision is missing", "cleanroom query approve {name}", "owners"
)
APPROVED: Final = State("Approved", "approved", "a run may start", "cleanroom run start {name}", "proposer")
EXPIRED: Final = State("Expired", "expired", "an owner's approval has expired, or the draft or proposal did", _RENEW, "proposer")
EXHAUSTED: Final = State("Exhausted", "exhausted", "the runs that an owner has allowed are used up", _RENEW, "proposer")
CONSENT_WITHDRAWN: Final = State(
    "Consent Withdrawn",
    "consent-withdrawn",
    "an owner has withdrawn consent to the query, or to a dataset of it",
    "cleanroom consent on {document}",
    "consent",
)
REFUSED: Final = State(
    "Refused", "refused", "a run would be refused for another reason, which `show` names as `refusal`", _RENEW, "proposer"
)
WITHDRAWN: Final = State("Withdrawn", "withdrawn", "its author has closed it", _RENEW, "proposer")
CANCELLED: Final = State("Cancelled", "cancelled", "its workflow was cancelled, for example by *Request Cancellation*", _RENEW, "proposer")
TERMINATED: Final = State("Terminated", "", "its workflow was terminated", _RENEW, "proposer")
FAILED: Final = State("Failed", "failed", "its workflow has failed; `failure` is the reason", _RENEW, "proposer")
NO_WORKFLOW: Final = State("No Workflow", "", "governance has a draft or proposal, and Temporal has no workflow of it", _RENEW, "proposer")
MISSING: Final = State("Missing", "", "it has a workflow, and governance does not have its document", "cleanroom doctor", "anyone")

STATES: Final = (
    *(CREATING, DRAFT, NOT_APPROVED, APPROVED, EXPIRED, EXHAUSTED, CONSENT_WITHDRAWN, REFUSED),
    *(WITHDRAWN, CANCELLED, TERMINATED, FAILED, NO_WORKFLOW, MISSING),
)
"""All states, in the order in which the documentation lists them."""
BY_STAGE: Final = {state.stage: state for state in STATES if state.stage}
CREATE_AGAIN: Final = f"cleanroom query create {FILE}"
"""What leads on from an end before there was a document."""

_REFUSALS: Final = {
    "ApprovalExpired": EXPIRED,
    "ApprovalRunsExhausted": EXHAUSTED,
    "UserDocumentRuntimeOptionDisabled": CONSENT_WITHDRAWN,
}
_ENDS: Final = {
    WorkflowEnd.CANCELLED: CANCELLED,
    WorkflowEnd.TERMINATED: TERMINATED,
    WorkflowEnd.TIMED_OUT: TERMINATED,
    WorkflowEnd.FAILED: FAILED,
    WorkflowEnd.NONE: NO_WORKFLOW,
}

Held = Literal["", "Draft", "Proposed", "Accepted", "Missing"]


@dataclass(frozen=True)
class QueryFacts:
    """What decides the state of a query."""

    document: Held
    """State of the document in governance. Empty: not stored yet. ``Missing``: it has disappeared."""
    workflow: WorkflowEnd = WorkflowEnd.OPEN
    stage: str = ""
    """The last stage that the workflow has shown: what it completed with."""
    refusal: str = ""
    """Of an accepted query: the code with which a run would be refused now; empty if it may begin."""


def query_state(facts: QueryFacts) -> State:
    """Return the state of a query.

    An accepted query is what a run of it would meet, with or without a workflow. A draft or proposal is only as alive as its workflow.
    """
    if facts.document == "Accepted":
        return refused_state(facts.refusal)
    if facts.workflow is WorkflowEnd.OPEN:
        return {"": CREATING, "Missing": MISSING, "Draft": DRAFT, "Proposed": NOT_APPROVED}[facts.document]
    if facts.workflow is WorkflowEnd.COMPLETED:
        return WITHDRAWN if facts.stage == WITHDRAWN.stage else EXPIRED
    return _ENDS[facts.workflow]


def refused_state(refusal: str) -> State:
    """Return the state of an accepted query by the code with which a run is refused."""
    return _REFUSALS.get(refusal, REFUSED) if refusal else APPROVED


def workflow_state(stage: str, refusal: str = "") -> State:
    """Return the state that a query's workflow shows in a stage of :data:`cleanroom.messages.query.QueryStage`."""
    return refused_state(refusal) if stage == "Approved" else BY_STAGE[stage.lower()]


def next_command(state: State, name: str, *, document: str = "", held: bool = True) -> str:
    """Return the command that leads on from a state.

    Args:
        state: The state.
        name: Name of the query.
        document: The document whose consent was withdrawn.
        held: Whether governance has a document of the query.
    """
    template = state.command if held or state is MISSING else CREATE_AGAIN
    return template.format(name=name, document=document or name)


OPEN: Final = (CREATING, DRAFT, NOT_APPROVED)
"""States of a query that needs its workflow."""
OVER: Final = (EXPIRED, EXHAUSTED, REFUSED, WITHDRAWN, CANCELLED, TERMINATED, FAILED, NO_WORKFLOW)
"""States of a query that only its renewal leads on from."""
_UNACCEPTED: Final = (EXPIRED, WITHDRAWN, CANCELLED, TERMINATED, FAILED, NO_WORKFLOW)
"""States of a draft or proposal without an open workflow."""
TRANSITIONS: Final = (
    Transition(None, "query create", CREATING),
    Transition(CREATING, "the draft is stored", DRAFT),
    Transition(CREATING, "the draft is refused", FAILED),
    Transition(DRAFT, "query propose, query renew", NOT_APPROVED),
    Transition(DRAFT, "query withdraw", WITHDRAWN),
    Transition(DRAFT, "deadline", EXPIRED),
    Transition(NOT_APPROVED, "all owners: query approve", APPROVED),
    Transition(NOT_APPROVED, "votes without a decision", REFUSED),
    Transition(NOT_APPROVED, "query reject, query withdraw", DRAFT),
    Transition(NOT_APPROVED, "deadline", EXPIRED),
    Transition(APPROVED, "the last run: run start", EXHAUSTED),
    Transition(APPROVED, "consent off", CONSENT_WITHDRAWN),
    Transition(CONSENT_WITHDRAWN, "consent on", APPROVED),
    *(Transition(state, "an approval expires", EXPIRED) for state in (APPROVED, EXHAUSTED, CONSENT_WITHDRAWN)),
    *(Transition(state, "Request Cancellation", CANCELLED) for state in OPEN),
    *(Transition(state, "Terminate", TERMINATED) for state in OPEN),
    *(Transition(state, "Temporal has lost it", NO_WORKFLOW) for state in (DRAFT, NOT_APPROVED)),
    *(Transition(state, "Temporal deletes it", NO_WORKFLOW) for state in _UNACCEPTED if state is not NO_WORKFLOW),
    *(Transition(state, "late votes without a decision", REFUSED) for state in (CANCELLED, TERMINATED, FAILED, NO_WORKFLOW)),
    *(Transition(state, "query renew", NOT_APPROVED) for state in (*OVER, APPROVED, CONSENT_WITHDRAWN)),
    *(Transition(state, "query adopt, query create", DRAFT) for state in _UNACCEPTED),
    *(Transition(state, "query adopt", NOT_APPROVED) for state in _UNACCEPTED),
    *(Transition(state, "query create, with another text", FAILED) for state in _UNACCEPTED if state is not FAILED),
)
"""How states follow each other. A renewal of an accepted query is another document, which is proposed; the first one stays as it is."""
