"""What a workflow was started with, from its history: for whoever asks for the same once more."""

from __future__ import annotations

from typing import TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Internal, NotFound
from cleanroom.temporal.failures import error_from_failure

T = TypeVar("T")


async def started_with(client: Client, workflow_id: str, kind: type[T]) -> T:
    """The argument of a workflow's start, whether or not it has ended; needs no worker.

    Raises:
        NotFound: ``WorkflowNotFound``, also when Temporal's retention has removed it.
        Internal: ``HistoryMalformed``; what the payload codec refuses.
    """
    try:
        first = await anext(client.get_workflow_handle(workflow_id).fetch_history_events(page_size=1))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFound("WorkflowNotFound", f"There is no workflow {workflow_id!r}.") from error
        raise
    if first.event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        raise Internal("HistoryMalformed", f"The history of {workflow_id!r} does not begin with its start.")
    converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id))
    try:
        decoded: list[T] = await converter.decode(first.workflow_execution_started_event_attributes.input.payloads, [kind])
    except Exception as error:
        raise error_from_failure(error) from error
    return decoded[0]
