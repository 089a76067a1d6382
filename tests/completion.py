"""The ledger entry of a driver that has completed its job."""

from __future__ import annotations

from typing import Any

from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.run_events import EVENT_IDS, RunEvent


def completed_event(job: JobConfig, **receipt: Any) -> RunEvent:
    """Return the entry ``QUERY_COMPLETED`` of ``job``. Members of its result receipt are replaced by ``receipt``, without validation."""
    written = ResultReceipt(
        run_id=job.run_id,
        query_digest=job.query_digest,
        job_digest=job.digest(),
        dataset=job.datasink.name,
        objects=(),
        rows=0,
        digest="0" * 64,
        columns=("manufacturer",),
    ).model_copy(update=receipt)
    return RunEvent(
        id=EVENT_IDS["QUERY_COMPLETED"],
        name="QUERY_COMPLETED",
        message="done",
        run_id=job.run_id,
        query_digest=job.query_digest,
        job_digest=job.digest(),
        receipt=written,
    )
