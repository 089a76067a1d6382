"""Runs on a real API server with the real Spark Operator, as ``tests/cluster/record.py`` recorded them: what each reading is.

``fast`` has a simulated node; in ``full`` a kubelet and containerd reported the pods.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cleanroom.spark.deadlines import Deadlines, deadline_outcome
from cleanroom.spark.kubernetes_objects import cluster_event, job_status, pod_status
from cleanroom.spark.outcome import outcome_of
from cleanroom.spark.submission_log import MAX_CHARACTERS

RECORDED = sorted(Path(__file__).with_name("recorded").glob("*.json"))
PASSED = Deadlines(driver_start_seconds=0.001, run_seconds=0.001)


def recorded(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_runs_are_recorded() -> None:
    assert len(RECORDED) >= 8
    assert {recorded(file)["code"] for file in RECORDED} >= {"ImagePull", "Capacity", "NodeLost", "OutOfMemory", "AccountMissing"}


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_recorded_run_has_its_code_and_a_short_message(file: Path) -> None:
    content = recorded(file)
    pods, events = map(pod_status, content["pods"]), map(cluster_event, content["events"])
    status = job_status(content["application"], pods, events)
    outcome = outcome_of(status) or deadline_outcome(status, PASSED)
    assert outcome is not None
    assert str(outcome.code) == content["code"]
    assert len(outcome.message) <= MAX_CHARACTERS + len("driver pod : ") + 63
    assert "\tat " not in outcome.message
    assert "WARN" not in outcome.message
