"""What became of a SparkApplication: its state as the operator tells it, and why it failed, in a closed set of codes.

States: spec/execute.md G2. ``SUBMISSION_FAILED`` is not an end (the operator retries or goes on to ``FAILED``), a state nobody has heard of
keeps one waiting, and a driver that cannot start stays ``SUBMITTED`` for ever, so pods and events are read beside the state.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cleanroom.errors import CATEGORIES, CleanRoomError, Internal, Refused, TimedOut, Unavailable
from cleanroom.spark.status import ClusterEvent, JobStatus

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
START_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"})


class FailureCode(StrEnum):
    """Why an application did not complete. The name says who must act: see :data:`_REMEDIES`."""

    IMAGE_PULL = "ImagePull"
    CAPACITY = "Capacity"
    ADMISSION = "Admission"
    POLICY_MISMATCH = "PolicyMismatch"
    CONTAINER_START = "ContainerStart"
    SUBMISSION = "Submission"
    DRIVER_EXIT = "DriverExit"
    OUT_OF_MEMORY = "OutOfMemory"
    NODE_LOST = "NodeLost"
    START_DEADLINE = "StartDeadline"
    RUN_DEADLINE = "RunDeadline"
    DELETED = "Deleted"
    REPLACED = "Replaced"
    UNKNOWN = "Unknown"


_REMEDIES: dict[FailureCode, tuple[bool, str, str]] = {
    FailureCode.IMAGE_PULL: (False, "operator", "Make the image with this digest pullable by the cluster."),
    FailureCode.CAPACITY: (True, "operator", "Wait for room in the cluster, add nodes, or lower the requested cores and memory."),
    FailureCode.ADMISSION: (False, "operator", "Read the admission webhook's message and its configuration."),
    FailureCode.POLICY_MISMATCH: (
        False,
        "operator",
        "The pod is not what was measured: find out who changed it.",
    ),
    FailureCode.CONTAINER_START: (False, "operator", "Read the pod's events."),
    FailureCode.SUBMISSION: (True, "operator", "Read the operator's message; a leftover pod of this name must go first."),
    FailureCode.DRIVER_EXIT: (False, "analyst", "Read the run's log and its failure code."),
    FailureCode.OUT_OF_MEMORY: (False, "operator", "Give driver or executors more memory."),
    FailureCode.NODE_LOST: (True, "operator", "The node went away; run again."),
    FailureCode.START_DEADLINE: (True, "operator", "Read the pod's events; raise spark.driver_start_seconds where the cluster is slow."),
    FailureCode.RUN_DEADLINE: (False, "operator", "Raise spark.run_seconds, or reduce the query."),
    FailureCode.DELETED: (False, "operator", "Somebody deleted the SparkApplication; start a new run."),
    FailureCode.REPLACED: (False, "operator", "Another object took the SparkApplication's name; start a new run."),
    FailureCode.UNKNOWN: (False, "operator", "Read the SparkApplication's status and events."),
}


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
    """The payload's own ``{code, message, category …}`` when the driver left one as its termination message."""
    termination_message: str = ""
    """The driver's termination message, verbatim: the receipt's JSON after success."""
    status: JobStatus | None = None
    seconds: float = Field(default=0.0, ge=0)
    """From submission to the end, as the cluster dates them."""

    def error(self) -> CleanRoomError | None:
        """The failure as an error: the payload's own where it left one, else one whose code is :attr:`code`; None after success."""
        if self.succeeded:
            return None
        if self.payload_error is not None:
            error = CleanRoomError.from_dict(self.payload_error)
            error.details.setdefault("trackingId", self.tracking_id)
            return error
        kind: type[CleanRoomError] = Internal
        if self.code in (FailureCode.START_DEADLINE, FailureCode.RUN_DEADLINE):
            kind = TimedOut
        elif self.code in (FailureCode.POLICY_MISMATCH, FailureCode.ADMISSION):
            kind = Refused
        elif self.code in (FailureCode.CAPACITY, FailureCode.IMAGE_PULL, FailureCode.NODE_LOST, FailureCode.SUBMISSION):
            kind = Unavailable
        return kind(
            f"Spark{(self.code or FailureCode.UNKNOWN).value}",
            f"Spark application {self.tracking_id}: {self.message}",
            hint=self.hint,
            party=self.party,
            details={"trackingId": self.tracking_id, "exitCode": self.exit_code},
            retryable=self.retryable,
        )


def failed_outcome(status: JobStatus, code: FailureCode, message: str, **facts: Any) -> Outcome:
    """A failed outcome with the code's remedy."""
    retryable, party, hint = _REMEDIES[code]
    return Outcome(
        tracking_id=status.tracking_id,
        succeeded=False,
        code=code,
        message=message,
        retryable=retryable,
        party=party,
        hint=hint,
        status=status,
        seconds=_seconds(status),
        **facts,
    )


