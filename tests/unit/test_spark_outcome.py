"""What an application's readings mean: the failure taxonomy as a table (spec/execute.md G2 and G4, users-and-threats.md 2.2)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cleanroom.errors import InvalidInput, Refused, TimedOut, Unavailable
from cleanroom.spark import service
from cleanroom.spark.kubernetes_objects import job_status, pod_status
from cleanroom.spark.outcome import FailureCode, Outcome, failed_outcome, outcome_of, waiting_reason
from cleanroom.spark.service import Deadlines, deadline_outcome
from cleanroom.spark.status import ClusterEvent, ContainerStatus, JobStatus, PodStatus

NAME = "cr-run"


def container(state: str = "running", **facts: Any) -> ContainerStatus:
    return ContainerStatus(name="spark-kubernetes-driver", state=state, **facts)


def status(
    state: str, message: str = "", *, driver: ContainerStatus | None = None, events: tuple[ClusterEvent, ...] = (), **pod: Any
) -> JobStatus:
    pods = (
        (PodStatus(name=f"{NAME}-driver", uid="p1", role="driver", containers=(driver,) if driver else (), **pod),) if driver or pod else ()
    )
    return JobStatus(tracking_id=NAME, uid="u1", state=state, message=message, driver_pod=f"{NAME}-driver", pods=pods, events=events)


PAYLOAD = json.dumps({"code": "SCHEMA_MISMATCH", "message": "orders: column amount", "category": "invalid-input", "party": "contosso"})
DENIED = "failed to create containerd task: container creation denied due to policy: invalid command: policyDecision< … >policyDecision"

TABLE = [
    ("image", status("SUBMITTED", driver=container("waiting", reason="ImagePullBackOff", message="not found")), FailureCode.IMAGE_PULL),
    ("image first try", status("SUBMITTED", driver=container("waiting", reason="ErrImagePull")), FailureCode.IMAGE_PULL),
    (
        "policy",
        status("FAILED", driver=container("terminated", reason="StartError", exit_code=128, message=DENIED)),
        FailureCode.POLICY_MISMATCH,
    ),
    (
        "policy waiting",
        status("SUBMITTED", driver=container("waiting", reason="CreateContainerError", message=DENIED)),
        FailureCode.POLICY_MISMATCH,
    ),
    (
        "start",
        status("SUBMITTED", driver=container("waiting", reason="CreateContainerConfigError", message="no map")),
        FailureCode.CONTAINER_START,
    ),
    ("payload", status("FAILED", driver=container("terminated", reason="Error", exit_code=10, message=PAYLOAD)), FailureCode.DRIVER_EXIT),
    ("exit", status("FAILED", driver=container("terminated", reason="Error", exit_code=1)), FailureCode.DRIVER_EXIT),
    ("graceful stop", status("FAILED", driver=container("terminated", reason="Error", exit_code=143)), FailureCode.DRIVER_EXIT),
    ("oom", status("FAILED", driver=container("terminated", reason="OOMKilled", exit_code=137)), FailureCode.OUT_OF_MEMORY),
    ("jvm oom", status("FAILED", driver=container("terminated", reason="Error", exit_code=52)), FailureCode.OUT_OF_MEMORY),
    ("node", status("FAILED", driver=container("terminated", reason="ContainerStatusUnknown", exit_code=137)), FailureCode.NODE_LOST),
    ("evicted", status("FAILED", driver=container("terminated", exit_code=143), reason="Evicted"), FailureCode.NODE_LOST),
    ("webhook", status("FAILED", 'admission webhook "m" denied the request: no such map'), FailureCode.ADMISSION),
    ("no node", status("FAILED", 'admission webhook "schedule" denied the request: no node has capacity'), FailureCode.CAPACITY),
    ("quota", status("FAILED", "pods is forbidden: exceeded quota: compute"), FailureCode.CAPACITY),
    ("twice", status("FAILED", "failed to run spark-submit: driver pod already exist"), FailureCode.SUBMISSION),
    ("no pod", status("FAILED", "driver pod not found"), FailureCode.SUBMISSION),
    ("submit", status("FAILED", "failed to run spark-submit: exit status 1"), FailureCode.SUBMISSION),
]


@pytest.mark.parametrize(("reading", "code"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_failure_codes(reading: JobStatus, code: FailureCode) -> None:
    outcome = outcome_of(reading)
    assert outcome is not None
    assert (outcome.succeeded, outcome.code) == (False, code)
    assert outcome.hint or outcome.payload_error
    assert outcome.error() is not None


@pytest.mark.parametrize(
    "state",
    [
        "",
        "SUBMITTED",
        "RUNNING",
        "SUCCEEDING",
        "FAILING",
        "SUBMISSION_FAILED",
        "PENDING_RERUN",
        "INVALIDATING",
        "SUSPENDED",
        "UNKNOWN",
        "NEW_IN_3.0",
    ],
)
def test_only_completed_and_failed_are_ends(state: str) -> None:
    assert outcome_of(status(state)) is None


def test_completed_keeps_the_receipt() -> None:
    receipt = '{"rows": 3}'
    outcome = outcome_of(status("COMPLETED", driver=container("terminated", exit_code=0, message=receipt)))
    assert outcome is not None
    assert (outcome.succeeded, outcome.exit_code, outcome.termination_message, outcome.error()) == (True, 0, receipt, None)


def test_a_running_sidecar_decides_nothing() -> None:
    sidecar = ContainerStatus(name="skr", state="terminated", exit_code=137)
    reading = status("RUNNING", driver=container("running"))
    pod = reading.pods[0].model_copy(update={"containers": (sidecar, container("running"))})
    assert outcome_of(reading.model_copy(update={"pods": (pod,)})) is None


def test_the_payloads_own_error_survives() -> None:
    outcome = outcome_of(TABLE[5][1])
    assert outcome is not None
    error = outcome.error()
    assert isinstance(error, InvalidInput)
    assert (error.code, error.party, error.details["trackingId"]) == ("SCHEMA_MISMATCH", "contosso", NAME)
    assert outcome.party == "contosso"


@pytest.mark.parametrize("message", ["", "not json", "[]", '{"code": 1, "message": "x"}', '{"rows": 3}'])
def test_a_message_that_is_no_error_is_no_error(message: str) -> None:
    outcome = outcome_of(status("FAILED", driver=container("terminated", exit_code=1, message=message)))
    assert outcome is not None
    assert outcome.payload_error is None


@pytest.mark.parametrize("member", ["category", "cause", "hint", "party", "details", "retryable"])
@pytest.mark.parametrize("value", ["text", 5, 1.5, True, None, [1], ["a", "b"], {}, {"a": 1}, [["a", "b"]]])
def test_members_of_another_type_are_left_out_of_an_error(member: str, value: object) -> None:
    message = json.dumps({"code": "X", "message": "m", "category": "refused", member: value})
    outcome = outcome_of(status("FAILED", driver=container("terminated", exit_code=12, message=message)))
    assert outcome is not None
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
    error = outcome.error()
    assert error is not None
    assert error.code == "X"
    assert json.loads(json.dumps(error.to_dict()))["details"]["trackingId"] == NAME


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (FailureCode.START_DEADLINE, TimedOut),
        (FailureCode.RUN_DEADLINE, TimedOut),
        (FailureCode.POLICY_MISMATCH, Refused),
        (FailureCode.CAPACITY, Unavailable),
        (FailureCode.IMAGE_PULL, Unavailable),
    ],
)
def test_error_kinds(code: FailureCode, kind: type) -> None:
    assert type(failed_outcome(status("FAILED"), code, "x").error()) is kind


def test_a_second_submission_does_not_fail_the_running_driver() -> None:
    """users-and-threats.md S3: the operator restarted, submitted again, and calls its own driver a stranger's."""
    text = "failed to run spark-submit: driver pod already exist"
    assert outcome_of(status("FAILED", text, driver=container("running"), owner_uid="u1")) is None
    done = outcome_of(status("FAILED", text, driver=container("terminated", exit_code=0, message="{}"), owner_uid="u1"))
    assert done is not None
    assert done.succeeded
    strangers = outcome_of(status("FAILED", text, driver=container("running"), owner_uid="u2"))
    assert strangers is not None
    assert strangers.code is FailureCode.SUBMISSION


