"""Causes of failed runs: which readings have which cause, and where people see it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, InvalidInput, Refused, Unavailable
from cleanroom.messages.run import RunFailure
from cleanroom.spark.causes import MEANINGS, Cause, cause_of
from cleanroom.spark.deadlines import Deadlines, deadline_outcome
from cleanroom.spark.failure_rules import REMEDIES, FailureCode
from cleanroom.spark.outcome import creation_error, failed_outcome, outcome_of, progress_line
from cleanroom.spark.status import ClusterEvent, ContainerStatus, ExecutorCounts, JobStatus, PodStatus
from starters.operations.runs import failure_record
from tests.unit.test_spark_outcome import NAME, container, status
from workflows.story import failure_summary

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIMITS = Deadlines(driver_start_seconds=60, run_seconds=600)
SAYS_EVERYTHING_ITSELF = {FailureCode.DRIVER_EXIT, FailureCode.DELETED, FailureCode.REPLACED, FailureCode.UNKNOWN}
DRIVER_MOUNT = ClusterEvent(
    reason="FailedMount",
    type="Warning",
    message='MountVolume.SetUp failed for volume "keys" : secret "keys" not found',
    object=f"Pod/{NAME}-driver",
)
CREATING = container("waiting", reason="ContainerCreating")


def executor(number: int, phase: str = "Failed", ended: dict[str, Any] | None = None, **pod: Any) -> PodStatus:
    facts = {"exit_code": 1, "reason": "Error", "finished_at": NOW + timedelta(seconds=number)} | (ended or {})
    found = (ContainerStatus(name="spark-kubernetes-executor", state="terminated", **facts),) if phase == "Failed" else ()
    return PodStatus(name=f"{NAME}-exec-{number}", uid=f"e{number}", role="executor", phase=phase, containers=found, **pod)


def with_executors(reading: JobStatus, *pods: PodStatus) -> JobStatus:
    return reading.model_copy(update={"pods": (*reading.pods, *pods)})


def late(reading: JobStatus, seconds: int = 90) -> JobStatus:
    return reading.model_copy(update={"created_at": NOW - timedelta(seconds=seconds)})


@pytest.mark.parametrize(
    ("reading", "code", "words"),
    [
        (
            status("SUBMITTED", scheduled=False, scheduling_message="0/3 nodes are available: 3 Insufficient memory."),
            FailureCode.CAPACITY,
            "Insufficient memory",
        ),
        (
            status("SUBMITTED", scheduled=False, scheduling_message="0/1 nodes are available: 1 Too many pods."),
            FailureCode.CAPACITY,
            "Too many pods",
        ),
        (
            status(
                "SUBMITTED",
                scheduled=False,
                scheduling_message="0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
            ),
            FailureCode.UNSCHEDULABLE,
            "node affinity/selector",
        ),
        (
            status("SUBMITTED", scheduled=False, scheduling_message="0/1 nodes are available: 1 node(s) had untolerated taint(s)."),
            FailureCode.UNSCHEDULABLE,
            "untolerated taint",
        ),
        (status("SUBMITTED", driver=CREATING, events=(DRIVER_MOUNT,)), FailureCode.MOUNT_FAILED, 'secret "keys" not found'),
        (
            status("SUBMITTED", driver=CREATING, events=(DRIVER_MOUNT.model_copy(update={"object": f"Pod/{NAME}-exec-1"}),)),
            FailureCode.START_DEADLINE,
            "ContainerCreating",
        ),
        # The image is what it waits for; the volume was mounted in the end.
        (
            status("SUBMITTED", driver=container("waiting", reason="ImagePullBackOff"), events=(DRIVER_MOUNT,)),
            FailureCode.START_DEADLINE,
            "ImagePullBackOff",
        ),
    ],
)
def test_driver_that_does_not_start_in_time_has_the_reason_that_it_waits_for(reading: JobStatus, code: FailureCode, words: str) -> None:
    assert deadline_outcome(late(reading, 30), LIMITS, now=NOW) is None
    outcome = deadline_outcome(late(reading), LIMITS, now=NOW)
    assert outcome is not None
    assert outcome.code is code
    assert words in outcome.message


def test_run_that_takes_too_long_names_executors_that_never_started() -> None:
    running = status("RUNNING", driver=container(started_at=NOW - timedelta(seconds=700)))
    waiting = executor(1, "Pending", scheduled=False, scheduling_message="0/1 nodes are available: 1 Insufficient memory.")
    outcome = deadline_outcome(with_executors(running, waiting), LIMITS, now=NOW)
    assert outcome is not None
    assert outcome.message.endswith("1 executors wait: 0/1 nodes are available: 1 Insufficient memory.")
    outcome = deadline_outcome(with_executors(running, waiting, executor(2, "Running")), LIMITS, now=NOW)
    assert outcome is not None
    assert "executors wait" not in outcome.message


GAVE_UP = status("FAILED", driver=container("terminated", reason="Error", exit_code=11))
DENIED = {"reason": "StartError", "exit_code": 128, "message": "container creation denied due to policy: invalid command"}


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        ([{}, {}, {}], FailureCode.EXECUTORS_FAILING, f"3 executors failed; the last one, pod {NAME}-exec-3: Error (exit code 1)"),
        ([{}, {}, {"message": "java.net.ConnectException"}], FailureCode.EXECUTORS_FAILING, "ConnectException (exit code 1)"),
        ([{"reason": "OOMKilled", "exit_code": 137}] * 3, FailureCode.OUT_OF_MEMORY, "OOMKilled (exit code 137)"),
        ([{"exit_code": 52}] * 4, FailureCode.OUT_OF_MEMORY, "4 executors failed"),
        ([{}, {"reason": "OOMKilled", "exit_code": 137}, {}], FailureCode.EXECUTORS_FAILING, "3 executors failed"),
        ([DENIED] * 3, FailureCode.POLICY_MISMATCH, "denied due to policy"),
        ([{}, {}], FailureCode.DRIVER_EXIT, "driver exited with code 11"),
    ],
)
def test_driver_that_gave_up_after_its_executors_failed_names_their_reason(
    ended: list[dict[str, Any]], code: FailureCode, words: str
) -> None:
    outcome = outcome_of(with_executors(GAVE_UP, *(executor(number + 1, ended=facts) for number, facts in enumerate(ended))))
    assert outcome is not None
    assert outcome.code is code
    assert words in outcome.message


@pytest.mark.parametrize(
    ("reading", "line"),
    [
        (status(""), "NEW: the driver pod does not exist yet"),
        (status("SUBMITTED", scheduled=False, scheduling_message="0/1 nodes"), "SUBMITTED: 0/1 nodes"),
        (status("SUBMITTED", driver=CREATING, events=(DRIVER_MOUNT,)), f"SUBMITTED: FailedMount: {DRIVER_MOUNT.message}"),
        (status("RUNNING", driver=container("running")), "RUNNING"),
        (
            status("RUNNING", driver=container("running")).model_copy(update={"executors": ExecutorCounts(running=2, failed=1)}),
            "RUNNING: executors: 2 run, 1 failed",
        ),
        (
            with_executors(
                status("RUNNING", driver=container("running")), executor(1, "Pending", scheduled=False, scheduling_message="full")
            ),
            "RUNNING: 1 executors wait: full",
        ),
    ],
)
def test_progress_names_the_state_and_what_the_run_waits_for(reading: JobStatus, line: str) -> None:
    assert progress_line(reading) == line


def test_payloads_own_error_precedes_failed_executors() -> None:
    error = '{"code": "SCHEMA_MISMATCH", "message": "amount", "category": "invalid-input"}'
    reading = status("FAILED", driver=container("terminated", reason="Error", exit_code=10, message=error))
    outcome = outcome_of(with_executors(reading, *(executor(number) for number in range(3))))
    assert outcome is not None
    assert outcome.payload_error is not None


def test_every_failure_has_a_cause_or_says_everything_itself() -> None:
    without = set()
    for failure in FailureCode:
        error = failed_outcome(status("FAILED"), failure, "x").error()
        assert error is not None
        if cause_of(error.code) is None:
            without.add(failure)
    assert without == SAYS_EVERYTHING_ITSELF
    assert cause_of("ConsentWithdrawn") is Cause.CONSENT_WITHDRAWN
    assert cause_of("QueryNotFound") is None


def test_every_cause_has_one_sentence_and_every_failure_a_remedy() -> None:
    assert set(MEANINGS) == set(Cause)
    for sentence in MEANINGS.values():
        assert sentence.endswith(".")
        assert ". " not in sentence
    for failure in FailureCode:
        hint = REMEDIES[failure].hint
        assert hint.endswith("."), failure


NO_RIGHT = 'sparkapplications.sparkoperator.k8s.io is forbidden: User "x" cannot create resource "sparkapplications" in API group "g"'
NO_QUOTA = 'sparkapplications "cr-1" is forbidden: exceeded quota: runs, requested: count/sparkapplications=1'
NO_WEBHOOK = 'Internal error occurred: failed calling webhook "mutate": dial tcp [::1]:9: connect: connection refused'


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        (Refused("Forbidden", NO_RIGHT, hint="Grant it."), "SparkRightMissing", Cause.PRECONDITION),
        (Refused("Forbidden", NO_QUOTA), "SparkCapacity", Cause.CAPACITY),
        (Unavailable("InternalError", NO_WEBHOOK), "SparkAdmission", Cause.PRECONDITION),
    ],
)
def test_application_that_the_api_server_refuses_has_a_cause_and_stays_as_retryable(error: CleanRoomError, code: str, cause: Cause) -> None:
    found = creation_error(error)
    assert (found.code, cause_of(found.code), found.party) == (code, cause, "operator")
    assert (type(found), found.retryable, found.message) == (type(error), error.retryable, error.message)
    assert found.hint == REMEDIES[FailureCode(code.removeprefix("Spark"))].hint
    assert found.details["reason"] == error.code


def test_other_errors_of_the_api_server_are_unchanged() -> None:
    for error in (InvalidInput("Invalid", 'spec.type: Unsupported value: "Cobol"'), Unavailable("KubernetesUnreachable", "no answer")):
        assert creation_error(error) is error


def test_summary_in_the_web_ui_names_the_cause() -> None:
    text = failure_summary("FAILED", CleanRoomError("SparkNodeLost", "Spark application cr-x: Evicted"))
    assert r"Cause: **NODE\_LOST**" in text
    assert MEANINGS[Cause.NODE_LOST].rstrip(".") in text
    assert "Cause" not in failure_summary("FAILED", CleanRoomError("QueryNotFound", "no such query"))


def test_run_show_names_the_cause() -> None:
    record = failure_record(RunFailure(code="SparkMountFailed", message="m"))
    assert record is not None
    assert (record["cause"], record["meaning"]) == ("MOUNT", MEANINGS[Cause.MOUNT])
    other = failure_record(RunFailure(code="QueryNotFound", message="m"))
    assert other is not None
    assert "cause" not in other
    assert failure_record(None) is None
