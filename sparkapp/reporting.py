"""Reports a run's progress to standard output and its audit events to the ledger, without any value of a dataset."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.identifiers import run_trace
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.pod_spans import PodSpan
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
        self._trace = run_trace(job.contract_id, job.run_id)
        self._span_id, self._began = secrets.randbits(64), _now()

    def seconds(self) -> float:
        """Return the seconds since the reporter was created."""
        return time.monotonic() - self._started

    def progress(self, text: str) -> None:
        """Print a line of progress. ``text`` may contain names and times only."""
        with self._lock:
            sys.stdout.write(f"{self.seconds():8.2f}s  {text}\n")
            sys.stdout.flush()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print a span for the block: a step of the driver, one of :data:`cleanroom.spark.pod_spans.POD_STEPS`.

        It has no error code. The error of a step can depend on one row; only the code of the whole run is free of that.
        """
        start = _now()
        try:
            yield
        finally:
            self._print_span(PodSpan(name, secrets.randbits(64), self._span_id, start, _now()))

    def ended(self, failure: CleanRoomError | None) -> None:
        """Print the span of the whole run, with the code of the failure, which must have been redacted for floors."""
        code = failure_code(failure.code) if failure is not None else None
        self._print_span(PodSpan("pod", self._span_id, self._trace.span_id, self._began, _now(), code))

    def _print_span(self, span: PodSpan) -> None:
        with self._lock:
            sys.stdout.write(f"{span.line(self._trace)}\n")
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


def _now() -> int:
    """Return the time in nanoseconds, as exact as the progress lines are: to 10 ms."""
    return time.time_ns() // 10_000_000 * 10_000_000
