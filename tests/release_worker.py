"""The workers of one release in one process: ``python -P -m tests.release_worker ADDRESS BUILD ANSWERS READY_FILE``.

``PYTHONPATH`` decides which release: :mod:`tests.histories.release` unpacks a recorded one. The activities answer from a JSON file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion

from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.versions import DEPLOYMENTS
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.answering import answering
from workflows.prepare import Prepare
from workflows.publish_query import PublishQuery
from workflows.run_query import RunQuery

HEARTBEATS = {name: timedelta(milliseconds=100) for name in ("max_heartbeat_throttle_interval", "default_heartbeat_throttle_interval")}
AT_ONCE: dict[str, Any] = {"extra": HEARTBEATS, "graceful_shutdown": timedelta(0)}
"""Options of a worker that delivers cancellations soon, by its heartbeats, and stops soon."""
WORKFLOWS = {"frontend": (PublishQuery,), "clean-room": (RunQuery, Prepare)}


async def main(address: str, build: str, answers: str, ready: str) -> None:
    """Run the workers until the process is killed."""
    client = await Client.connect(address, data_converter=data_converter(None), identity=f"release {build}")
    answer = answering(json.loads(Path(answers).read_text("utf-8")))
    async with AsyncExitStack() as stack:
        for deployment, queues in DEPLOYMENTS.items():
            for queue in queues:
                version = WorkerDeploymentVersion(deployment, build)
                spec = WorkerSpec(queue, queue, WORKFLOWS.get(queue, ()), (answer,), version=version, **AT_ONCE)
                await stack.enter_async_context(create_worker(client, spec))
        Path(ready).write_text("ready\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(main(*sys.argv[1:]))
