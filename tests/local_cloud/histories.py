"""Waiting for a point in a workflow's history."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import WorkflowHandle


async def until_scheduled(handle: WorkflowHandle[Any, Any], activity: str) -> None:
    """Wait until ``activity`` is scheduled in the workflow's history."""
    async for event in handle.fetch_history_events(wait_new_event=True):
        # Events of other types have empty attributes.
        if event.activity_task_scheduled_event_attributes.activity_type.name == activity:
            return
    raise AssertionError(f"{handle.id} ended without {activity}")


async def until_heartbeat(handle: WorkflowHandle[Any, Any], activity: str) -> None:
    """Wait until ``activity`` runs on a worker and has sent a heartbeat with details."""
    await until_scheduled(handle, activity)
    while True:
        description = await handle.describe()
        for pending in description.raw_description.pending_activities:
            started = pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            if pending.activity_type.name == activity and started and pending.HasField("heartbeat_details"):
                return
        assert description.status is not None
        assert description.status.name == "RUNNING", f"{handle.id} ended before {activity} sent a heartbeat"
        # The server has no long poll for pending activities.
        await asyncio.sleep(0.05)
