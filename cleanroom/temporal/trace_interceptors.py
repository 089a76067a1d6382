"""The interceptors with which Temporal clients and workers trace: the SDK's, and one that gives each run its own trace.

The trace context travels in headers of Temporal messages, which the payload codec does not encrypt and nothing authenticates. It decides
nothing: a run's trace is derived from its workflow ID (:func:`cleanroom.identifiers.run_trace`), whatever the header says. A header that
is no trace context is removed before the SDK's interceptor reads it. That would fail the workflow task, which is repeated forever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.contrib.opentelemetry import OpenTelemetryInterceptor
from temporalio.converter import PayloadConverter
from temporalio.worker import (
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from cleanroom.identifiers import TraceIds, run_trace, workflow_subject

HEADER = "_tracer-data"
"""The header in which the SDK's interceptor sends the trace context."""


def trace_interceptors() -> list[ClientInterceptor]:
    """Return the interceptors for a client; they also apply to the workers of that client."""
    return [RunTraces(), OpenTelemetryInterceptor(add_temporal_spans=True)]


class RunTraces(ClientInterceptor, Interceptor):
    """Puts a run's workflows into the trace of the run. Deterministic: it depends on the workflow's ID and headers only."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the interceptor class; called by the SDK."""
        return _InRunTrace


class _InRunTrace(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        input.headers = readable(input.headers)
        subject = workflow_subject(workflow.info().workflow_id)
        if "run" in subject:
            ids = run_trace(subject["collaboration"], subject["run"])
            if not of_trace(input.headers.get(HEADER), ids):
                traceparent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01"
                payload = PayloadConverter.default.to_payloads([{"traceparent": traceparent}])[0]
                input.headers = {**input.headers, HEADER: payload}
        return await self.next.execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        input.headers = readable(input.headers)
        await self.next.handle_signal(input)

    async def handle_query(self, input: HandleQueryInput) -> Any:
        input.headers = readable(input.headers)
        return await self.next.handle_query(input)

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        input.headers = readable(input.headers)
        self.next.handle_update_validator(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        input.headers = readable(input.headers)
        return await self.next.handle_update_handler(input)


def readable(headers: Mapping[str, Payload]) -> Mapping[str, Payload]:
    """Return the headers without a trace context that cannot be read."""
    if HEADER not in headers or _carrier(headers[HEADER]) is not None:
        return headers
    return {name: value for name, value in headers.items() if name != HEADER}


def of_trace(header: Payload | None, ids: TraceIds) -> bool:
    """Whether a header names a span of the trace."""
    carrier = {} if header is None else _carrier(header) or {}
    return carrier.get("traceparent", "").split("-")[1:2] == [f"{ids.trace_id:032x}"]


def _carrier(header: Payload) -> dict[str, str] | None:
    """Return the trace context of a header; None for any other content."""
    try:
        (carrier,) = PayloadConverter.default.from_payloads([header])
    except Exception:  # any payload can be in a header that nothing authenticates
        return None
    known = isinstance(carrier, dict) and all(isinstance(value, str) for value in carrier.values())
    return carrier if known else None
