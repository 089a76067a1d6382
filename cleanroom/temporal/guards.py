"""A message that does not fit its handler must not stop a workflow.

Signals and updates come from people and other tools, with no payload or one too many. Calling the handler then raises ``TypeError`` in
workflow code, which fails the workflow *task*, which is retried for ever: one mistyped signal would stop an approval for good (seen on a
real server with ``temporal workflow signal`` and no ``--input``). The guard drops such a signal with a warning, as the SDK does when a
payload cannot be decoded, and refuses such an update. An error of ours raised by a signal's handler ends that signal, not the workflow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from cleanroom.errors import CleanRoomError


class MessageGuard(Interceptor):
    """Worker interceptor for workflow messages; stateless and deterministic, so replayers need it too."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor] | None:
        return _Guard


class _Guard(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        handler = workflow.get_signal_handler(input.signal)
        if handler is not None and not _fits(handler, input.args):
            workflow.logger.warning(
                "signal %s came with %d arguments, which its handler does not take: dropped", input.signal, len(input.args)
            )
            return
        try:
            await self.next.handle_signal(input)
        except CleanRoomError as error:
            # Our errors fail a workflow where they are raised in it; a signal cannot be answered, and its sender must not decide that.
            workflow.logger.warning("signal %s was refused by its handler: %s", input.signal, error.code)

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        _require(input)
        self.next.handle_update_validator(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        # A handler without validator is reached directly.
        _require(input)
        return await self.next.handle_update_handler(input)


def _require(input: HandleUpdateInput) -> None:
    handler = workflow.get_update_handler(input.update)
    if handler is not None and not _fits(handler, input.args):
        raise ApplicationError(
            f"the update {input.update} came with {len(input.args)} arguments, which its handler does not take",
            type="UpdateArgumentsInvalid",
            non_retryable=True,
        )


def _fits(handler: Callable[..., Any], args: Sequence[Any]) -> bool:
    if inspect.isfunction(handler) and handler.__closure__ and {"fn", "obj"} <= set(handler.__code__.co_freevars):
        # The SDK binds asynchronous methods by a closure that takes anything (temporalio/workflow/_handlers.py, _bind_method).
        bound = inspect.getclosurevars(handler).nonlocals
        handler, args = bound["fn"], (bound["obj"], *args)
    try:
        inspect.signature(handler).bind(*args)
    except TypeError:
        return False
    return True
