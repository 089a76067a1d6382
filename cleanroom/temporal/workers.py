"""The life cycle of a worker process: configuration, start, readiness and graceful shutdown.

Decisions that hold for all workers:

* ``workflow_failure_exception_types`` is :class:`CleanRoomError` only. Such an error in workflow code is a result and fails the workflow.
  Any other exception is a bug and fails the workflow *task*, so the workflow continues when a fixed worker starts.
* Graceful shutdown lasts as long as the spec says. The SDK's default of zero would cancel activities at once. On Kubernetes,
  ``terminationGracePeriodSeconds`` must be longer.
* Heartbeats are throttled to 5 s (SDK: 60 s), so that resumable positions are recent. Every activity with a heartbeat timeout sends
  heartbeats (:mod:`cleanroom.temporal.heartbeat`), so that a killed worker is noticed soon.
* The thread pool is as large as the number of concurrent activities, so that no activity waits for a thread while its timeout runs.
* The sandbox stays on, and the modules that workflows import are passed through. Importing them in the sandbox would take 15 ms or more
  per workflow run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import (
    Interceptor,
    Replayer,
    Worker,
    WorkerDeploymentConfig,
    WorkflowRunner,
)

from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.redaction import redact
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.guards import MessageGuard
from cleanroom.temporal.heartbeat import AutoHeartbeatInterceptor
from cleanroom.temporal.json_logs import LogSubject
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.runners import UnversionedRunner, sandbox_runner
from cleanroom.temporal.translation import ErrorTranslation

logger = logging.getLogger("cleanroom.worker")

FAILURE_TYPES: tuple[type[BaseException], ...] = (CleanRoomError,)
"""Exceptions in workflow code that fail the workflow and not only its task."""


RETRY_SECONDS = 3.0
"""Pause between two attempts of a worker whose credentials cannot be tried yet."""
WORKFLOW_TASK_SECONDS = 8
"""Seconds in which workflow code must yield."""


@dataclass(frozen=True)
class WorkerSpec:
    """Configuration of one worker, which serves the task queue of one trust boundary."""

    name: str
    """The trust boundary, for logs: ``frontend``, ``clean-room``, ``collaborator.litware``."""
    task_queue: str
    workflows: Sequence[type] = ()
    activities: Sequence[Callable[..., Any]] = ()
    interceptors: Sequence[Interceptor] = ()
    """Placed between log subject and heartbeats, which are outermost, and message guard and error translation, which are innermost."""
    version: WorkerDeploymentVersion | None = None
    """Deployment and build ID for Worker Versioning (:mod:`cleanroom.temporal.versions`); without it, the worker is unversioned."""
    max_concurrent_activities: int = 32
    max_concurrent_workflow_tasks: int = 6
    """Workflow tasks that the worker takes from the server at the same time. Each is given up after some seconds, and with the
    SDK's 100 a busy worker needs longer for the last of them, because Python executes one at a time. What it does not take waits at
    the server without a limit."""
    max_cached_workflows: int = 1000
    graceful_shutdown: timedelta = timedelta(seconds=20)
    ready_file: Path | None = None
    """Created when the worker polls, and removed when it stops."""
    health_port: int | None = None
    """Port of ``GET /healthz``: 200 while the worker polls, 503 while it stops. 0 chooses a free port and logs it."""
    health_host: str = "127.0.0.1"
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of collaborators by user ID, for errors of activities."""
    extra: dict[str, Any] = field(default_factory=dict)
    """More arguments of :class:`temporalio.worker.Worker`."""


def _default_behavior(workflows: Sequence[type]) -> VersioningBehavior:
    """Return the behaviour of workflow tasks that the SDK completes without the workflow's code, such as after a cancelled activity.

    The SDK does not know the workflow's own behaviour then. Without a default, the workflow becomes unversioned, and the server may
    repeat workflow tasks without end to route it to a version again.
    """
    behaviors = {workflow._Definition.must_from_class(item).versioning_behavior for item in workflows}
    if VersioningBehavior.AUTO_UPGRADE in behaviors:
        return VersioningBehavior.AUTO_UPGRADE
    return VersioningBehavior.PINNED if behaviors else VersioningBehavior.UNSPECIFIED


