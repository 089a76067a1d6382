"""OpenTelemetry traces: off by default, configured by the standard ``OTEL_*`` variables, and with listed attributes only.

Tracing is on if ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set (:func:`enabled`). Otherwise nothing
of OpenTelemetry is imported. Spans come from Temporal's SDK, from the instrumentation of ``httpx`` and of ``urllib3`` (under the SDKs
of Azure, AWS and Kubernetes), and from the commands and pods of this project.

Every span passes :class:`ListedAttributes` before it leaves the process. It removes every attribute that :data:`ATTRIBUTES` does not
list, the descriptions of errors and the texts of exceptions: they quote URLs, which can be capabilities, and messages. Requests carry no
trace context, because most of the services belong to other organisations.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from cleanroom.redaction import redact

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span
    from urllib3 import HTTPConnectionPool

    from cleanroom.identifiers import TraceIds

ATTRIBUTES: Final = frozenset(
    {
        # https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span, without URL and headers
        *("http.request.method", "http.request.resend_count", "http.response.status_code"),
        *("server.address", "server.port", "url.scheme", "network.protocol.version", "error.type"),
        # Temporal's SDK
        *("temporalWorkflowID", "temporalRunID", "temporalActivityID", "temporalActivityType", "temporalUpdateID"),
        # This project
        *("cleanroom.collaboration", "cleanroom.run", "cleanroom.code", "cleanroom.pod"),
        # The type of an exception, as https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/ names it
        "exception.type",
    }
)
"""The keys of span attributes and of attributes of span events that leave a process."""
MAX_VALUE: Final = 200
"""Longest text of an attribute."""
_NAME: Final = re.compile(r"[A-Za-z0-9 :._/-]{1,100}")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_MILLIS: Final = 3000

_forced: ContextVar[TraceIds | None] = ContextVar("cleanroom_forced_ids", default=None)
_command_started_ns = time.time_ns()
_provider: Any = None
"""The tracer provider of this process, once it traces."""


def enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment asks for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


@contextmanager
def traced(service: str, *, exporter: SpanExporter | None = None) -> Iterator[None]:
    """Trace this process while the block runs, if the environment asks for it.

    Args:
        service: ``service.name`` of the spans; ``OTEL_SERVICE_NAME`` overrides it.
        exporter: Where spans go instead of to the OTLP endpoint, for tests.
    """
    if exporter is None and not enabled():
        yield
        return
    global _provider
    _provider = _provider or _start(service, exporter)
    try:
        yield
    finally:
        _provider.force_flush(_FLUSH_MILLIS)


def _start(service: str, exporter: SpanExporter | None) -> Any:
    # "http" selects the stable semantic conventions.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    from opentelemetry import propagate, trace
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from temporalio.contrib.opentelemetry import create_tracer_provider

    class DerivedIds(RandomIdGenerator):
        """Random IDs, except where the caller has chosen them."""

        def generate_trace_id(self) -> int:
            forced = _forced.get()
            return forced.trace_id if forced else super().generate_trace_id()

        def generate_span_id(self) -> int:
            forced = _forced.get()
            return forced.span_id if forced else super().generate_span_id()

    provider = create_tracer_provider(resource=resource_of(service), id_generator=DerivedIds())
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(listed_attributes(OTLPSpanExporter())))
    else:
        provider.add_span_processor(SimpleSpanProcessor(listed_attributes(exporter)))
    trace.set_tracer_provider(provider)
    # Temporal's interceptors have their own propagator. This one is for HTTP requests.
    propagate.set_global_textmap(CompositePropagator([]))
    HTTPXClientInstrumentor().instrument()
    URLLib3Instrumentor().instrument(request_hook=_set_server)
    return provider


def resource_of(service: str) -> Resource:
    """Return the resource of this process's spans: its service, and what the operator states in ``OTEL_RESOURCE_ATTRIBUTES``.

    The detectors that ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS`` names do not run: one of them reports the command line.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    return Resource({"service.name": service, "service.namespace": "cleanroom"}).merge(OTELResourceDetector().detect())


def _set_server(span: Span, pool: HTTPConnectionPool, request: object) -> None:
    """Set the attributes that the conventions require and that urllib3's instrumentation only gives as part of the URL."""
    span.set_attribute("server.address", pool.host)
    if pool.port is not None:
        span.set_attribute("server.port", pool.port)


def listed_attributes(exporter: SpanExporter) -> SpanExporter:
    """Return an exporter that passes spans to ``exporter`` with the attributes of :data:`ATTRIBUTES` only."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class ListedAttributes(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return exporter.export([_listed(span) for span in spans])

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return exporter.force_flush(timeout_millis)

    return ListedAttributes()


def _listed(span: ReadableSpan) -> ReadableSpan:
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link, Status

    return ReadableSpan(
        name=span.name if _NAME.fullmatch(span.name) else "other",
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_kept(span.attributes),
        events=[Event(event.name, _kept(event.attributes), event.timestamp) for event in span.events if event.name == "exception"],
        links=[Link(link.context) for link in span.links],
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _kept(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        key: redact(value, MAX_VALUE) if isinstance(value, str) else value
        for key, value in (attributes or {}).items()
        if key in ATTRIBUTES and isinstance(value, str | int | float | bool)
    }


SERVERS: Final = frozenset({"cleanroom worker", "cleanroom codec-server", "cleanroom up"})
"""Commands that run until a signal. They are not traced as one span."""


@contextmanager
def command_span(command_name: Callable[[], str]) -> Iterator[None]:
    """Trace a command as one span. ``TRACEPARENT`` in the environment, as CI systems set it, is its parent. Without tracing: nothing.

    Args:
        command_name: Returns the name of the command without its arguments; not called without tracing.
    """
    if not enabled() or (name := command_name()) in SERVERS:
        yield
        return
    with traced("cleanroom-cli"):
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": os.environ.get("TRACEPARENT", "")})
        tracer = trace.get_tracer("cleanroom")
        with tracer.start_as_current_span(
            name, parent, start_time=_command_started_ns, record_exception=False, set_status_on_exception=False
        ):
            yield


@contextmanager
def run_root(collaboration: str, run_id: str, name: str) -> Iterator[None]:
    """Trace the start of a run as the root span of the run's trace, with a link to the current span."""
    if not active():
        yield
        return
    from opentelemetry import context, trace

    from cleanroom.identifiers import run_trace

    ids, before = run_trace(collaboration, run_id), trace.get_current_span().get_span_context()
    links = [trace.Link(before)] if before.is_valid else []
    with forced_ids(ids):
        root = trace.get_tracer("cleanroom").start_span(
            name,
            context.Context(),
            attributes={"cleanroom.collaboration": collaboration, "cleanroom.run": run_id},
            links=links,
        )
    with trace.use_span(root, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def forced_ids(ids: TraceIds) -> Iterator[None]:
    """Give the next span these IDs; its trace ID only if it has no parent."""
    token = _forced.set(ids)
    try:
        yield
    finally:
        _forced.reset(token)


def note_code(code: str) -> None:
    """Set the error code of the current span."""
    if active():
        from opentelemetry import trace

        trace.get_current_span().set_attribute("cleanroom.code", code)


def active() -> bool:
    """Return whether this process traces. Imports nothing."""
    return _provider is not None
