"""Each cause of a failed run, provoked at every place that can: what it is called, what people see, and what to do.

``CONSENT_WITHDRAWN`` needs workflows: ``tests/cluster/test_run_workflow.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import Any

import kubernetes
import pytest

from cleanroom.errors import CleanRoomError, NotFound, TimedOut
from cleanroom.spark.causes import Cause
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.kubernetes import APP_LABEL
from cleanroom.spark.kubernetes_api import call
from cleanroom.spark.outcome import Outcome, failed_mount
from cleanroom.spark.policy import POLICY_ANNOTATION
from cleanroom.spark.service import SparkService
from cleanroom.spark.status import JobStatus, PodStatus
from tests.cluster.place import Place
from tests.cluster.runs import DEADLINES, PATIENCE, finish, outcome_while_waiting, shown_cause, submit
from tests.scenario.kubernetes.support import follow

pytestmark = pytest.mark.scenario


async def test_image_that_cannot_be_pulled_ends_the_watch(place: Place, service: SparkService) -> None:
    outcome = await finish(place, service, "no-image", place.profile(image=place.absent_image()))
    assert (outcome.code, shown_cause(outcome.error())) == (FailureCode.IMAGE_PULL, Cause.IMAGE_PULL)
    assert place.absent_image() in outcome.message
    assert outcome.status is not None
    # The pod may fail before the operator has written that spark-submit returned.
    assert outcome.status.state in ("", "SUBMITTED")


def unscheduled(status: JobStatus) -> str | None:
    """What the scheduler says about a driver for which it has no node."""
    driver = status.driver()
    return None if driver is None or driver.scheduled else driver.scheduling_message


async def test_driver_larger_than_every_node_is_a_lack_of_capacity(place: Place, service: SparkService) -> None:
    submission = await submit(service, "too-large", place.profile(resources={"driver_cores": 64}))
    outcome = await outcome_while_waiting(place, service, submission.tracking_id, unscheduled, "too-large")
    assert (outcome.code, outcome.retryable, shown_cause(outcome.error())) == (FailureCode.CAPACITY, True, Cause.CAPACITY)
    assert "Insufficient cpu" in outcome.message


async def test_driver_that_no_node_may_run_is_unschedulable(place: Place, service: SparkService) -> None:
    """Pods for confidential virtual nodes select nodes by a label that no node here has."""
    submission = await submit(service, "no-node", place.profile(virtual_nodes=True))
    outcome = await outcome_while_waiting(place, service, submission.tracking_id, unscheduled, "no-node")
    assert (outcome.code, outcome.retryable, shown_cause(outcome.error())) == (FailureCode.UNSCHEDULABLE, True, Cause.UNSCHEDULABLE)
    assert "didn't match Pod's node affinity/selector" in outcome.message


async def test_volume_that_cannot_be_mounted_is_named(place: Place, service: SparkService) -> None:
    place.require("full", "existing", why="no containers")
    application = place.application("no-volume")
    application["spec"]["volumes"].append({"name": "keys", "secret": {"secretName": "absent"}})
    application["spec"]["driver"]["volumeMounts"].append({"name": "keys", "mountPath": "/keys"})
    name = place.client().create_or_get(application)[0]["metadata"]["name"]
    # The pod may also wait for the configuration that spark-submit creates after it.
    outcome = await outcome_while_waiting(place, service, name, lambda status: "absent" in (failed_mount(status) or ""), "no-volume")
    assert (outcome.code, shown_cause(outcome.error())) == (FailureCode.MOUNT_FAILED, Cause.MOUNT)
    assert 'secret "absent" not found' in outcome.message


async def test_driver_that_runs_too_long_exceeds_its_deadline(place: Place, service: SparkService) -> None:
    outcome = await finish(place, service, "slow", place.profile(), DEADLINES.model_copy(update={"run_seconds": 1}))
    assert (outcome.code, shown_cause(outcome.error())) == (FailureCode.RUN_DEADLINE, Cause.DEADLINE)
    assert isinstance(outcome.error(), TimedOut)


def is_being_deleted(status: JobStatus) -> bool:
    driver = status.driver()
    return driver is None or driver.deletion_requested_at is not None


def assert_lost(outcome: Outcome) -> None:
    assert (outcome.code, outcome.retryable, outcome.party) == (FailureCode.NODE_LOST, True, "operator")
    assert shown_cause(outcome.error()) is Cause.NODE_LOST


async def test_driver_pod_that_someone_deletes_is_lost_and_not_the_querys_failure(place: Place, service: SparkService) -> None:
    async def delete_driver(status: JobStatus) -> None:
        with place.core() as core:
            core.delete_namespaced_pod(status.driver_pod, place.namespace, grace_period_seconds=1)

    outcome = await finish(place, service, "deleted-driver", place.profile(), while_running=delete_driver)
    assert_lost(outcome)


async def test_submission_that_the_api_refuses_shows_the_apis_own_message(place: Place, service: SparkService) -> None:
    outcome = await finish(place, service, "no-account", place.profile(service_account="nobody"))
    assert (outcome.code, shown_cause(outcome.error())) == (FailureCode.ACCOUNT_MISSING, Cause.PRECONDITION)
    assert 'serviceaccount "nobody" not found' in outcome.message


async def test_evicted_driver_is_lost_and_not_the_querys_failure(place: Place, service: SparkService) -> None:
    """``kubectl drain`` evicts the pods of a node."""

    async def evict_driver(status: JobStatus) -> None:
        metadata = {"name": status.driver_pod, "namespace": place.namespace}
        with place.core() as core:
            options = {"gracePeriodSeconds": 1}
            core.create_namespaced_pod_eviction(status.driver_pod, place.namespace, {"metadata": metadata, "deleteOptions": options})

    outcome = await finish(place, service, "evicted-driver", place.profile(), while_running=evict_driver)
    assert_lost(outcome)


async def test_driver_on_a_node_that_is_lost_is_lost_and_not_the_querys_failure(place: Place, service: SparkService) -> None:
    """A taint removes the pods of a node five minutes after its last answer. This one removes them immediately."""
    place.require("fast", "full", why="needs a node whose pods may be removed")

    async def lose_node(status: JobStatus) -> None:
        with place.core() as core:
            node = core.read_namespaced_pod(status.driver_pod, place.namespace).spec.node_name
            core.patch_node(node, {"spec": {"taints": [{"key": "test/lost", "effect": "NoExecute"}]}})
            try:
                await asyncio.to_thread(follow, place.client(), status.tracking_id, is_being_deleted, PATIENCE)
            finally:
                core.patch_node(node, {"spec": {"taints": None}})

    assert_lost(await finish(place, service, "lost-node", place.profile(), while_running=lose_node))


async def test_executors_that_fail_again_and_again_are_the_cause(place: Place, service: SparkService) -> None:
    """The test creates the executors with the rights of the driver, as Spark does, and ends the driver as Spark does."""
    place.require("fast", "full", "existing", why="the stand-in runs Spark's own scheduler: tests/scenario/test_executor_pods.py")

    async def fail_executors(status: JobStatus) -> None:
        driver = status.driver()
        assert driver is not None
        with place.core("spark") as core:
            for number in (1, 2, 3):
                core.create_namespaced_pod(place.namespace, executor_pod(place, status.tracking_id, driver, number))
        await asyncio.to_thread(follow, place.client(), status.tracking_id, lambda status: failed_executors(status) == 3, PATIENCE)
        await asyncio.to_thread(place.end_driver, driver.name, 11)

    outcome = await finish(place, service, "executors", place.profile(), while_running=fail_executors)
    assert (outcome.code, outcome.exit_code, outcome.retryable) == (FailureCode.EXECUTORS_FAILING, 11, True)
    assert shown_cause(outcome.error()) is Cause.EXECUTORS_FAILING
    assert "3 executors failed; the last one, pod " in outcome.message
    assert outcome.message.endswith("Error (exit code 64)")


def failed_executors(status: JobStatus) -> int:
    return sum(pod.role == "executor" and pod.phase == "Failed" for pod in status.pods)


def executor_pod(place: Place, application: str, driver: PodStatus, number: int) -> dict[str, Any]:
    """An executor with the labels and the owner that Spark gives it."""
    labels = {"spark-role": "executor", "spark-exec-id": str(number), APP_LABEL: application}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": driver.name, "uid": driver.uid, "controller": True}
    container = {"name": "spark-kubernetes-executor", "image": place.image, "args": ["executor"], "imagePullPolicy": "IfNotPresent"}
    return {
        "metadata": {
            "name": f"{driver.name.removesuffix('-driver')}-exec-{number}",
            "labels": labels | {"sparkoperator.k8s.io/launched-by-spark-operator": "true"},
            "ownerReferences": [owner],
        },
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


async def test_pod_with_another_policy_than_its_application_is_refused(place: Place, service: SparkService) -> None:
    async def change_policy(status: JobStatus) -> None:
        with place.core() as core:
            patch = {"metadata": {"annotations": {POLICY_ANNOTATION: "cGFja2FnZSBwb2xpY3k="}}}
            core.patch_namespaced_pod(status.driver_pod, place.namespace, patch)

    outcome = await finish(place, service, "other-policy", place.profile(), while_running=change_policy)
    assert (outcome.code, outcome.retryable, outcome.party) == (FailureCode.POLICY_MISMATCH, False, "operator")
    assert shown_cause(outcome.error()) is Cause.POLICY_REFUSED
    assert "carries another policy than its application specifies" in outcome.message


async def test_driver_whose_name_is_taken_cannot_be_submitted(place: Place, service: SparkService) -> None:
    """A pod that an earlier application of this name has left behind."""
    application = place.application("name-taken")
    name = application["metadata"]["name"]
    pod = {"metadata": {"name": f"{name}-driver"}, "spec": {"containers": [{"name": "left", "image": place.image}]}}
    with place.core() as core:
        core.create_namespaced_pod(place.namespace, pod)
        outcome = await finish(place, service, "name-taken", place.profile())
        # With the application, the operator deletes the pod that has the driver's name.
        with contextlib.suppress(NotFound):
            await asyncio.to_thread(call, "delete", core.delete_namespaced_pod, pod["metadata"]["name"], place.namespace)
    assert (outcome.code, outcome.retryable, shown_cause(outcome.error())) == (FailureCode.SUBMISSION, True, Cause.SUBMISSION_FAILED)
    assert "already exist" in outcome.message


async def test_quota_without_room_is_a_lack_of_capacity_with_the_quotas_name(place: Place, service: SparkService) -> None:
    with place.core() as core:
        core.create_namespaced_resource_quota(place.namespace, {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}})
        try:
            outcome = await finish(place, service, "no-quota", place.profile())
        finally:
            core.delete_namespaced_resource_quota("no-pods", place.namespace)
    assert (outcome.code, outcome.retryable, shown_cause(outcome.error())) == (FailureCode.CAPACITY, True, Cause.CAPACITY)
    assert "exceeded quota: no-pods, requested: pods=1" in outcome.message


async def test_driver_that_exceeds_its_memory_is_killed(place: Place, service: SparkService) -> None:
    place.require("fast", "full", "existing", why="the stand-in has no memory limits")
    outcome = await finish(place, service, "out-of-memory", place.profile("eat"))
    assert (outcome.code, outcome.exit_code, shown_cause(outcome.error())) == (FailureCode.OUT_OF_MEMORY, 137, Cause.OOM_KILLED)


async def test_operator_without_a_right_names_the_right(place: Place, service: SparkService) -> None:
    place.require("fast", "full", why="needs an operator whose rights may be changed")
    name = "spark-operator-controller"
    with place.api() as api:
        roles = kubernetes.client.RbacAuthorizationV1Api(api)
        granted = api.sanitize_for_serialization(roles.read_cluster_role(name))["rules"]
        less = [{**rule, "verbs": ["get", "list", "watch"]} if "pods" in rule.get("resources", ()) else rule for rule in granted]
        roles.patch_cluster_role(name, {"rules": less})
        try:
            outcome = await finish(place, service, "no-right", place.profile())
        finally:
            roles.patch_cluster_role(name, {"rules": granted})
    assert (outcome.code, outcome.retryable, outcome.party) == (FailureCode.RIGHT_MISSING, False, "operator")
    assert shown_cause(outcome.error()) is Cause.PRECONDITION
    assert 'cannot create resource "pods"' in outcome.message


async def test_webhook_that_does_not_answer_is_named(place: Place, service: SparkService) -> None:
    """The API server refuses the application, because the webhook's policy for failures is ``Fail``."""
    place.require("fast", "full", why="needs an operator whose webhook may be broken")
    name = "spark-operator-webhook"
    with place.api() as api:
        hooks = kubernetes.client.AdmissionregistrationV1Api(api)
        before = api.sanitize_for_serialization(hooks.read_mutating_webhook_configuration(name))["webhooks"]
        broken = copy.deepcopy(before)
        for hook in broken:
            hook["clientConfig"]["service"]["port"] = 9
        hooks.patch_mutating_webhook_configuration(name, {"webhooks": broken})
        try:
            with pytest.raises(CleanRoomError) as caught:
                await submit(service, "no-webhook", place.profile())
        finally:
            hooks.patch_mutating_webhook_configuration(name, {"webhooks": before})
    assert "failed calling webhook" in caught.value.message
    assert (caught.value.code, caught.value.retryable, shown_cause(caught.value)) == ("SparkAdmission", True, Cause.PRECONDITION)
