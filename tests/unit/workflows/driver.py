"""Runs one workflow in this process, with the SDK's own workflow instance, and without a server.

The test answers the activities and child workflows, and moves the clock. It sees every command with its options. The driver behaves
as the SDK's core does: a cancelled activity is resolved at once, unless its cancellation type waits for its completion.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

from temporalio import activity, workflow
from temporalio.api.common.v1 import Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.common import Priority, TypedSearchAttributes
from temporalio.converter import decode_search_attributes
from temporalio.exceptions import CancelledError
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInterceptorClassInput
from temporalio.worker._workflow_instance import WorkflowInstanceDetails

from activities.azure_ad import AzureAd
from activities.blob import Blob
from activities.clean_room import CleanRoomGovernance
from activities.clean_room_cleanup import CleanRoomCleanup
from activities.clean_room_secrets import CleanRoomSecrets
from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from activities.key_vault import KeyVault
from activities.notifications import Notifications
from activities.query_watch import Watcher
from activities.s3 import S3
from activities.spark_service import SparkServiceActivities
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.failures import error_from_failure, translated
from cleanroom.temporal.guards import MessageGuard
from cleanroom.temporal.runners import InputRunner
from cleanroom.temporal.workers import FAILURE_TYPES
from tests.metric_recorder import MetricRecorder

START = datetime(2026, 1, 1, tzinfo=UTC)
HELD: Any = object()
"""The answer of an activity that runs until the test ends it with :meth:`Driver.finish`."""
UNTIL_CANCELLED: Any = object()
"""The answer of an activity that runs until its cancellation is requested, and then ends as cancelled."""
CLASSES = (
    *(AzureAd, Blob, CleanRoomCleanup, CleanRoomGovernance, CleanRoomSecrets, CollaboratorGovernance),
    *(Frontend, KeyVault, Notifications, S3, SparkServiceActivities, Watcher),
)
CONVERTER = data_converter(None)
WAITS = int(workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)


def _arguments() -> dict[tuple[str, bool], Any]:
    found: dict[tuple[str, bool], Any] = {}
    for owner, name, function in [(kind, *pair) for kind in CLASSES for pair in inspect.getmembers(kind, inspect.isfunction)]:
        if activity._Definition.from_callable(function):
            found[name, owner is CollaboratorGovernance] = next(hint for key, hint in get_type_hints(function).items() if key != "return")
    return found


ARGUMENTS = _arguments()
"""Type of the argument of each activity. ``set_secret`` exists twice, on a collaborator's queue and on the clean room's."""


@dataclass(eq=False)
class Call:
    """An activity or a child workflow that the workflow started."""

    name: str
    argument: Any
    command: Any
    summary: str
    details: str
    child: bool
    done: bool = False
    cancelled: bool = False
    """The workflow has requested its cancellation."""


@dataclass
class Timing:
    """Options of an activity; times in seconds."""

    start_to_close: float = 30
    total: float | None = 360
    heartbeat: float | None = 10
    attempts: int = 8
    first_backoff: float = 1
    growth: float = 2
    longest_backoff: float = 30
    finished_on_cancel: bool = False


def timing(call: Call) -> Timing:
    """Return the options with which an activity was started. ``total`` is None when nothing limits all attempts together."""
    options, retry = call.command, call.command.retry_policy
    return Timing(
        start_to_close=options.start_to_close_timeout.ToTimedelta().total_seconds(),
        total=_seconds(options, "schedule_to_close_timeout"),
        heartbeat=_seconds(options, "heartbeat_timeout"),
        attempts=retry.maximum_attempts,
        first_backoff=retry.initial_interval.ToTimedelta().total_seconds(),
        growth=retry.backoff_coefficient,
        longest_backoff=retry.maximum_interval.ToTimedelta().total_seconds(),
        finished_on_cancel=options.cancellation_type == WAITS,
    )


def _seconds(options: Any, name: str) -> float | None:
    return getattr(options, name).ToTimedelta().total_seconds() if options.HasField(name) else None


@dataclass
class Driver:
    """One workflow. Use :func:`driving`, which ends what is still running.

    Args:
        kind: The workflow class.
        input: Its argument.
        answers: By name of an activity or child workflow: its result, an exception, :data:`HELD`, or a list of these for one call after
            another, whose last one stays.
    """

    kind: type
    input: Any
    answers: dict[str, Any]
    arguments: Sequence[Any] | None = None
    """The workflow's arguments, if they are not the input alone."""
    now: datetime = START
    calls: list[Call] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    """Search attributes, as set last."""
    timers_started: list[tuple[str, float]] = field(default_factory=list)
    """Summary and seconds of each timer."""
    written: list[dict[str, Any]] = field(default_factory=list)
    """Search attributes of each command that set some."""
    updates: dict[str, Any] = field(default_factory=dict)
    """Result or error of each update; :data:`HELD` until it has one."""
    result: Any = None
    error: BaseException | None = None
    continued: Any = None
    """Input of the next run."""
    cancelled: bool = False
    suggest_continue: bool = False
    build_id: str = "build-1"
    """Build of the worker that executes the workflow."""
    metrics: MetricRecorder = field(default_factory=MetricRecorder)
    history_length: int = 10
    """Number of events, as the server counts them."""
    slow_cancellation: bool = False
    """Whether a cancelled activity ends only when the test ends it, as it does while the server is slow."""

    def __post_init__(self) -> None:
        self._definition = workflow._Definition.must_from_class(self.kind)
        self._jobs: deque[WorkflowActivationJob] = deque()
        self._open: dict[tuple[bool, int], Call] = {}
        self._until_cancelled: list[Call] = []
        self._timers: dict[int, tuple[datetime, str]] = {}
        self._asked: Any = None
        self._answered: Any = None
        self._instance: WorkflowInstance = asyncio.run(self._create())
        job = WorkflowActivationJob()
        job.initialize_workflow.workflow_type = self._definition.name or ""
        job.initialize_workflow.workflow_id = "w"
        arguments = [self.input] if self.arguments is None else self.arguments
        job.initialize_workflow.arguments.extend(CONVERTER.payload_converter.to_payloads(arguments))
        self._post(job)

    async def _create(self) -> WorkflowInstance:
        info = workflow.Info(
            attempt=1, continued_run_id=None, cron_schedule=None, execution_timeout=None, first_execution_run_id="r", headers={},
            namespace="default", original_execution_run_id="r", parent=None, root=None, priority=Priority.default, raw_memo={},
            retry_policy=None, run_id="r", run_timeout=None, search_attributes={}, start_time=self.now, task_queue="own",
            task_timeout=timedelta(seconds=10), typed_search_attributes=TypedSearchAttributes.empty, workflow_id="w",
            workflow_start_time=self.now, workflow_type=self._definition.name or "",
        )  # fmt: skip
        guard: Any = MessageGuard().workflow_interceptor_class(WorkflowInterceptorClassInput(unsafe_extern_functions={}))
        return InputRunner(UnsandboxedWorkflowRunner()).create_instance(
            WorkflowInstanceDetails(
                payload_converter_factory=lambda: CONVERTER.payload_converter,
                failure_converter_class=type(CONVERTER.failure_converter),
                interceptor_classes=[guard],
                defn=self._definition,
                info=info,
                randomness_seed=1,
                extern_functions={"__temporal_get_metric_meter": lambda: self.metrics},
                disable_eager_activity_execution=True,
                worker_level_failure_exception_types=FAILURE_TYPES,
                patch_activation_callback=None,
                last_completion_result=Payloads(),
                last_failure=None,
            )
        )

    # ------------------------------------------------------------------ what a test does

    def finish(self, name: str, answer: Any = None) -> None:
        """End the oldest running call of an activity."""
        call = next(call for call in self.calls if call.name == name and not call.done)
        self._resolve(call, answer)
        self._work()

    def end_together(self, answers: dict[Call, Any], *signals: tuple[Any, ...]) -> None:
        """End calls whose results arrive in one activation, with signals, which the SDK handles first."""
        for call, answer in answers.items():
            self._resolve(call, answer)
        jobs, self._jobs = self._jobs, deque()
        self._activate(*map(_signal, signals), *jobs)
        self._work()

    def advance(self, **duration: float) -> None:
        """Let time pass, with every timer that ends in it."""
        until = self.now + timedelta(**duration)
        while due := [(when, number) for number, (when, _) in self._timers.items() if when <= until]:
            when, number = min(due)
            self.now = max(self.now, when)
            del self._timers[number]
            job = WorkflowActivationJob()
            job.fire_timer.seq = number
            self._post(job)
        self.now = until

    def cancel(self) -> None:
        """Cancel the workflow."""
        job = WorkflowActivationJob()
        job.cancel_workflow.reason = "test"
        self._post(job)

    def signal(self, name: str, *arguments: Any) -> None:
        """Send a signal."""
        self.signals_together((name, *arguments))

    def signals_together(self, *signals: tuple[Any, ...]) -> None:
        """Send signals that arrive in one activation: the name and the arguments of each."""
        if not self.ended:
            self._activate(*map(_signal, signals))
        self._work()

    def update(self, name: str, *arguments: Any) -> str:
        """Send an update, and return its ID."""
        key = f"{name}-{len(self.updates)}"
        self.updates[key] = HELD
        job = WorkflowActivationJob()
        job.do_update.id = job.do_update.protocol_instance_id = key
        job.do_update.name, job.do_update.run_validator = name, True
        job.do_update.input.extend(CONVERTER.payload_converter.to_payloads(arguments))
        self._post(job)
        return key

    def query(self, name: str) -> Any:
        """Return the answer to a query."""
        job = WorkflowActivationJob()
        job.query_workflow.query_id, job.query_workflow.query_type = "q", name
        self._asked = self._definition.queries[name].ret_type
        self._post(job)
        return self._answered

    @property
    def names(self) -> list[str]:
        """Names of all calls, in the order of their start."""
        return [call.name for call in self.calls]

    def call(self, name: str) -> Call:
        """The last call of an activity."""
        return next(call for call in reversed(self.calls) if call.name == name)

    def running(self) -> list[str]:
        """Names of the calls that have not ended."""
        return [call.name for call in self.calls if not call.done]

    @property
    def timers(self) -> dict[str, float]:
        """Remaining seconds of the running timers, by summary."""
        return {summary: (when - self.now).total_seconds() for when, summary in self._timers.values()}

    @property
    def details(self) -> str:
        """The current details, as the Web UI shows them."""
        found: str = self._instance.workflow_get_current_details()  # type: ignore[attr-defined]
        return found

    @property
    def ended(self) -> bool:
        """Whether the workflow has ended."""
        return self.result is not None or self.error is not None or self.continued is not None

    @property
    def code(self) -> str:
        """The code of the error with which the workflow failed."""
        assert self.error is not None
        return error_from_failure(self.error).code

    def close(self) -> None:
        """Evict the workflow."""
        job = WorkflowActivationJob()
        job.remove_from_cache.SetInParent()
        self._instance.activate(WorkflowActivation(jobs=[job]))

    # ------------------------------------------------------------------ activations and commands

    def _post(self, job: WorkflowActivationJob) -> None:
        self._jobs.append(job)
        self._work()

    def _work(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if not self.ended or job.HasField("query_workflow"):
                self._activate(job)

    def _activate(self, *jobs: WorkflowActivationJob) -> None:
        activation = WorkflowActivation(run_id="r", jobs=jobs, continue_as_new_suggested=self.suggest_continue)
        activation.history_length = self.history_length
        activation.deployment_version_for_current_task.deployment_name = "frontend"
        activation.deployment_version_for_current_task.build_id = self.build_id
        activation.timestamp.FromDatetime(self.now)
        completion = self._instance.activate(activation)
        assert not completion.HasField("failed"), completion.failed.failure.message
        for command in completion.successful.commands:
            self._apply(command)

    def _apply(self, command: WorkflowCommand) -> None:
        assert not self.ended or command.HasField("respond_to_query"), "a command after the end"
        kind = command.WhichOneof("variant")
        body = getattr(command, kind or "")
        summary, details = (_text(command.user_metadata, name) for name in ("summary", "details"))
        if kind == "schedule_activity":
            hint = ARGUMENTS.get((body.activity_type, body.task_queue.startswith("collaborator."))) or ARGUMENTS[body.activity_type, False]
            [argument] = CONVERTER.payload_converter.from_payloads(body.arguments, [hint])
            self._start(Call(body.activity_type, argument, body, summary, details, False))
        elif kind == "start_child_workflow_execution":
            job = WorkflowActivationJob()
            job.resolve_child_workflow_execution_start.seq = body.seq
            job.resolve_child_workflow_execution_start.succeeded.run_id = "c"
            self._jobs.append(job)
            [argument] = CONVERTER.payload_converter.from_payloads(body.input)
            self._start(Call(body.workflow_type, argument, body, summary, details, True))
        elif kind in ("request_cancel_activity", "cancel_child_workflow_execution"):
            child = kind != "request_cancel_activity"
            call = self._open.get((child, body.child_workflow_seq if child else body.seq))
            if call is None:
                # Its result is on its way. Core ignores the request.
                return
            call.cancelled = True
            at_once = not child and call.command.cancellation_type != WAITS and not self.slow_cancellation
            if call in self._until_cancelled or at_once:
                self._resolve(call, CancelledError("cancelled"))
        elif kind == "start_timer":
            duration = body.start_to_fire_timeout.ToTimedelta()
            self.timers_started.append((summary, duration.total_seconds()))
            self._timers[body.seq] = self.now + duration, summary
        elif kind == "cancel_timer":
            self._timers.pop(body.seq, None)
        elif kind == "upsert_workflow_search_attributes":
            found = decode_search_attributes(body.search_attributes)
            self.written.append(dict(found))
            self.attributes.update(found)
        elif kind == "update_response":
            if body.WhichOneof("response") == "completed":
                self.updates[body.protocol_instance_id] = CONVERTER.payload_converter.from_payload(body.completed)
            elif body.WhichOneof("response") == "rejected":
                self.updates[body.protocol_instance_id] = self._from_failure(body.rejected)
        elif kind == "respond_to_query":
            assert body.WhichOneof("variant") == "succeeded", body.failed.message
            self._answered = CONVERTER.payload_converter.from_payload(body.succeeded.response, self._asked)
        else:
            self._end(kind, body)

    def _end(self, kind: str | None, body: Any) -> None:
        if kind == "complete_workflow_execution":
            self.result = CONVERTER.payload_converter.from_payload(body.result, self._definition.ret_type)
        elif kind == "fail_workflow_execution":
            self.error = self._from_failure(body.failure)
        elif kind == "cancel_workflow_execution":
            self.error, self.cancelled = CancelledError("the workflow ended as cancelled"), True
        elif kind == "continue_as_new_workflow_execution":
            self.continued = CONVERTER.payload_converter.from_payloads(body.arguments, [type(self.input)])[0]
        else:
            raise AssertionError(kind)

    def _from_failure(self, failure: Failure) -> BaseException:
        return CONVERTER.failure_converter.from_failure(failure, CONVERTER.payload_converter)

    def _start(self, call: Call) -> None:
        self.calls.append(call)
        self._open[call.child, call.command.seq] = call
        answer = self.answers[call.name]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(call.argument)
        if answer is UNTIL_CANCELLED:
            self._until_cancelled.append(call)
        elif answer is not HELD:
            self._resolve(call, answer)

    def _resolve(self, call: Call, answer: Any) -> None:
        call.done = True
        del self._open[call.child, call.command.seq]
        job = WorkflowActivationJob()
        job.resolve_activity.seq = call.command.seq
        if call.child:
            job.resolve_child_workflow_execution.seq = call.command.seq
        result = job.resolve_child_workflow_execution.result if call.child else job.resolve_activity.result
        if isinstance(answer, BaseException):
            failure = (result.cancelled if isinstance(answer, CancelledError) else result.failed).failure
            info = failure.child_workflow_execution_failure_info if call.child else failure.activity_failure_info
            info.SetInParent()
            if not call.child:
                info.activity_type.name = call.name
            cause = translated(answer) if isinstance(answer, Exception) else answer
            CONVERTER.failure_converter.to_failure(cause, CONVERTER.payload_converter, failure.cause)
        else:
            result.completed.result.CopyFrom(CONVERTER.payload_converter.to_payloads([answer])[0])
        self._jobs.append(job)


def _signal(signal: tuple[Any, ...]) -> WorkflowActivationJob:
    name, *arguments = signal
    job = WorkflowActivationJob()
    job.signal_workflow.signal_name = name
    job.signal_workflow.input.extend(CONVERTER.payload_converter.to_payloads(arguments))
    return job


def _text(metadata: Any, name: str) -> str:
    return CONVERTER.payload_converter.from_payload(getattr(metadata, name)) if metadata.HasField(name) else ""


@contextmanager
def driving(kind: type, input: Any, answers: dict[str, Any], **options: Any) -> Iterator[Driver]:
    """Run a workflow until nothing happens without the test."""
    driver = Driver(kind, input, answers, **options)
    try:
        yield driver
    finally:
        driver.close()
