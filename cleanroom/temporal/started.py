"""Reads the argument of a workflow's start from its history, for callers that start a workflow again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Internal, NotFound
from cleanroom.temporal.failures import error_from_failure

T = TypeVar("T")


async def started_with(client: Client, workflow_id: str, kind: type[T]) -> T:
    """Read the argument of a running or closed workflow's start. No worker is needed.

    Raises:
        NotFound: ``WorkflowNotFound``, also if the retention period is over.
        Internal: ``HistoryMalformed``.
        CleanRoomError: The payload codec refused the argument.
    """
    try:
        first = await anext(client.get_workflow_handle(workflow_id).fetch_history_events(page_size=1))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFound("WorkflowNotFound", f"The workflow {workflow_id!r} does not exist.") from error
        raise
    return await start_argument(
        first, client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id)), kind
    )


async def start_argument(first: HistoryEvent, converter: DataConverter, kind: type[T]) -> T:
    """Decode the argument in the first event of a history. ``converter`` must have that workflow's context.

    Raises:
        Internal: ``HistoryMalformed``.
        CleanRoomError: The payload codec refused the argument.
    """
    if first.event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        raise Internal("HistoryMalformed", "The workflow's history does not begin with its start.")
    return await decode_one(converter, first.workflow_execution_started_event_attributes.input.payloads, kind)


async def decode_one(converter: DataConverter, payloads: Sequence[Payload], kind: type[T]) -> T:
    """Decode the first of ``payloads``.

    Raises:
        CleanRoomError: The payload codec refused it, or it is not a ``kind``.
    """
    try:
        decoded: list[T] = await converter.decode(payloads, [kind])
    except Exception as error:
        raise error_from_failure(error) from error
    return decoded[0]
