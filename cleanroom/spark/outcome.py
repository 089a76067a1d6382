"""The outcome of a SparkApplication, derived from one reading of the cluster.

Only ``COMPLETED`` and ``FAILED`` are final states. The Spark Operator retries after ``SUBMISSION_FAILED`` or
continues to ``FAILED``. An unknown state means that the application continues. A driver that cannot start stays
``SUBMITTED`` forever, so the outcome also depends on pods and events. States and failure reasons:
``docs/facts/spark-applications.md``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cleanroom.errors import CATEGORIES, CleanRoomError
from cleanroom.spark.failure_rules import (
    CONTAINER_RULES,
    EXECUTOR_FAILURES,
    IMAGE_PULL_REASONS,
    JVM_OUT_OF_MEMORY,
    MESSAGE_RULES,
    MOUNT_EVENTS,
    NAME_TAKEN,
    POD_RULES,
    REMEDIES,
    START_FAILURE_REASONS,
    FailureCode,
    denied_by_policy,
)
from cleanroom.spark.status import STARTED_STATES, ClusterEvent, ContainerStatus, JobStatus, PodStatus

MAY_HAVE_COMPLETED = frozenset({FailureCode.SUBMISSION, FailureCode.NODE_LOST, FailureCode.DELETED, FailureCode.UNKNOWN})
"""Failures in which the end of the driver was not observed. "driver pod not found" is among them."""


_CREATION_FAILURES = frozenset({FailureCode.RIGHT_MISSING, FailureCode.ADMISSION, FailureCode.CAPACITY})
_PROGRESS_CHARACTERS = 200


class Outcome(BaseModel):
    """How a run's application ended."""

    model_config = ConfigDict(frozen=True)

    tracking_id: str
    succeeded: bool
    code: FailureCode | None = None
    message: str = ""
    retryable: bool = False
    party: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    payload_error: dict[str, Any] | None = None
    """The payload's own error (``{code, message, category, ...}``), if the driver wrote one as its termination message."""
    termination_message: str = ""
    """The driver's termination message, verbatim. After success this is the JSON of the result receipt."""
    may_have_completed: bool = False
    """Whether the driver may have written its result receipt although the application failed. The ledger tells."""
    status: JobStatus | None = None
    seconds: float = Field(default=0.0, ge=0)
    """From submission to the end, by the cluster's timestamps."""

    def error(self) -> CleanRoomError | None:
        """Return the failure as an error, or None after success.

        The payload's own error takes precedence. Otherwise the error's code is ``Spark`` followed by :attr:`code`.
        """
        if self.succeeded:
            return None
        if self.payload_error is not None:
            error = CleanRoomError.from_dict(self.payload_error)
            error.details.setdefault("trackingId", self.tracking_id)
            return error
        code = self.code or FailureCode.UNKNOWN
        return REMEDIES[code].error(
            f"Spark{code.value}",
            f"Spark application {self.tracking_id}: {self.message}",
            hint=self.hint,
            party=self.party,
            details={"trackingId": self.tracking_id, "exitCode": self.exit_code},
            retryable=self.retryable,
        )


def failed_outcome(status: JobStatus, code: FailureCode, message: str, **facts: Any) -> Outcome:
    """Return a failed outcome with the remedy of ``code``.

    Args:
        status: The reading that shows the failure.
        code: Why the application failed.
        message: What happened, for people.
        facts: Further members of :class:`Outcome`.
    """
    remedy = REMEDIES[code]
    return Outcome(
        tracking_id=status.tracking_id,
        succeeded=False,
        code=code,
        message=message,
        retryable=remedy.retryable,
        party=remedy.party,
        hint=remedy.hint,
        may_have_completed=code in MAY_HAVE_COMPLETED or facts.get("exit_code") == 0,
        status=status,
        seconds=_seconds(status),
        **facts,
    )


def creation_error(error: CleanRoomError) -> CleanRoomError:
    """Return the API's refusal of an application with code, hint and party of the same refusal of a pod: a right, a webhook or a quota.

    Category and whether a retry may succeed stay those of the API's answer. Other errors are returned unchanged.
    """
    rule = next((rule for rule in MESSAGE_RULES if rule.code in _CREATION_FAILURES and rule.matches(error.message, None)), None)
    if rule is None:
        return error
    remedy = REMEDIES[rule.code]
    return type(error)(
        f"Spark{rule.code.value}",
        error.message,
        cause=error.cause,
        hint=remedy.hint,
        party=remedy.party,
        details={**error.details, "reason": error.code},
        retryable=error.retryable,
    )


def outcome_of(status: JobStatus) -> Outcome | None:
    """Return the outcome that ``status`` shows, or None while the application may still continue.

    An application that cannot start (image, policy) has an outcome although its state is not final. An application
    that waits for capacity or for its first reconciliation has none; deadlines decide that
    (:func:`cleanroom.spark.service.deadline_outcome`).
    """
    if status.state == "COMPLETED":
        container = status.driver_container()
        return Outcome(
            tracking_id=status.tracking_id,
            succeeded=True,
            exit_code=container.exit_code if container else None,
            termination_message=(container.message or "") if container else "",
            status=status,
            seconds=_seconds(status),
        )
    stuck = _policy_not_applied(status) or _cannot_start(status)
    if stuck is not None:
        return stuck
    if status.state == "FAILED":
        return _resubmitted(status) if NAME_TAKEN in status.message else _failure(status)
    return None