@pytest.mark.parametrize("found", [None, "b" * 64])
def test_a_pod_without_its_policy_is_noticed(found: str | None) -> None:
    """users-and-threats.md S7: the webhook was silently not applied."""
    reading = status("RUNNING", driver=container("running"), policy_host_data=found).model_copy(update={"driver_host_data": "a" * 64})
    outcome = outcome_of(reading)
    assert outcome is not None
    assert outcome.code is FailureCode.POLICY_MISMATCH
    fine = status("RUNNING", driver=container("running"), policy_host_data="a" * 64).model_copy(update={"driver_host_data": "a" * 64})
    assert outcome_of(fine) is None


def test_waiting_reasons() -> None:
    assert waiting_reason(status("SUBMITTED")) == "the driver pod does not exist yet"
    assert waiting_reason(status("SUBMITTED", scheduled=False, scheduling_message="0/1 nodes")) == "0/1 nodes"
    assert waiting_reason(status("SUBMITTED", driver=container("waiting", reason="ErrImagePull", message="x"))) == "ErrImagePull: x"
    assert waiting_reason(status("RUNNING", driver=container("running"))) is None


def test_objects_without_a_status_are_read() -> None:
    bare = {"metadata": {"name": NAME, "uid": "u"}, "spec": {"driver": {}}}
    assert job_status(bare).state == ""
    odd = {
        **bare,
        "status": {"driverInfo": {}, "applicationState": {}, "lastSubmissionAttemptTime": None, "executorState": {"e": "RUNNING"}},
    }
    assert job_status(odd).executors.running == 1
    assert pod_status({"metadata": {"name": "p", "uid": "u"}}).phase == "Unknown"


