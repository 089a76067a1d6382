"""Outcomes of SparkApplications: which reading of the cluster is which failure, and when a deadline is exceeded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cleanroom.errors import InvalidInput, Refused, TimedOut, Unavailable
from cleanroom.spark.deadlines import Deadlines, deadline_outcome
from cleanroom.spark.failure_rules import CONTAINER_RULES, MESSAGE_RULES, POD_RULES, FailureCode
from cleanroom.spark.kubernetes_objects import job_status, pod_status
from cleanroom.spark.outcome import Outcome, failed_outcome, outcome_of, waiting_reason
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


DELETED_AT = datetime(2026, 6, 1, tzinfo=UTC)
PAYLOAD = json.dumps({"code": "SCHEMA_MISMATCH", "message": "orders: column amount", "category": "invalid-input", "party": "contosso"})
DENIED = "failed to create containerd task: container creation denied due to policy: invalid command: policyDecision< … >policyDecision"
PAYLOAD_FAILED = status("FAILED", driver=container("terminated", reason="Error", exit_code=10, message=PAYLOAD))


@dataclass(frozen=True)
class Failure:
    """A reading of a failed application, and its expected code."""

    name: str
    reading: JobStatus
    code: FailureCode


FAILURES = [
    Failure(
        "image pull backs off",
        status("SUBMITTED", driver=container("waiting", reason="ImagePullBackOff", message="not found")),
        FailureCode.IMAGE_PULL,
    ),
    Failure("first image pull fails", status("SUBMITTED", driver=container("waiting", reason="ErrImagePull")), FailureCode.IMAGE_PULL),
    Failure(
        "policy denies the terminated container",
        status("FAILED", driver=container("terminated", reason="StartError", exit_code=128, message=DENIED)),
        FailureCode.POLICY_MISMATCH,
    ),
    Failure(
        "policy denies the waiting container",
        status("SUBMITTED", driver=container("waiting", reason="CreateContainerError", message=DENIED)),
        FailureCode.POLICY_MISMATCH,
    ),
    Failure(
        "container configuration is invalid",
        status("SUBMITTED", driver=container("waiting", reason="CreateContainerConfigError", message="no map")),
        FailureCode.CONTAINER_START,
    ),
    Failure("payload reports an error", PAYLOAD_FAILED, FailureCode.DRIVER_EXIT),
    Failure(
        "driver exits without a message",
        status("FAILED", driver=container("terminated", reason="Error", exit_code=1)),
        FailureCode.DRIVER_EXIT,
    ),
    Failure(
        "driver exits after SIGTERM",
        status("FAILED", driver=container("terminated", reason="Error", exit_code=143)),
        FailureCode.DRIVER_EXIT,
    ),
]


@pytest.mark.parametrize("row", FAILURES, ids=lambda row: row.name)
def test_failed_reading_has_its_code(row: Failure) -> None:
    outcome = outcome_of(row.reading)
    assert outcome is not None
    assert (outcome.succeeded, outcome.code) == (False, row.code)
    assert outcome.hint or outcome.payload_error
    assert outcome.error() is not None


@dataclass(frozen=True)
class RuleRow:
    """Readings that one rule of a table recognises, with the expected code and retryability."""

    rule: str
    code: FailureCode
    retryable: bool
    readings: list[JobStatus] = field(default_factory=list)


CONTAINER_ROWS = [
    RuleRow(
        "kernel OOM kill",
        FailureCode.OUT_OF_MEMORY,
        False,
        [status("FAILED", driver=container("terminated", reason="OOMKilled", exit_code=137))],
    ),
    RuleRow(
        "JVM out of memory",
        FailureCode.OUT_OF_MEMORY,
        False,
        [status("FAILED", driver=container("terminated", reason="Error", exit_code=52))],
    ),
    RuleRow(
        "container state lost",
        FailureCode.NODE_LOST,
        True,
        [status("FAILED", driver=container("terminated", reason="ContainerStatusUnknown", exit_code=137))],
    ),
    RuleRow(
        "node shut down or pod evicted",
        FailureCode.NODE_LOST,
        True,
        [
            status("FAILED", driver=container("terminated", exit_code=143), reason=reason)
            for reason in ("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Preempting")
        ]
        + [status("FAILED", driver=container("terminated", exit_code=143), disruption="PreemptionByScheduler")],
    ),
    RuleRow(
        "pod deleted",
        FailureCode.NODE_LOST,
        True,
        [
            status("FAILED", driver=container("terminated", exit_code=code, finished_at=ended), deletion_requested_at=DELETED_AT)
            for code in (1, 137, 143)
            for ended in (None, DELETED_AT, DELETED_AT + timedelta(seconds=3))
        ],
    ),
]


def lost(reason: str) -> JobStatus:
    """A reading of a failed application whose driver pod is gone, with an event about that pod."""
    event = ClusterEvent(reason=reason, type="Warning", message="The node was low on resource.", object=f"Pod/{NAME}-driver")
    return status("FAILED", "driver pod not found", events=(event,))


POD_ROWS = [
    RuleRow(
        "pod evicted, preempted or lost with its node",
        FailureCode.NODE_LOST,
        True,
        [
            status("FAILED", driver=driver, reason="Evicted", message="The node was low on resource.", phase="Failed")
            for driver in (None, container("waiting", reason="ContainerCreating"), container("running"))
        ],
    ),
    RuleRow(
        "pod disrupted before its container ended",
        FailureCode.NODE_LOST,
        True,
        [status("FAILED", "driver failed", disruption=reason, phase="Failed") for reason in ("DeletionByTaintManager", "DeletionByPodGC")],
    ),
    RuleRow("pod rejected by its node", FailureCode.NODE_LOST, True, [status("FAILED", reason="OutOfcpu", phase="Failed")]),
    RuleRow(
        "events of a pod that is gone",
        FailureCode.NODE_LOST,
        True,
        [lost("Evicted"), lost("Preempted"), lost("NodeNotReady"), lost("Killing")],
    ),
]


def failed(*messages: str) -> list[JobStatus]:
    """Readings of a failed application that has a driver pod, so that only the message decides."""
    return [status("FAILED", message, phase="Failed") for message in messages]


MESSAGE_ROWS = [
    RuleRow("policy denial", FailureCode.POLICY_MISMATCH, False, failed(DENIED, "execution denied by policy")),
    RuleRow(
        "scheduling webhook without capacity",
        FailureCode.CAPACITY,
        True,
        failed(
            'admission webhook "schedule" denied the request: no node has capacity',
            'Admission webhook "schedule" denied the request: none free',
        ),
    ),
    RuleRow(
        "quota or resources exhausted",
        FailureCode.CAPACITY,
        True,
        failed("pods is forbidden: exceeded quota: compute", "0/3 nodes are available: 3 Insufficient cpu."),
    ),
    RuleRow(
        "service account missing",
        FailureCode.ACCOUNT_MISSING,
        False,
        failed(
            'spark-submit failed: pods "d" is forbidden: error looking up service account analytics/no: serviceaccount "no" not found',
            'serviceaccounts "no" not found',
        ),
    ),
    RuleRow(
        "right missing",
        FailureCode.RIGHT_MISSING,
        False,
        failed(
            'spark-submit failed: networkpolicies.networking.k8s.io is forbidden: User "system:serviceaccount:spark-operator:controller" '
            'cannot create resource "networkpolicies" in API group "networking.k8s.io" in the namespace "analytics"'
        ),
    ),
    RuleRow(
        "admission denied",
        FailureCode.ADMISSION,
        False,
        failed(
            'admission webhook "m" denied the request: no such map',
            'failed calling webhook "mutate--v1-pod.sparkoperator.k8s.io": failed to call webhook: connect: connection refused',
            'pods "d" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        ),
    ),
    RuleRow(
        "OOM kill reported by the operator",
        FailureCode.OUT_OF_MEMORY,
        False,
        failed("driver container failed with ExitCode: 137, Reason: OOMKilled"),
    ),
    RuleRow(
        "signal reported by the operator",
        FailureCode.NODE_LOST,
        True,
        [status("FAILED", f"driver container failed with ExitCode: {code}, Reason: Error") for code in (137, 143)],
    ),
    RuleRow(
        "exit code reported by the operator",
        FailureCode.DRIVER_EXIT,
        False,
        [status("FAILED", "driver container failed with ExitCode: 3, Reason: Error")],
    ),
    RuleRow(
        "submission failed",
        FailureCode.SUBMISSION,
        True,
        failed("failed to run spark-submit: driver pod already exist", "driver pod not found", "failed to run spark-submit: exit status 1"),
    ),
    RuleRow("no driver pod", FailureCode.SUBMISSION, True, [status("FAILED", "the reason is not known"), status("FAILED")]),
]


def readings(rows: list[RuleRow]) -> list[Any]:
    return [pytest.param(row, reading, id=f"{row.rule} {number}") for row in rows for number, reading in enumerate(row.readings)]


@pytest.mark.parametrize(("row", "reading"), readings(CONTAINER_ROWS))
def test_terminated_container_is_recognised_by_its_rule(row: RuleRow, reading: JobStatus) -> None:
    ended, pod = reading.driver_container(), reading.driver()
    assert ended is not None
    assert pod is not None
    rule = next(rule for rule in CONTAINER_RULES if rule.matches(ended, pod))
    assert (rule.name, rule.code, rule.retryable) == (row.rule, row.code, row.retryable)
    outcome = outcome_of(reading)
    assert outcome is not None
    assert (outcome.code, outcome.retryable) == (row.code, row.retryable)


@pytest.mark.parametrize(("row", "reading"), readings(POD_ROWS))
def test_driver_lost_with_its_node_is_recognised_by_its_rule(row: RuleRow, reading: JobStatus) -> None:
    found = [(rule, rule.message(reading.driver(), reading.events)) for rule in POD_RULES]
    rule, message = next((rule, message) for rule, message in found if message is not None)
    assert (rule.name, rule.code, rule.retryable) == (row.rule, row.code, row.retryable)
    outcome = outcome_of(reading)
    assert outcome is not None
    assert (outcome.code, outcome.retryable, outcome.party) == (row.code, row.retryable, "operator")
    assert outcome.message == f"driver pod {NAME}-driver: {message}"
    assert outcome.may_have_completed


def test_kubelet_status_of_an_evicted_driver_is_node_lost_with_the_pods_own_reason() -> None:
    application = {
        "metadata": {"name": "app", "uid": "u1", "creationTimestamp": "2026-11-29T17:00:00Z"},
        "spec": {"driver": {}},
        "status": {"applicationState": {"state": "FAILED", "errorMessage": ""}, "driverInfo": {"podName": "d"}},
    }
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "low on resource"}
    metadata = {"name": "d", "uid": "p1", "labels": {"spark-role": "driver"}}
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
    for pod, words in (
        (evicted, "Evicted: The node was low on resource: ephemeral-storage."),
        ({"phase": "Failed", "conditions": [condition]}, "TerminationByKubelet: low on resource"),
        (evicted | {"conditions": [condition]}, "Evicted: The node was low on resource: ephemeral-storage."),
    ):
        outcome = outcome_of(job_status(application, [pod_status({"metadata": metadata, "status": pod})], []))
        assert outcome is not None
        assert (outcome.code, outcome.retryable) == (FailureCode.NODE_LOST, True)
        assert words in outcome.message
        error = outcome.error()
        assert error is not None
        assert (error.code, error.retryable, error.party) == ("SparkNodeLost", True, "operator")


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (status("FAILED", "driver pod not found"), True),
        (status("FAILED", driver=container("terminated", reason="Completed", exit_code=0)), True),
        (status("FAILED"), True),
        (status("FAILED", driver=container("terminated", reason="Error", exit_code=1)), False),
        (PAYLOAD_FAILED, False),
        (status("FAILED", driver=container("terminated", reason="OOMKilled", exit_code=137)), False),
    ],
)
def test_failure_whose_driver_may_have_succeeded_is_marked(reading: JobStatus, expected: bool) -> None:
    outcome = outcome_of(reading)
    assert outcome is not None
    assert (outcome.succeeded, outcome.may_have_completed) == (False, expected)


@pytest.mark.parametrize(("row", "reading"), readings(MESSAGE_ROWS))
def test_failure_message_is_recognised_by_its_rule(row: RuleRow, reading: JobStatus) -> None:
    rule = next(rule for rule in MESSAGE_RULES if rule.matches(reading.message, reading.driver()))
    assert (rule.name, rule.code, rule.retryable) == (row.rule, row.code, row.retryable)
    outcome = outcome_of(reading)
    assert outcome is not None
    assert (outcome.code, outcome.retryable) == (row.code, row.retryable)


def test_driver_that_failed_before_its_pod_was_deleted_keeps_its_own_failure() -> None:
    before = container("terminated", reason="Error", exit_code=10, message=PAYLOAD, finished_at=DELETED_AT - timedelta(seconds=1))
    outcome = outcome_of(status("FAILED", driver=before, deletion_requested_at=DELETED_AT))
    assert outcome is not None
    assert outcome.code is FailureCode.DRIVER_EXIT
    assert outcome.payload_error is not None


def test_deletion_is_requested_a_grace_period_before_its_timestamp() -> None:
    metadata = {"name": "d", "uid": "p1", "deletionTimestamp": "2026-06-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    assert pod_status({"metadata": metadata}).deletion_requested_at == DELETED_AT
    assert pod_status({"metadata": {"name": "d", "uid": "p1"}}).deletion_requested_at is None


def test_every_failure_rule_has_a_row() -> None:
    assert [row.rule for row in CONTAINER_ROWS] == [rule.name for rule in CONTAINER_RULES]
    assert [row.rule for row in MESSAGE_ROWS] == [rule.name for rule in MESSAGE_RULES]
    assert [row.rule for row in POD_ROWS] == [rule.name for rule in POD_RULES]
    assert all(rule.reason for rule in (*CONTAINER_RULES, *POD_RULES, *MESSAGE_RULES))


def test_failure_without_a_rule_is_unknown() -> None:
    (reading,) = failed("the cluster fell over")
    outcome = outcome_of(reading)
    assert outcome is not None
    assert (outcome.code, outcome.retryable, outcome.message) == (FailureCode.UNKNOWN, False, "the cluster fell over")


def test_last_warning_event_stands_in_for_a_missing_message() -> None:
    events = (ClusterEvent(reason="a", type="Warning", message="exceeded quota"), ClusterEvent(reason="b", message="normal"))
    outcome = outcome_of(status("FAILED", events=events, phase="Failed"))
    assert outcome is not None
    assert (outcome.code, outcome.message) == (FailureCode.CAPACITY, "exceeded quota")


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
def test_state_other_than_completed_and_failed_has_no_outcome(state: str) -> None:
    assert outcome_of(status(state)) is None


def test_completed_outcome_holds_the_receipt() -> None:
    receipt = '{"rows": 3}'
    outcome = outcome_of(status("COMPLETED", driver=container("terminated", exit_code=0, message=receipt)))
    assert outcome is not None
    assert (outcome.succeeded, outcome.exit_code, outcome.termination_message, outcome.error()) == (True, 0, receipt, None)


def test_terminated_sidecar_does_not_end_a_running_application() -> None:
    sidecar = ContainerStatus(name="skr", state="terminated", exit_code=137)
    reading = status("RUNNING", driver=container("running"))
    pod = reading.pods[0].model_copy(update={"containers": (sidecar, container("running"))})
    assert outcome_of(reading.model_copy(update={"pods": (pod,)})) is None


def test_payload_error_becomes_the_outcome_error() -> None:
    outcome = outcome_of(PAYLOAD_FAILED)
    assert outcome is not None
    error = outcome.error()
    assert isinstance(error, InvalidInput)
    assert (error.code, error.party, error.details["trackingId"]) == ("SCHEMA_MISMATCH", "contosso", NAME)
    assert outcome.party == "contosso"


@pytest.mark.parametrize("message", ["", "not json", "[]", '{"code": 1, "message": "x"}', '{"rows": 3}'])
def test_termination_message_that_is_not_an_error_is_ignored(message: str) -> None:
    outcome = outcome_of(status("FAILED", driver=container("terminated", exit_code=1, message=message)))
    assert outcome is not None
    assert outcome.payload_error is None


@pytest.mark.parametrize("member", ["category", "cause", "hint", "party", "details", "retryable"])
@pytest.mark.parametrize("value", ["text", 5, 1.5, True, None, [1], ["a", "b"], {}, {"a": 1}, [["a", "b"]]])
def test_payload_error_member_of_another_type_is_dropped(member: str, value: object) -> None:
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
def test_failure_code_determines_the_error_class(code: FailureCode, kind: type) -> None:
    assert type(failed_outcome(status("FAILED"), code, "x").error()) is kind


def test_second_submission_does_not_fail_the_applications_own_driver() -> None:
    """The operator restarted, submitted again, and reports its own driver pod as an obstacle (kubeflow/spark-operator issue 2788)."""
    text = "failed to run spark-submit: driver pod already exist"
    assert outcome_of(status("FAILED", text, driver=container("running"), owner_uid="u1")) is None
    done = outcome_of(status("FAILED", text, driver=container("terminated", exit_code=0, message="{}"), owner_uid="u1"))
    assert done is not None
    assert done.succeeded
    another_owner = outcome_of(status("FAILED", text, driver=container("running"), owner_uid="u2"))
    assert another_owner is not None
    assert another_owner.code is FailureCode.SUBMISSION


@pytest.mark.parametrize("found", [None, "b" * 64])
def test_pod_without_its_policy_is_a_policy_mismatch(found: str | None) -> None:
    """The operator's webhook was silently not applied (kubeflow/spark-operator issue 1619)."""
    reading = status("RUNNING", driver=container("running"), policy_host_data=found).model_copy(update={"driver_host_data": "a" * 64})
    outcome = outcome_of(reading)
    assert outcome is not None
    assert outcome.code is FailureCode.POLICY_MISMATCH
    fine = status("RUNNING", driver=container("running"), policy_host_data="a" * 64).model_copy(update={"driver_host_data": "a" * 64})
    assert outcome_of(fine) is None


