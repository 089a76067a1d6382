"""Converts Kubernetes objects (JSON) to the models of :mod:`cleanroom.spark.status`.

Every member of a SparkApplication's status is optional, and ``driverInfo`` is empty in some states.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from cleanroom.identifiers import job_name
from cleanroom.models import FrozenModel
from cleanroom.spark.application import CONTRACT_ANNOTATION, JOB_DIGEST_ANNOTATION, QUERY_LABEL, RUN_LABEL
from cleanroom.spark.policy import POLICY_ANNOTATION
from cleanroom.spark.status import TERMINAL_STATES, ClusterEvent, ContainerStatus, ExecutorCounts, JobStatus, PodStatus
from cleanroom.spark.submission_log import submission_message


class SubmittedJob(FrozenModel):
    """The application of a run, as the Spark service submitted it."""

    name: str
    uid: str
    contract_id: str
    query: str
    run_id: str
    created_at: datetime
    ended: bool
    """Whether it has completed or failed. Its pods have ended then, and the operator removes it after its time to live."""


def submitted_job(application: dict[str, Any]) -> SubmittedJob | None:
    """Return the run of an application, or None if its name is not the one that its labels give: then the service did not submit it."""
    metadata = application["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    contract, query, run_id = annotations.get(CONTRACT_ANNOTATION), labels.get(QUERY_LABEL), labels.get(RUN_LABEL)
    created = _time(metadata.get("creationTimestamp"))
    if not contract or not query or not run_id or created is None or metadata["name"] != job_name(contract, query, run_id):
        return None
    return SubmittedJob(
        name=metadata["name"],
        uid=metadata["uid"],
        contract_id=contract,
        query=query,
        run_id=run_id,
        created_at=created,
        ended=((application.get("status") or {}).get("applicationState") or {}).get("state") in TERMINAL_STATES,
    )


def job_status(application: dict[str, Any], pods: Iterable[PodStatus] = (), events: Iterable[ClusterEvent] = ()) -> JobStatus:
    """Return the status of a SparkApplication with its pods and events."""
    metadata = application["metadata"]
    status = application.get("status") or {}
    state = status.get("applicationState") or {}
    executors = [str(value) for value in (status.get("executorState") or {}).values()]
    return JobStatus(
        tracking_id=metadata["name"],
        uid=metadata["uid"],
        state=state.get("state") or "",
        message=submission_message(state.get("errorMessage") or ""),
        application_id=status.get("sparkApplicationId") or None,
        submission_attempts=status.get("submissionAttempts") or 0,
        driver_pod=(status.get("driverInfo") or {}).get("podName") or None,
        executors=ExecutorCounts(
            pending=executors.count("PENDING"),
            running=executors.count("RUNNING"),
            completed=executors.count("COMPLETED"),
            failed=executors.count("FAILED"),
        ),
        submitted_at=_time(status.get("lastSubmissionAttemptTime")),
        ended_at=_time(status.get("terminationTime")),
        created_at=_time(metadata.get("creationTimestamp")),
        driver_host_data=_host_data((application["spec"]["driver"].get("annotations") or {}).get(POLICY_ANNOTATION)),
        job_digest=(metadata.get("annotations") or {}).get(JOB_DIGEST_ANNOTATION),
        pods=tuple(pods),
        events=tuple(events),
    )


def pod_status(pod: dict[str, Any]) -> PodStatus:
    """Return the status of a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = status.get("conditions") or ()
    scheduled: dict[str, Any] = next((item for item in conditions if item.get("type") == "PodScheduled"), {})
    disruption: dict[str, Any] = next((item for item in conditions if item.get("type") == "DisruptionTarget"), {})
    disrupted = disruption.get("status") == "True"
    return PodStatus(
        name=metadata["name"],
        uid=metadata["uid"],
        role=(metadata.get("labels") or {}).get("spark-role"),
        phase=status.get("phase") or "Unknown",
        reason=status.get("reason"),
        message=status.get("message") or (disruption.get("message") if disrupted else None),
        disruption=(disruption.get("reason") or "DisruptionTarget") if disrupted else None,
        deletion_requested_at=_deletion_request(metadata),
        scheduled=scheduled.get("status") != "False",
        scheduling_message=scheduled.get("message"),
        policy_host_data=_host_data((metadata.get("annotations") or {}).get(POLICY_ANNOTATION)),
        owner_uid=next((owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("kind") == "SparkApplication"), None),
        containers=tuple(
            _container(item) for item in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        ),
    )


def cluster_event(event: dict[str, Any]) -> ClusterEvent:
    """Return a ``core/v1`` event."""
    subject = event.get("involvedObject") or {}
    return ClusterEvent(
        reason=event.get("reason") or "",
        type=event.get("type") or "Normal",
        message=submission_message(event.get("message") or ""),
        object=f"{subject.get('kind', '')}/{subject.get('name', '')}",
        count=event.get("count") or 1,
        last_seen=_time(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")),
    )


def _container(status: dict[str, Any]) -> ContainerStatus:
    kind, state = next(iter((status.get("state") or {"waiting": {}}).items()))
    state = state or {}
    return ContainerStatus(
        name=status["name"],
        state=kind,
        reason=state.get("reason"),
        message=state.get("message"),
        exit_code=state.get("exitCode"),
        started_at=_time(state.get("startedAt")),
        finished_at=_time(state.get("finishedAt")),
    )


def _deletion_request(metadata: dict[str, Any]) -> datetime | None:
    """Return when the deletion was requested: the timestamp in the metadata is the end of the grace period."""
    end = _time(metadata.get("deletionTimestamp"))
    return end - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0) if end is not None else None


def _host_data(annotation: str | None) -> str | None:
    if not annotation:
        return None
    try:
        return hashlib.sha256(base64.b64decode(annotation, validate=True)).hexdigest()
    except ValueError:
        return "malformed"


def _time(value: object) -> datetime | None:
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) and value else None
