"""Every activity with a heartbeat timeout beats, whether or not it says so itself: :class:`Alive`, an interceptor of the worker.

Without it a step whose worker was killed is noticed only when its whole attempt has run out of time. With it, after the heartbeat timeout
(:mod:`cleanroom.temporal.retries`), and steps stay as they are. An activity that beats by itself
(:class:`cleanroom.temporal.heartbeat.Heartbeater`) is left alone, because a beat without details would wipe out its position.

Heartbeats also bring cancellation, which a step that stages a secret must not feel in its middle: nobody would know what it has done by
then. Such a step therefore runs to its end although its workflow was cancelled, as it would without heartbeats; only what ends it anyhow
(the worker shuts down, its attempt has timed out, its workflow is gone) stops it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from temporalio import activity
from temporalio.exceptions import CancelledError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)


class Alive(Interceptor):
    """Beats for activities that do not beat; see the module's text."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next)


class _Inbound(ActivityInboundInterceptor):
    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._outbound = _Outbound(outbound)
        super().init(self._outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        timeout = activity.info().heartbeat_timeout
        if not timeout:
            return await self.next.execute_activity(input)
        if not inspect.iscoroutinefunction(input.fn):
            input.fn = _whole(input.fn, self._outbound)
        body = asyncio.ensure_future(self.next.execute_activity(input))
        beats = asyncio.create_task(self._beat(timeout.total_seconds() / 3), name="alive")
        try:
            while True:
                try:
                    return await asyncio.shield(body)
                except asyncio.CancelledError:
                    if body.done():
                        raise
                    if self._outbound.own or not _only_asked():
                        body.cancel()
                        # Its own end, whatever it makes of the cancellation.
                        return await body
        finally:
            beats.cancel()

    async def _beat(self, every: float) -> None:
        """Beat every ``every`` seconds until cancelled, or until the activity does it itself."""
        # The first one late: most steps have ended by then and cost the server nothing.
        while True:
            await asyncio.sleep(every)
            if self._outbound.own:
                return
            self._outbound.side()


class _Outbound(ActivityOutboundInterceptor):
    """Notices when the activity beats by itself."""

    def __init__(self, next: ActivityOutboundInterceptor) -> None:
        super().__init__(next)
        self.own = False

    def heartbeat(self, *details: Any) -> None:
        self.own = True
        super().heartbeat(*details)

    def side(self) -> None:
        super().heartbeat()


def _only_asked() -> bool:
    """Whether the workflow was cancelled and nothing else has happened."""
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested and not (details.worker_shutdown or details.timed_out or details.not_found)


def _whole(body: Callable[..., Any], outbound: _Outbound) -> Callable[..., Any]:
    """The same for a body in a thread, where the SDK raises the cancellation."""

    @functools.wraps(body)
    def run(*arguments: Any) -> Any:
        ended: list[Any] = []
        try:
            with activity.shield_thread_cancel_exception():
                ended.append(body(*arguments))
        except CancelledError:
            if not ended:
                raise
        return ended[0]

    return run
