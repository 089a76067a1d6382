"""Finds the workflow of a query, sends it messages, and waits for its state with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import PreconditionFailed, TimedOut, Unavailable
from cleanroom.identifiers import query_workflow_id
from cleanroom.messages.query import QueryState
from starters.operations.session import FoundWorkflow, Session, find_workflow
from starters.operations.worker_queries import PATIENT_SECONDS, require_worker, send_query
from starters.operations.workflow_names import STATE
from starters.terminal.output import print_status, safe

T = TypeVar("T")

OWN_WORKER_SECONDS = 3.0
"""How long a command waits for the collaborator's worker before it runs that worker's activities itself."""
ANSWER_SECONDS = 120.0
"""How long a command waits for the outcome. The workflow continues afterwards."""


async def find_query(session: Session, name: str) -> FoundWorkflow[QueryState]:
    """Find the workflow of a query.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    return await find_workflow(session, "query", name, query_workflow_id, QueryState)


async def read_state(session: Session, name: str) -> QueryState:
    """Query the workflow of a query for its state.

    Raises:
        NotFound: ``WorkflowNotFound``.
        Unavailable: ``NoWorker``.
    """
    state = await state_of(await find_query(session, name))
    session.expect(state.seen)
    return state


async def state_of(found: FoundWorkflow[QueryState], *, seconds: float = PATIENT_SECONDS) -> QueryState:
    """Query the state of a workflow that was found; ``seconds`` is the deadline. See :func:`read_state`."""
    await require_worker(found.client, found.described.task_queue)
    return await send_query(found.client, found.handle, STATE, QueryState, seconds=seconds)


async def with_own_worker_fallback(session: Session, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, which needs the collaborator's worker; run that worker's activities here if it does not act soon.

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


def serve_own_queue(session: Session) -> AbstractAsyncContextManager[None]:
    """Serve the collaborator's task queue within this process, so that no separate worker needs to run.

    A deputy does not have the collaborator's credentials, so a deputy's vote waits for the collaborator's worker.
    """
    if session.settings.deputy:
        return nullcontext()
    from starters.operations.own_worker import serve_queue

    return serve_queue(session.settings)


def _still_waiting(seconds: float, what: str) -> TimedOut:
    return TimedOut(
        "StillWaiting",
        f"{what} did not arrive within {seconds:.0f} s. The workflow continues.",
        hint="Check the state later with `cleanroom query show NAME`.",
        retryable=True,
    )


async def wait_for_state(
    client: Client,
    handle: WorkflowHandle[Any, QueryState],
    done: Callable[[QueryState], bool],
    what: str,
    *,
    seconds: float = ANSWER_SECONDS,
) -> QueryState:
    """Poll the state of a query until ``done(state)`` or until its workflow ends; tolerate a short absence of the worker.

    Args:
        client: Temporal client.
        handle: Handle of the workflow.
        done: Condition.
        what: What the command waits for; starts the message of the timeout.
        seconds: Timeout.

    Raises:
        CleanRoomError: The workflow's own error when it failed.
        TimedOut: ``StillWaiting``.
        Unavailable: ``NoWorker``.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    result = asyncio.ensure_future(handle.result())
    warned = False
    try:
        while asyncio.get_running_loop().time() < deadline:
            try:
                state = await send_query(client, handle, STATE, QueryState)
            except Unavailable as error:
                await require_worker(client, error.details["queue"])
                if not warned:
                    print_status(f"[dim]{safe(error.message)} Waiting.[/dim]")
                warned = True
                continue
            except PreconditionFailed:
                # A workflow that fails at its start cannot answer queries. Prefer its failure, which says more.
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
    """Translate the server's error for a message to a closed workflow.

    Raises:
        PreconditionFailed: ``QueryClosed``.
    """
    try:
        yield
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise query_closed_error(name) from error
        raise


def query_closed_error(name: str) -> PreconditionFailed:
    """Build the error ``QueryClosed``."""
    return PreconditionFailed(
        "QueryClosed",
        f"query {name!r} is closed and accepts no more changes.",
        hint=f"Its proposer opens it again with `cleanroom query renew {name}`. For the reason, see `cleanroom query show {name}`.",
    )
