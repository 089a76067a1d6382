"""A SparkApplication as one reading of the cluster found it: its state, its pods and their events.

States of a SparkApplication: ``ApplicationStateType`` in the Spark Operator's API
(https://github.com/kubeflow/spark-operator/blob/master/docs/api-docs.md); what each means for a run is in
``docs/facts/spark-applications.md``.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

TERMINAL_STATES = frozenset({"COMPLETED", "FAILED"})
KNOWN_STATES = TERMINAL_STATES | frozenset(
    {
        "",
        "SUBMITTED",
        "RUNNING",
        "SUCCEEDING",
        "FAILING",
        "SUBMISSION_FAILED",
        "PENDING_RERUN",
        "INVALIDATING",
        "SUSPENDING",
        "SUSPENDED",
        "RESUMING",
        "UNKNOWN",
    }
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class ContainerStatus(_Model):
    """One container's state as the kubelet reports it."""

    name: str
    state: str = "waiting"
    """``waiting``, ``running`` or ``terminated``."""
    reason: str | None = None
    message: str | None = None
    """For a terminated container: the termination message, at most 4096 bytes."""
    exit_code: int | None = None
    signal: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    restart_count: int = 0


class PodStatus(_Model):
    """What of a pod matters to a run."""

    name: str
    uid: str
    role: str | None = None
    phase: str = "Pending"
    reason: str | None = None
    message: str | None = None
    scheduled: bool = True
    scheduling_message: str | None = None
    policy_host_data: str | None = None
    """SHA-256 of the pod's policy annotation; None without one."""
    owner_uid: str | None = None
    containers: tuple[ContainerStatus, ...] = ()

    def container(self, name: str) -> ContainerStatus | None:
        """The container called ``name``."""
        return next((item for item in self.containers if item.name == name), None)


class ClusterEvent(_Model):
    """One Kubernetes event about the application or a pod of it."""

    reason: str
    type: str = "Normal"
    message: str = ""
    object: str = ""
    """``Kind/name`` of what it is about."""
    count: int = 1
    last_seen: datetime | None = None


class ExecutorCounts(_Model):
    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0


class JobStatus(_Model):
    """An application as one reading found it."""

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
    """SHA-256 of the policy that the application gives to its driver pod."""
    pods: tuple[PodStatus, ...] = ()
    events: tuple[ClusterEvent, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether the operator calls this an end."""
        return self.state in TERMINAL_STATES

    def driver(self) -> PodStatus | None:
        """The driver's pod, where there is one."""
        return next((pod for pod in self.pods if pod.name == self.driver_pod or pod.role == "driver"), None)

    def driver_container(self) -> ContainerStatus | None:
        """The driver's Spark container: sidecars never decide a run's end."""
        pod = self.driver()
        return pod.container("spark-kubernetes-driver") if pod else None
