"""A query's workflow as commands meet it: found, spoken to while it takes messages, and waited for, but never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import PreconditionFailed, TimedOut, Unavailable
from cleanroom.identifiers import query_workflow_id
from cleanroom.messages.query import QueryState
from starters.operations.session import Session, require_workflow
from starters.operations.worker_queries import PATIENT_SECONDS, query_workflow, require_worker
from starters.operations.workflow_names import STATE
from starters.terminal.output import print_status, safe

Handle = WorkflowHandle[Any, QueryState]
T = TypeVar("T")

OWN_WORKER_SECONDS = 3.0
"""So long a worker of one's own, running elsewhere, is left to do its part."""
ANSWER_SECONDS = 120.0
"""So long a command waits; what it asked for goes on without it."""


class QueryFound(NamedTuple):
    """A query's workflow that exists."""

    client: Client
    handle: Handle
    described: WorkflowExecutionDescription


async def find_query(session: Session, name: str) -> QueryFound:
    """The query's workflow.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    client = await session.temporal()
    handle: Handle = client.get_workflow_handle(query_workflow_id(session.collaboration, name), result_type=QueryState)
    described = await require_workflow(handle, f"query {name!r}", "`cleanroom query list` shows what there is.")
    return QueryFound(client, handle, described)


async def read_state(session: Session, name: str) -> QueryState:
    """The query's state as its workflow shows it.

    Raises:
        NotFound: ``WorkflowNotFound``.
        Unavailable: ``NoWorker``.
    """
    return await state_of(await find_query(session, name))


async def state_of(found: QueryFound, *, seconds: float = PATIENT_SECONDS) -> QueryState:
    """See :func:`read_state`; ``seconds``: for how long an answer is waited for."""
    await require_worker(found.client, found.described.task_queue)
    return await query_workflow(found.client, found.handle, STATE, QueryState, seconds=seconds)


async def with_own_worker_fallback(session: Session, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of ``work``, which this person's own worker has a part in: if none takes it up soon, this process does.

    Raises:
        TimedOut: ``StillWaiting``.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=OWN_WORKER_SECONDS)
        if not task.done():
            async with serve_own_queue(session):
                await asyncio.wait([task], timeout=ANSWER_SECONDS)
        if not task.done():
            raise _still_waiting(ANSWER_SECONDS, "an answer")
        return task.result()
    finally:
        task.cancel()


def _still_waiting(seconds: float, what: str) -> TimedOut:
    return TimedOut("StillWaiting", f"waited {seconds:.0f} s for {what}; it goes on by itself.", hint="Look again later.", retryable=True)


async def wait_for_state(
    client: Client, handle: Handle, done: Callable[[QueryState], bool], what: str, *, seconds: float = ANSWER_SECONDS
) -> QueryState:
    """Look at the query's state until ``done`` or until the query is closed; a workflow that failed raises its own error. A worker that is
    gone for a moment is waited for.

    Raises:
        TimedOut: ``StillWaiting``.
        Unavailable: ``NoWorker``.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    result = asyncio.ensure_future(handle.result())
    told = False
    try:
        while asyncio.get_running_loop().time() < deadline:
            try:
                state = await query_workflow(client, handle, STATE, QueryState)
            except Unavailable as error:
                await require_worker(client, error.details["queue"])
                if not told:
                    print_status(f"[dim]{safe(error.message)} Waiting.[/dim]")
                told = True
                continue
            except PreconditionFailed:
                # A workflow that fails at its start cannot answer either; then its failure says more.
                await asyncio.wait([result], timeout=2)
                if result.done():
                    return result.result()
                raise
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
def query_closed_as_error(name: str) -> Iterator[None]:
    """Around a message to a query's workflow, which exists.

    Raises:
        PreconditionFailed: ``QueryClosed`` when it takes no more.
    """
    try:
        yield
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise query_closed_error(name) from error
        raise


def query_closed_error(name: str) -> PreconditionFailed:
    return PreconditionFailed(
        "QueryClosed", f"query {name!r} is closed; nothing can be done to it any more.", hint=f"See why: cleanroom query show {name}."
    )


def serve_own_queue(session: Session) -> Any:
    """Serve this person's own queue while they wait, so that a vote needs no worker of theirs to be running."""
    from starters.operations.own_worker import serve_queue

    return serve_queue(session.settings)
