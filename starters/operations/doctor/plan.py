"""Which checks a profile has, in the order in which they are shown."""

from __future__ import annotations

from starters.operations.doctor.checks import Check
from starters.operations.doctor.cluster import cluster_checks
from starters.operations.doctor.governance import governance_checks
from starters.operations.doctor.machine import machine_checks
from starters.operations.doctor.stores import store_checks
from starters.operations.doctor.temporal import temporal_checks
from starters.operations.session import Session


def planned_checks(session: Session) -> list[Check]:
    """Return the checks of a profile. A check comes after those that it needs."""
    return [
        *machine_checks(session.settings),
        *temporal_checks(session),
        *governance_checks(session),
        *store_checks(session),
        *cluster_checks(session),
    ]
