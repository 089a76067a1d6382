"""Fairness between collaborators on a shared task queue.

Temporal dispatches the waiting tasks of each fairness key in turn, so many queries or runs of one collaborator do not delay another's
(https://docs.temporal.io/develop/task-queue-priority-fairness). Activities and child workflows inherit the key. A
self-hosted server needs the dynamic configuration ``matching.enableFairness``. Without it, tasks are dispatched in the order of their
arrival.
"""

from __future__ import annotations

from temporalio.common import Priority

from cleanroom.joining import hashed

MAX_KEY = 64
"""Bytes of a fairness key that Temporal accepts."""


def fair_share(collaboration: str, party: str) -> Priority:
    """Return the priority of a workflow that a collaborator starts: one share per collaboration and collaborator."""
    return Priority(fairness_key=hashed("fairness", collaboration, party, prefix="cr", max_length=MAX_KEY, readable=party))
