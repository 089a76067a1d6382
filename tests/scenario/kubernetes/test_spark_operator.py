"""The Spark Operator of the Kubernetes stand-in: the life cycle of SparkApplications (docs/facts/spark-applications.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import kubernetes
import pytest

from cleanroom.errors import InvalidInput, NotFound
from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.outcome import outcome_of
from localcloud.standins.kubernetes.image import LocalImage
from tests.scenario.kubernetes.support import finish, follow
from tests.unit.spark_support import Cluster, application, make_job, script_image

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
    assert {"SparkApplicationAdded", "SparkApplicationSubmitted", "SparkApplicationCompleted", "SparkDriverCompleted"} <= {
        event.reason for event in status.events
    }
    assert client.delete(name)
    assert client.pods(name) == []


def test_failed_driver_reports_exit_code_and_message(shared: Cluster, client: KubernetesClient) -> None:
    image = script_image(
        shared.images,
        """
        import json, os, sys
        error = {"code": "SCHEMA_MISMATCH", "message": "orders: amount", "category": "invalid-input"}
        open(os.environ["CLEANROOM_TERMINATION_LOG"], "w").write(json.dumps(error))
        sys.exit(10)
        """,
    )
    name = client.create_or_get(application(make_job("failure"), image))[0]["metadata"]["name"]
    outcome = finish(client, name)
    assert (outcome.code, outcome.exit_code) == (FailureCode.DRIVER_EXIT, 10)
    error = outcome.error()
    assert isinstance(error, InvalidInput)
    assert error.code == "SCHEMA_MISMATCH"
    assert client.delete(name)


def test_changed_spec_runs_the_application_again(
    client: KubernetesClient, waiting_image: LocalImage, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    """The operator deletes the pods and runs the application again, so clients must not change a running application."""
    item, _ = client.create_or_get(application(make_job("edit"), waiting_image))
    name = item["metadata"]["name"]
    before = follow(client, name, lambda status: status.state == "RUNNING")
    custom_objects.patch_namespaced_custom_object(
        GROUP, VERSION, "analytics", PLURAL, name, {"spec": {"driver": {"terminationGracePeriodSeconds": 1}}}
    )
    after = follow(client, name, lambda status: status.state == "RUNNING" and status.pods[0].uid != before.pods[0].uid)
    assert after.submission_attempts == 2
    assert client.get(name)["metadata"]["generation"] == 2
    assert client.delete(name)


def test_suspend_stops_the_driver_and_resume_starts_a_new_one(
    client: KubernetesClient, waiting_image: LocalImage, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    name = client.create_or_get(application(make_job("suspend"), waiting_image))[0]["metadata"]["name"]
    before = follow(client, name, lambda status: status.state == "RUNNING")
    custom_objects.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, {"spec": {"suspend": True}})
    suspended = follow(client, name, lambda status: status.state == "SUSPENDED")
    assert (suspended.pods, suspended.driver_pod, outcome_of(suspended)) == ((), None, None)
    custom_objects.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, {"spec": {"suspend": False}})
    after = follow(client, name, lambda status: status.state == "RUNNING")
    assert after.pods[0].uid != before.pods[0].uid
    assert client.delete(name)


def test_ended_application_is_deleted_after_its_time_to_live(client: KubernetesClient, receipt_image: LocalImage) -> None:
    item = application(make_job("ttl"), receipt_image)
    item["spec"]["timeToLiveSeconds"] = 0
    name = client.create_or_get(item)[0]["metadata"]["name"]
    changes = [change.object for change in client.changes(name, seconds=20)]
    assert changes[-1] is None


def test_background_delete_also_deletes_the_pods(
    client: KubernetesClient, waiting_image: LocalImage, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    name = client.create_or_get(application(make_job("plain"), waiting_image))[0]["metadata"]["name"]
    follow(client, name, lambda status: status.state == "RUNNING")
    answer = custom_objects.delete_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name)
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    with pytest.raises(NotFound):
        client.get(name)
    assert client.delete(name) is False
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
