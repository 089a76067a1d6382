"""Runs the worker of one trust boundary."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.runtime import Runtime

from cleanroom.errors import PreconditionFailed
from cleanroom.settings import Settings
from cleanroom.temporal.build import build_id
from cleanroom.temporal.client import connect
from cleanroom.temporal.json_logs import configure_json_logging
from cleanroom.temporal.memory import keep_freed_memory
from cleanroom.temporal.telemetry import worker_runtime
from cleanroom.temporal.versions import Deployment, current_build
from cleanroom.temporal.workers import WorkerSpec, run_worker
from cleanroom.trust import Bootstrap
from workers.background import BackgroundTask
from workers.boundaries import boundary_worker
from workers.freed_memory import FreedMemory
from workers.watch_keeper import WatchKeeper
from workers.workload import Workload

logger = logging.getLogger("cleanroom.worker")


LogFormat = Literal["text", "json"]


@dataclass(frozen=True)
class Telemetry:
    """Where a worker's metrics can be read, and the format of its logs."""

    metrics_address: str | None = None
    """``HOST:PORT`` of ``GET /metrics``; None for no metrics."""
    log_format: LogFormat = "text"


def configure_logging(boundary: str, log_format: LogFormat = "text") -> None:
    """Log one line per record to standard error. Libraries that log requests, with URLs and headers, only log warnings."""
    if log_format == "json":
        configure_json_logging(boundary)
    else:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("azure", "httpx", "httpcore", "urllib3", "botocore", "boto3", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


async def serve(
    settings: Settings,
    *,
    ready_file: Path | None = None,
    health_port: int | None = None,
    health_host: str = "127.0.0.1",
    bootstrap: Bootstrap | None = None,
    telemetry: Telemetry | None = None,
    versioned: bool = True,
    build: str | None = None,
) -> None:
    """Connect to Temporal and poll the boundary's task queue until a signal stops the process.

    Logs a warning if development roots are allowed or payloads are not encrypted.

    Args:
        settings: The profile.
        ready_file: See :class:`cleanroom.temporal.workers.WorkerSpec`.
        health_port: See :class:`cleanroom.temporal.workers.WorkerSpec`.
        health_host: See :class:`cleanroom.temporal.workers.WorkerSpec`.
        bootstrap: The measured bootstrap file of an attested worker.
        telemetry: Metrics and logs.
        versioned: Whether to start as a version of the boundary's deployment, if it has one.
        build: Build ID of the code; computed without it.

    Raises:
        CleanRoomError: A setting is missing, or Temporal cannot be reached.
        PreconditionFailed: ``DeploymentVersioned``.
    """
    keep_freed_memory()
    gc.freeze()  # modules stay, so that later collections need not look at them
    worker = boundary_worker(settings, bootstrap)
    if bootstrap is not None and bootstrap.development:
        logger.warning("NOT CONFIDENTIAL: the trust document may name development attestation roots (%s)", worker.name)
    if settings.temporal.keyring_file is None:
        logger.warning("payloads are NOT encrypted: settings.temporal.keyring_file is not set (%s)", worker.name)
    telemetry = telemetry or Telemetry()
    runtime = worker_runtime(worker.name, metrics_address=telemetry.metrics_address, forward_logs=telemetry.log_format == "json")
    # A signal from the Web UI's form is not bound to its workflow by the codec. The frontend accepts it because the signed statement in
    # it names what it applies to. All other boundaries require bound payloads.
    client = await connect(settings.temporal, identity=worker.name, accept_unbound=settings.boundary == "frontend", runtime=runtime)
    spec = WorkerSpec(
        name=worker.name,
        task_queue=worker.task_queue,
        workflows=worker.workflows,
        activities=worker.activities,
        interceptors=worker.interceptors,
        names=settings.user_names,
        max_concurrent_activities=worker.max_concurrent_activities,
        version=await _version(client, worker.deployment, build, versioned=versioned),
        ready_file=ready_file,
        health_port=health_port,
        health_host=health_host,
        extra=_heartbeat_options(worker.heartbeat_seconds),
    )
    resources: list[AbstractAsyncContextManager[Any]] = [*worker.resources, *_background_tasks(settings, client, runtime, telemetry)]
    await run_worker(client, spec, resources=resources, works=worker.works)


def _background_tasks(settings: Settings, client: Client, runtime: Runtime, telemetry: Telemetry) -> Sequence[BackgroundTask]:
    """Return what a worker runs in the background. That of the frontend also keeps the watcher, and reads the workload's gauges."""
    found: list[BackgroundTask] = [FreedMemory()]
    if settings.boundary == "frontend":
        found.append(WatchKeeper(client, settings.collaboration))
        if telemetry.metrics_address is not None:
            found.append(Workload(client, settings, runtime.metric_meter))
    return found


async def _version(client: Client, deployment: Deployment | None, build: str | None, *, versioned: bool) -> WorkerDeploymentVersion | None:
    """Return the version as which the worker starts, and log whether workflows are routed to it.

    Raises:
        PreconditionFailed: ``DeploymentVersioned`` for an unversioned worker of a deployment that has a current version.
    """
    if deployment is None:
        return None
    current, own = await current_build(client, deployment), build or build_id()
    if versioned:
        if current != own:
            routed = f"version {current}" if current else "unversioned workers"
            logger.warning("build %s is not current: deployment %s routes to %s (cleanroom versions promote)", own, deployment, routed)
        return WorkerDeploymentVersion(deployment_name=deployment, build_id=own)
    if current is not None:
        raise PreconditionFailed(
            "DeploymentVersioned",
            f"deployment {deployment!r}: version {current} is current, so an unversioned worker receives no workflow.",
            hint=f"Start the worker without --unversioned, then run `cleanroom versions promote {own}`.",
            party="operator",
        )
    return None


def _heartbeat_options(seconds: float | None) -> dict[str, Any]:
    if seconds is None:
        return {}
    interval = timedelta(seconds=seconds)
    return {"max_heartbeat_throttle_interval": interval, "default_heartbeat_throttle_interval": interval}
