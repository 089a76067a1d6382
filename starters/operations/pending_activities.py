"""Reads from the server which activities of a workflow are retrying or wait for a worker; needs no worker."""

from __future__ import annotations

from typing import Any

from temporalio.api.enums.v1 import PendingActivityState, TaskQueueType
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import CleanRoomError
from cleanroom.temporal.failures import error_from_failure
from starters.operations.worker_queries import polls


async def retrying_activities(client: Client, *workflow_ids: str) -> dict[str, CleanRoomError]:
    """Return the last error of each retrying activity; the key is ``<activity>, attempt <n>``.

    Workflow IDs that do not exist are skipped.
    """
    found: dict[str, CleanRoomError] = {}
    for workflow_id in workflow_ids:
        try:
            described = await client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            continue
        converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id))
        for item in described.raw_description.pending_activities:
            if item.HasField("last_failure"):
                failure = await converter.decode_failure(item.last_failure)
                name = item.activity_type.name
                found[f"{name}, attempt {item.attempt}"] = error_from_failure(failure, step=name)
    return found


async def unserved_activities(client: Client, handle: WorkflowHandle[Any, Any]) -> dict[str, str]:
    """Return the activities of a workflow that no worker can take: the activity's name by task queue."""
    described = await handle.describe()
    waiting = {
        item.activity_options.task_queue.name: item.activity_type.name
        for item in described.raw_description.pending_activities
        if item.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED and not item.HasField("last_failure")
    }
    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    return {queue: name for queue, name in waiting.items() if queue and not await polls(client, queue, kind)}
