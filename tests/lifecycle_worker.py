"""A worker process for tests: ``python -m tests.lifecycle_worker CONFIG KEYRING QUEUE READY_FILE HEALTH_PORT``."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta
from pathlib import Path

from cleanroom.settings import TemporalSettings
from cleanroom.temporal.client import connect
from cleanroom.temporal.workers import WorkerSpec, run_worker
from tests.lifecycle_workflows import ACTIVITIES, WORKFLOWS


async def main(config: str, keyring: str, queue: str, ready: str, health: str) -> None:
    """Run the worker until a signal."""
    client = await connect(TemporalSettings(config_file=Path(config), profile="test", keyring_file=Path(keyring)), identity="lifecycle")
    spec = WorkerSpec(
        "lifecycle",
        queue,
        WORKFLOWS,
        ACTIVITIES,
        ready_file=Path(ready),
        health_port=int(health),
        graceful_shutdown=timedelta(milliseconds=500),
    )
    await run_worker(client, spec)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(*sys.argv[1:]))
