"""Audit events of a run in CGS: what the pods write and what whoever concludes a run reads. Ids and names: spec/execute.md C5.

Each event is one entry under the job's ``event_scope``; its id is :func:`event_id`, so that a repeated write replaces itself and
the ledger keeps both. No event holds a value of any dataset.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from cleanroom.errors import Internal
from cleanroom.identifiers import HexDigest, Name
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
"""What the clean room itself enters about a run, in the order in which it happens; the pods' own events are :data:`EVENT_IDS`."""


class RunEvent(BaseModel):
    """One audit event. ``QUERY_COMPLETED`` is the last of a successful run and carries the receipt; ``QUERY_FAILED`` carries the code."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    id: int
    name: str
    source: str = "cleanroom-sparkapp"
    message: str
    """Upstream's line: ``Event_<NAME>_<id> | <text> | job id: <run id>``."""
    run_id: Name
    query_digest: HexDigest
    job_digest: HexDigest
    step: str = ""
    """What the event is about within the run: a dataset's name, or empty."""
    code: str | None = None
    """Stable code of the failure."""
    statistics: dict[str, float] = {}
    facts: dict[str, Any] = {}
    receipt: ResultReceipt | None = None

    def wire(self) -> dict[str, Any]:
        """The event as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def event_id(run_id: str, name: str, step: str = "") -> str:
    """The ``id`` under which CGS holds an event: ``<run id>.<name>[.<step>]``."""
    return ".".join(part for part in (run_id, name.lower().replace("_", "-"), step) if part)


def parse_event(value: dict[str, Any]) -> RunEvent:
    """The event in the ``data`` of a CGS ledger entry.

    Raises:
        Internal: ``RunEventMalformed``.
    """
    try:
        return RunEvent.model_validate(value)
    except ValidationError as error:
        raise Internal(
            "RunEventMalformed", "A run event in the ledger is not of this version.", cause=f"{error.error_count()} errors"
        ) from None
