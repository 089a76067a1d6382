"""Audit events of a run in governance: the pods write them, and the clean room and auditors read them.

Each event is one entry under the job's ``event_scope``. Its ID is :func:`event_id`, so a repeated write updates the
same entry, and the ledger keeps both versions. No event contains a value of a dataset. The IDs and names are those
of azure-cleanroom (``docs/facts/spark-applications.md``).
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError

from cleanroom.errors import Internal
from cleanroom.identifiers import HexDigest, Name
from cleanroom.models import CamelModel
from cleanroom.spark.job import ResultReceipt

EVENT_IDS: dict[str, int] = {
    "QUERY_STATISTICS": 2001,
    "DATASET_LOAD_COMPLETED": 3001,
    "DATASET_LOAD_FAILED": 3002,
    "QUERY_COMPLETED": 3003,
    "QUERY_FAILED": 3004,
    "DATASET_WRITE_COMPLETED": 3005,
    "DATASET_WRITE_FAILED": 3006,
}

CLEAN_ROOM_STEPS = (
    "PREPARE_STARTED",
    "GRANTED",
    "PREPARED",
    "RUN_STARTED",
    "SUBMITTED",
    "REVOKED",
    "RUN_COMPLETED",
    "RUN_FAILED",
    "RUN_CANCELLED",
)
"""Events that the clean room writes about a run, in their order. The pods write those of :data:`EVENT_IDS`."""
RUN_ENDS = ("RUN_COMPLETED", "RUN_FAILED", "RUN_CANCELLED")
"""Events that record the end of a run. A run has one of them."""
ATTESTED_STEP = "PREPARED"
"""The event that the clean room binds to its attestation report, with nothing in it but what the clean room derived."""


class RunEvent(CamelModel):
    """An audit event. ``QUERY_COMPLETED`` ends a successful run and contains the result receipt; ``QUERY_FAILED`` contains the code."""

    model_config = ConfigDict(extra="ignore")

    id: int
    name: str
    source: str = "cleanroom-sparkapp"
    message: str
    """``Event_<NAME>_<id> | <text> | job id: <run id>.``, as in azure-cleanroom."""
    run_id: Name
    query_digest: HexDigest
    job_digest: HexDigest
    step: str = ""
    """The dataset that the event is about, or empty."""
    code: str | None = None
    """The failure's stable code."""
    statistics: dict[str, float] = {}
    facts: dict[str, Any] = {}
    receipt: ResultReceipt | None = None

    def wire(self) -> dict[str, Any]:
        """Return the event as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def event_id(run_id: str, name: str, step: str = "") -> str:
    """Return the ID of an event in governance: ``<run id>.<name>[.<step>]``."""
    return ".".join(part for part in (run_id, name.lower().replace("_", "-"), step) if part)


def parse_event(value: dict[str, Any]) -> RunEvent:
    """Parse the ``data`` of a ledger entry.

    Raises:
        Internal: ``RunEventMalformed``.
    """
    try:
        return RunEvent.model_validate(value)
    except ValidationError as error:
        raise Internal(
            "RunEventMalformed",
            "A run event in the ledger does not have this version's format.",
            cause=f"{error.error_count()} errors",
            hint="Use the version that executed the run.",
        ) from None
