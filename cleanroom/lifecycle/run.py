"""The life of a run: the one place that decides in which state a run is, and which command leads on.

`cleanroom run list` and `cleanroom run show` use it, with or without the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cleanroom.lifecycle.state import State, Transition, WorkflowEnd

_WATCH: Final = "cleanroom run watch {name}"
_AGAIN: Final = "cleanroom run start {query}"

PREPARING: Final = State("Preparing", "prepare", "checks the request, and grants secrets to the pods", _WATCH, "anyone")
SUBMITTING: Final = State("Submitting", "submit", "submits the Spark job", _WATCH, "anyone")
RUNNING: Final = State("Running", "watch", "the Spark job runs", _WATCH, "anyone")
CONCLUDING: Final = State("Concluding", "conclude", "reads the result receipt, revokes its grants", _WATCH, "anyone")
COMPLETED: Final = State("COMPLETED", "", "its result receipt is in the ledger", "cleanroom run result {name}", "anyone")
FAILED: Final = State("FAILED", "", "it has failed, or was terminated and is cleaned up; `failure` is the reason", _AGAIN, "caller")
CANCELLED: Final = State("CANCELLED", "", "it was cancelled, and has cleaned up", _AGAIN, "caller")
TERMINATED: Final = State(
    "TERMINATED", "", "Temporal has ended its workflow, so it could not clean up", "cleanroom run conclude {name}", "anyone"
)
CLOSED: Final = State("CLOSED", "", "its grants are revoked, and the ledger does not say how it ended", _AGAIN, "caller")

STATES: Final = (PREPARING, SUBMITTING, RUNNING, CONCLUDING, COMPLETED, FAILED, CANCELLED, TERMINATED, CLOSED)
_BY_STAGE: Final = {state.stage: state for state in STATES if state.stage} | {"cleanup": CONCLUDING, "closed": CONCLUDING}
_RECORDED: Final = {state.word: state for state in (COMPLETED, FAILED, CANCELLED)}
CLEANUP_FAILED: Final = "CleanupFailed"
"""Code of a run that has ended and could not revoke its grants."""
CONCLUDED: Final = "RunTerminated"
"""Code of a run that was terminated and is cleaned up."""


@dataclass(frozen=True)
class RunFacts:
    """What decides the state of a run."""

    workflow: WorkflowEnd
    stage: str = ""
    """The stage of an open run."""
    outcome: str = ""
    """The search attribute ``CrOutcome``: ``COMPLETED``, or the code of the failure."""
    recorded: str = ""
    """The end of a closed run in the ledger, as one of the words above; empty if the ledger has no end, or was not read."""
    concluded: bool = False
    """Whether `cleanroom run conclude` has cleaned up after it. A run that has begun nothing leaves no entry in the ledger."""


def run_state(facts: RunFacts) -> State:
    """Return the state of a run."""
    if facts.workflow in (WorkflowEnd.TERMINATED, WorkflowEnd.TIMED_OUT):
        return _RECORDED.get(facts.recorded) or (FAILED if facts.concluded else TERMINATED)
    if facts.workflow is WorkflowEnd.COMPLETED:
        return COMPLETED
    if facts.workflow is WorkflowEnd.FAILED:
        # A run fails as cancelled if its preparation was cancelled, and not the run.
        return CANCELLED if facts.outcome == "RunCancelled" else FAILED
    if facts.workflow is WorkflowEnd.CANCELLED:
        return CANCELLED
    return _BY_STAGE.get(facts.stage, PREPARING)


def failure_code(facts: RunFacts) -> str:
    """Return the code of the failure that is shown; empty for a run that has not failed."""
    state = run_state(facts)
    if facts.workflow in (WorkflowEnd.TERMINATED, WorkflowEnd.TIMED_OUT):
        if state is TERMINATED:
            return "Terminated" if facts.workflow is WorkflowEnd.TERMINATED else "WorkflowTimedOut"
        return {COMPLETED: "", CANCELLED: "RunCancelled"}.get(state, CONCLUDED)
    return "" if facts.outcome == COMPLETED.word else facts.outcome


def next_command(state: State, run_id: str, query: str, *, failure: str = "") -> str:
    """Return the command that leads on from a state.

    Args:
        state: The state.
        run_id: ID of the run.
        query: Name of its query.
        failure: Code of its failure.
    """
    if failure == CLEANUP_FAILED:
        return "cleanroom cleanup --apply"
    return state.command.format(name=run_id, query=query)


TRANSITIONS: Final = (
    Transition(None, "run start", PREPARING),
    Transition(PREPARING, "prepared", SUBMITTING),
    Transition(SUBMITTING, "submitted", RUNNING),
    Transition(RUNNING, "the job has ended", CONCLUDING),
    Transition(CONCLUDING, "cleaned up", COMPLETED),
    *(Transition(state, "refused, failed", FAILED) for state in (PREPARING, SUBMITTING, RUNNING, CONCLUDING)),
    *(Transition(state, "run cancel, Request Cancellation", CANCELLED) for state in (PREPARING, SUBMITTING, RUNNING, CONCLUDING)),
    *(Transition(state, "Terminate, timeout", TERMINATED) for state in (PREPARING, SUBMITTING, RUNNING, CONCLUDING)),
    Transition(TERMINATED, "run conclude, cleanup --apply", FAILED),
)
"""How states follow each other; docs/query-life.md draws them."""
