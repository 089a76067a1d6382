"""Reads from Temporal which namespace answers, and whether a workflow is open."""

from __future__ import annotations

from temporalio.api.enums.v1 import NamespaceState
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Unavailable


async def namespace_id(client: Client) -> str:
    """Return the ID of the client's namespace. A namespace that is created again has the same name and another ID.

    Raises:
        Unavailable: ``TemporalUnavailable``.
    """
    try:
        found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        raise _unavailable(error, f"namespace {client.namespace!r}") from error
    return found.namespace_info.id


async def namespace_exists(client: Client, namespace_id: str) -> bool:
    """Return whether the server has a namespace with this ID that is not deleted. One that the client may not see does not count.

    Raises:
        Unavailable: ``TemporalUnavailable``.
    """
    try:
        found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(id=namespace_id))
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.INVALID_ARGUMENT):
            return False
        raise _unavailable(error, f"namespace {namespace_id!r}") from error
    return found.namespace_info.state != NamespaceState.NAMESPACE_STATE_DELETED


async def workflow_status(client: Client, workflow_id: str) -> WorkflowExecutionStatus | None:
    """Return the status of the latest execution with a workflow ID, or None if the namespace has none.

    Raises:
        Unavailable: ``TemporalUnavailable``. Only the server's own answer says that a workflow does not exist.
    """
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and not error.message.startswith("Namespace "):
            return None
        raise _unavailable(error, f"workflow {workflow_id!r}") from error
    # A status that this SDK does not know counts as running.
    return described.status or WorkflowExecutionStatus.RUNNING


def _unavailable(error: RPCError, what: str) -> Unavailable:
    return Unavailable(
        "TemporalUnavailable",
        f"{what}: Temporal does not describe it ({error.status.name.lower().replace('_', ' ')}).",
        cause=error.message,
        hint="The worker's identity needs permission to describe its namespace and the workflows in it.",
        party="operator",
    )