def outcome_of(status: JobStatus) -> Outcome | None:
    """The outcome that ``status`` shows, or None while the application may still go on.

    An application that cannot start (image, policy) is an outcome although its state is not terminal; one that merely waits for room or
    for its first reconcile is not: deadlines decide that (:mod:`cleanroom.spark.service`).
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
    stuck = _unprotected(status) or _cannot_start(status)
    if stuck is not None:
        return stuck
    if status.state == "FAILED":
        return _orphaned_driver(status) if "already exist" in status.message else _why_failed(status)
    return None


def _unprotected(status: JobStatus) -> Outcome | None:
    """A webhook that was silently not applied (users-and-threats.md S7): the pod has no secrets to lose, but it will never get any."""
    pod = status.driver()
    if pod is None or status.driver_host_data is None or pod.policy_host_data == status.driver_host_data:
        return None
    text = f"pod {pod.name} carries {'another' if pod.policy_host_data else 'no'} policy than its application gives it"
    return failed_outcome(status, FailureCode.POLICY_MISMATCH, text)


def _orphaned_driver(status: JobStatus) -> Outcome | None:
    """The operator lost track and submitted twice (users-and-threats.md S3): the driver pod of this very application decides."""
    pod, container = status.driver(), status.driver_container()
    if pod is None or container is None or pod.owner_uid != status.uid:
        return _why_failed(status)
    if container.state != "terminated":
        return None
    if container.exit_code != 0:
        return _why_failed(status)
    return outcome_of(status.model_copy(update={"state": "COMPLETED", "ended_at": container.finished_at}))


def waiting_reason(status: JobStatus) -> str | None:
    """Why the driver is not running yet, as one line for people; None once it runs."""
    pod = status.driver()
    if pod is None:
        return status.message or None if status.state == "SUBMISSION_FAILED" else "the driver pod does not exist yet"
    if not pod.scheduled:
        return pod.scheduling_message or "the driver pod waits for a node"
    container = status.driver_container()
    if container is not None and container.state == "waiting":
        return ": ".join(part for part in (container.reason, container.message) if part) or "the container is being created"
    return None


def _cannot_start(status: JobStatus) -> Outcome | None:
    pod = status.driver()
    if pod is None:
        return None
    for container in pod.containers:
        text = container.message or container.reason or ""
        if container.state == "waiting" and container.reason in IMAGE_REASONS:
            return failed_outcome(status, FailureCode.IMAGE_PULL, f"pod {pod.name} cannot pull its image: {container.reason}: {text}")
        if container.reason in START_REASONS and (container.state == "waiting" or container.exit_code in (None, 128)):
            code = FailureCode.POLICY_MISMATCH if _denied_by_policy(text) else FailureCode.CONTAINER_START
            return failed_outcome(status, code, f"pod {pod.name} cannot start: {text}", exit_code=container.exit_code)
    return None


def _denied_by_policy(text: str) -> bool:
    return "denied by policy" in text or "denied due to policy" in text or "policyDecision" in text


def _why_failed(status: JobStatus) -> Outcome:
    container = status.driver_container()
    pod = status.driver()
    if container is not None and container.state == "terminated" and container.exit_code is not None:
        facts = {"exit_code": container.exit_code, "termination_message": container.message or ""}
        if container.reason == "OOMKilled" or container.exit_code == 52:
            return failed_outcome(status, FailureCode.OUT_OF_MEMORY, "the driver ran out of memory", **facts)
        if container.reason == "ContainerStatusUnknown" or (pod and pod.reason in ("NodeLost", "NodeShutdown", "Terminated", "Evicted")):
            return failed_outcome(
                status, FailureCode.NODE_LOST, (pod and pod.message) or container.message or "the driver's node went away", **facts
            )
        payload = payload_error(container.message)
        said = f": {payload['code']}: {payload['message']}" if payload else ""
        reason = container.reason or "Error"
        outcome = failed_outcome(
            status,
            FailureCode.DRIVER_EXIT,
            f"driver exited with code {container.exit_code} ({reason}){said}",
            payload_error=payload,
            **facts,
        )
        if payload:
            update = {"retryable": bool(payload.get("retryable")), "party": payload.get("party"), "hint": payload.get("hint")}
            return outcome.model_copy(update=update)
        return outcome
    text = status.message or _last_warning(status.events)
    lowered = text.lower()
    if _denied_by_policy(text):
        return failed_outcome(status, FailureCode.POLICY_MISMATCH, text)
    if "admission webhook" in lowered and ("no node" in lowered or "capacity" in lowered or "none free" in lowered):
        return failed_outcome(status, FailureCode.CAPACITY, text)
    if "exceeded quota" in lowered or "insufficient" in lowered:
        return failed_outcome(status, FailureCode.CAPACITY, text)
    if "admission webhook" in lowered or "is forbidden" in lowered:
        return failed_outcome(status, FailureCode.ADMISSION, text)
    if "oomkilled" in lowered:
        return failed_outcome(status, FailureCode.OUT_OF_MEMORY, text)
    if "submit" in lowered or "already exist" in lowered or "driver pod not found" in lowered or pod is None:
        return failed_outcome(status, FailureCode.SUBMISSION, text or "the operator could not submit the application")
    return failed_outcome(status, FailureCode.UNKNOWN, text or "the application failed and nothing says why")


def payload_error(message: str | None) -> dict[str, Any] | None:
    """The payload's error in a termination message (JSON of ``CleanRoomError.to_dict``), or None.

    The cluster hands it over, so members of another type than ours are left out.
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
