"""Exports the spans that a run's driver printed. A separate module, because the pod's image has no OpenTelemetry."""

from __future__ import annotations

import datetime as dt

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from cleanroom.identifiers import TraceIds, run_trace
from cleanroom.spark.pod_spans import read_spans
from cleanroom.tracing import forced_ids

LONGEST_RUN = dt.timedelta(days=2)
CLOCK_SKEW = dt.timedelta(minutes=5)


def export_spans(log: str, collaboration: str, run_id: str, *, now: dt.datetime) -> None:
    """Export the spans in a driver's log as children of the run's root span.

    Args:
        log: The log.
        collaboration: ID of the collaboration.
        run_id: ID of the run.
        now: The time at which the job has ended.
    """
    between = _nanoseconds(now - LONGEST_RUN), _nanoseconds(now + CLOCK_SKEW)
    trace_id, tracer = run_trace(collaboration, run_id).trace_id, trace.get_tracer("cleanroom.pod")
    for found in read_spans(log, collaboration, run_id, between=between):
        parent = NonRecordingSpan(SpanContext(trace_id, found.parent_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
        with forced_ids(TraceIds(trace_id, found.span_id)):
            span = tracer.start_span(
                found.name, trace.set_span_in_context(parent), start_time=found.start, attributes={"cleanroom.pod": "driver"}
            )
        if found.code is not None:
            span.set_attribute("cleanroom.code", found.code)
            span.set_status(Status(StatusCode.ERROR))
        span.end(found.end)


def _nanoseconds(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1_000_000_000