def _policy_not_applied(status: JobStatus) -> Outcome | None:
    """Detect a driver pod without its policy annotation: the operator's webhook was silently not applied.

    Such a pod receives no secrets, so it can only fail later (https://github.com/kubeflow/spark-operator/issues/1619).
    """
    pod = status.driver()
    if pod is None or status.driver_host_data is None or pod.policy_host_data == status.driver_host_data:
        return None
    text = f"pod {pod.name} carries {'another' if pod.policy_host_data else 'no'} policy than its application specifies"
    return failed_outcome(status, FailureCode.POLICY_MISMATCH, text)


def _resubmitted(status: JobStatus) -> Outcome | None:
    """Handle an operator that restarted, submitted again, and failed because its own driver pod exists.

    If the pod belongs to this application, the pod decides (https://github.com/kubeflow/spark-operator/issues/2788).
    """
    pod, container = status.driver(), status.driver_container()
    if pod is None or container is None or pod.owner_uid != status.uid:
        return _failure(status)
    if container.state != "terminated":
        return None
    if container.exit_code != 0:
        return _failure(status)
    return outcome_of(status.model_copy(update={"state": "COMPLETED", "ended_at": container.finished_at}))


def waiting_reason(status: JobStatus) -> str | None:
    """Return one line that says why the driver does not run yet, or None once it runs."""
    pod = status.driver()
    if pod is None:
        return status.message or None if status.state == "SUBMISSION_FAILED" else "the driver pod does not exist yet"
    if not pod.scheduled:
        return pod.scheduling_message or "the driver pod waits for a node"
    container = status.driver_container()
    if container is not None and container.state == "waiting":
        if mount := failed_mount(status):
            return mount
        return ": ".join(part for part in (container.reason, container.message) if part) or "the container is being created"
    return None


def progress_line(status: JobStatus) -> str:
    """Return one line about an application that has not ended: its state, what it waits for, and its executors."""
    state = status.state or "NEW"
    if reason := waiting_executors(status) if state in STARTED_STATES else waiting_reason(status):
        return f"{state}: {reason}"[:_PROGRESS_CHARACTERS]
    executors = status.executors
    counts = {"run": executors.running, "wait": executors.pending, "failed": executors.failed}
    shown = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"{state}: executors: {shown}" if shown else state


def failed_mount(status: JobStatus) -> str | None:
    """Return the latest event about a volume of the driver that cannot be mounted, or None if its container does not wait for one."""
    container = status.driver_container()
    if container is None or container.state != "waiting" or container.reason not in (None, "ContainerCreating", "PodInitializing"):
        return None
    about = f"Pod/{status.driver_pod}"
    events = [event for event in status.events if event.object == about and event.reason in MOUNT_EVENTS]
    return f"{events[-1].reason}: {events[-1].message}" if events else None


def waiting_executors(status: JobStatus) -> str | None:
    """Return one line about the executors that wait while none runs, or None."""
    executors = [pod for pod in status.pods if pod.role == "executor"]
    waiting = [pod for pod in executors if pod.phase == "Pending"]
    if not waiting or any(pod.phase == "Running" for pod in executors):
        return None
    pod = waiting[-1]
    reasons = [pod.scheduling_message if not pod.scheduled else None, *(item.message or item.reason for item in pod.containers)]
    reason = next((text for text in reasons if text), "no reason given")
    return f"{len(waiting)} executors wait: {reason}"


def _cannot_start(status: JobStatus) -> Outcome | None:
    pod = status.driver()
    if pod is None:
        return None
    for container in pod.containers:
        text = container.message or container.reason or ""
        if container.reason in IMAGE_PULL_REASONS:
            return failed_outcome(status, FailureCode.IMAGE_PULL, f"pod {pod.name} cannot pull its image: {container.reason}: {text}")
        # A waiting container has no exit code, and 128 is the runtime's own; a program that ran has another one.
        if container.reason in START_FAILURE_REASONS and container.exit_code in (None, 128):
            code = FailureCode.POLICY_MISMATCH if denied_by_policy(text) else FailureCode.CONTAINER_START
            return failed_outcome(status, code, f"pod {pod.name} cannot start: {text}", exit_code=container.exit_code)
    return None


