"""What an outcome says besides its code: message, remedy, payload error, times; and readings that look alike."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.outcome import Outcome, failed_outcome, outcome_of, payload_error, waiting_reason
from cleanroom.spark.status import ClusterEvent, ContainerStatus, JobStatus, PodStatus
from tests.unit.test_spark_outcome import NAME, container, status

NOW = datetime(2026, 6, 1, tzinfo=UTC)
POD = f"{NAME}-driver"


def outcome(reading: JobStatus) -> Outcome:
    found = outcome_of(reading)
    assert found is not None
    assert found.status is not None
    return found


def failed(*, exit_code: int = 1, reason: str | None = "Error", message: str | None = None, **pod: Any) -> JobStatus:
    """A failed application whose driver ended. ``pod_reason`` and ``pod_message`` are those of its pod."""
    own = {name.removeprefix("pod_"): value for name, value in pod.items()}
    reading = status("FAILED", driver=container("terminated", reason=reason, exit_code=exit_code, message=message))
    return reading.model_copy(update={"pods": (reading.pods[0].model_copy(update=own),)})


# ---------------------------------------------------------------------- messages and facts


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (failed(), "driver exited with code 1 (Error)"),
        (failed(reason=None), "driver exited with code 1 (Error)"),
        (failed(exit_code=52), "the driver ran out of memory"),
        (failed(reason="OOMKilled", exit_code=137), "the driver ran out of memory"),
        # The pod's own reason, else the disruption, else the container's; the pod's message, else the container's.
        (failed(pod_reason="Evicted", message="m", pod_message="low"), "Evicted: low"),
        (failed(pod_reason="Evicted", message="m", disruption="D"), "Evicted: m"),
        (failed(pod_reason="Evicted"), "Evicted: the node of the driver went away"),
        (failed(disruption="DeletionByPodGC", pod_message="gone"), "DeletionByPodGC: gone"),
        (failed(reason="ContainerStatusUnknown", exit_code=137), "ContainerStatusUnknown: the node of the driver went away"),
        (failed(reason="ContainerStatusUnknown", exit_code=137, message="lost"), "ContainerStatusUnknown: lost"),
        (status("FAILED", phase="Failed"), "the application failed without a message"),
        (status("FAILED"), "the operator could not submit the application"),
        (status("FAILED", "odd", phase="Failed"), "odd"),
        (
            status("SUBMITTED", driver=container("waiting", reason="ErrImagePull")),
            f"pod {POD} cannot pull its image: ErrImagePull: ErrImagePull",
        ),
        (
            status("SUBMITTED", driver=container("waiting", reason="ErrImagePull", message="not found")),
            f"pod {POD} cannot pull its image: ErrImagePull: not found",
        ),
        (status("SUBMITTED", driver=container("waiting", reason="RunContainerError")), f"pod {POD} cannot start: RunContainerError"),
        (
            status("RUNNING", driver=container(), policy_host_data="b" * 64).model_copy(update={"driver_host_data": "a" * 64}),
            f"pod {POD} carries another policy than its application specifies",
        ),
        (
            status("RUNNING", driver=container()).model_copy(update={"driver_host_data": "a" * 64}),
            f"pod {POD} carries no policy than its application specifies",
        ),
    ],
)
def test_message_names_what_happened(reading: JobStatus, message: str) -> None:
    found = outcome(reading)
    assert (found.message, found.status, found.tracking_id, found.succeeded) == (message, reading, NAME, False)


@pytest.mark.parametrize("message", ["text", None])
def test_facts_of_the_driver_are_kept(message: str | None) -> None:
    for reading in (failed(exit_code=3, message=message), failed(exit_code=52, message=message)):
        found = outcome(reading)
        assert (found.exit_code, found.termination_message) == (reading.driver_container().exit_code, message or "")  # type: ignore[union-attr]
    started = outcome(status("FAILED", driver=container("terminated", reason="StartError", exit_code=128)))
    assert (started.exit_code, started.code) == (128, FailureCode.CONTAINER_START)


def test_program_that_ran_is_no_start_failure() -> None:
    found = outcome(failed(exit_code=1, reason="StartError"))
    assert found.code is FailureCode.DRIVER_EXIT
    assert outcome_of(status("RUNNING", driver=container("terminated", reason="StartError", exit_code=1))) is None


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_container_that_did_not_end_leaves_the_decision_to_the_message(state: str) -> None:
    found = outcome(status("FAILED", "exceeded quota", driver=container(state), phase="Failed"))
    assert (found.code, found.exit_code) == (FailureCode.CAPACITY, None)
    unknown = outcome(status("FAILED", "exceeded quota", driver=container("terminated", exit_code=None), phase="Failed"))
    assert unknown.code is FailureCode.CAPACITY


def test_completed_application_without_its_pod_has_no_receipt() -> None:
    reading = status("COMPLETED")
    found = outcome(reading)
    assert (found.succeeded, found.exit_code, found.termination_message, found.status) == (True, None, "", reading)
    silent = outcome(status("COMPLETED", driver=container("terminated", exit_code=0)))
    assert (silent.exit_code, silent.termination_message) == (0, "")


# ---------------------------------------------------------------------- readings that look alike


def test_event_about_another_pod_does_not_count() -> None:
    for about, code in ((POD, FailureCode.NODE_LOST), (f"{NAME}-exec-1", FailureCode.SUBMISSION)):
        event = ClusterEvent(reason="Evicted", type="Warning", message="low", object=f"Pod/{about}")
        assert outcome(status("FAILED", "driver pod not found", events=(event,))).code is code


@pytest.mark.parametrize("text", ["driver pod not found", "failed to run spark-submit: exit status 1", ""])
def test_a_driver_that_was_deleted_during_its_submission_was_lost(text: str) -> None:
    """A pod that never ran is deleted without a `Killing`. Its other events show that the submission succeeded."""
    events = tuple(ClusterEvent(reason=reason, type="Normal", message="m", object=f"Pod/{POD}") for reason in ("Scheduled", "Pulling"))
    found = outcome(status("FAILED", text, events=events))
    assert (found.code, found.retryable, found.may_have_completed) == (FailureCode.NODE_LOST, True, True)
    assert f"driver pod {POD} was deleted; its last event is Pulling" in found.message
    assert text in found.message
    for other, code in (
        ("driver container failed with ExitCode: 3", FailureCode.DRIVER_EXIT),
        ("exceeded quota", FailureCode.CAPACITY),
        (f'pods "{POD}" already exists', FailureCode.SUBMISSION),  # the events are of the pod that has the name
    ):
        assert outcome(status("FAILED", other, events=events)).code is code


def test_last_warning_is_the_message_even_as_the_very_last_event() -> None:
    events = tuple(
        ClusterEvent(reason="r", type=kind, message=text) for kind, text in (("Warning", "first"), ("Normal", "x"), ("Warning", "last"))
    )
    assert outcome(status("FAILED", events=events, phase="Failed")).message == "last"
    assert outcome(status("FAILED", "own", events=events, phase="Failed")).message == "own"


def test_own_driver_counts_only_after_a_second_submission() -> None:
    """Without the words of a second submission, a failed application with a running driver has failed."""
    assert outcome(status("FAILED", "odd", driver=container(), owner_uid="u1")).code is FailureCode.UNKNOWN
    again = "driver pod already exist"
    assert outcome_of(status("FAILED", again, driver=container("waiting"), owner_uid="u1")) is None
    assert outcome(status("FAILED", again)).code is FailureCode.SUBMISSION
    without_container = status("FAILED", again, phase="Pending", owner_uid="u1")
    assert outcome(without_container).code is FailureCode.SUBMISSION
    ended = container("terminated", exit_code=3, reason="Error")
    assert outcome(status("FAILED", again, driver=ended, owner_uid="u1")).code is FailureCode.DRIVER_EXIT


def test_policy_is_compared_only_for_a_pod_and_an_application_that_have_one() -> None:
    assert outcome_of(status("RUNNING", driver=container(), policy_host_data="a" * 64)) is None
    assert outcome_of(status("SUBMITTED").model_copy(update={"driver_host_data": "a" * 64})) is None


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (status("SUBMISSION_FAILED"), None),
        (status("SUBMISSION_FAILED", "no such image"), "no such image"),
        (status("SUBMITTED", "ignored"), "the driver pod does not exist yet"),
        (status("SUBMITTED", scheduled=False), "the driver pod waits for a node"),
        (status("SUBMITTED", phase="Pending"), None),
        (status("SUBMITTED", driver=container("waiting")), "the container is being created"),
        (status("SUBMITTED", driver=container("waiting", message="m")), "m"),
        (status("SUBMITTED", driver=container("waiting", reason="r")), "r"),
        (status("RUNNING", driver=container("terminated", reason="r")), None),
    ],
)
def test_reason_to_wait_is_named(reading: JobStatus, reason: str | None) -> None:
    assert waiting_reason(reading) == reason


# ---------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("submitted", "ended", "seconds"), [(0, 90.5, 90.5), (0, 0.25, 0.25), (90, 0, 0.0), (None, 90, 0.0), (0, None, 0.0), (None, None, 0.0)]
)
def test_seconds_run_from_submission_to_the_end(submitted: float | None, ended: float | None, seconds: float) -> None:
    times = {
        name: None if value is None else NOW + timedelta(seconds=value)
        for name, value in (("submitted_at", submitted), ("ended_at", ended))
    }
    for state in ("COMPLETED", "FAILED"):
        assert outcome(status(state).model_copy(update=times)).seconds == seconds


def test_second_submission_ends_with_the_drivers_container() -> None:
    ended = container("terminated", exit_code=0, finished_at=NOW + timedelta(seconds=7))
    reading = status("FAILED", "driver pod already exist", driver=ended, owner_uid="u1")
    reading = reading.model_copy(update={"submitted_at": NOW, "ended_at": NOW + timedelta(seconds=99)})
    found = outcome(reading)
    assert (found.succeeded, found.seconds) == (True, 7)


# ---------------------------------------------------------------------- the error


NOT_OBSERVED = {FailureCode.SUBMISSION, FailureCode.NODE_LOST, FailureCode.DELETED, FailureCode.UNKNOWN}
"""Failures in which nobody saw the driver end, so that it may have succeeded."""


@pytest.mark.parametrize("code", list(FailureCode))
def test_error_of_a_code_has_its_remedy(code: FailureCode) -> None:
    reading = status("FAILED")
    found = failed_outcome(reading, code, "happened", exit_code=7)
    error = found.error()
    assert error is not None
    assert (error.code, error.message) == (f"Spark{code.value}", f"Spark application {NAME}: happened")
    assert (error.hint, error.party, error.retryable) == (found.hint, found.party, found.retryable)
    assert error.details == {"trackingId": NAME, "exitCode": 7}
    assert found.may_have_completed is (code in NOT_OBSERVED)
    assert failed_outcome(reading, code, "x", exit_code=0).may_have_completed


def test_failure_without_a_code_is_unknown() -> None:
    error = Outcome(tracking_id=NAME, succeeded=False).error()
    assert error is not None
    assert (error.code, error.retryable, error.party) == ("SparkUnknown", False, None)


PAYLOAD: dict[str, Any] = {
    "code": "SCHEMA_MISMATCH",
    "message": "column amount",
    "cause": "c",
    "hint": "h",
    "party": "contosso",
    "details": {"a": 1},
    "retryable": True,
    "category": "invalid-input",
}


def test_payload_error_keeps_every_known_member_and_no_other() -> None:
    assert payload_error(json.dumps(PAYLOAD | {"more": 1})) == PAYLOAD
    found = outcome(failed(exit_code=10, message=json.dumps(PAYLOAD)))
    assert (found.retryable, found.party, found.hint, found.payload_error) == (True, "contosso", "h", PAYLOAD)
    assert found.message == "driver exited with code 10 (Error): SCHEMA_MISMATCH: column amount"
    error = found.error()
    assert error is not None
    assert error.to_dict() == PAYLOAD | {"details": {"a": 1, "trackingId": NAME}}


def test_payload_error_without_a_remedy_has_none() -> None:
    """The remedy of the code is the analyst's; a payload that names nobody does not make the analyst responsible."""
    found = outcome(failed(message=json.dumps({"code": "X", "message": "m"})))
    assert (found.retryable, found.party, found.hint) == (False, None, None)


@pytest.mark.parametrize("category", [None, "odd", 5])
def test_unknown_category_is_internal(category: Any) -> None:
    found = payload_error(json.dumps({"code": "X", "message": "m", "category": category}))
    assert found == {"code": "X", "message": "m", "category": "internal"}


@pytest.mark.parametrize(
    "message",
    [None, "", "{", "[" * 100_000, "5", '{"code": "X"}', '{"message": "m"}', '{"code": "X", "message": 5}', '{"code": 5, "message": "m"}'],
)
def test_other_message_is_no_payload_error(message: str | None) -> None:
    assert payload_error(message) is None


def test_sidecar_that_cannot_start_is_a_failure_of_the_pod() -> None:
    sidecar = ContainerStatus(name="skr", state="waiting", reason="ErrImagePull", message="not found")
    pod = PodStatus(name=POD, uid="p1", role="driver", containers=(container(), sidecar))
    found = outcome(status("SUBMITTED").model_copy(update={"pods": (pod,)}))
    assert found.code is FailureCode.IMAGE_PULL
