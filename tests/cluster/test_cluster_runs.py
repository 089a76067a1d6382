"""Runs of the Spark service, from submit to their end, at every place: see ``tests/cluster/place.py``."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from cleanroom.errors import Conflict, InvalidInput, NotFound, Refused
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.preflight import DRIVER, NETWORK_POLICIES, SUBMISSION, missing_rights
from cleanroom.spark.service import SparkService
from cleanroom.spark.status import JobStatus
from tests.cluster.place import Place
from tests.cluster.runs import DEADLINES, PATIENCE, finish, remaining_pods, submit
from tests.unit.spark_support import make_job

pytestmark = pytest.mark.scenario


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
    await asyncio.wait_for(started.wait(), PATIENCE)
    first.cancel()
    begun = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert time.monotonic() - begun < 30
    count = len(readings)
    again = asyncio.create_task(service.watch(submission.tracking_id, progress, DEADLINES))
    while len(readings) < count + 3:
        await asyncio.sleep(0.05)
    # Progress is reported at every beat, so the caller can send heartbeats.
    assert not again.done()
    await service.delete(submission.tracking_id)
    outcome = await asyncio.wait_for(again, PATIENCE)
    assert (outcome.succeeded, outcome.code) == (False, FailureCode.DELETED)


def test_rights_of_operator_and_drivers_are_complete_for_the_released_spark_submit(place: Place) -> None:
    place.require("fast", "full", why="the stand-in answers no questions about rights; another cluster's operator has another account")
    with place.api() as api:
        assert missing_rights(api, "spark-operator/controller", place.namespace, SUBMISSION) == []
        assert missing_rights(api, f"{place.namespace}/spark", place.namespace, DRIVER) == []
        assert missing_rights(api, "spark-operator/controller", place.namespace, [NETWORK_POLICIES]) == [NETWORK_POLICIES]
        assert missing_rights(api, f"{place.namespace}/viewer", place.namespace, [SUBMISSION[0]]) == [SUBMISSION[0]]
    with place.api("spark-service") as api, pytest.raises(Refused) as caught:
        missing_rights(api, "spark-operator/controller", place.namespace, SUBMISSION)
    assert caught.value.code == "Forbidden"
