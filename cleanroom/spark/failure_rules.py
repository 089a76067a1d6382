"""Why a SparkApplication failed: a closed set of codes, the remedy for each code, and the rules that recognise a failure.

The Spark Operator reports a failure as free text, so recognition works on phrases. Both rule tables are ordered:
the first rule that matches decides, and specific rules stand before general ones.
``docs/facts/spark-applications.md`` lists the sources of the phrases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cleanroom.errors import CleanRoomError, Internal, Refused, TimedOut, Unavailable
from cleanroom.spark.status import ClusterEvent, ContainerStatus, PodStatus

IMAGE_PULL_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
"""Waiting reasons of a container whose image cannot be pulled."""

START_FAILURE_REASONS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"}
)
"""Reasons of a container that the container runtime could not start."""

NODE_LOSS_REASONS = frozenset({"Evicted", "NodeLost", "NodeShutdown", "Preempted", "Preempting", "Shutdown", "Terminated"})
"""Reasons of a failed pod that its node or the scheduler ended
(https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/)."""

NODE_REJECTION_REASONS = frozenset({"NodeAffinity", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods"})
"""Reasons of a failed pod that its node did not admit. Another node may."""

NODE_LOSS_EVENTS = frozenset({"Evicted", "Killing", "NodeNotReady", "NodeShutdown", "Preempted", "Preempting", "TaintManagerEviction"})
"""Reasons of events about a pod that ended although its program did not: its node or the scheduler ended it, or it was deleted,
for example to drain its node. Events outlive the pod."""

PERMANENT_PULL_FAILURES = ("not found", "denied", "unauthorized", "InvalidImageName", "ErrImageNeverPull")
"""Phrases in a pull error that time does not cure. A registry that does not answer may come back."""

MOUNT_EVENTS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
"""Reasons of events about a pod with a volume that cannot be mounted. The kubelet retries."""

EXECUTOR_FAILURES = 3
"""A driver gives up after at least this many failed executors (``spark.executor.maxNumFailures``)."""

JVM_OUT_OF_MEMORY = 52
"""Exit code of a Spark JVM after an ``OutOfMemoryError`` (``SparkExitCode.OOM``)."""


class FailureCode(StrEnum):
    """Why an application did not complete. :data:`REMEDIES` says who must act."""

    IMAGE_PULL = "ImagePull"
    CAPACITY = "Capacity"
    UNSCHEDULABLE = "Unschedulable"
    MOUNT_FAILED = "MountFailed"
    ACCOUNT_MISSING = "AccountMissing"
    RIGHT_MISSING = "RightMissing"
    ADMISSION = "Admission"
    POLICY_MISMATCH = "PolicyMismatch"
    CONTAINER_START = "ContainerStart"
    SUBMISSION = "Submission"
    DRIVER_EXIT = "DriverExit"
    OUT_OF_MEMORY = "OutOfMemory"
    EXECUTORS_FAILING = "ExecutorsFailing"
    NODE_LOST = "NodeLost"
    START_DEADLINE = "StartDeadline"
    RUN_DEADLINE = "RunDeadline"
    DELETED = "Deleted"
    REPLACED = "Replaced"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Remedy:
    """What follows from a failure: whether a new run may succeed without a change, the responsible party, and what to do."""

    retryable: bool
    party: str
    hint: str
    error: type[CleanRoomError] = Internal


REMEDIES: dict[FailureCode, Remedy] = {
    FailureCode.IMAGE_PULL: Remedy(
        False, "operator", "Push the image with this digest, and give the nodes access to its registry.", Unavailable
    ),
    FailureCode.CAPACITY: Remedy(
        True, "operator", "Wait for other pods to end, add nodes, raise the quota, or lower the requested cores and memory.", Unavailable
    ),
    FailureCode.UNSCHEDULABLE: Remedy(
        True, "operator", "Compare the pod's node selector and tolerations with the labels and taints of the nodes.", Unavailable
    ),
    FailureCode.MOUNT_FAILED: Remedy(False, "operator", "Create the object that the pod's event names.", Unavailable),
    FailureCode.ACCOUNT_MISSING: Remedy(
        False, "operator", "Create this service account in the namespace of the runs, or correct kubernetes.service_account.", Refused
    ),
    FailureCode.RIGHT_MISSING: Remedy(
        False,
        "operator",
        "Grant the account this right. The page Kubernetes lists the rights that runs need.",
        Refused,
    ),
    FailureCode.ADMISSION: Remedy(False, "operator", "Read the admission webhook's message and check its configuration.", Refused),
    FailureCode.POLICY_MISMATCH: Remedy(
        False, "operator", "The pod differs from what was measured. Find out which component changed it.", Refused
    ),
    FailureCode.CONTAINER_START: Remedy(False, "operator", "Read the pod's events."),
    FailureCode.SUBMISSION: Remedy(
        True, "operator", "Read the Spark Operator's message. Delete a leftover pod of this name first.", Unavailable
    ),
    FailureCode.DRIVER_EXIT: Remedy(False, "analyst", "Read the run's log and its failure code."),
    FailureCode.OUT_OF_MEMORY: Remedy(False, "operator", "Raise spark.driver_memory or spark.executor_memory."),
    FailureCode.EXECUTORS_FAILING: Remedy(
        True, "operator", "Read the end of the last executor; its pod remains until the run is cleaned up.", Unavailable
    ),
    FailureCode.NODE_LOST: Remedy(True, "operator", "Start a new run. The query itself did not fail.", Unavailable),
    FailureCode.START_DEADLINE: Remedy(
        True, "operator", "Read the pod's events. Raise spark.driver_start_seconds if the cluster is slow.", TimedOut
    ),
    FailureCode.RUN_DEADLINE: Remedy(False, "operator", "Raise spark.run_seconds, or reduce the query.", TimedOut),
    FailureCode.DELETED: Remedy(False, "operator", "The SparkApplication was deleted. Start a new run."),
    FailureCode.REPLACED: Remedy(False, "operator", "Another object has the SparkApplication's name. Start a new run."),
    FailureCode.UNKNOWN: Remedy(False, "operator", "Read the SparkApplication's status and events."),
}


@dataclass(frozen=True)
class ContainerRule:
    """Recognises a failure in the terminated driver container and its pod."""

    name: str
    code: FailureCode
    reason: str
    """Why this code follows."""
    matches: Callable[[ContainerStatus, PodStatus], bool]

    @property
    def retryable(self) -> bool:
        """Whether a new run may succeed without a change."""
        return REMEDIES[self.code].retryable


CONTAINER_RULES: tuple[ContainerRule, ...] = (
    ContainerRule(
        "kernel OOM kill",
        FailureCode.OUT_OF_MEMORY,
        "The kubelet reports a container that exceeded its memory limit as OOMKilled.",
        lambda container, _: container.reason == "OOMKilled",
    ),
    ContainerRule(
        "JVM out of memory",
        FailureCode.OUT_OF_MEMORY,
        "Spark's JVM ends with its own exit code when its heap is full.",
        lambda container, _: container.exit_code == JVM_OUT_OF_MEMORY,
    ),
    ContainerRule(
        "container state lost",
        FailureCode.NODE_LOST,
        "The kubelet came back and does not know how the container ended.",
        lambda container, _: container.reason == "ContainerStatusUnknown",
    ),
    ContainerRule(
        "node shut down or pod evicted",
        FailureCode.NODE_LOST,
        "The pod ended because of its node, not because of the query.",
        lambda _, pod: pod.reason in NODE_LOSS_REASONS or pod.disruption is not None,
    ),
    ContainerRule(
        "pod deleted",
        FailureCode.NODE_LOST,
        "The pod was deleted while its program ran, so that its exit code says nothing about the query.",
        lambda container, pod: (
            pod.deletion_requested_at is not None and (container.finished_at is None or container.finished_at >= pod.deletion_requested_at)
        ),
    ),
)
"""Rules for a driver container that has terminated. If none matches, the exit of the payload itself decides."""


@dataclass(frozen=True)
class PodRule:
    """Recognises a failure in a driver pod whose container did not terminate, or in the events of a driver pod that is gone."""

    name: str
    code: FailureCode
    reason: str
    """Why this code follows."""
    message: Callable[[PodStatus | None, Sequence[ClusterEvent]], str | None]
    """Returns what happened to the pod, or None if the rule does not match."""

    @property
    def retryable(self) -> bool:
        """Whether a new run may succeed without a change."""
        return REMEDIES[self.code].retryable


def _reason_of(reasons: frozenset[str]) -> Callable[[PodStatus | None, Sequence[ClusterEvent]], str | None]:
    return lambda pod, _: f"{pod.reason}: {pod.message or 'no message'}" if pod is not None and pod.reason in reasons else None


def _disrupted(pod: PodStatus | None, _: Sequence[ClusterEvent]) -> str | None:
    return f"{pod.disruption}: {pod.message or 'no message'}" if pod is not None and pod.disruption is not None else None


def _event_of_lost_pod(pod: PodStatus | None, events: Sequence[ClusterEvent]) -> str | None:
    if pod is not None:
        return None
    return next((f"{event.reason}: {event.message}" for event in reversed(events) if event.reason in NODE_LOSS_EVENTS), None)


POD_RULES: tuple[PodRule, ...] = (
    PodRule(
        "pod evicted, preempted or lost with its node",
        FailureCode.NODE_LOST,
        "The pod ended because of its node, not because of the query.",
        _reason_of(NODE_LOSS_REASONS),
    ),
    PodRule("pod disrupted before its container ended", FailureCode.NODE_LOST, "The cluster ended the pod.", _disrupted),
    PodRule(
        "pod rejected by its node",
        FailureCode.NODE_LOST,
        "The node did not admit the pod after it was scheduled. Another node may.",
        _reason_of(NODE_REJECTION_REASONS),
    ),
    PodRule(
        "events of a pod that is gone",
        FailureCode.NODE_LOST,
        "The cluster removed the pod, and its events say why.",
        _event_of_lost_pod,
    ),
)
"""Rules for an application that failed without a terminated driver container. They precede :data:`MESSAGE_RULES`."""


@dataclass(frozen=True)
class MessageRule:
    """Recognises a failure in the Spark Operator's message or, if that is empty, in the last warning event."""

    name: str
    code: FailureCode
    reason: str
    """Why this code follows."""
    matches: Callable[[str, PodStatus | None], bool]

    @property
    def retryable(self) -> bool:
        """Whether a new run may succeed without a change."""
        return REMEDIES[self.code].retryable


