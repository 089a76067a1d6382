"""One reading of a SparkApplication: its state, its pods and their events.

The states are those of ``ApplicationStateType`` in the Spark Operator's API
(https://github.com/kubeflow/spark-operator/blob/master/docs/api-docs.md). ``docs/facts/spark-applications.md`` says
what each means for a run.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

TERMINAL_STATES = frozenset({"COMPLETED", "FAILED"})
"""States that the Spark Operator never leaves, unless the specification changes."""

STARTED_STATES = frozenset({"RUNNING", "SUCCEEDING", "FAILING"})
"""States in which the operator has seen the driver run."""

KNOWN_STATES = frozenset(
    {
        *TERMINAL_STATES,
        *STARTED_STATES,
        "",
        "SUBMITTED",
        "SUBMISSION_FAILED",
        "PENDING_RERUN",
        "INVALIDATING",
        "SUSPENDING",
        "SUSPENDED",
        "RESUMING",
        "UNKNOWN",
    }
)
"""States of this version's Spark Operator. Later versions add states; an unknown state means that the application continues."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class ContainerStatus(_Model):
    """A container's state as the kubelet reports it."""

    name: str
    state: str = "waiting"
    """``waiting``, ``running`` or ``terminated``."""
    reason: str | None = None
    message: str | None = None
    """For a terminated container: the termination message, at most 4096 bytes."""
    exit_code: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class PodStatus(_Model):
    """The parts of a pod that matter to a run."""

    name: str
    uid: str
    role: str | None = None
    """``driver`` or ``executor``, from Spark's label ``spark-role``."""
    phase: str = "Pending"
    reason: str | None = None
    message: str | None = None
    disruption: str | None = None
    """Reason of the pod's condition ``DisruptionTarget``: the cluster ended the pod, not its program."""
    deletion_requested_at: datetime | None = None
    """When the deletion of the pod was requested. Its containers end after that, and then the pod vanishes."""
    scheduled: bool = True
    scheduling_message: str | None = None
    policy_host_data: str | None = None
    """SHA-256 of the pod's policy annotation; None without the annotation."""
    owner_uid: str | None = None
    """UID of the SparkApplication that owns the pod."""
    containers: tuple[ContainerStatus, ...] = ()

    def container(self, name: str) -> ContainerStatus | None:
        """Return the container called ``name``, or None."""
        return next((item for item in self.containers if item.name == name), None)


class ClusterEvent(_Model):
    """A Kubernetes event about the application or one of its pods."""

    reason: str
    type: str = "Normal"
    message: str = ""
    object: str = ""
    """``Kind/name`` of the object that the event is about."""
    count: int = 1
    last_seen: datetime | None = None


class ExecutorCounts(_Model):
    """Number of executors per state."""

    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0


class JobStatus(_Model):
    """One reading of an application, its pods and their events."""

    tracking_id: str
    uid: str
    state: str = ""
    """``status.applicationState.state``; empty before the operator has seen the object."""
    message: str = ""
    application_id: str | None = None
    submission_attempts: int = 0
    driver_pod: str | None = None
    executors: ExecutorCounts = ExecutorCounts()
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    created_at: datetime | None = None
    job_digest: str | None = None
    driver_host_data: str | None = None
    """SHA-256 of the policy that the application specifies for its driver pod."""
    pods: tuple[PodStatus, ...] = ()
    events: tuple[ClusterEvent, ...] = ()

    def driver(self) -> PodStatus | None:
        """Return the driver's pod, or None if it does not exist."""
        return next((pod for pod in self.pods if pod.name == self.driver_pod or pod.role == "driver"), None)

    def driver_container(self) -> ContainerStatus | None:
        """Return the driver's Spark container. Sidecars never decide how a run ends."""
        pod = self.driver()
        return pod.container("spark-kubernetes-driver") if pod else None
