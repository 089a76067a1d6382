"""The interceptors with which Temporal clients and workers trace: the SDK's, and one that gives each run its own trace.

The trace context travels in headers of Temporal messages, which the payload codec does not encrypt and nothing authenticates. It decides
nothing: a run's trace is derived from its workflow ID (:func:`cleanroom.identifiers.run_trace`), whatever the header says.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.contrib.opentelemetry import OpenTelemetryInterceptor
from temporalio.converter import PayloadConverter
from temporalio.worker import ExecuteWorkflowInput, Interceptor, WorkflowInboundInterceptor, WorkflowInterceptorClassInput

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
        subject = workflow_subject(workflow.info().workflow_id)
        if "run" in subject:
            ids = run_trace(subject["collaboration"], subject["run"])
            if not of_trace(input.headers.get(HEADER), ids):
                traceparent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01"
                payload = PayloadConverter.default.to_payloads([{"traceparent": traceparent}])[0]
                input.headers = {**input.headers, HEADER: payload}
        return await self.next.execute_workflow(input)


def of_trace(header: Any, ids: TraceIds) -> bool:
    """Whether a header names a span of the trace."""
    if header is None:
        return False
    try:
        (carrier,) = PayloadConverter.default.from_payloads([header])
        return str(carrier["traceparent"]).split("-")[1] == f"{ids.trace_id:032x}"
    except Exception:  # any payload can be in a header that nothing authenticates
        return False
