"""Decides which runs have ended without cleaning up, from governance's and Temporal's answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Literal, NamedTuple

from cleanroom.messages.cleanup import RunHeld, WorkflowState

EXPIRY_MARGIN = dt.timedelta(hours=1)
"""How long after the expiry of its request a run is over, wherever it ran: the time that its own cleanup takes at most."""


class Verdict(NamedTuple):
    """Whether a run's holdings are left over, and why."""

    kind: Literal["open", "left", "kept"]
    reason: str


def verdict(
    run: RunHeld, workflow: WorkflowState, *, read_at: dt.datetime, namespace_id: str, grace: dt.timedelta, lost: Collection[str] = ()
) -> Verdict:
    """Decide about one run.

    The workflow's state must have been read after ``run``: a run that held something then had an open workflow before.

    Args:
        run: What the run holds.
        workflow: State of the run's workflow in this namespace.
        read_at: When ``run`` was read.
        namespace_id: ID of this namespace.
        grace: How long a run without a workflow is left alone.
        lost: IDs of namespaces that no longer exist.
    """
    if workflow.state == "open":
        return Verdict("open", "its workflow is open")
    if workflow.state == "concluding":
        return Verdict("open", "its cleanup is in progress")
    if run.closed:
        return Verdict("left", "the run is closed in the ledger")
    if run.expires is not None and read_at >= run.expires + EXPIRY_MARGIN:
        return Verdict("left", f"its request expired at {run.expires:%Y-%m-%d %H:%M} UTC")
    if run.pinned and run.origin in lost:
        return Verdict("left", "its Temporal namespace is lost")
    if run.pinned and run.origin != namespace_id:
        until = f" until {run.expires + EXPIRY_MARGIN:%Y-%m-%d %H:%M} UTC" if run.expires else ""
        return Verdict("kept", f"it began in another Temporal namespace ({run.origin or 'unknown'}) and may run there{until}")
    if not run.pinned:
        return Verdict("left", "the ledger does not know it")
    if workflow.state == "ended":
        return Verdict("left", f"its workflow has ended: {workflow.status}")
    if run.pinned_at is not None and read_at - run.pinned_at < grace:
        return Verdict("kept", f"it is younger than {int(grace.total_seconds())} s, and Temporal does not know it")
    return Verdict("left", "Temporal does not know it")


def still_held(first: RunHeld, second: RunHeld) -> RunHeld:
    """Return what both looks have found: what a run's own cleanup has removed in the meantime is not left over."""
    held = {kind: min(count, first.held[kind]) for kind, count in second.held.items() if first.held.get(kind)}
    return second.model_copy(update={"held": held})
