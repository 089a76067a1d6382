"""Runs of the Spark service, from submit to their end, at every place: see ``tests/cluster/place.py``."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Awaitable, Callable

import kubernetes
import pytest

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, Refused, TimedOut
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.outcome import Outcome
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.preflight import DRIVER, NETWORK_POLICIES, SUBMISSION, missing_rights
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service import SparkService, Submission
from cleanroom.spark.status import JobStatus
from tests.cluster.place import Place
from tests.cluster.record import record
from tests.unit.spark_support import make_job

pytestmark = pytest.mark.scenario

DEADLINES = Deadlines(driver_start_seconds=90, run_seconds=90, image_pull_seconds=3)
MAX_MESSAGE = 600
"""A message is read by people: a submission's JVM log has 12,000 characters."""


async def submit(service: SparkService, run: str, profile: PodProfile) -> Submission:
    job = make_job(run)
    return await service.submit(job, profile, pod_policies(job, profile).host_data())


async def finish(
    place: Place,
    service: SparkService,
    run: str,
    profile: PodProfile,
    deadlines: Deadlines = DEADLINES,
    while_running: Callable[[JobStatus], Awaitable[None]] | None = None,
) -> Outcome:
    """Submit a run, watch it to its end, delete it, and return its outcome.

    ``while_running`` is called once, when the driver runs.
    """
    submission = await submit(service, run, profile)
    seen: asyncio.Queue[JobStatus] = asyncio.Queue()
    watch = asyncio.create_task(service.watch(submission.tracking_id, seen.put_nowait, deadlines, uid=submission.uid))
    if while_running is not None:
        while (status := await asyncio.wait_for(seen.get(), 90)).state != "RUNNING":
            assert not watch.done(), watch.result()
        await while_running(status)
    outcome = await asyncio.wait_for(watch, 120)
    await asyncio.to_thread(record, place, run, submission.tracking_id, str(outcome.code))
    await service.delete(submission.tracking_id)
    assert await remaining_pods(service, submission.tracking_id) == ()
    return outcome


async def remaining_pods(service: SparkService, name: str) -> tuple[str, ...]:
    try:
        return tuple(pod.name for pod in (await service.status(name)).pods)
    except NotFound:
        return ()


async def test_driver_that_succeeds_completes_the_run_with_its_message(place: Place, service: SparkService) -> None:
    receipt = json.dumps({"rows": 3})
    submission = await submit(service, "good", place.profile("exit", "0", receipt))
    outcome = await service.watch(submission.tracking_id, lambda status: None, DEADLINES, uid=submission.uid)
    assert (outcome.succeeded, outcome.exit_code, outcome.termination_message) == (True, 0, receipt)
    assert outcome.status is not None
    assert outcome.status.submission_attempts == 1
    assert {"SparkApplicationSubmitted", "SparkDriverCompleted"} <= {event.reason for event in outcome.status.events}
    assert await service.logs(submission.tracking_id) == f"driver exit 0 {receipt}\n"
    assert await service.delete(submission.tracking_id, uid=submission.uid)
    with pytest.raises(NotFound):
        await service.status(submission.tracking_id)
    assert not await service.delete(submission.tracking_id)


async def test_driver_that_fails_reports_the_payloads_own_error(place: Place, service: SparkService) -> None:
    error = json.dumps({"code": "SCHEMA_MISMATCH", "message": "orders: amount", "category": "invalid-input"})
    outcome = await finish(place, service, "bad", place.profile("exit", "10", error))
    assert (outcome.code, outcome.exit_code) == (FailureCode.DRIVER_EXIT, 10)
    found = outcome.error()
    assert isinstance(found, InvalidInput)
    assert found.code == "SCHEMA_MISMATCH"


async def test_image_that_cannot_be_pulled_ends_the_watch(place: Place, service: SparkService) -> None:
    outcome = await finish(place, service, "no-image", place.profile(image=place.absent_image()))
    assert outcome.code is FailureCode.IMAGE_PULL
    assert place.absent_image() in outcome.message
    assert outcome.status is not None
    # The pod may fail before the operator has written that spark-submit returned.
    assert outcome.status.state in ("", "SUBMITTED")


async def test_driver_larger_than_every_node_is_a_lack_of_capacity(place: Place, service: SparkService) -> None:
    deadlines = DEADLINES.model_copy(update={"driver_start_seconds": 40 if place.real else 1})
    outcome = await finish(place, service, "too-large", place.profile(resources={"driver_cores": 64}), deadlines)
    assert (outcome.code, outcome.retryable) == (FailureCode.CAPACITY, True)
    assert "Insufficient cpu" in outcome.message


