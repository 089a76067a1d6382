"""Runs the worker of one trust boundary."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from cleanroom.settings import Settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, run_worker
from cleanroom.trust import Bootstrap
from workers.boundaries import boundary_worker

logger = logging.getLogger("cleanroom.worker")


def configure_logging() -> None:
    """Log one line per record to standard error. Libraries that log requests, with URLs and headers, only log warnings."""
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
) -> None:
    """Connect to Temporal and poll the boundary's task queue until a signal stops the process.

    Logs a warning if development roots are allowed or payloads are not encrypted.

    Args:
        settings: The profile.
        ready_file: See :class:`cleanroom.temporal.workers.WorkerSpec`.
        health_port: See :class:`cleanroom.temporal.workers.WorkerSpec`.
        health_host: See :class:`cleanroom.temporal.workers.WorkerSpec`.
        bootstrap: The measured bootstrap file of an attested worker.

    Raises:
        CleanRoomError: A setting is missing, or Temporal cannot be reached.
    """
    worker = boundary_worker(settings, bootstrap)
    if bootstrap is not None and bootstrap.development:
        logger.warning("NOT CONFIDENTIAL: the trust document may name development attestation roots (%s)", worker.name)
    if settings.temporal.keyring_file is None:
        logger.warning("payloads are NOT encrypted: settings.temporal.keyring_file is not set (%s)", worker.name)
    # A signal from the Web UI's form is not bound to its workflow by the codec. The frontend accepts it because the signed statement in
    # it names what it applies to. All other boundaries require bound payloads.
    client = await connect(settings.temporal, identity=worker.name, accept_unbound=settings.boundary == "frontend")
    spec = WorkerSpec(
        name=worker.name,
        task_queue=worker.task_queue,
        workflows=worker.workflows,
        activities=worker.activities,
        interceptors=worker.interceptors,
        ready_file=ready_file,
        health_port=health_port,
        health_host=health_host,
        extra=_heartbeat_options(worker.heartbeat_seconds),
    )
    await run_worker(client, spec, resources=worker.resources)


def _heartbeat_options(seconds: float | None) -> dict[str, Any]:
    if seconds is None:
        return {}
    interval = timedelta(seconds=seconds)
    return {"max_heartbeat_throttle_interval": interval, "default_heartbeat_throttle_interval": interval}
