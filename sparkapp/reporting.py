"""Reports a run's progress to standard output and its audit events to the ledger, without any value of a dataset."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.run_events import EVENT_IDS, RunEvent, event_id
from sparkapp.failures import failure_code
from sparkapp.pod import Pod


class Reporter:
    """Progress lines and audit events of one run.

    :meth:`event` returns only after the ledger has committed the event, because a run whose audit is incomplete must fail.
    """

    def __init__(self, pod: Pod, job: JobConfig) -> None:
        self.pod = pod
        self.job = job
        self._digest = job.digest()
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """Return the seconds since the reporter was created."""
        return time.monotonic() - self._started

    def progress(self, text: str) -> None:
        """Print a line of progress. ``text`` may contain names and times only."""
        with self._lock:
            sys.stdout.write(f"{self.seconds():8.2f}s  {text}\n")
            sys.stdout.flush()

    def event(
        self,
        name: str,
        text: str,
        *,
        step: str = "",
        error: CleanRoomError | None = None,
        statistics: dict[str, float] | None = None,
        facts: dict[str, Any] | None = None,
        receipt: ResultReceipt | None = None,
    ) -> None:
        """Write an audit event to the ledger.

        Args:
            name: A key of :data:`cleanroom.spark.run_events.EVENT_IDS`.
            text: What happened.
            step: The dataset that the event is about, if any.
            error: The failure, if any; its code is recorded.
            statistics: Numbers.
            facts: Identifiers and digests.
            receipt: The result receipt of a completed query.

        Raises:
            Unavailable: ``AuditLost`` if the ledger did not confirm the event.
            CleanRoomError: Governance rejected the event.
        """
        event = RunEvent(
            id=EVENT_IDS[name],
            name=name,
            message=f"Event_{name}_{EVENT_IDS[name]} | {text} | job id: {self.job.run_id}.",
            run_id=self.job.run_id,
            query_digest=self.job.query_digest,
            job_digest=self._digest,
            step=step,
            code=failure_code(error.code) if error else None,
            statistics=statistics or {},
            facts=facts or {},
            receipt=receipt,
        )
        try:
            self.pod.record(event_id(self.job.run_id, name, step), event.wire())
        except CleanRoomError as failed:
            if not failed.retryable:
                raise
            raise Unavailable(
                "AuditLost", f"The ledger did not confirm {name}, so the run cannot complete.", cause=str(failed), retryable=True
            ) from failed