def test_waiting_reason_names_the_first_obstacle() -> None:
    assert waiting_reason(status("SUBMITTED")) == "the driver pod does not exist yet"
    assert waiting_reason(status("SUBMITTED", scheduled=False, scheduling_message="0/1 nodes")) == "0/1 nodes"
    assert waiting_reason(status("SUBMITTED", driver=container("waiting", reason="ErrImagePull", message="x"))) == "ErrImagePull: x"
    assert waiting_reason(status("RUNNING", driver=container("running"))) is None


def test_object_without_status_members_is_read() -> None:
    bare = {"metadata": {"name": NAME, "uid": "u"}, "spec": {"driver": {}}}
    assert job_status(bare).state == ""
    sparse = {
        **bare,
        "status": {"driverInfo": {}, "applicationState": {}, "lastSubmissionAttemptTime": None, "executorState": {"e": "RUNNING"}},
    }
    assert job_status(sparse).executors.running == 1
    assert pod_status({"metadata": {"name": "p", "uid": "u"}}).phase == "Unknown"


NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
LIMITS = Deadlines(driver_start_seconds=60, run_seconds=600)


@dataclass(frozen=True)
class Age:
    """A reading at an age, and the deadline that it exceeds, if any."""

    name: str
    reading: JobStatus
    seconds: int
    code: FailureCode | None = None
    words: str = ""


