"""Heartbeats of activities.

* :class:`AutoHeartbeatInterceptor` sends heartbeats for every activity that has a heartbeat timeout and does not send its own. The
  server then notices a killed worker after the heartbeat timeout (:mod:`cleanroom.temporal.retries`) and not only when the whole
  attempt times out.
* :class:`Heartbeater` is for an ``async`` activity that resumes: it also records the activity's position.

      async with Heartbeater(WatchPosition) as heartbeat:
          position = heartbeat.details or WatchPosition()
          async for event in watch(position.resource_version):
              heartbeat.record(WatchPosition(resource_version=event.version))

Heartbeats also deliver cancellation, see https://docs.temporal.io/encyclopedia/detecting-activity-failures#activity-heartbeat, unless
the server pushes it (docs/guides/operator.md). A ``Heartbeater`` lets it interrupt the activity. The interceptor does not, because an
activity that does not send heartbeats may be in the middle of a write, such as staging a secret, and the workflow could not know
whether the write took effect. Such an activity completes although its workflow was cancelled, as it would without heartbeats, unless
the worker shuts down, the attempt times out or the workflow no longer exists.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pydantic
from temporalio import activity
from temporalio.exceptions import CancelledError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

D = TypeVar("D")
_LONGEST_INTERVAL = 30.0
_INTERVAL_WITHOUT_TIMEOUT = 10.0


class Heartbeater(Generic[D]):
    """Sends heartbeats with the activity's position in the background, as an asynchronous context manager.

    Heartbeats are sent at a third of the heartbeat timeout. A cancelled activity gets ``asyncio.CancelledError`` at its next await.
    When the worker shuts down or the activity fails, the latest position is recorded once more, so that the next attempt resumes there.

    Args:
        details_type: The type of the position: anything that pydantic validates.
        every: The longest interval between two heartbeats in seconds, for activities that must be cancelled promptly. The worker's
            ``max_heartbeat_throttle_interval`` must allow it.
    """

    details: D | None
    """The latest position: the one that the previous attempt recorded, then this attempt's."""

    def __init__(self, details_type: type[D], *, every: float | None = None) -> None:
        info = activity.info()
        timeout = info.heartbeat_timeout
        longest = every or _LONGEST_INTERVAL
        self._interval = min(timeout.total_seconds() / 3, _LONGEST_INTERVAL, longest) if timeout else _INTERVAL_WITHOUT_TIMEOUT
        self.details = None
        if info.heartbeat_details:
            try:
                # The SDK decodes heartbeat details to plain JSON values (temporalio/worker/_activity.py).
                self.details = pydantic.TypeAdapter(details_type).validate_python(info.heartbeat_details[0])
            except pydantic.ValidationError:
                # An older version of this activity recorded them. Every activity can start from the beginning.
                activity.logger.warning("ignoring heartbeat details that do not validate")

    async def __aenter__(self) -> Self:
        self._send()
        self._task = asyncio.create_task(self._run(), name="heartbeater")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if kind is not None:
            # The SDK flushes a pending heartbeat when it reports the failure.
            self._send()

    def record(self, details: D) -> None:
        """Set the position and send it now. The SDK throttles, so this may be called often."""
        self.details = details
        self._send()

    def _send(self) -> None:
        if self.details is None:
            activity.heartbeat()
        else:
            activity.heartbeat(self.details)

    async def _run(self) -> None:
        shutdown = asyncio.create_task(activity.wait_for_worker_shutdown())
        try:
            while True:
                done, _ = await asyncio.wait([shutdown], timeout=self._interval)
                self._send()
                if done:
                    # The activity runs until the grace period ends.
                    await asyncio.sleep(self._interval)
        finally:
            shutdown.cancel()


class AutoHeartbeatInterceptor(Interceptor):
    """Sends heartbeats for activities that do not; see the module's docstring.

    An activity that sends its own heartbeats is left alone, because a heartbeat without details would erase its position.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the activity; called by the SDK."""
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
            input.fn = _shielded(input.fn)
        body = asyncio.ensure_future(self.next.execute_activity(input))
        cancelled = self._outbound.cancelled = _Cancellation(body)
        heartbeats = asyncio.create_task(self._send_heartbeats(timeout.total_seconds() / 3), name="auto-heartbeat")
        try:
            while True:
                try:
                    return await asyncio.shield(body)
                except asyncio.CancelledError:
                    if body.done():
                        raise
                    if self._outbound.activity_sends_heartbeats or not _only_cancel_requested():
                        body.cancel()
                        # The activity decides how it ends.
                        return await body
                    cancelled.arrived = True
        finally:
            heartbeats.cancel()

    async def _send_heartbeats(self, interval: float) -> None:
        # The first heartbeat is sent after one interval: most activities have ended by then and cost the server nothing.
        while True:
            await asyncio.sleep(interval)
            if self._outbound.activity_sends_heartbeats:
                return
            self._outbound.send_without_details()


class _Cancellation:
    """Interrupts an activity that sends its first heartbeat after the cancellation, which a server that pushes it can deliver earlier."""

    def __init__(self, body: asyncio.Future[Any]) -> None:
        self._body, self._loop = body, asyncio.get_running_loop()
        self.arrived = False
        """Whether a cancellation was requested before the activity's first heartbeat."""

    def deliver(self) -> None:
        """Cancel the activity once if its cancellation has arrived. Synchronous activities call this in their thread."""
        if self.arrived:
            self.arrived = False
            self._loop.call_soon_threadsafe(self._body.cancel)


class _Outbound(ActivityOutboundInterceptor):
    """Notices when the activity sends a heartbeat itself."""

    cancelled: _Cancellation | None = None

    def __init__(self, next: ActivityOutboundInterceptor) -> None:
        super().__init__(next)
        self.activity_sends_heartbeats = False

    def heartbeat(self, *details: Any) -> None:
        self.activity_sends_heartbeats = True
        super().heartbeat(*details)
        if self.cancelled is not None:
            self.cancelled.deliver()

    def send_without_details(self) -> None:
        super().heartbeat()


def _only_cancel_requested() -> bool:
    """Whether the workflow requested cancellation, and nothing else ends the activity."""
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested and not (details.worker_shutdown or details.timed_out or details.not_found)


def _shielded(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``body`` to its end in a worker thread, where the SDK would raise the cancellation in the middle of it."""

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
