"""Reads from the server which activities of a workflow are retrying; needs no worker."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import CleanRoomError
from cleanroom.temporal.failures import error_from_failure


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
                found[f"{item.activity_type.name}, attempt {item.attempt}"] = error_from_failure(failure)
    return found
