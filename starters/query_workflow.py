"""A query's workflow as commands meet it: found, spoken to while it takes messages, and waited for, but never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import PreconditionFailed, TimedOut
from cleanroom.identifiers import query_workflow_id
from cleanroom.messages.query import QueryState
from starters.session import Session, require_workflow
from workflows.publish_query import PublishQuery

Handle = WorkflowHandle[PublishQuery, QueryState]
T = TypeVar("T")

OWN_WORKER_SECONDS = 3.0
"""So long a worker of one's own, running elsewhere, is left to do its part."""
ANSWER_SECONDS = 120.0
"""So long a command waits; what it asked for goes on without it."""


async def query_handle(session: Session, name: str) -> Handle:
    """The query's workflow.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    client = await session.temporal()
    handle = client.get_workflow_handle_for(PublishQuery.run, query_workflow_id(session.collaboration, name))
    await require_workflow(handle, f"query {name!r}", "`cleanroom query list` shows what there is.")
    return handle


async def served(session: Session, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of ``work``, which this person's own worker has a part in: if none takes it up soon, this process does.

    Raises:
        TimedOut: ``StillWaiting``.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=OWN_WORKER_SECONDS)
        if not task.done():
            async with own_queue(session):
                await asyncio.wait([task], timeout=ANSWER_SECONDS)
        if not task.done():
            raise _still_waiting(ANSWER_SECONDS, "an answer")
        return task.result()
    finally:
        task.cancel()


def _still_waiting(seconds: float, what: str) -> TimedOut:
    return TimedOut("StillWaiting", f"waited {seconds:.0f} s for {what}; it goes on by itself.", hint="Look again later.", retryable=True)


async def until(handle: Handle, done: Callable[[QueryState], bool], what: str, *, seconds: float = ANSWER_SECONDS) -> QueryState:
    """Look at the query's state until ``done`` or until the query is closed; a workflow that failed raises its own error.

    Raises:
        TimedOut: ``StillWaiting``.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    result = asyncio.ensure_future(handle.result())
    try:
        while asyncio.get_running_loop().time() < deadline:
            state: QueryState = await handle.query(PublishQuery.state)
            if state.stage == "Failed":
                return await result
            if done(state):
                return state
            if result.done():
                return result.result()
            await asyncio.wait([result], timeout=0.2)
    finally:
        result.cancel()
    raise _still_waiting(seconds, what)


@contextmanager
def taking_messages(name: str) -> Iterator[None]:
    """Around a message to a query's workflow, which exists.

    Raises:
        PreconditionFailed: ``QueryClosed`` when it takes no more.
    """
    try:
        yield
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise query_closed(name) from error
        raise


def query_closed(name: str) -> PreconditionFailed:
    return PreconditionFailed(
        "QueryClosed", f"query {name!r} is closed; nothing can be done to it any more.", hint=f"See why: cleanroom query show {name}."
    )


def own_queue(session: Session) -> Any:
    """Serve this person's own queue while they wait, so that a vote needs no worker of theirs to be running."""
    from starters.worker import serving_own_queue

    return serving_own_queue(session.settings)