def running_for(seconds: int) -> JobStatus:
    return status("RUNNING", driver=container(started_at=NOW - timedelta(seconds=seconds)))


AGES = [
    Age("new and young", status("", ""), 30),
    Age("never reconciled", status(""), 90, FailureCode.START_DEADLINE, "the driver pod does not exist yet"),
    Age("submitted without a pod", status("SUBMITTED"), 90, FailureCode.START_DEADLINE, "the driver pod does not exist yet"),
    Age("submission failed", status("SUBMISSION_FAILED", "no such image"), 90, FailureCode.START_DEADLINE, "no such image"),
    Age("pending rerun", status("PENDING_RERUN"), 90, FailureCode.START_DEADLINE, "does not exist"),
    Age(
        "not scheduled",
        status("SUBMITTED", scheduled=False, scheduling_message="0/3 nodes: Insufficient cpu"),
        90,
        FailureCode.CAPACITY,
        "Insufficient cpu",
    ),
    Age(
        "container being created",
        status("SUBMITTED", driver=container("waiting", reason="ContainerCreating")),
        90,
        FailureCode.START_DEADLINE,
        "ContainerCreating",
    ),
    Age(
        "registry unreachable",
        status("SUBMITTED", driver=container("waiting", reason="ErrImagePull", message="no such host")),
        90,
        FailureCode.START_DEADLINE,
        "ErrImagePull: no such host",
    ),
    Age("running", running_for(80), 90),
    Age("running for too long", running_for(700), 760, FailureCode.RUN_DEADLINE, "longer than 600 s"),
    # The driver has run and its pod is gone, but the operator has not reconciled yet.
    Age("running without a pod", status("RUNNING"), 90),
    Age("succeeding without a pod", status("SUCCEEDING"), 90),
    Age("running without a pod for too long", status("RUNNING"), 700, FailureCode.RUN_DEADLINE, "longer than 600 s"),
]


@pytest.mark.parametrize("row", AGES, ids=lambda row: row.name)
def test_deadline_failure_names_what_the_application_waited_for(row: Age) -> None:
    reading = row.reading.model_copy(update={"created_at": NOW - timedelta(seconds=row.seconds)})
    outcome = deadline_outcome(reading, LIMITS, now=NOW)
    assert (outcome.code if outcome else None) == row.code
    assert outcome is None or row.words in outcome.message
