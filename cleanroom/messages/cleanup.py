"""Messages of the workflow ``Cleanup``, which finds and undoes what ended runs have left."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from cleanroom.identifiers import Name, Seen
from cleanroom.messages.base import Message
from cleanroom.messages.run import RunTicket

DEFAULT_GRACE_SECONDS = 600
"""How long a run that Temporal does not know is left alone, counted from its first entry in the ledger."""
Kind = Literal["secrets", "secret grants", "token grants", "event grants", "application", "not closed"]
"""What a run can hold. ``not closed``: the ledger has no entry that closes the run, so the clean room could still release to it."""
WorkflowStatus = Literal["open", "concluding", "ended", "unknown"]
"""``concluding``: its workflow has ended, and another one cleans up after it. ``unknown``: the namespace has no such workflow."""


class CleanupInput(Message):
    """Input of the workflow: what to look at, and whether to undo what is found."""

    collaboration: str
    apply: bool = False
    """Whether to undo what is found. Without it, the workflow only reports."""
    grace_seconds: int = Field(default=DEFAULT_GRACE_SECONDS, ge=0)
    lost: tuple[str, ...] = ()
    """IDs of Temporal namespaces that no longer exist, as the operator says. Their runs are treated as ended."""
    carried: CleanupReport | None = None
    """What was reported before the workflow continued as new."""
    seen: Seen = ""


class HeldRequest(Message):
    """Input of ``find_held``."""

    collaboration: str
    runs: tuple[Name, ...] | None = None
    """The runs to look at. Without it, all runs."""
    jobs: tuple[Name, ...] = ()
    """Runs that have a SparkApplication. What the ledger says about them is in the answer, even if they hold nothing in governance."""
    seen: Seen = ""


class RunHeld(Message):
    """What one run holds in governance, and what the ledger says about it."""

    run_id: Name
    query: str = ""
    ticket: RunTicket | None = None
    """The run that the ledger pins, for runs that were asked for by name. None without a pin."""
    pinned: bool = False
    pinned_at: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    """When the run's signed request expires. No pod can use anything of the run afterwards."""
    origin: str = ""
    """ID of the Temporal namespace in which the run began; empty if it is unknown."""
    closed: bool = False
    held: dict[Kind, int] = {}
    """How many of each kind."""


class HeldFound(Message):
    """Result of ``find_held``."""

    read_at: AwareDatetime
    """Time of the look by the clean room's clock, which also made the ledger's entries."""
    runs: tuple[RunHeld, ...] = ()
    """Runs that hold something, the oldest first."""
    unattributed: int = 0
    """Grants in shared policies that belong to no known run."""
    more: bool = False
    """Whether there are more runs than one answer has room for."""
    seen: Seen = ""


class JobsRequest(Message):
    """Input of ``list_jobs``."""

    collaboration: str
    seen: Seen = ""


class RunJob(Message):
    """A SparkApplication of the collaboration that has not ended."""

    name: str
    uid: str
    run_id: Name
    query: Name
    created_at: AwareDatetime


class JobsFound(Message):
    """Result of ``list_jobs``."""

    jobs: tuple[RunJob, ...] = ()
    seen: Seen = ""


class UnpinnedJob(Message):
    """Input of ``delete_unpinned_job``: a SparkApplication of a run that the ledger does not know."""

    collaboration: str
    job: RunJob
    seen: Seen = ""


class StatesRequest(Message):
    """Input of ``describe_runs``."""

    collaboration: str
    runs: tuple[Name, ...]
    lost: tuple[str, ...] = ()
    """Namespaces that must not exist on this server."""


class WorkflowState(Message):
    """What Temporal says about a run's workflow; ``status`` of an ended one is the server's word, such as ``TERMINATED``."""

    state: WorkflowStatus
    status: str = ""


class StatesFound(Message):
    """Result of ``describe_runs``."""

    namespace_id: str
    states: dict[str, WorkflowState]


class Leftover(Message):
    """What one run has left, why it counts as left, and what was done about it."""

    run_id: str
    query: str = ""
    held: dict[Kind, int] = {}
    age_seconds: int | None = None
    """Seconds since the run's first entry in the ledger. None if the ledger has none."""
    reason: str
    outcome: str = ""
    """``undone``, or the code of the error. Empty in a dry run."""


class CleanupReport(Message):
    """Result of ``Cleanup``."""

    collaboration: str
    applied: bool
    left: tuple[Leftover, ...] = ()
    """What belongs to no open run."""
    kept: tuple[Leftover, ...] = ()
    """What may belong to a run elsewhere or is too recent, and is therefore left alone."""
    open_runs: int = 0
    """Open runs that hold something."""
    unattributed: int = 0
    """Grants in shared policies that belong to no known run. They are left alone."""
    unchecked: dict[str, str] = {}
    """What could not be looked at, with the code of the error."""
    more: bool = False
    """Whether there are more runs than this cleanup has looked at. The next one continues."""
    seen: Seen = ""


CleanupInput.model_rebuild()