async def test_driver_that_no_node_may_run_is_unschedulable(place: Place, service: SparkService) -> None:
    """Pods for confidential virtual nodes select nodes by a label that no node here has."""
    deadlines = DEADLINES.model_copy(update={"driver_start_seconds": 40 if place.real else 1})
    outcome = await finish(place, service, "no-node", place.profile(virtual_nodes=True), deadlines)
    assert (outcome.code, outcome.retryable) == (FailureCode.UNSCHEDULABLE, True)
    assert "didn't match Pod's node affinity/selector" in outcome.message


async def test_volume_that_cannot_be_mounted_is_named(place: Place, service: SparkService) -> None:
    if place.tier not in ("full", "existing"):
        pytest.skip("no containers")
    application = place.application("no-volume")
    application["spec"]["volumes"].append({"name": "keys", "secret": {"secretName": "absent"}})
    application["spec"]["driver"]["volumeMounts"].append({"name": "keys", "mountPath": "/keys"})
    name = place.client().create_or_get(application)[0]["metadata"]["name"]
    outcome = await service.watch(name, lambda status: None, DEADLINES.model_copy(update={"driver_start_seconds": 40}))
    await asyncio.to_thread(record, place, "no-volume", name, str(outcome.code))
    await service.delete(name)
    assert outcome.code is FailureCode.MOUNT_FAILED
    assert 'secret "absent" not found' in outcome.message


async def test_driver_that_runs_too_long_exceeds_its_deadline(place: Place, service: SparkService) -> None:
    outcome = await finish(place, service, "slow", place.profile(), DEADLINES.model_copy(update={"run_seconds": 1}))
    assert outcome.code is FailureCode.RUN_DEADLINE
    assert isinstance(outcome.error(), TimedOut)


async def test_second_submission_finds_the_first_application(place: Place, service: SparkService) -> None:
    profile = place.profile()
    first, second = await submit(service, "twice", profile), await submit(place.service(), "twice", profile)
    assert (first.created, second.created, first.uid) == (True, False, second.uid)
    changed = make_job("twice", queryDigest="1" * 64)
    with pytest.raises(Conflict) as conflict:
        await service.submit(changed, profile, pod_policies(changed, profile).host_data())
    assert conflict.value.code == "SparkApplicationDiffers"
    with pytest.raises(Refused) as refused:
        await service.submit(make_job("twice"), profile, pod_policies(changed, profile).host_data())
    assert refused.value.code == "PodPolicyChanged"
    assert await service.delete(first.tracking_id)
    assert not await service.delete(first.tracking_id)


async def test_application_deleted_during_its_submission_leaves_no_pod(place: Place, service: SparkService) -> None:
    """The operator may create the driver pod while the application is being deleted, and forgets it."""
    submission = await submit(service, "at-once", place.profile())
    assert await service.delete(submission.tracking_id)
    assert await remaining_pods(service, submission.tracking_id) == ()


async def test_name_of_a_deleted_application_is_free_again(place: Place, service: SparkService) -> None:
    profile = place.profile("exit", "0")
    first = await submit(service, "again", profile)
    assert await service.delete(first.tracking_id)
    second = await submit(service, "again", profile)
    assert (second.tracking_id, second.created) == (first.tracking_id, True)
    outcome = await service.watch(first.tracking_id, lambda status: None, DEADLINES, uid=first.uid)
    assert outcome.code is FailureCode.REPLACED
    assert await service.delete(second.tracking_id, uid=second.uid)


async def test_watch_can_be_cancelled_and_resumed(place: Place, service: SparkService) -> None:
    submission = await submit(service, "resumed", place.profile())
    readings: list[JobStatus] = []
    started = asyncio.Event()

    def progress(status: JobStatus) -> None:
        readings.append(status)
        if status.state == "RUNNING":
            started.set()

    first = asyncio.create_task(service.watch(submission.tracking_id, progress, DEADLINES))
    await asyncio.wait_for(started.wait(), 90)
    first.cancel()
    begun = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert time.monotonic() - begun < 5
    count = len(readings)
    again = asyncio.create_task(service.watch(submission.tracking_id, progress, DEADLINES))
    while len(readings) < count + 3:
        await asyncio.sleep(0.05)
    # Progress is reported at every beat, so the caller can send heartbeats.
    assert not again.done()
    await service.delete(submission.tracking_id)
    outcome = await asyncio.wait_for(again, 60)
    assert (outcome.succeeded, outcome.code) == (False, FailureCode.DELETED)


