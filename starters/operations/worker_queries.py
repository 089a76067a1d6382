"""Asking a workflow: its worker answers at once, or it is told soon that none does, and what starts one."""

from __future__ import annotations

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
"""A worker that runs answers within milliseconds; one that has to read a long history first, within a second or two."""
PATIENT_SECONDS: Final = 15.0
"""A worker that was killed and started again is found by the server after 10 s at most: whoever wants something done waits for that."""
POLL_SECONDS: Final = 70.0
"""A worker asks for work at least once a minute: who has not for so long is gone."""
BUSY_SECONDS: Final = 10.0
NO_WORKER: Final = "NoWorker"
_UNANSWERED = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


async def query_workflow(
    client: Client, handle: WorkflowHandle[Any, Any], query: str, kind: type[T], *, seconds: float = QUERY_SECONDS
) -> T:
    """The workflow's answer to ``query``, within ``seconds``, or later where it asked for work a moment ago and may be busy.

    Raises:
        Unavailable: ``NoWorker`` when no worker of its task queue answers.
        PreconditionFailed: ``WorkflowCannotAnswer`` when one does and fails.
    """
    try:
        answer: T = await handle.query(query, result_type=kind, rpc_timeout=timedelta(seconds=seconds))
        return answer
    except WorkflowQueryFailedError as error:
        raise error_from_failure(error) from error
    except RPCError as error:
        if not is_unanswered(error):
            raise
        queue = (await handle.describe()).task_queue
        polled = await last_poll(client, queue)
        if seconds < PATIENT_SECONDS and polled is not None and polled < BUSY_SECONDS:
            return await query_workflow(client, handle, query, kind, seconds=PATIENT_SECONDS)
        raise no_worker_error(queue, polled, waited=seconds) from error


def is_unanswered(error: RPCError) -> bool:
    """Whether the server was reached and no worker answered it."""
    return error.status in _UNANSWERED or (error.status is RPCStatusCode.FAILED_PRECONDITION and "no poller" in error.message)


async def require_worker(client: Client, queue: str) -> None:
    """Look whether somebody serves ``queue``, before waiting for what only they can do.

    Raises:
        Unavailable: ``NoWorker``.
    """
    seconds = await last_poll(client, queue)
    if seconds is None or seconds > POLL_SECONDS:
        raise no_worker_error(queue, seconds)


async def last_poll(client: Client, queue: str) -> float | None:
    """Seconds since a worker last asked ``queue`` for workflow tasks; None when none did of late (the server remembers five minutes)."""
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
        )
    )
    now = Timestamp()
    now.GetCurrentTime()
    return (
        min((now.ToNanoseconds() - poller.last_access_time.ToNanoseconds()) / 1e9 for poller in answer.pollers) if answer.pollers else None
    )


def no_worker_error(queue: str, seconds: float | None, *, waited: float = QUERY_SECONDS) -> Unavailable:
    """``seconds``: since the queue was last served; ``waited``: for an answer."""
    if seconds is not None and seconds <= POLL_SECONDS:
        what = f"The worker of queue {queue!r} asked for work {seconds:.0f} s ago and does not answer within {waited:.0f} s."
    else:
        what = f"No worker serves queue {queue!r}, so that the workflow cannot be asked. It goes on as soon as one does."
    return Unavailable(
        NO_WORKER,
        what,
        hint=f"`cleanroom worker {queue.removeprefix('collaborator.')}` serves it; locally, `cleanroom ps` shows what has exited.",
        party="operator",
        details={"queue": queue},
    )
