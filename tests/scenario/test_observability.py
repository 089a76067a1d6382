"""Runs that go wrong, traced and measured on a real server: the tree of spans, the alerts that fire, the dashboard's metrics."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.testing import WorkflowEnvironment

from cleanroom.identifiers import run_trace
from cleanroom.temporal.metrics import METRICS
from cleanroom.tracing import ATTRIBUTES
from tests.patience import PATIENCE

pytestmark = pytest.mark.scenario
Spans = list[dict[str, Any]]


@pytest.fixture(scope="module")
def traced() -> dict[str, Any]:
    return {}


@pytest.fixture
async def output(traced: dict[str, Any], temporal_env: WorkflowEnvironment) -> dict[str, Any]:
    """What :mod:`tests.observed_run` printed."""
    if not traced:
        target = temporal_env.client.service_client.config.target_host
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.observed_run", target),
            cwd=Path(__file__).parents[2],
            # The operator asks the instrumentations for every header.
            env={**os.environ, "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, err.decode()
        traced.update(json.loads(out.splitlines()[-1]))
    return traced


def chain(spans: Spans, span: dict[str, Any]) -> list[str]:
    """Names of a span and its ancestors, the root first."""
    by_id = {item["context"]["span_id"]: item for item in spans}
    names = [span["name"]]
    while (parent := by_id.get(span["parent_id"])) is not None:
        span = parent
        names.insert(0, span["name"])
    return names


def of_run(spans: Spans, run_id: str = "run-1") -> Spans:
    """The spans of a run's trace."""
    trace_id = f"0x{run_trace('observed', run_id).trace_id:032x}"
    return [span for span in spans if span["context"]["trace_id"] == trace_id]


def of(spans: Spans, name: str) -> dict[str, Any]:
    return next(span for span in spans if span["name"] == name)


async def test_the_trace_leads_from_the_command_to_each_request(output: dict[str, Any]) -> None:
    spans: Spans = output["spans"]
    (request, other) = [span for span in of_run(spans) if span["name"] == "GET"]
    expected = [
        *("cleanroom run start", "StartWorkflow:RunQuery", "RunWorkflow:RunQuery", "StartChildWorkflow:Prepare"),
        *("RunWorkflow:Prepare", "StartActivity:get_users", "RunActivity:get_users", "GET"),
    ]
    assert chain(spans, request) == chain(spans, other) == expected


async def test_a_run_has_the_trace_that_its_pods_derive(output: dict[str, Any]) -> None:
    ids = run_trace("observed", "run-1")
    own = of_run(output["spans"])
    (root,) = [span for span in own if span["parent_id"] is None]
    assert root["context"]["span_id"] == f"0x{ids.span_id:016x}"
    assert {"RunWorkflow:RunQuery", "RunWorkflow:Prepare", "RunActivity:revoke_grants", "GET"} <= {span["name"] for span in own}
    by_id = {span["context"]["span_id"]: span for span in output["spans"]}
    (command,) = [by_id[link["context"]["span_id"]] for link in root["links"]]
    assert command["name"] == "cleanroom run start"
    assert command not in own


async def test_a_run_of_a_client_that_does_not_trace_has_its_own_trace(output: dict[str, Any]) -> None:
    """Such as one that a schedule starts."""
    own = of_run(output["spans"], "run-0")
    assert {"RunWorkflow:RunQuery", "RunWorkflow:Prepare", "RunActivity:collect_result"} <= {span["name"] for span in own}
    assert "StartWorkflow:RunQuery" not in {span["name"] for span in own}
    assert of(own, "RunWorkflow:RunQuery")["parent_id"] == f"0x{run_trace('observed', 'run-0').span_id:016x}"


async def test_a_request_has_the_attributes_of_the_conventions_without_its_url(output: dict[str, Any]) -> None:
    requests = [span["attributes"] for span in of_run(output["spans"]) if span["name"] == "GET"]
    assert len(requests) == 2
    required = {"http.request.method": "GET", "http.response.status_code": 404, "server.address": "localhost", "error.type": "404"}
    for attributes in requests:
        assert required.items() <= attributes.items()
        assert attributes.keys() - required.keys() <= {"server.port", "network.protocol.version", "url.scheme"}


async def test_a_failed_activity_has_its_code(output: dict[str, Any]) -> None:
    failed = of(of_run(output["spans"]), "RunActivity:submit_job")
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


