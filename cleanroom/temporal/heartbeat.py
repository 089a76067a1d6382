"""Heartbeats of long activities, from the side: :class:`Heartbeater` for ``async`` activities, :class:`ThreadHeartbeater` for those in
threads.

Both beat at a third of the heartbeat timeout with the latest details, so that a dead worker is noticed and a cancellation arrives, and
give the next attempt the last attempt's details, typed:

    async with Heartbeater(WatchPosition) as beat:
        position = beat.details or WatchPosition()
        async for event in watch(position.resource_version):
            beat.beat(WatchPosition(resource_version=event.version))

Cancellation: the SDK learns of it from a heartbeat's answer and cancels the activity, which stops the body here (an ``async`` body gets
``CancelledError`` at its next await, a threaded one gets it raised). When the worker shuts down the latest details are recorded at once,
before the grace period ends, and the SDK flushes them when the attempt ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from types import TracebackType
from typing import Generic, Self, TypeVar

import pydantic
from temporalio import activity

D = TypeVar("D")
_FALLBACK = 10.0
"""Seconds between heartbeats when the activity was started without a heartbeat timeout; they are then only a trace."""


class _Details(Generic[D]):
    """The latest details and the pace."""

    def __init__(self, details_type: type[D], *, every: float | None = None) -> None:
        info = activity.info()
        timeout = info.heartbeat_timeout
        self.interval = min(timeout.total_seconds() / 3, 30.0, every or 30.0) if timeout else _FALLBACK
        self.details: D | None = None
        """What the last attempt recorded last, then what this one did."""
        if info.heartbeat_details:
            try:
                # The SDK decodes heartbeat details without a type, see temporalio/worker/_activity.py.
                self.details = pydantic.TypeAdapter(details_type).validate_python(info.heartbeat_details[0])
            except pydantic.ValidationError:
                # Of an older version of this activity: start over, which every activity can.
                activity.logger.warning("heartbeat details of another form are ignored")

    def _record(self) -> None:
        if self.details is None:
            activity.heartbeat()
        else:
            activity.heartbeat(self.details)


class Heartbeater(_Details[D]):
    """Asynchronous context manager; see the module's text.

    Args:
        details_type: The type of the details, anything that pydantic validates.
        every: Beat at least this often (seconds), where a cancellation should arrive soon; the worker's
            ``max_heartbeat_throttle_interval`` must allow it.
    """

    async def __aenter__(self) -> Self:
        self._record()
        self._task = asyncio.create_task(self._run(), name="heartbeater")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if kind is not None:
            # The next attempt resumes here: the SDK flushes what is pending when it reports the failure.
            self._record()

    def beat(self, details: D) -> None:
        """Make ``details`` the latest and record them now; the SDK throttles."""
        self.details = details
        self._record()

    async def _run(self) -> None:
        shutdown = asyncio.create_task(activity.wait_for_worker_shutdown())
        try:
            while True:
                done, _ = await asyncio.wait([shutdown], timeout=self.interval)
                self._record()
                if done:
                    # Still alive until the grace period ends: keep beating.
                    await asyncio.sleep(self.interval)
        finally:
            shutdown.cancel()


class ThreadHeartbeater(_Details[D]):
    """The same as a plain context manager, for activities that run in the worker's thread pool."""

    def __enter__(self) -> Self:
        self._record()
        self._stop = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="heartbeater", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        with activity.shield_thread_cancel_exception():
            self._thread.join()
        if kind is not None:
            self._record()

    def beat(self, details: D) -> None:
        """Make ``details`` the latest and record them now; the SDK throttles."""
        self.details = details
        self._record()

    @property
    def stopping(self) -> bool:
        """Whether to stop: cancelled, or the worker shuts down. For loops that wait in C code, where no exception can be raised."""
        return activity.is_cancelled() or activity.is_worker_shutdown()

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self._record()
