"""Scopes and IDs of the entries that a run leaves in governance's ledger."""

from __future__ import annotations

RUNS_SCOPE = "runs"
"""Scope of the entries that say which runs have started and which are closed."""


def event_scope(run_id: str) -> str:
    """Return the scope of one run's own audit events."""
    return f"run-{run_id}"


def runs_event_id(query: str) -> str:
    """Return the ID (in :data:`RUNS_SCOPE`) that collects one entry per started run of ``query``."""
    return f"query.{query}"


def closed_event_id(run_id: str) -> str:
    """Return the ID (in :data:`RUNS_SCOPE`) of the entry that closes a run. A closed run gets no further grants."""
    return f"closed.{run_id}"