# ---------------------------------------------------------------------- alerts and dashboard

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/observability/alerts.yaml"
DASHBOARD = ROOT / "deploy/observability/dashboard.json"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
SAMPLE = re.compile(r"^([a-z_]+)(\{.*\})? (\S+)$", re.MULTILINE)


def expressions() -> dict[str, str]:
    """Every PromQL expression of the rules and the dashboard, by its place."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in RULES}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        found |= {f"panel {panel['title']} {target['refId']}": target["expr"] for target in panel.get("targets", ())}
    return found


def exported_labels(scrape: str) -> dict[str, set[str]]:
    """Names of the labels of each metric in a scrape."""
    found: dict[str, set[str]] = {}
    for name, labels, _ in SAMPLE.findall(scrape):
        found.setdefault(name, set()).update(re.findall(r'([a-z_]+)="', labels))
    return found


async def test_rules_and_dashboard_use_metrics_and_labels_that_a_worker_exports(output: dict[str, Any]) -> None:
    exported = exported_labels(output["scrapes"][1])
    # These need a real run: the owner's vote, and governance's secrets. tests/unit/test_metrics.py records them.
    exported |= {metric.name: {*metric.labels, "boundary"} for metric in METRICS if metric.name in ELSEWHERE}
    exported |= {f"{name}_bucket": {"result", "le", "boundary"} for name in ELSEWHERE if name.endswith("_seconds")}
    exported["up"] = {"job", "instance"}
    used = set()
    for place, expression in expressions().items():
        names = set(re.findall(r"\b(?:cleanroom|temporal)_[a-z_]+\b|\bup\b(?=\{)", expression))
        assert names, place
        assert names <= exported.keys(), f"{place}: {names - exported.keys()}"
        used |= names
        labels = set(re.findall(r'([a-z_]+)(?:=|!=|=~|!~)"', expression))
        labels |= {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        assert labels <= set().union(*(exported[name] for name in names)), f"{place}: {labels}"
    shown = {re.sub(r"_bucket$|_sum$|_count$", "", name) for name in used}
    assert {metric.name for metric in METRICS} <= shown, "every metric of this project is shown or alerts"


ELSEWHERE = ("cleanroom_proposal_seconds", "cleanroom_key_releases_total", "cleanroom_grants_total")


def series(scrapes: list[str]) -> list[dict[str, str]]:
    """Two scrapes of a worker as input of promtool: five minutes of the first, then the second."""
    first, second = ({f"{name}{labels}": value for name, labels, value in SAMPLE.findall(text)} for text in scrapes)
    return [
        {"series": name, "values": f"{first.get(name, '_')}x5 {value}x30"}
        for name, value in sorted(second.items())
        if not name.startswith("temporal_") or "task_execution_failed" in name
    ]


def firing(tmp_path: Path, inputs: list[dict[str, str]], alerts: set[str]) -> None:
    """Let the real promtool evaluate the rules, and require that exactly these alerts fire."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("`promtool` is not on PATH (Debian package prometheus)")
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(alerts)]
    query = {"expr": 'group by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "14m", "exp_samples": expected}
    test = {"rule_files": [str(ALERTS)], "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [query]}]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_every_rule_fires_on_the_metrics_of_a_worker(output: dict[str, Any], tmp_path: Path) -> None:
    down = {"series": 'up{job="cleanroom",instance="worker:9464"}', "values": "1x5 0x30"}
    firing(tmp_path, [*series(output["scrapes"]), down], {rule["alert"] for rule in RULES})


async def test_no_rule_fires_on_the_metrics_of_a_worker_after_a_run(output: dict[str, Any], tmp_path: Path) -> None:
    before = output["scrapes"][0]
    assert 'outcome="COMPLETED"' in before
    firing(tmp_path, [*series([before, before]), {"series": 'up{job="cleanroom",instance="worker:9464"}', "values": "1x35"}], set())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_section_of_the_runbook(rule: dict[str, Any]) -> None:
    page = (ROOT / "docs/guides/runbook.md").read_text()
    _, _, section = page.partition(f"\n## {rule['alert']}\n")
    section = section.partition("\n## ")[0]
    assert [part for part in ("**Cause:**", "**See:**", "**Do:**") if part not in section] == []
    assert rule["annotations"]["runbook_url"] == f"docs/guides/runbook.md#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
