"""What the states of queries, runs and datasets have in common."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

Role = Literal["proposer", "owners", "consent", "owner", "caller", "anyone", ""]
"""Who gives the next command: a query's proposer, the owners whose decision is missing, whoever withdrew consent, a dataset's owner, a
run's caller, any collaborator."""
FILE = "FILE"
"""Stands for the YAML file of the query or dataset in a command. Only its author has it."""


class WorkflowEnd(Enum):
    """How a workflow stands, as Temporal's server says."""

    OPEN = "open"
    NONE = "none"
    """Temporal has no workflow: it was lost, or ended so long ago that it was deleted."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Somebody has requested its cancellation, for example with the button of the Web UI."""
    TERMINATED = "terminated"
    """Somebody has terminated it, so that it could not clean up."""
    TIMED_OUT = "timed out"

    @staticmethod
    def of(status: object) -> WorkflowEnd:
        """Convert a status of the Temporal client. A status that this program does not know counts as open."""
        return _STATUSES.get(getattr(status, "name", ""), WorkflowEnd.OPEN)


_STATUSES = {
    "COMPLETED": WorkflowEnd.COMPLETED,
    "FAILED": WorkflowEnd.FAILED,
    "CANCELED": WorkflowEnd.CANCELLED,
    "TERMINATED": WorkflowEnd.TERMINATED,
    "TIMED_OUT": WorkflowEnd.TIMED_OUT,
}


@dataclass(frozen=True)
class State:
    """One state as people see it."""

    word: str
    stage: str
    """The state in the search attribute ``CrStage``, behind its kind; empty if no workflow shows it."""
    meaning: str
    command: str = ""
    """The command that leads on, with ``{name}`` for the subject, or empty if there is nothing to do."""
    by: Role = ""
    """The collaborator that gives that command."""

    def __str__(self) -> str:
        return self.word


class Transition(NamedTuple):
    """How one state becomes another."""

    before: State | None
    """None for the beginning."""
    event: str
    """A command, or what happens."""
    after: State
