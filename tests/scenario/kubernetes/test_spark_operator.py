"""The Spark Operator of the Kubernetes stand-in: the life cycle of SparkApplications (docs/facts/spark-applications.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from cleanroom.errors import Refused
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.kubernetes import KubernetesClient
from localcloud.standins.kubernetes.image import LocalImage
from tests.scenario.kubernetes.support import finish
from tests.unit.spark_support import application, make_job

pytestmark = pytest.mark.scenario


def test_successful_application_completes_with_its_receipt_and_events(client: KubernetesClient, receipt_image: LocalImage) -> None:
    os.environ["CLEANROOM_TEST_CANARY"] = "do-not-leak"
    try:
        name = client.create_or_get(application(make_job("life"), receipt_image))[0]["metadata"]["name"]
        outcome = finish(client, name)
    finally:
        del os.environ["CLEANROOM_TEST_CANARY"]
    assert outcome.succeeded
    receipt = json.loads(outcome.termination_message)
    assert receipt["rows"] == 3
    # The pod has what it declared and what its image sets, and nothing of the stand-in's own environment.
    assert "JOB_CONFIG" in receipt["variables"]
    assert "CLEANROOM_TEST_CANARY" not in receipt["variables"]
    status = outcome.status
    assert status is not None
    assert (status.submission_attempts, status.driver_pod) == (1, f"{name}-driver")
    assert client.logs(status.driver_pod or "", tail=1) == f"working on {name}-driver\n"
    assert {"SparkApplicationSubmitted", "SparkApplicationCompleted", "SparkDriverCompleted"} <= {event.reason for event in status.events}
    assert client.delete(name)
    assert client.pods(name) == []


def _remote_file(item: dict[str, Any]) -> None:
    item["spec"]["mainApplicationFile"] = "https://evil.example/x.py"


def _odd_memory(item: dict[str, Any]) -> None:
    item["spec"]["executor"]["memory"] = "much"


def _long_argument(item: dict[str, Any]) -> None:
    item["spec"]["driver"]["annotations"]["x"] = "y" * 131_072


@pytest.mark.parametrize("change", [_remote_file, _odd_memory, _long_argument])
def test_invalid_application_fails_at_submission(
    client: KubernetesClient, receipt_image: LocalImage, change: Callable[[dict[str, Any]], None]
) -> None:
    item = application(make_job(f"submission{change.__name__.replace('_', '-')}"), receipt_image)
    change(item)
    name = client.create_or_get(item)[0]["metadata"]["name"]
    outcome = finish(client, name)
    assert outcome.code is FailureCode.SUBMISSION
    assert outcome.status is not None
    assert "SparkApplicationSubmissionFailed" in {event.reason for event in outcome.status.events}
    assert client.delete(name)


def test_name_that_begins_with_a_digit_is_denied_by_the_webhook(client: KubernetesClient, receipt_image: LocalImage) -> None:
    """Since operator 2.4, whose CRD the stand-in has. ``tests/cluster`` runs on 2.3."""
    item = application(make_job("digit"), receipt_image)
    item["metadata"]["name"] = "1-starts-with-a-digit"
    with pytest.raises(Refused, match="DNS-1035") as caught:
        client.create_or_get(item)
    assert caught.value.code == "Forbidden"
