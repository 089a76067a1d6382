"""One run with tracing on a real server: the tree of its spans, and what they do not contain."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from cleanroom.identifiers import run_trace
from cleanroom.tracing import ATTRIBUTES
from tests.temporal_env import temporal_env

pytestmark = pytest.mark.scenario
_ = temporal_env
Spans = list[dict[str, Any]]


@pytest.fixture(scope="module")
def traced() -> dict[str, Any]:
    return {}


@pytest.fixture
async def output(traced: dict[str, Any], temporal_env: WorkflowEnvironment) -> dict[str, Any]:
    """What :mod:`tests.traced_workflow` printed."""
    if not traced:
        target = temporal_env.client.service_client.config.target_host
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.traced_workflow", target),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        traced.update(json.loads(out))
    return traced


def chain(spans: Spans, span: dict[str, Any]) -> list[str]:
    """Names of a span and its ancestors, the root first."""
    by_id = {item["context"]["span_id"]: item for item in spans}
    names = [span["name"]]
    while (parent := by_id.get(span["parent_id"])) is not None:
        span = parent
        names.insert(0, span["name"])
    return names


def of(spans: Spans, name: str) -> dict[str, Any]:
    return next(span for span in spans if span["name"] == name)


async def test_the_trace_leads_from_the_command_to_each_request(output: dict[str, Any]) -> None:
    spans: Spans = output["spans"]
    (request, other) = [span for span in spans if span["name"] == "GET"]
    expected = [
        *("cleanroom run start", "StartWorkflow:RunQuery", "RunWorkflow:RunQuery", "StartChildWorkflow:Prepare"),
        *("RunWorkflow:Prepare", "StartActivity:get_users", "RunActivity:get_users", "GET"),
    ]
    assert chain(spans, request) == chain(spans, other) == expected


async def test_a_run_has_the_trace_that_its_pods_derive(output: dict[str, Any]) -> None:
    ids = run_trace("flights", "run-1")
    own = [span for span in output["spans"] if span["context"]["trace_id"] == f"0x{ids.trace_id:032x}"]
    assert len(own) == len(output["spans"]) - 1, "all but the command's own span"
    (root,) = [span for span in own if span["parent_id"] is None]
    assert root["context"]["span_id"] == f"0x{ids.span_id:016x}"
    (command,) = [span for span in output["spans"] if span not in own]
    assert [link["context"]["span_id"] for link in root["links"]] == [command["context"]["span_id"]]


async def test_a_request_has_the_attributes_of_the_conventions_without_its_url(output: dict[str, Any]) -> None:
    requests = [span["attributes"] for span in output["spans"] if span["name"] == "GET"]
    assert len(requests) == 2
    required = {"http.request.method": "GET", "http.response.status_code": 404, "server.address": "localhost", "error.type": "404"}
    for attributes in requests:
        assert required.items() <= attributes.items()
        assert attributes.keys() - required.keys() <= {"server.port", "network.protocol.version", "url.scheme"}


async def test_a_failed_activity_has_its_code(output: dict[str, Any]) -> None:
    failed = of(output["spans"], "RunActivity:submit_job")
    assert failed["attributes"]["cleanroom.code"] == "NoQuota"
    assert failed["status"] == {"status_code": "ERROR"}
    assert failed["events"][0]["attributes"] == {"exception.type": "temporalio.exceptions.ApplicationError"}


async def test_spans_contain_no_text_of_an_error_url_or_header(output: dict[str, Any]) -> None:
    assert "CANARY" not in json.dumps(output["spans"])
    keys = {key for span in output["spans"] for key in span["attributes"]}
    keys |= {key for span in output["spans"] for event in span["events"] for key in event["attributes"]}
    assert keys <= ATTRIBUTES


async def test_requests_carry_no_trace_context(output: dict[str, Any]) -> None:
    assert "authorization" in {name.lower() for name in output["headers"]}
    assert not {name for name in output["headers"] if name.lower() in ("traceparent", "tracestate", "baggage")}


async def test_a_replay_exports_no_span(output: dict[str, Any]) -> None:
    assert output["replayed"] == 0
