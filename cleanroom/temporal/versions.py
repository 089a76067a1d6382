"""Worker Versioning (https://docs.temporal.io/worker-versioning): which build of the workers Temporal routes workflows to.

A *deployment* is a group of workers that are rolled out together, and a *version* is one build of it (:mod:`cleanroom.temporal.build`).
``RunQuery`` is pinned, so a run ends on the clean room and on the Spark service of the version on which it began. Both are therefore
one deployment. Collaborators' workers have no versions: they run activities only, and each owner upgrades them independently.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentInfo, WorkerDeploymentVersion
from temporalio.api.enums.v1 import WorkerDeploymentVersionStatus
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    DeleteWorkerDeploymentVersionRequest,
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Unavailable
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE

Deployment = Literal["frontend", "clean-room"]
DEPLOYMENTS: Final[dict[Deployment, tuple[str, ...]]] = {
    "frontend": (FRONTEND_QUEUE,),
    "clean-room": (CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE),
}
"""Task queues of each deployment. A version is complete when workers of that version poll all of them."""

VersionState = Literal["current", "ramping", "draining", "drained", "inactive"]
_STATES: Final[dict[int, VersionState]] = {
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT: "current",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING: "ramping",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING: "draining",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED: "drained",
}


@dataclass(frozen=True)
class Version:
    """One version of a deployment, as the server describes it."""

    deployment: Deployment
    build: str
    state: VersionState
    """``inactive`` was never current or ramping. ``draining`` has open pinned workflows, or the server has not counted them yet."""
    percent: float
    """Share of new and of auto-upgrade workflows that this version receives."""
    open_workflows: int
    """Open workflows that are pinned to this version, counted now."""
    created: datetime


async def list_versions(client: Client, deployment: Deployment) -> tuple[Version, ...]:
    """Return the versions of a deployment, newest first; none if no versioned worker has ever polled."""
    info = await _describe(client, deployment)
    if info is None:
        return ()
    ramp = info.routing_config.ramping_version_percentage
    found = []
    for summary in info.version_summaries:
        build, state = summary.deployment_version.build_id, _STATES.get(summary.status, "inactive")
        found.append(
            Version(
                deployment=deployment,
                build=build,
                state=state,
                percent=round(ramp, 1) if state == "ramping" else round(100 - ramp, 1) if state == "current" else 0.0,
                open_workflows=(await client.count_workflows(_pinned(deployment, build))).count,
                created=summary.create_time.ToDatetime(),
            )
        )
    return tuple(sorted(found, key=lambda version: version.created, reverse=True))


async def current_build(client: Client, deployment: Deployment) -> str | None:
    """Return the build that is current. None means that the server routes workflows to unversioned workers."""
    info = await _describe(client, deployment)
    return (info.routing_config.current_deployment_version.build_id or None) if info is not None else None


async def promote(client: Client, deployment: Deployment, build: str, *, percent: float = 100, before_workers: bool = False) -> None:
    """Route new workflows, and the open auto-upgrade workflows, to a version. Pinned workflows stay where they are. Idempotent.

    Args:
        client: Client of the namespace.
        deployment: The deployment.
        build: Build ID of the version.
        percent: With less than 100, the version only ramps up to this share, and the current version stays current. 0 ends the ramp.
        before_workers: Accept a version whose workers do not poll yet.

    Raises:
        InvalidInput: ``PercentInvalid``.
        PreconditionFailed: ``VersionIncomplete`` when no worker of this version polls one of the task queues.
        Conflict: ``VersionIsCurrent`` for a ramp to the current version.
    """
    if not 0 <= percent <= 100:
        raise InvalidInput("PercentInvalid", f"percent: {percent:g} is not between 0 and 100.")
    if percent > 0 and not before_workers:
        await _require_workers(client, deployment, build)
    if percent < 100 and await current_build(client, deployment) == build:
        raise Conflict(
            "VersionIsCurrent",
            f"deployment {deployment!r}: version {build} is current, and receives all workflows.",
            hint="Promote the version to return to instead.",
            party="operator",
        )
    async with _readable_errors(deployment, build):
        if percent < 100:
            await client.workflow_service.set_worker_deployment_ramping_version(
                SetWorkerDeploymentRampingVersionRequest(
                    namespace=client.namespace,
                    deployment_name=deployment,
                    # Without a build ID and a share, the server ends the ramp.
                    build_id=build if percent > 0 else "",
                    percentage=percent,
                    identity=client.identity,
                    ignore_missing_task_queues=True,
                    allow_no_pollers=before_workers,
                )
            )
            return
        await client.workflow_service.set_worker_deployment_current_version(
            SetWorkerDeploymentCurrentVersionRequest(
                namespace=client.namespace,
                deployment_name=deployment,
                build_id=build,
                identity=client.identity,
                # `_require_workers` is stricter: the server only misses a task queue that has waiting tasks.
                ignore_missing_task_queues=True,
                allow_no_pollers=before_workers,
            )
        )


async def _require_workers(client: Client, deployment: Deployment, build: str) -> None:
    served: set[str] = set()
    try:
        answer = await client.workflow_service.describe_worker_deployment_version(
            DescribeWorkerDeploymentVersionRequest(namespace=client.namespace, deployment_version=_version(deployment, build))
        )
        served = {queue.name for queue in answer.version_task_queues}
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    if missing := [queue for queue in DEPLOYMENTS[deployment] if queue not in served]:
        raise PreconditionFailed(
            "VersionIncomplete",
            f"deployment {deployment!r}: no worker of version {build} polls the task queues {', '.join(missing)}.",
            hint="Start the workers of this version first. `cleanroom versions list` shows the versions.",
            party="operator",
        )


async def delete_version(client: Client, deployment: Deployment, build: str) -> None:
    """Remove a version that no workflow needs any longer. Its workers must have stopped five minutes ago.

    Raises:
        NotFound: ``VersionUnknown``.
        Conflict: ``VersionInUse`` when the version is current, ramping or draining, or has open workflows or workers.
    """
    version = next((item for item in await list_versions(client, deployment) if item.build == build), None)
    if version is None:
        raise NotFound(
            "VersionUnknown",
            f"deployment {deployment!r}: version {build!r} does not exist.",
            hint="`cleanroom versions list` shows the versions.",
        )
    if version.open_workflows or version.state in ("current", "ramping", "draining"):
        raise Conflict(
            "VersionInUse",
            f"deployment {deployment!r}: version {build} is {version.state}, and {version.open_workflows} open workflows are pinned to it.",
            hint="Keep its workers running until `cleanroom versions list` shows it as drained. The server counts every few minutes.",
            party="operator",
        )
    async with _readable_errors(deployment, build):
        await client.workflow_service.delete_worker_deployment_version(
            DeleteWorkerDeploymentVersionRequest(
                namespace=client.namespace, deployment_version=_version(deployment, build), identity=client.identity
            )
        )


async def move_pinned(client: Client, deployment: Deployment, build: str, to: str) -> tuple[str, ...]:
    """Pin the open workflows of a version to another one, and return their IDs.

    This is for a version whose workers cannot be started again. A workflow whose commands differ there does not continue: its task
    fails until it is moved back or cancelled.
    """
    moved = []
    options = WorkflowExecutionOptions(
        versioning_override=VersioningOverride(
            pinned=VersioningOverride.PinnedOverride(
                behavior=VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED, version=_version(deployment, to)
            )
        )
    )
    async for item in client.list_workflows(_pinned(deployment, build)):
        request = UpdateWorkflowExecutionOptionsRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=item.id, run_id=item.run_id),
            workflow_execution_options=options,
            identity=client.identity,
        )
        request.update_mask.paths.append("versioning_override")
        async with _readable_errors(deployment, to):
            await client.workflow_service.update_workflow_execution_options(request)
        moved.append(item.id)
    return tuple(moved)


def _pinned(deployment: str, build: str) -> str:
    return (
        f"TemporalWorkerDeploymentVersion = '{deployment}:{build}' AND TemporalWorkflowVersioningBehavior = 'Pinned' "
        "AND ExecutionStatus = 'Running'"
    )


def _version(deployment: str, build: str) -> WorkerDeploymentVersion:
    return WorkerDeploymentVersion(deployment_name=deployment, build_id=build)


async def _describe(client: Client, deployment: str) -> WorkerDeploymentInfo | None:
    """Return the server's description; None if the deployment does not exist, or the server knows no deployments."""
    try:
        answer = await client.workflow_service.describe_worker_deployment(
            DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=deployment)
        )
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.UNIMPLEMENTED):
            return None
        raise
    return answer.worker_deployment_info


@asynccontextmanager
async def _readable_errors(deployment: str, build: str) -> AsyncIterator[None]:
    try:
        yield
    except RPCError as error:
        kind: type[CleanRoomError]
        if error.status is RPCStatusCode.NOT_FOUND:
            kind, code = NotFound, "VersionUnknown"
        elif error.status in (RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.INVALID_ARGUMENT):
            kind, code = Conflict, "VersionInUse"
        else:
            kind, code = Unavailable, "VersionNotChanged"
        raise kind(
            code,
            f"deployment {deployment!r}: the server refused the change to version {build}.",
            cause=error.message,
            hint="`cleanroom versions list` shows the versions. A version has workers until five minutes after the last one stopped.",
            party="operator",
        ) from error
