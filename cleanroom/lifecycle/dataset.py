"""The life of a dataset: the one place that decides in which state a dataset is, and which command leads on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cleanroom.lifecycle.state import FILE, State, Transition, WorkflowEnd

_PUBLISH: Final = f"cleanroom dataset publish {FILE}"

PUBLISHING: Final = State("Publishing", "", "its workflow publishes it, or waits for its owner's worker", _PUBLISH, "owner")
ACCEPTED: Final = State("Accepted", "", "governance holds its document, and queries can use it", "cleanroom dataset show {name}")
CONSENT_WITHDRAWN: Final = State(
    "Consent Withdrawn", "", "its owner has withdrawn consent, so no run can use it", "cleanroom consent on {name}", "owner"
)
CANCELLED: Final = State("Cancelled", "", "its workflow was cancelled, for example by *Request Cancellation*", _PUBLISH, "owner")
TERMINATED: Final = State("Terminated", "", "its workflow was terminated", _PUBLISH, "owner")
FAILED: Final = State("Failed", "", "its workflow has failed; `failure` is the reason", _PUBLISH, "owner")
NO_WORKFLOW: Final = State("No Workflow", "", "governance has a draft or proposal, and Temporal has no workflow of it", _PUBLISH, "owner")

STATES: Final = (PUBLISHING, ACCEPTED, CONSENT_WITHDRAWN, CANCELLED, TERMINATED, FAILED, NO_WORKFLOW)
_ENDS: Final = {
    WorkflowEnd.OPEN: PUBLISHING,
    WorkflowEnd.CANCELLED: CANCELLED,
    WorkflowEnd.TERMINATED: TERMINATED,
    WorkflowEnd.TIMED_OUT: TERMINATED,
    WorkflowEnd.FAILED: FAILED,
}


@dataclass(frozen=True)
class DatasetFacts:
    """What decides the state of a dataset."""

    document: Literal["", "Draft", "Proposed", "Accepted"]
    """State of its document in governance; empty before it has one."""
    workflow: WorkflowEnd
    consent: bool = True
    """Of an accepted dataset: whether its owner consents to runs."""


def dataset_state(facts: DatasetFacts) -> State:
    """Return the state of a dataset. Governance decides about an accepted one, and the workflow about any other."""
    if facts.document == "Accepted":
        return ACCEPTED if facts.consent else CONSENT_WITHDRAWN
    return _ENDS.get(facts.workflow, NO_WORKFLOW)


def next_command(state: State, name: str) -> str:
    """Return the command that leads on from a state."""
    return state.command.format(name=name)


TRANSITIONS: Final = (
    Transition(None, "dataset publish", PUBLISHING),
    Transition(PUBLISHING, "accepted", ACCEPTED),
    Transition(PUBLISHING, "refused, failed", FAILED),
    Transition(PUBLISHING, "Request Cancellation", CANCELLED),
    Transition(PUBLISHING, "Terminate", TERMINATED),
    *(Transition(state, "dataset publish", PUBLISHING) for state in (FAILED, CANCELLED, TERMINATED, NO_WORKFLOW)),
    Transition(ACCEPTED, "consent off", CONSENT_WITHDRAWN),
    Transition(CONSENT_WITHDRAWN, "consent on", ACCEPTED),
)
"""How states follow each other; docs/query-life.md draws them."""
