"""Run one boundary's worker until it is told to stop."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from cleanroom.settings import Settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, run_worker
from workers.boundaries import boundary_worker

logger = logging.getLogger("cleanroom.worker")


def configure_logging() -> None:
    """One line a record on standard error; libraries that log requests (and so addresses and headers) only warn."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("azure", "httpx", "httpcore", "urllib3", "botocore", "boto3", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


async def serve(
    settings: Settings,
    *,
    ready_file: Path | None = None,
    health_port: int | None = None,
    health_host: str = "127.0.0.1",
) -> None:
    """Connect, announce what is not confidential, and poll this boundary's queue.

    ``ready_file``, ``health_port`` and ``health_host`` are those of :class:`cleanroom.temporal.workers.WorkerSpec`.

    Raises:
        CleanRoomError: settings are missing, Temporal is unreachable.
    """
    worker = boundary_worker(settings)
    if settings.attestation.trust_files and settings.boundary in ("clean-room", "spark-service"):
        logger.warning("NOT CONFIDENTIAL: development attestation roots are trusted (%s)", worker.name)
    if settings.temporal.keyring_file is None:
        logger.warning("payloads are NOT encrypted: settings.temporal.keyring_file is not set (%s)", worker.name)
    # People may paste a signed decision into the Web UI's signal box; what comes from there is bound to no workflow by the codec,
    # only by its signature. Everywhere else payloads must be bound to their workflow.
    client = await connect(settings.temporal, identity=worker.name, accept_unbound=settings.boundary == "frontend")
    spec = WorkerSpec(
        name=worker.name,
        task_queue=worker.task_queue,
        workflows=worker.workflows,
        activities=worker.activities,
        ready_file=ready_file,
        health_port=health_port,
        health_host=health_host,
        extra=_pace(worker.heartbeat_seconds),
    )
    await run_worker(client, spec, resources=worker.resources)


def _pace(seconds: float | None) -> dict[str, Any]:
    if seconds is None:
        return {}
    interval = timedelta(seconds=seconds)
    return {"max_heartbeat_throttle_interval": interval, "default_heartbeat_throttle_interval": interval}
