"""The page with traces and metrics: what it receives, what it keeps, and what it serves."""

from __future__ import annotations

import gzip
import re
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from localcloud.observe import store as limits
from localcloud.observe.server import PAGE, create_app
from localcloud.observe.store import Store


def request(trace: int = 1, span: int = 1, *, parent: int = 0, name: str = "GET", **attributes: Any) -> bytes:
    """An OTLP request with one span."""
    body = ExportTraceServiceRequest()
    resource = body.resource_spans.add()
    entry = resource.resource.attributes.add()
    entry.key, entry.value.string_value = "service.name", "cleanroom-frontend"
    made = resource.scope_spans.add().spans.add()
    made.trace_id, made.span_id, made.name = trace.to_bytes(16, "big"), span.to_bytes(8, "big"), name
    made.parent_span_id = parent.to_bytes(8, "big") if parent else b""
    made.start_time_unix_nano, made.end_time_unix_nano = 5_000_000, 9_000_000
    for key, value in attributes.items():
        item = made.attributes.add()
        item.key, item.value.string_value = f"cleanroom.{key}", value
    return body.SerializeToString()


@pytest.fixture
def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(Store(), {})), base_url="http://127.0.0.1")


async def test_received_spans_become_a_trace_with_a_summary(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/traces", content=request(name="cleanroom run start", run="r-1"))).status_code == 200
    packed = gzip.compress(request(span=2, parent=1))
    assert (await client.post("/v1/traces", content=packed, headers={"content-encoding": "gzip"})).status_code == 200
    (summary,) = (await client.get("/api/traces")).json()
    assert (summary["name"], summary["run"], summary["spans"], summary["errors"]) == ("cleanroom run start", "r-1", 2, 0)
    first, second = (await client.get(f"/api/traces/{summary['id']}")).json()
    assert (first["service"], first["start"], first["end"], second["parent"]) == ("cleanroom-frontend", 5, 9, first["id"])


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
async def test_a_body_that_is_no_otlp_is_rejected(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.post("/v1/traces", content=b"\xff\xff\xff", headers=headers)).status_code == 400


def test_old_traces_and_spans_beyond_the_limit_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_TRACES", 2)
    monkeypatch.setattr(limits, "MAX_SPANS", 3)
    kept = Store()
    for trace in (1, 2, 3):
        for span in range(1, 6):
            kept.add_spans(request(trace, span))
    assert [(item["id"][-1], item["spans"]) for item in kept.summaries()] == [("2", 3), ("3", 3)]


async def test_a_page_of_another_host_reads_nothing(client: httpx.AsyncClient) -> None:
    """A name that was rebound to the loopback address."""
    assert (await client.get("/api/traces", headers={"host": "evil.example"})).status_code == 400


async def test_the_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    text = PAGE.read_text()
    assert answer.text == text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text


def test_scrapes_become_series_with_labels() -> None:
    kept = Store()
    kept.add_scrape(1.0, {"frontend": 'cleanroom_runs_open{stage="run.watch"} 2\ncleanroom_step_seconds_bucket{le="1"} 3\nother 4\n'})
    kept.add_scrape(2.0, {"frontend": None})
    found = kept.series()
    assert found["times"] == [1.0, 2.0]
    assert found["series"] == [
        {"metric": "cleanroom_runs_open", "labels": {"stage": "run.watch"}, "values": [2.0, None]},
        {"metric": "up", "labels": {"worker": "frontend"}, "values": [1.0, 0.0]},
    ]