def create_worker(client: Client, spec: WorkerSpec) -> Worker:
    """Create the worker of ``spec``, for use with ``async with``. Its thread pool lives as long as the worker."""
    options: dict[str, Any] = {
        "workflows": spec.workflows,
        "activities": spec.activities,
        "interceptors": [LogSubject(), AutoHeartbeatInterceptor(), *spec.interceptors, MessageGuard(), ErrorTranslation(spec.names)],
        "workflow_runner": sandbox_runner(),
        "workflow_failure_exception_types": FAILURE_TYPES,
        "max_concurrent_activities": spec.max_concurrent_activities,
        "max_concurrent_workflow_tasks": spec.max_concurrent_workflow_tasks,
        "max_cached_workflows": spec.max_cached_workflows,
        "graceful_shutdown_timeout": spec.graceful_shutdown,
        "max_heartbeat_throttle_interval": timedelta(seconds=5),
        "default_heartbeat_throttle_interval": timedelta(seconds=5),
    }
    if spec.activities:
        options["activity_executor"] = ThreadPoolExecutor(spec.max_concurrent_activities, thread_name_prefix=f"{spec.name}-activity")
    options |= spec.extra
    if spec.version is not None:
        options["deployment_config"] = WorkerDeploymentConfig(
            version=spec.version, use_worker_versioning=True, default_versioning_behavior=_default_behavior(spec.workflows)
        )
    else:
        options["workflow_runner"] = UnversionedRunner(options["workflow_runner"])
    worker = Worker(client, task_queue=spec.task_queue, **options)
    if spec.workflows:
        # The SDK has no option for this. It fails a workflow task whose code does not yield within 2 s and tries again forever, also
        # when thousands of signals arrived at once on a busy machine. The server waits 10 s for a workflow task.
        assert worker._workflow_worker is not None
        worker._workflow_worker._deadlock_timeout_seconds = WORKFLOW_TASK_SECONDS
    return worker


def replayer(
    workflows: Sequence[type],
    *,
    keyring: Keyring | None,
    namespace: str,
    accept_unbound: bool = False,
    interceptors: Sequence[Interceptor] = (),
    runner: WorkflowRunner | None = None,
) -> Replayer:
    """Create a replayer for histories of ``namespace``, which the codec binds payloads to.

    Without ``runner``, workflows run in the sandbox, as in a worker.
    """
    return Replayer(
        workflows=workflows,
        namespace=namespace,
        data_converter=data_converter(keyring, accept_unbound=accept_unbound),
        workflow_runner=runner or sandbox_runner(),
        workflow_failure_exception_types=FAILURE_TYPES,
        interceptors=[*interceptors, MessageGuard()],
    )