NOW = datetime.now(UTC)
LIMITS = Deadlines(driver_start_seconds=60, run_seconds=600)


@pytest.mark.parametrize(
    ("reading", "age", "code", "words"),
    [
        (status("", ""), 30, None, ""),
        (status(""), 90, FailureCode.START_DEADLINE, "the driver pod does not exist yet"),
        (status("SUBMITTED"), 90, FailureCode.START_DEADLINE, "the driver pod does not exist yet"),
        (status("SUBMISSION_FAILED", "no such image"), 90, FailureCode.START_DEADLINE, "no such image"),
        (status("PENDING_RERUN"), 90, FailureCode.START_DEADLINE, "does not exist"),
        (
            status("SUBMITTED", scheduled=False, scheduling_message="0/3 nodes: Insufficient cpu"),
            90,
            FailureCode.CAPACITY,
            "Insufficient cpu",
        ),
        (status("SUBMITTED", driver=container("waiting", reason="ContainerCreating")), 90, FailureCode.START_DEADLINE, "ContainerCreating"),
        (
            status("SUBMITTED", driver=container("waiting", reason="ErrImagePull", message="no such host")),
            90,
            FailureCode.START_DEADLINE,
            "ErrImagePull: no such host",
        ),
        (status("RUNNING", driver=container(started_at=NOW - timedelta(seconds=80))), 90, None, ""),
        (status("RUNNING", driver=container(started_at=NOW - timedelta(seconds=700))), 760, FailureCode.RUN_DEADLINE, "longer than 600 s"),
        # The pod of a driver that ran is gone, and the operator has not looked again yet.
        (status("RUNNING"), 90, None, ""),
        (status("SUCCEEDING"), 90, None, ""),
        (status("RUNNING"), 700, FailureCode.RUN_DEADLINE, "longer than 600 s"),
    ],
)
def test_deadlines_name_what_was_waited_for(
    reading: JobStatus, age: int, code: FailureCode | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The readings were made when the tests were collected, which may be minutes ago.
    monkeypatch.setattr(service, "_since", lambda instant: (NOW - instant).total_seconds())
    outcome = deadline_outcome(reading.model_copy(update={"created_at": NOW - timedelta(seconds=age)}), LIMITS)
    assert (outcome.code if outcome else None) == code
    assert outcome is None or words in outcome.message
