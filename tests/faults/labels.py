"""Names the activity on each request that it makes, and shortens the waits of clients and retries.

The product's clients are those of httpx, and SDKs on urllib3. Both are extended here, in the process of the tests, by the header
:data:`tests.faults.proxy.LABEL`. The product knows nothing of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import httpx
import msal.throttled_http_client
import urllib3.connection
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from cleanroom.temporal import retries
from tests.faults.proxy import LABEL, Rule, template

CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("CURRENT", default="")
"""The label of the running attempt."""
SLOW: contextvars.ContextVar[tuple[Rule, ...]] = contextvars.ContextVar("SLOW", default=())
"""Slow answers that the running attempt may get."""
PATIENCE = 0.5
"""Seconds after which a client gives up a slow answer, in place of the product's 30 to 60 s."""
BACKOFF = timedelta(milliseconds=20)
"""Delay of the next attempt of an activity, in place of 1 to 30 s."""
RESTART = timedelta(milliseconds=500)
"""As :data:`BACKOFF`, where a service needs a second to start again. All attempts of an activity would end before that."""
PAUSE = 0.02
"""Longest sleep of a client between two tries, in place of up to 5 s."""
THROTTLE = 0
"""Seconds for which MSAL repeats an error of Entra ID without a request, in place of 5 s. The attempts above would end before that."""


@dataclass(frozen=True)
class Boundary:
    """What happens at the boundary of an activity: ``loss`` is ``before`` or ``after`` its effect, and the attempt is lost there."""

    workflow: str
    activity: str
    loss: str


@dataclass
class Attempts:
    """Attempts of activities, and the losses at their boundaries."""

    lose: list[Boundary] = field(default_factory=list)
    backoff: timedelta = BACKOFF
    """Delay of the next attempt."""
    slow: list[Rule] = field(default_factory=list)
    """Slow answers. Their requests wait for :data:`PATIENCE` only."""
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    errors: list[tuple[str, str, str]] = field(default_factory=list)
    """Workflow, activity and code of each failed attempt."""
    on_loss: Callable[[Boundary], bool] = lambda boundary: True
    """Called in a thread when an attempt reaches one of the boundaries. The attempt fails there if it returns True."""
    on_start: Callable[[str, str], None] = lambda workflow, name: None
    """Called with workflow and activity before every attempt."""
    on_end: Callable[[str, str, BaseException | None], None] = lambda workflow, name, error: None
    """Called with workflow, activity and error after every attempt."""


class FaultInterceptor(Interceptor):
    """The outermost interceptor of a worker: labels, lost attempts, and short backoffs."""

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Labelled(next, self)


class _Labelled(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, owner: FaultInterceptor) -> None:
        super().__init__(next)
        self._owner = owner

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info, attempts = activity.info(), self._owner.attempts
        workflow, name = info.workflow_id or "", info.activity_type
        attempts.seen.append((workflow, name, info.attempt))
        CURRENT.set(quote(f"{workflow}|{name}|{info.attempt}"))
        SLOW.set(tuple(rule for rule in attempts.slow if (rule.workflow, rule.activity) == (workflow, name)))
        await self._lose(workflow, name, "before")
        attempts.on_start(workflow, name)
        failure: BaseException | None = None
        try:
            result = await self.next.execute_activity(input)
        except ApplicationError as error:
            failure = error
            attempts.errors.append((workflow, name, error.type or ""))
            if error.non_retryable or error.type == "NothingChanged":
                raise
            raise ApplicationError(
                error.message, *error.details, type=error.type, next_retry_delay=attempts.backoff, category=error.category
            ) from None
        finally:
            CURRENT.set("")
            attempts.on_end(workflow, name, failure)
        await self._lose(workflow, name, "after")
        return result

    async def _lose(self, workflow: str, name: str, loss: str) -> None:
        attempts = self._owner.attempts
        found = Boundary(workflow, name, loss)
        if found in attempts.lose:
            attempts.lose.remove(found)
            if await asyncio.to_thread(attempts.on_loss, found):
                raise ApplicationError("injected", type="AttemptLost", next_retry_delay=BACKOFF)


@contextmanager
def unlimited_attempts() -> Iterator[None]:
    """Lift the limits of attempts: a run that meets many faults needs more attempts than a run that meets one."""
    timings = [timing for timing in vars(retries).values() if isinstance(timing, retries.Timing)]
    before = [timing.retry for timing in timings]
    try:
        for timing, retry in zip(timings, before, strict=True):
            object.__setattr__(timing, "retry", replace(retry, maximum_attempts=0))
        yield
    finally:
        for timing, retry in zip(timings, before, strict=True):
            object.__setattr__(timing, "retry", retry)


def _answered_slowly(method: str, target: str) -> bool:
    return any(rule.hits == 0 and (rule.request.method, rule.request.path) == (method, template(target)) for rule in SLOW.get())


@contextmanager
def labelled() -> Iterator[None]:
    """Extend the clients for the duration of the block."""
    put, respond, sleep = http.client.HTTPConnection.putrequest, urllib3.connection.HTTPConnection.getresponse, time.sleep
    send, send_async, start = httpx.Client.send, httpx.AsyncClient.send, threading.Thread.start

    def putrequest(self: Any, method: str, url: str, *arguments: Any, **options: Any) -> None:
        put(self, method, url, *arguments, **options)
        self.impatient = _answered_slowly(method, url)
        if label := CURRENT.get():
            self.putheader(LABEL, label)

    def getresponse(self: Any) -> Any:
        if self.impatient:
            self.timeout = PATIENCE
        return respond(self)

    def label_of(request: httpx.Request) -> None:
        if label := CURRENT.get():
            request.headers[LABEL] = label
        if _answered_slowly(request.method, request.url.raw_path.decode()):
            request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "read": PATIENCE}

    def httpx_send(self: Any, request: httpx.Request, **options: Any) -> Any:
        label_of(request)
        return send(self, request, **options)

    async def httpx_send_async(self: Any, request: httpx.Request, **options: Any) -> Any:
        label_of(request)
        return await send_async(self, request, **options)

    def thread_start(self: threading.Thread) -> None:
        if CURRENT.get():
            context, run = contextvars.copy_context(), self.run
            self.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(self)

    def short_sleep(seconds: float) -> None:
        sleep(min(seconds, PAUSE) if CURRENT.get() else seconds)

    with (
        patch.object(http.client.HTTPConnection, "putrequest", putrequest),
        patch.object(urllib3.connection.HTTPConnection, "getresponse", getresponse),
        patch.object(httpx.Client, "send", httpx_send),
        patch.object(httpx.AsyncClient, "send", httpx_send_async),
        patch.object(threading.Thread, "start", thread_start),
        patch.object(time, "sleep", short_sleep),
        patch.object(msal.throttled_http_client.RetryAfterParser, "parse", lambda *arguments, **options: THROTTLE),
    ):
        yield