async def run_worker(
    client: Client,
    spec: WorkerSpec,
    *,
    resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    stop: asyncio.Event | None = None,
    works: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run the worker until SIGTERM, SIGINT or ``stop``, then shut it down gracefully.

    It is ready when it polls and ``works()`` returns.

    A second signal ends the process at once.

    Args:
        client: The Temporal client.
        spec: The worker's configuration.
        resources: Entered before the worker starts, and closed in reverse order after it has stopped.
        stop: Set it to stop the worker.
        works: Tries the worker's credentials. It is tried again while its error is retryable. Any other error stops the worker.

    Raises:
        Unavailable: ``WorkerStartFailed``.
        CleanRoomError: The error of ``works``.
    """
    stop = stop or asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        for resource in resources:
            await stack.enter_async_context(resource)
        stack.enter_context(_signals(stop, spec.name))
        state = {"status": "starting"}
        if spec.health_port is not None:
            await stack.enter_async_context(_health(spec, state))
        worker = create_worker(client, spec)
        running = asyncio.create_task(worker.run(), name=f"worker-{spec.name}")
        stopping = asyncio.create_task(stop.wait())
        try:
            await _polling(worker, running, spec)
            if works is not None:
                await _until_it_works(works, spec.name, stopping, running)
            if not stop.is_set():
                state["status"] = "ok"
                logger.info("worker %s ready on task queue %s (namespace %s)", spec.name, spec.task_queue, client.namespace)
                if spec.ready_file:
                    spec.ready_file.parent.mkdir(parents=True, exist_ok=True)
                    spec.ready_file.write_text("ready\n")
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            state["status"] = "stopping"
            logger.info("worker %s stopping; running activities have %d s to finish", spec.name, spec.graceful_shutdown.total_seconds())
            if not running.done():
                await worker.shutdown()
            await running
        finally:
            stopping.cancel()
            if not running.done():
                await worker.shutdown()
                await asyncio.wait([running])
            if spec.ready_file:
                spec.ready_file.unlink(missing_ok=True)
        logger.info("worker %s stopped", spec.name)


async def _until_it_works(works: Callable[[], Awaitable[None]], name: str, *ends: asyncio.Future[Any]) -> None:
    """Wait until ``works()`` returns, or until one of ``ends`` is done.

    Raises:
        CleanRoomError: An error that a retry does not change.
    """
    while not any(end.done() for end in ends):
        attempt = asyncio.ensure_future(works())
        await asyncio.wait([attempt, *ends], return_when=asyncio.FIRST_COMPLETED)
        if not attempt.done():
            attempt.cancel()
            return
        try:
            attempt.result()
        except CleanRoomError as error:
            if not error.retryable:
                raise
            logger.warning("worker %s is not ready: %s: %s", name, error.code, error.message)
        else:
            return
        await asyncio.wait(ends, timeout=RETRY_SECONDS, return_when=asyncio.FIRST_COMPLETED)


async def _polling(worker: Worker, running: asyncio.Task[None], spec: WorkerSpec) -> None:
    """Wait until the worker polls, which means that the server answers and the namespace exists.

    Raises:
        Unavailable: ``WorkerStartFailed``.
    """
    while not worker.is_running and not running.done():
        # The SDK has no event for this.
        await asyncio.wait([running], timeout=0.01)
    if running.done() and (error := running.exception()) is not None:
        raise Unavailable(
            "WorkerStartFailed",
            f"The worker {spec.name} could not start on task queue {spec.task_queue}.",
            cause=redact(str(error)),
            hint="Check that the Temporal server runs and that the namespace exists.",
            party="operator",
        )


@contextlib.contextmanager
def _signals(stop: asyncio.Event, name: str) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    caught = (signal.SIGTERM, signal.SIGINT)

    def on_signal(number: signal.Signals) -> None:
        logger.info("worker %s received %s", name, number.name)
        stop.set()
        for other in caught:
            loop.remove_signal_handler(other)

    for number in caught:
        # Signal handlers can only be set in the main thread. Elsewhere, in tests and commands, the process handles signals itself.
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in caught:
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, because the worker handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _health(spec: WorkerSpec, state: dict[str, str]) -> AsyncIterator[None]:
    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"worker": spec.name, "taskQueue": spec.task_queue, **state}, 200 if state["status"] == "ok" else 503)

    app = Starlette(routes=[Route("/healthz", healthz)])
    server = _Server(uvicorn.Config(app, host=spec.health_host, port=spec.health_port or 0, log_level="warning", access_log=False))
    task = asyncio.create_task(server.serve(), name=f"healthz-{spec.name}")
    try:
        # uvicorn has no event for this.
        while not server.started and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if task.done():
            await task
        port = server.servers[0].sockets[0].getsockname()[1]
        logger.info("worker %s health at http://%s:%d/healthz", spec.name, spec.health_host, port)
        yield
    finally:
        server.should_exit = True
        await task
