"""The worker interceptor that carries positions in governance's ledger from one worker to the next.

Governance runs on several nodes, and a worker can be connected to one that has not seen what another worker has just written. So
messages have a member ``seen``: the latest transaction that their sender has seen. The interceptor waits before an activity until this
worker has seen it too, and enters into the activity's result what the worker has seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import BaseModel
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from cleanroom.errors import CleanRoomError
from cleanroom.temporal.failures import translated


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


class _Fresh(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, catch_up: Callable[[str], Awaitable[None]], position: Callable[[], str]) -> None:
        super().__init__(next)
        self._catch_up = catch_up
        self._position = position

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            for seen in {found for argument in input.args for found in _positions(argument)}:
                await self._catch_up(seen)
        except CleanRoomError as error:
            # The interceptor that translates errors is inside of this one.
            raise translated(error, attempt=activity.info().attempt) from None
        result = await self.next.execute_activity(input)
        if isinstance(result, BaseModel) and getattr(result, "seen", None) == "":
            return result.model_copy(update={"seen": self._position()})
        return result


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
