"""When tracing is on, what a span may contain, and the spans that a pod prints."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode
from temporalio.api.common.v1 import Payload
from temporalio.contrib.opentelemetry._otel_interceptor import _headers_to_context
from temporalio.converter import PayloadConverter
from temporalio.worker import WorkflowInboundInterceptor, WorkflowInterceptorClassInput

from cleanroom.errors import Refused
from cleanroom.identifiers import TraceIds, run_trace
from cleanroom.spark.pod_spans import MAX_SPANS, POD_STEPS, PREFIX, PodSpan, read_spans
from cleanroom.temporal.trace_interceptors import HEADER, RunTraces, of_trace, readable
from cleanroom.tracing import ATTRIBUTES, enabled, listed_attributes, resource_of
from sparkapp.reporting import Reporter
from starters.cli import app
from starters.terminal.entry import span_name
from tests.unit.spark_support import make_job

# ---------------------------------------------------------------------- on and off


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_only_an_endpoint_turns_tracing_on(environment: dict[str, str], on: bool) -> None:
    assert enabled(environment) is on


def test_without_tracing_opentelemetry_is_not_imported() -> None:
    """Importing it would take every command 0.3 s."""
    code = (
        "import sys; import starters.run, starters.terminal.entry, cleanroom.temporal.client, workers.run; "
        "from cleanroom import tracing; "
        'exec(\'with tracing.traced("x"), tracing.command_span(lambda: "x"), tracing.run_root("c", "r", "x"): tracing.note_code("C")\'); '
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout == "[]\n"


def test_a_commands_span_is_named_after_the_command_only() -> None:
    root = typer.main.get_command(app)
    assert span_name(root, ["run", "start", "secret-query", "--profile", "x"]) == "cleanroom run start"
    assert span_name(root, ["ps"]) == "cleanroom ps"
    assert span_name(root, ["no-such-command"]) == "cleanroom"


# ---------------------------------------------------------------------- what a span may contain


def exported(name: str = "GET", **attributes: Any) -> Any:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(listed_attributes(memory)))
    with provider.get_tracer("t").start_as_current_span(name, attributes=attributes) as span:
        span.add_event("log", {"message": "CANARY"})
        span.record_exception(ValueError("CANARY"), {"row": "CANARY"})
        span.set_status(Status(StatusCode.ERROR, "ValueError: CANARY"))
    (found,) = memory.get_finished_spans()
    return found


def test_attributes_that_are_not_listed_are_removed() -> None:
    found = exported(**{"url.full": "https://h/guests/CANARY", "http.request.header.authorization": "CANARY", "server.address": "h"})
    assert dict(found.attributes) == {"server.address": "h"}
    assert [(event.name, dict(event.attributes)) for event in found.events] == [("exception", {"exception.type": "ValueError"})]
    assert (found.status.status_code, found.status.description) == (StatusCode.ERROR, None)
    assert "CANARY" not in found.to_json()


def test_the_environment_adds_no_detected_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator of an attested worker controls its environment."""
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process,os,host")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    found = dict(resource_of("cleanroom-frontend").attributes)
    assert found == {"service.name": "cleanroom-frontend", "service.namespace": "cleanroom", "deployment.environment.name": "test"}
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert resource_of("cleanroom-frontend").attributes["service.name"] == "mine"


def test_listed_attributes_are_redacted_short_and_simple() -> None:
    found = exported(**{"server.address": "h" * 1000, "error.type": "Bearer abcdefgh12345678", "cleanroom.run": ("a", "b")})
    assert len(found.attributes["server.address"]) <= 200
    assert found.attributes["error.type"] == "Bearer [removed]"
    assert "cleanroom.run" not in found.attributes


def test_a_name_with_other_characters_is_replaced() -> None:
    assert exported("HandleSignal:CANARY'; x\n").name == "other"


def test_no_listed_attribute_holds_a_url_a_header_or_a_message() -> None:
    assert not {
        key for key in ATTRIBUTES if any(part in key for part in ("url.full", "url.path", "url.query", "header", "message", "stack"))
    }


# ---------------------------------------------------------------------- headers that nothing authenticates


@pytest.mark.parametrize(
    ("carrier", "own"),
    [
        ({"traceparent": f"00-{run_trace('c', 'r').trace_id:032x}-{1:016x}-01"}, True),
        ({"traceparent": f"00-{1:032x}-{1:016x}-01"}, False),
        ({"traceparent": "x"}, False),
        ({"traceparent": 7}, False),
        ({}, False),
        ([1], False),
        ("text", False),
    ],
)
def test_only_a_header_of_the_runs_own_trace_is_followed(carrier: Any, own: bool) -> None:
    assert of_trace(PayloadConverter.default.to_payloads([carrier])[0], run_trace("c", "r")) is own


class Reader(WorkflowInboundInterceptor):
    """Reads the trace context of a message as the SDK's interceptor does, which raises for junk."""

    def __init__(self) -> None:
        self.read: list[bool] = []

    def _read(self, input: Any) -> None:
        _headers_to_context(input.headers)
        self.read.append(HEADER in input.headers)

    async def execute_workflow(self, input: Any) -> None:
        self._read(input)

    async def handle_signal(self, input: Any) -> None:
        self._read(input)

    async def handle_query(self, input: Any) -> None:
        self._read(input)

    def handle_update_validator(self, input: Any) -> None:
        self._read(input)

    async def handle_update_handler(self, input: Any) -> None:
        self._read(input)


