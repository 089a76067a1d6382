"""Queries a workflow and detects soon when no worker can answer.

Only a worker answers a query. Without one, the server lets the query run into its deadline. These functions then look when a worker
last polled the task queue, and raise ``NoWorker`` with the command that starts one.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Unavailable
from cleanroom.temporal.failures import error_from_failure

T = TypeVar("T")

QUERY_SECONDS: Final = 5.0
"""Deadline of a query. A worker answers in milliseconds, or in a second or two when it must replay a long history first."""
PATIENT_SECONDS: Final = 15.0
"""Deadline when a worker may just have been replaced: the server takes up to 10 s to dispatch to the new one."""
POLL_SECONDS: Final = 70.0
"""Workers poll at least once a minute; one that has not polled for longer is considered gone."""
STARTING_SECONDS: Final = 3.0
"""How long a command that starts a workflow waits for the first poll of its worker."""
LOOK_SECONDS: Final = 0.2
BUSY_SECONDS: Final = 10.0
"""A worker that polled this recently is considered busy, and gets the longer deadline."""
NO_WORKER: Final = "NoWorker"
ACTIVITIES: Final = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
"""Kind of tasks of a worker that executes activities only."""
_NO_TASK_YET: Final = ("not scheduled yet", "at least one workflow task")
_UNANSWERED = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


async def send_query(client: Client, handle: WorkflowHandle[Any, Any], query: str, kind: type[T], *, seconds: float = QUERY_SECONDS) -> T:
    """Query a workflow; retry once with a longer deadline when a worker polled recently and may be busy.

    A history that follows another one within a second begins after a pause, and some servers answer no query before. This waits for it.

    Args:
        client: Temporal client.
        handle: Handle of the workflow.
        query: Name of the query.
        kind: Type of the answer.
        seconds: Deadline of the first attempt.

    Raises:
        Unavailable: ``NoWorker`` when no worker of the task queue answers.
        PreconditionFailed: ``WorkflowCannotAnswer`` when the query or the workflow's tasks fail; ``TemporalPrecondition`` for other reasons
            of the server.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            answer: T = await handle.query(query, result_type=kind, rpc_timeout=timedelta(seconds=seconds))
            return answer
        except WorkflowQueryFailedError as error:
            raise error_from_failure(error) from error
        except RPCError as error:
            pauses = _begins_later(error)
            if not pauses and not is_unanswered(error):
                if error.status is RPCStatusCode.FAILED_PRECONDITION:
                    raise error_from_failure(error) from error
                raise
            queue = (await handle.describe()).task_queue
            polled = await last_poll(client, queue)
            served = polled is not None and polled <= POLL_SECONDS
            if pauses and served and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            if not pauses and seconds < PATIENT_SECONDS and polled is not None and polled < BUSY_SECONDS:
                return await send_query(client, handle, query, kind, seconds=PATIENT_SECONDS)
            raise no_worker_error(queue, polled, waited=seconds) from error


def _begins_later(error: RPCError) -> bool:
    """Return whether the server answers no query of the workflow before its first task: "Workflow task is not scheduled yet."."""
    return error.status is RPCStatusCode.FAILED_PRECONDITION and any(text in error.message for text in _NO_TASK_YET)


def is_unanswered(error: RPCError) -> bool:
    """Return whether the server was reached, but no worker answered."""
    return error.status in _UNANSWERED or (error.status is RPCStatusCode.FAILED_PRECONDITION and "no poller" in error.message)


async def require_worker(client: Client, queue: str, *, seconds: float = 0.0) -> None:
    """Check that a worker polls ``queue``, before the command waits for that worker.

    Args:
        client: Temporal client.
        queue: Task queue.
        seconds: How long to wait for the first poll of a worker that is just starting.

    Raises:
        Unavailable: ``NoWorker``.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while not await polls(client, queue):
        if asyncio.get_running_loop().time() >= deadline:
            raise no_worker_error(queue, None)
        await asyncio.sleep(LOOK_SECONDS)


async def polls(client: Client, queue: str, kind: TaskQueueType.ValueType = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW) -> bool:
    """Return whether a worker polls ``queue``, as far as the server can tell: see :data:`POLL_SECONDS`."""
    seconds = await last_poll(client, queue, kind)
    return seconds is not None and seconds <= POLL_SECONDS


async def last_poll(client: Client, queue: str, kind: TaskQueueType.ValueType = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW) -> float | None:
    """Return the seconds since a worker last polled ``queue`` for workflow tasks, or for activities.

    None when the server knows of no poll; it remembers five minutes.
    """
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
    )
    now = Timestamp()
    now.GetCurrentTime()
    return (
        min((now.ToNanoseconds() - poller.last_access_time.ToNanoseconds()) / 1e9 for poller in answer.pollers) if answer.pollers else None
    )


def no_worker_error(queue: str, polled: float | None, *, waited: float = QUERY_SECONDS) -> Unavailable:
    """Build the error ``NoWorker``.

    Args:
        queue: Task queue.
        polled: Seconds since the last poll, see :func:`last_poll`.
        waited: Seconds that the command waited for an answer.
    """
    if polled is not None and polled <= POLL_SECONDS:
        message = f"The worker of task queue {queue!r} last polled {polled:.0f} s ago and did not answer within {waited:.0f} s."
    else:
        message = f"No worker polls task queue {queue!r}. The workflow continues when one starts."
    return Unavailable(
        NO_WORKER,
        message,
        hint=f"{start_worker_hint(queue)} On one machine, `cleanroom ps` shows which services have exited.",
        party="operator",
        details={"queue": queue},
    )


def start_worker_hint(queue: str) -> str:
    """Return the command that starts the worker of a task queue, as a sentence."""
    return f"Start it with `cleanroom worker {queue.removeprefix('collaborator.')}`."
