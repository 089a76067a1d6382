"""Keeps a message with the wrong arguments from blocking a workflow.

People and other tools send signals and updates, sometimes without a payload or with one too many. Calling the handler then raises
``TypeError`` in workflow code, which fails the workflow *task*. The server retries tasks forever, so one mistyped signal (``temporal
workflow signal`` without ``--input``) would block an approval. The guard drops such a signal with a warning, as the SDK does for a payload
that it cannot decode, and rejects such an update. A :class:`CleanRoomError` from a signal handler ends that signal, not the workflow.
"""

from __future__ import annotations

import functools
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
    """Worker interceptor for workflow messages. Replayers need it too, because it is part of the workflow's behavior.

    It is stateless and deterministic.
    """

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor] | None:
        """Return the interceptor class; called by the SDK."""
        return _Guard


class _Guard(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        handler = workflow.get_signal_handler(input.signal)
        if handler is not None and not _fits(handler, input.args):
            workflow.logger.warning("dropped signal %s: its handler does not accept %d arguments", input.signal, len(input.args))
            return
        try:
            await self.next.handle_signal(input)
        except CleanRoomError as error:
            # A CleanRoomError in workflow code fails the workflow. The sender of a signal must not be able to cause that.
            workflow.logger.warning("the handler of signal %s rejected it: %s", input.signal, error.code)

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        _require(input)
        self.next.handle_update_validator(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        # The SDK calls no validator if the handler has none.
        _require(input)
        return await self.next.handle_update_handler(input)


def _require(input: HandleUpdateInput) -> None:
    handler = workflow.get_update_handler(input.update)
    if handler is not None and not _fits(handler, input.args):
        raise ApplicationError(
            f"the handler of update {input.update} does not accept {len(input.args)} arguments",
            type="UpdateArgumentsInvalid",
            non_retryable=True,
        )


def _fits(handler: Any, args: Sequence[Any]) -> bool:
    count = len(args)
    if inspect.isfunction(handler) and handler.__closure__ and {"fn", "obj"} <= set(handler.__code__.co_freevars):
        # The SDK binds asynchronous methods with a closure that takes any arguments (_bind_method in temporalio/workflow/_handlers.py).
        handler, count = inspect.getclosurevars(handler).nonlocals["fn"], count + 1
    elif isinstance(handler, functools.partial):
        # Other methods are bound with a partial.
        handler, count = handler.func, count + len(handler.args)
    return accepts(handler, count)


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with ``count`` positional arguments."""
    least, most = _arity(function)
    return least <= count <= most


@functools.lru_cache(maxsize=256)
def _arity(function: Callable[..., Any]) -> tuple[int, float]:
    """Return the least and the greatest number of positional arguments. Signals arrive by the thousand, so this is computed once."""
    parameters = inspect.signature(function).parameters.values()
    positional = [item for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    required = sum(item.default is item.empty for item in positional)
    most = float("inf") if any(item.kind is item.VAR_POSITIONAL for item in parameters) else len(positional)
    return required, most