HANDLERS = ("execute_workflow", "handle_signal", "handle_query", "handle_update_validator", "handle_update_handler")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
TRACE_HEADERS = st.sampled_from(["traceparent", "tracestate", "baggage"])
HEADERS = st.one_of(
    st.builds(lambda encoding, data: Payload(metadata={"encoding": encoding}, data=data), st.binary(), st.binary()),
    st.builds(
        lambda carrier: PayloadConverter.default.to_payloads([carrier])[0],
        st.one_of(JSON, st.dictionaries(TRACE_HEADERS, JSON | st.text("0123456789abcdef-=;,%", max_size=80))),
    ),
)


@given(header=HEADERS, handler=st.sampled_from(HANDLERS))
def test_a_header_that_is_no_trace_context_is_removed_before_the_sdk_reads_it(header: Payload, handler: str) -> None:
    reader = Reader()
    interceptor_class = RunTraces().workflow_interceptor_class(WorkflowInterceptorClassInput(unsafe_extern_functions={}))
    message = SimpleNamespace(headers={HEADER: header, "other": header})
    with patch("cleanroom.temporal.trace_interceptors.workflow.info", lambda: SimpleNamespace(workflow_id="cr/flights/query/q")):
        handled = getattr(interceptor_class(reader), handler)(message)
        if handled is not None:
            asyncio.run(handled)
    assert reader.read == [HEADER in message.headers]
    assert message.headers["other"] == header


def test_a_trace_context_is_kept() -> None:
    headers = {HEADER: PayloadConverter.default.to_payloads([{"traceparent": f"00-{1:032x}-{1:016x}-01", "tracestate": "a=b"}])[0]}
    assert readable(headers) == headers


def test_the_trace_of_a_run_differs_by_collaboration_and_run() -> None:
    found = {run_trace(*pair).trace_id for pair in (("c", "r"), ("c", "r2"), ("c2", "r"), ("cr", "x"))}
    assert len(found) == 4
    assert run_trace("c", "r") == run_trace("c", "r")


# ---------------------------------------------------------------------- the pod

JOB = make_job()
IDS = run_trace(JOB.contract_id, JOB.run_id)
NOW = time.time_ns()


def read(log: str) -> list[PodSpan]:
    # A loaded machine takes long from the collection of the tests, which sets NOW, to this test.
    return list(read_spans(log, JOB.contract_id, JOB.run_id, between=(NOW - 10**12, time.time_ns() + 10**12)))


def test_the_driver_prints_its_steps_and_the_reader_finds_them(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(None, JOB)  # type: ignore[arg-type]
    with reporter.step("open datasets"):
        reporter.progress("dataset x: opening")
    with pytest.raises(ValueError, match="row"), reporter.step("compute result"):
        raise ValueError("row 4711")
    reporter.ended(Refused("SecretRevoked", "CANARY"))
    log = capsys.readouterr().out
    opened, computed, whole = read(log)
    assert [span.name for span in (opened, computed, whole)] == ["open datasets", "compute result", "pod"]
    assert opened.parent_id == computed.parent_id == whole.span_id
    assert whole.parent_id == IDS.span_id
    assert (opened.code, computed.code, whole.code) == (None, None, "SECRET_REVOKED")
    assert all(time % 10_000_000 == 0 for span in (opened, computed, whole) for time in (span.start, span.end))
    assert "CANARY" not in log
    assert "4711" not in log


def line(**members: Any) -> str:
    value = json.loads(PodSpan("pod", 7, IDS.span_id, NOW, NOW + 5).line(IDS).removeprefix(PREFIX))
    return PREFIX + json.dumps(value | members)


@pytest.mark.parametrize(
    "text",
    [
        line(name="secret of row 4711"),
        line(traceparent=f"00-{1:032x}-{7:016x}-01"),
        line(traceparent=f"00-{IDS.trace_id:032x}-zz-01"),
        line(parent="x"),
        line(start=1),
        line(start=NOW + 9),
        line(end=NOW + 10**13),
        line(start=True),
        line(start="1"),
        line(code="a text with spaces"),
        line(code=7),
        PREFIX + "{",
        PREFIX + "[]",
        PREFIX + "7",
        PREFIX + "[" * 100_000,
        "pod " + line(),
    ],
    ids=range(16),
)
def test_lines_that_cannot_be_the_runs_are_ignored(text: str) -> None:
    assert read(text) == []
    assert len(read(f"{text}\n{line()}")) == 1


def test_every_step_is_accepted_and_the_limits_of_time_are_included() -> None:
    log = "\n".join(line(name=name) for name in POD_STEPS)
    assert [span.name for span in read(log)] == list(POD_STEPS)
    assert (
        *("pod", "check the query", "check consent", "open datasets", "wait for Spark", "load datasets"),
        *("run segments", "compute result", "write result", "record result"),
    ) == POD_STEPS
    whole = list(read_spans(line(), JOB.contract_id, JOB.run_id, between=(NOW, NOW + 5)))
    assert [(span.start, span.end) for span in whole] == [(NOW, NOW + 5)]
    assert list(read_spans(line(), JOB.contract_id, "another-run", between=(NOW, NOW + 5))) == []


def test_the_number_of_spans_is_bounded() -> None:
    assert len(read("\n".join([line()] * 1000))) == MAX_SPANS == 64
    assert len(POD_STEPS) < MAX_SPANS


def test_a_span_is_one_short_line_after_its_prefix() -> None:
    """Every byte is one of the log that Kubernetes keeps, and another line of the driver is no span."""
    printed = PodSpan("pod", 1, 2, 3, 4, "Code").line(TraceIds(5, 6))
    traceparent = f"00-{5:032x}-{1:016x}-01"
    assert printed == f'span {{"name":"pod","traceparent":"{traceparent}","parent":"{2:016x}","start":3,"end":4,"code":"Code"}}'
    assert read(line().removeprefix(PREFIX)) == []