def _failure(status: JobStatus) -> Outcome:
    """Return the outcome of an application in state ``FAILED``: the driver container decides, then the operator's message."""
    pod, container = status.driver(), status.driver_container()
    if pod is not None and container is not None and container.exit_code is not None:
        return _driver_failure(status, pod, container)
    events = [event for event in status.events if event.object == f"Pod/{status.driver_pod}"]
    for pod_rule in POD_RULES:
        if lost := pod_rule.message(pod, events):
            return failed_outcome(status, pod_rule.code, f"driver pod {status.driver_pod}: {lost}")
    text = status.message or _last_warning(status.events)
    rule = next((rule for rule in MESSAGE_RULES if rule.matches(text, pod)), None)
    if pod is None and events and rule and rule.code is FailureCode.SUBMISSION and NAME_TAKEN not in text:
        # Only a pod that has existed has events. Deleted before it ran, perhaps while spark-submit still did, it leaves no other trace.
        # If the driver's name was taken, they are events of the pod that has it.
        lost = f"driver pod {status.driver_pod} was deleted; its last event is {events[-1].reason}: {events[-1].message}"
        return failed_outcome(status, FailureCode.NODE_LOST, f"{lost}; the operator says: {text}" if text else lost)
    if rule is None:
        return failed_outcome(status, FailureCode.UNKNOWN, text or "the application failed without a message")
    return failed_outcome(status, rule.code, text or "the operator could not submit the application")


def _driver_failure(status: JobStatus, pod: PodStatus, container: ContainerStatus) -> Outcome:
    facts = {"exit_code": container.exit_code, "termination_message": container.message or ""}
    rule = next((rule for rule in CONTAINER_RULES if rule.matches(container, pod)), None)
    if rule is not None:
        messages = {
            FailureCode.OUT_OF_MEMORY: "the driver ran out of memory",
            FailureCode.NODE_LOST: _node_loss(pod, container),
        }
        return failed_outcome(status, rule.code, messages[rule.code], **facts)
    payload = payload_error(container.message)
    if payload is None or payload["category"] in ("internal", "unavailable"):
        executors = _executor_failure(status)
        if executors is not None:
            return failed_outcome(status, executors[0], executors[1], **facts)
    text = f"driver exited with code {container.exit_code} ({container.reason or 'Error'})"
    if payload is None:
        return failed_outcome(status, FailureCode.DRIVER_EXIT, text, **facts)
    outcome = failed_outcome(
        status, FailureCode.DRIVER_EXIT, f"{text}: {payload['code']}: {payload['message']}", payload_error=payload, **facts
    )
    remedy = {"retryable": bool(payload.get("retryable")), "party": payload.get("party"), "hint": payload.get("hint")}
    return outcome.model_copy(update=remedy)


def _executor_failure(status: JobStatus) -> tuple[FailureCode, str] | None:
    """Return why a driver gave up whose executors failed again and again, or None if too few failed."""
    failed = [pod for pod in status.pods if pod.role == "executor" and pod.phase == "Failed"]
    if len(failed) < EXECUTOR_FAILURES:
        return None
    ended = [(pod, next((item for item in pod.containers if item.state == "terminated"), None)) for pod in failed]
    pod, last = max(ended, key=lambda item: item[1].finished_at.timestamp() if item[1] and item[1].finished_at else 0.0)
    text = (last and (last.message or last.reason)) or pod.message or pod.reason or "no reason given"
    if last is not None and last.exit_code is not None:
        text = f"{text} (exit code {last.exit_code})"
    code = FailureCode.EXECUTORS_FAILING
    if denied_by_policy(text):
        code = FailureCode.POLICY_MISMATCH
    elif all(item is not None and (item.reason == "OOMKilled" or item.exit_code == JVM_OUT_OF_MEMORY) for _, item in ended):
        code = FailureCode.OUT_OF_MEMORY
    return code, f"{len(failed)} executors failed; the last one, pod {pod.name}: {text}"


def _node_loss(pod: PodStatus, container: ContainerStatus) -> str:
    if pod.reason is None and pod.disruption is None and pod.deletion_requested_at is not None:
        return f"pod {pod.name} was deleted while the driver ran"
    reason = pod.reason or pod.disruption or container.reason
    return f"{reason}: {pod.message or container.message or 'the node of the driver went away'}"


def payload_error(message: str | None) -> dict[str, Any] | None:
    """Return the payload's error from a termination message (JSON of ``CleanRoomError.to_dict``), or None.

    The message passes through the cluster, so members of an unexpected type are dropped.
    """
    try:
        value = json.loads(message or "")
    except (ValueError, RecursionError):
        return None
    if not (isinstance(value, dict) and isinstance(value.get("code"), str) and isinstance(value.get("message"), str)):
        return None
    kinds = {"code": str, "message": str, "cause": str, "hint": str, "party": str, "details": dict, "retryable": bool, "category": str}
    error = {name: value[name] for name, kind in kinds.items() if isinstance(value.get(name), kind)}
    return {**error, "category": error["category"] if error.get("category") in CATEGORIES else "internal"}


def _last_warning(events: Sequence[ClusterEvent]) -> str:
    return next((event.message for event in reversed(events) if event.type == "Warning"), "")


def _seconds(status: JobStatus) -> float:
    if status.submitted_at is None or status.ended_at is None:
        return 0.0
    return max(0.0, (status.ended_at - status.submitted_at).total_seconds())
