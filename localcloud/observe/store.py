"""What the page shows, in memory and bounded: the latest traces, and samples of the workers' metrics."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

MAX_TRACES = 300
MAX_SPANS = 3000
"""Most spans per trace. Later ones are dropped."""
MAX_SAMPLES = 1440
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ERROR = 2
"""``STATUS_CODE_ERROR`` of OTLP."""


@dataclass
class Store:
    """Traces by ID, the oldest first, and samples by time."""

    traces: OrderedDict[str, dict[str, dict[str, Any]]] = field(default_factory=OrderedDict)
    samples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_spans(self, body: bytes) -> None:
        """Add the spans of an OTLP request.

        Raises:
            google.protobuf.message.DecodeError: The body is not one.
        """
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                service = str(_values(resource.resource.attributes).get("service.name", ""))
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._add(service, span)

    def _add(self, service: str, span: Any) -> None:
        trace = self.traces.setdefault(span.trace_id.hex(), {})
        if len(trace) >= MAX_SPANS:
            return
        trace[span.span_id.hex()] = {
            "id": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "service": service,
            "name": span.name,
            "start": span.start_time_unix_nano / 1e6,
            "end": span.end_time_unix_nano / 1e6,
            "error": span.status.code == _ERROR,
            "attributes": _values(span.attributes),
            "events": [{"name": event.name, "attributes": _values(event.attributes)} for event in span.events],
        }
        while len(self.traces) > MAX_TRACES:
            self.traces.popitem(last=False)

    def summaries(self) -> list[dict[str, Any]]:
        """Return one line per trace, the latest first."""
        with self._lock:
            return sorted((_summary(key, list(spans.values())) for key, spans in self.traces.items()), key=lambda item: -item["start"])

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans of a trace."""
        with self._lock:
            return list(self.traces.get(trace_id, {}).values())

    def all_spans(self) -> list[dict[str, Any]]:
        """Return every span."""
        with self._lock:
            return [{"trace": key, **span} for key, spans in self.traces.items() for span in spans.values()]

    def add_scrape(self, time: float, scrapes: dict[str, str | None]) -> None:
        """Add what the workers exported at a time; None for a worker that did not answer."""
        series: dict[str, float] = {}
        for worker, text in scrapes.items():
            series[f'up{{worker="{worker}"}}'] = float(text is not None)
            for line in (text or "").splitlines():
                found = _SAMPLE.match(line)
                if found and _shown(found[1]):
                    series[f"{found[1]}{found[2] or ''}"] = float(found[3])
        self.samples.append({"time": time, "series": series})

    def series(self) -> dict[str, Any]:
        """Return the times, and each series with its labels and its values at these times."""
        samples = list(self.samples)
        names = sorted({name for sample in samples for name in sample["series"]})
        return {
            "times": [sample["time"] for sample in samples],
            "series": [
                {
                    "metric": name.partition("{")[0],
                    "labels": dict(_LABEL.findall(name)),
                    "values": [sample["series"].get(name) for sample in samples],
                }
                for name in names
            ],
        }


def _shown(name: str) -> bool:
    """Whether the page has a chart of a metric. Of histograms it shows means."""
    if name.startswith("cleanroom_"):
        return not name.endswith("_bucket")
    return name in ("temporal_worker_task_slots_used", "temporal_workflow_task_execution_failed_total")


def _summary(trace_id: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    known = {span["id"] for span in spans}
    roots = [span for span in spans if span["parent"] not in known]
    first = min(roots or spans, key=lambda span: span["start"])
    return {
        "id": trace_id,
        "name": first["name"],
        "run": next((span["attributes"]["cleanroom.run"] for span in spans if "cleanroom.run" in span["attributes"]), ""),
        "start": min(span["start"] for span in spans),
        "end": max(span["end"] for span in spans),
        "spans": len(spans),
        "errors": sum(span["error"] for span in spans),
        "services": len({span["service"] for span in spans}),
    }


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: _value(item) for item in attributes}


def _value(item: KeyValue) -> Any:
    kind = item.value.WhichOneof("value")
    return getattr(item.value, kind) if kind in ("string_value", "int_value", "double_value", "bool_value") else None