async def test_driver_pod_that_someone_deletes_is_lost_and_not_the_querys_failure(place: Place, service: SparkService) -> None:
    async def delete_driver(status: JobStatus) -> None:
        with place.api() as api:
            kubernetes.client.CoreV1Api(api).delete_namespaced_pod(status.driver_pod, place.namespace, grace_period_seconds=1)

    outcome = await finish(place, service, "deleted-driver", place.profile(), while_running=delete_driver)
    assert (outcome.code, outcome.retryable, outcome.party) == (FailureCode.NODE_LOST, True, "operator")


async def test_submission_that_the_api_refuses_shows_the_apis_own_message(place: Place, service: SparkService) -> None:
    outcome = await finish(place, service, "no-account", place.profile(service_account="nobody"))
    assert 'serviceaccount "nobody" not found' in outcome.message
    assert len(outcome.message) < MAX_MESSAGE
    assert "\tat " not in outcome.message


async def test_evicted_driver_is_lost_and_not_the_querys_failure(place: Place, service: SparkService) -> None:
    """``kubectl drain`` evicts the pods of a node."""

    async def evict_driver(status: JobStatus) -> None:
        metadata = {"name": status.driver_pod, "namespace": place.namespace}
        with place.api() as api:
            core = kubernetes.client.CoreV1Api(api)
            options = {"gracePeriodSeconds": 1}
            core.create_namespaced_pod_eviction(status.driver_pod, place.namespace, {"metadata": metadata, "deleteOptions": options})

    outcome = await finish(place, service, "evicted-driver", place.profile(), while_running=evict_driver)
    assert (outcome.code, outcome.retryable, outcome.party) == (FailureCode.NODE_LOST, True, "operator")


async def test_quota_without_room_is_a_lack_of_capacity_with_the_quotas_name(place: Place, service: SparkService) -> None:
    with place.api() as api:
        core = kubernetes.client.CoreV1Api(api)
        core.create_namespaced_resource_quota(place.namespace, {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}})
        try:
            outcome = await finish(place, service, "no-quota", place.profile())
        finally:
            core.delete_namespaced_resource_quota("no-pods", place.namespace)
    assert (outcome.code, outcome.retryable) == (FailureCode.CAPACITY, True)
    assert "exceeded quota: no-pods, requested: pods=1" in outcome.message
    assert len(outcome.message) < MAX_MESSAGE


async def test_driver_that_exceeds_its_memory_is_killed(place: Place, service: SparkService) -> None:
    if not place.real:
        pytest.skip("the stand-in has no memory limits")
    outcome = await finish(place, service, "out-of-memory", place.profile("eat"))
    assert (outcome.code, outcome.exit_code) == (FailureCode.OUT_OF_MEMORY, 137)


async def test_operator_without_a_right_names_the_right(place: Place, service: SparkService) -> None:
    if place.tier not in ("fast", "full"):
        pytest.skip("needs an operator whose rights may be changed")
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
    assert 'cannot create resource "pods"' in outcome.message
    assert len(outcome.message) < MAX_MESSAGE


async def test_webhook_that_does_not_answer_is_named(place: Place, service: SparkService) -> None:
    """The API server refuses the application, because the webhook's policy for failures is ``Fail``."""
    if place.tier not in ("fast", "full"):
        pytest.skip("needs an operator whose webhook may be broken")
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
    assert caught.value.retryable
    assert len(caught.value.message) < MAX_MESSAGE


def test_rights_of_operator_and_drivers_are_complete_for_the_released_spark_submit(place: Place) -> None:
    if place.tier not in ("fast", "full"):
        pytest.skip("the stand-in answers no questions about rights; another cluster's operator has another account")
    with place.api() as api:
        assert missing_rights(api, "spark-operator/controller", place.namespace, SUBMISSION) == []
        assert missing_rights(api, f"{place.namespace}/spark", place.namespace, DRIVER) == []
        assert missing_rights(api, "spark-operator/controller", place.namespace, [NETWORK_POLICIES]) == [NETWORK_POLICIES]
        assert missing_rights(api, f"{place.namespace}/viewer", place.namespace, [SUBMISSION[0]]) == [SUBMISSION[0]]
    with place.api("spark-service") as api, pytest.raises(Refused) as caught:
        missing_rights(api, "spark-operator/controller", place.namespace, SUBMISSION)
    assert caught.value.code == "Forbidden"