def denied_by_policy(text: str) -> bool:
    """Tell whether the pod's confidential computing policy caused a container's start error."""
    return "denied by policy" in text or "denied due to policy" in text or "policyDecision" in text


NAME_TAKEN = "already exist"
"""In messages about a driver pod whose name another pod has."""


def _mentions(*phrases: str) -> Callable[[str, PodStatus | None], bool]:
    return lambda text, _: any(phrase in text.lower() for phrase in phrases)


def _webhook_without_capacity(text: str, _: PodStatus | None) -> bool:
    lowered = text.lower()
    return "admission webhook" in lowered and any(phrase in lowered for phrase in ("no node", "capacity", "none free"))


MESSAGE_RULES: tuple[MessageRule, ...] = (
    MessageRule(
        "policy denial",
        FailureCode.POLICY_MISMATCH,
        "The guest's policy engine refused the container. The same pod is refused again.",
        lambda text, _: denied_by_policy(text),
    ),
    MessageRule(
        "scheduling webhook without capacity",
        FailureCode.CAPACITY,
        "A scheduling webhook denies a pod while no node is free. Nodes become free.",
        _webhook_without_capacity,
    ),
    MessageRule(
        "quota or resources exhausted",
        FailureCode.CAPACITY,
        "The namespace's quota or the nodes' resources are used up by other pods. Those pods end.",
        _mentions("exceeded quota", "insufficient"),
    ),
    MessageRule(
        "service account missing",
        FailureCode.ACCOUNT_MISSING,
        "The API server creates no pod for a service account that does not exist.",
        lambda text, _: "error looking up service account" in text or re.search(r'serviceaccounts? "[^"]+" not found', text) is not None,
    ),
    MessageRule(
        "right missing",
        FailureCode.RIGHT_MISSING,
        "RBAC denied a request of the operator or of its spark-submit. It denies the same request again.",
        lambda text, _: re.search(r"\bUser \S+ cannot \w+ resource ", text) is not None,
    ),
    MessageRule(
        "admission denied",
        FailureCode.ADMISSION,
        "A webhook or another admission plugin denied the pod. The same pod is denied again.",
        _mentions("admission webhook", "failed calling webhook", "is forbidden"),
    ),
    MessageRule(
        "OOM kill reported by the operator",
        FailureCode.OUT_OF_MEMORY,
        "The driver pod is gone, but the operator recorded how its container ended.",
        _mentions("oomkilled"),
    ),
    MessageRule(
        "signal reported by the operator",
        FailureCode.NODE_LOST,
        "The driver pod is gone, and a signal ended its container: the pod was deleted.",
        lambda text, pod: pod is None and re.search(r"failed with ExitCode: (?:137|143)\b", text) is not None,
    ),
    MessageRule(
        "exit code reported by the operator",
        FailureCode.DRIVER_EXIT,
        "The driver pod is gone, but the operator recorded that its program failed.",
        lambda text, pod: pod is None and "driver container failed with ExitCode: " in text,
    ),
    MessageRule(
        "submission failed",
        FailureCode.SUBMISSION,
        "spark-submit failed, or the driver pod is gone without an event. The query has not run.",
        _mentions("submit", NAME_TAKEN, "driver pod not found"),
    ),
    MessageRule(
        "no driver pod",
        FailureCode.SUBMISSION,
        "Without a driver pod the query has not run.",
        lambda _, pod: pod is None,
    ),
)
"""Rules for an application that failed without a terminated driver container. If none matches, the code is ``Unknown``."""
