"""The worker interceptor that carries positions in governance's ledger from one worker to the next.

Governance runs on several nodes, and a worker can be connected to one that has not seen what another worker has just written. So
messages have a member ``seen``: the latest transaction that their sender has seen. The interceptor waits before an activity until this
worker has seen it too, and enters into the activity's result what the worker has seen. In a workflow it enters the latest of all
positions that the workflow has received into the input of each activity and child workflow, and into the workflow's own result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import BaseModel
from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import latest_transaction
from cleanroom.temporal.failures import translated
from cleanroom.temporal.metrics import GOVERNANCE_WAIT_SECONDS
from cleanroom.temporal.translation import count_failure


class GovernanceFreshness(Interceptor):
    """Waits for what the sender of an activity's input has seen, and tells what this worker has seen.

    Args:
        catch_up: Waits until this worker has seen a transaction.
        position: Returns the latest transaction that this worker has seen, or the empty string.
    """

    def __init__(self, catch_up: Callable[[str], Awaitable[None]], position: Callable[[], str]) -> None:
        self._catch_up = catch_up
        self._position = position

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the activity; called by the SDK."""
        return _Fresh(next, self._catch_up, self._position)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return what carries positions through a workflow; called by the SDK."""
        return _FreshWorkflow


class _Fresh(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, catch_up: Callable[[str], Awaitable[None]], position: Callable[[], str]) -> None:
        super().__init__(next)
        self._catch_up = catch_up
        self._position = position

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            for seen in {found for argument in input.args for found in _positions(argument)}:
                started = time.monotonic()
                await self._catch_up(seen)
                GOVERNANCE_WAIT_SECONDS.record(activity.metric_meter(), time.monotonic() - started)
        except CleanRoomError as error:
            # The interceptor that translates errors is inside of this one.
            failure = translated(error, attempt=activity.info().attempt)
            count_failure(failure)
            raise failure from None
        return _with_default(await self.next.execute_activity(input), self._position())


class _FreshWorkflow(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        self._outbound = _FreshCalls(outbound)
        super().init(self._outbound)

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        return _with_default(await self.next.execute_workflow(input), self._outbound.seen)


class _FreshCalls(WorkflowOutboundInterceptor):
    """The calls of one workflow. Results come from its history, so a replay sees the same positions."""

    def __init__(self, next: WorkflowOutboundInterceptor) -> None:
        super().__init__(next)
        self.seen = ""
        """The latest transaction in a result that the workflow has received."""

    def start_activity(self, input: StartActivityInput) -> Any:
        input.args = [_updated(argument, self.seen) for argument in input.args]
        handle = self.next.start_activity(input)
        handle.add_done_callback(self._received)
        return handle

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> Any:
        input.args = [_updated(argument, self.seen) for argument in input.args]
        handle = await self.next.start_child_workflow(input)
        handle.add_done_callback(self._received)
        return handle

    def _received(self, call: asyncio.Future[Any]) -> None:
        if not call.cancelled() and call.exception() is None:
            self.seen = latest_transaction(self.seen, *_positions(call.result()))


def _with_default(result: Any, position: str) -> Any:
    """Enter a position into a result that has a place for one and contains none."""
    if isinstance(result, BaseModel) and getattr(result, "seen", None) == "":
        return result.model_copy(update={"seen": position})
    return result


def _updated(argument: Any, position: str) -> Any:
    """Return a message in which no position, also in the messages that it contains, is before ``position``."""
    if not isinstance(argument, BaseModel):
        return argument
    changed: dict[str, Any] = {}
    for name in type(argument).model_fields:
        value = getattr(argument, name)
        if name == "seen":
            new = latest_transaction(value, position)
        elif isinstance(value, BaseModel):
            new = _updated(value, position)
        else:
            continue
        if new != value:
            changed[name] = new
    return argument.model_copy(update=changed) if changed else argument


def _positions(argument: Any) -> Iterator[str]:
    """Yield the positions in a message and in the messages that it contains."""
    if not isinstance(argument, BaseModel):
        return
    for name in type(argument).model_fields:
        value = getattr(argument, name)
        if name == "seen" and value:
            yield value
        elif isinstance(value, BaseModel):
            yield from _positions(value)
