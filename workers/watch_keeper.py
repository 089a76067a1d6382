"""Keeps the watcher of the collaboration's queries alive: starts its workflow, and starts it again after it was ended."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from cleanroom.identifiers import FRONTEND_QUEUE, watch_workflow_id
from cleanroom.messages.query import WatchQueriesInput
from cleanroom.temporal.attributes import start_attributes
from workers.background import BackgroundTask
from workflows.watch_queries import WatchQueries

logger = logging.getLogger("cleanroom.worker")

INTERVAL_SECONDS: Final = 60.0
"""Time after which a watcher that was terminated runs again, at most."""
RETRY_SECONDS: Final = 5.0


async def ensure_watcher(client: Client, collaboration: str) -> None:
    """Start the watcher's workflow unless it is running."""
    await client.start_workflow(
        WatchQueries.run,
        WatchQueriesInput(collaboration=collaboration),
        id=watch_workflow_id(collaboration),
        task_queue=FRONTEND_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="watches the open queries",
        static_details="Wakes the workflow of each open query when governance changes. If it is terminated, it starts again.",
        search_attributes=start_attributes(collaboration=collaboration, kind="watch"),
    )


class WatchKeeper(BackgroundTask):
    """Ensures periodically that the watcher is running, while its context is open. Every frontend worker has one.

    Args:
        client: The client of the frontend's worker.
        collaboration: ID of the collaboration.
        interval: Seconds between two requests.
    """

    task_name = "watch-keeper"

    def __init__(self, client: Client, collaboration: str, *, interval: float = INTERVAL_SECONDS) -> None:
        self._client, self._collaboration, self._interval = client, collaboration, interval

    async def _repeat(self) -> None:
        while True:
            try:
                await ensure_watcher(self._client, self._collaboration)
            except RPCError as error:
                logger.warning("the watcher of open queries could not be started: %s", error.status.name)
                await asyncio.sleep(min(RETRY_SECONDS, self._interval))
            else:
                await asyncio.sleep(self._interval)
