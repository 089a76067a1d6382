"""A Temporal client in memory, for commands: its workflows run in :mod:`tests.unit.workflows.driver`, without a server.

Workflows and their activities run in a separate thread, because the SDK's workflow instance is an event loop.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import CancelledError, TerminatedError, TimeoutError, TimeoutType, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.temporal import attributes
from tests.unit.workflows.driver import CONVERTER, HELD, Driver

T = TypeVar("T")
STATUS = WorkflowExecutionStatus
MISSING = RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")
ENDED = RPCError("workflow execution already completed", RPCStatusCode.NOT_FOUND, b"")
REPEATABLE = (STATUS.FAILED, STATUS.CANCELED, STATUS.TERMINATED, STATUS.TIMED_OUT)


@dataclass
class Execution:
    """One execution of a workflow."""

    id: str
    kind: str
    input: Any
    driver: Driver
    started: TypedSearchAttributes
    start_time: dt.datetime
    stopped: STATUS | None = None
    """How the server has ended it, without running its code."""
    pending: DescribeWorkflowExecutionResponse = field(default_factory=DescribeWorkflowExecutionResponse)

    @property
    def status(self) -> STATUS:
        """The status that the server reports."""
        if self.stopped is not None:
            return self.stopped
        if self.driver.cancelled:
            return STATUS.CANCELED
        if self.driver.error is not None:
            return STATUS.FAILED
        return STATUS.COMPLETED if self.driver.result is not None else STATUS.RUNNING

    @property
    def attributes(self) -> TypedSearchAttributes:
        """The search attributes that the start has set, and the workflow since."""
        found = {pair.key.name: pair.value for pair in self.started}
        for key in attributes.ALL:
            if key.name in self.driver.attributes:
                values = self.driver.attributes[key.name]
                several = key in (attributes.DATASETS, attributes.PENDING_FOR, attributes.APPROVED_BY)
                found[key.name] = [value for value in values if value is not None] if several else values[0]
        pairs = [SearchAttributePair(key, found[key.name]) for key in attributes.ALL if found.get(key.name) not in (None, [])]
        return TypedSearchAttributes(pairs)


class Described:
    """The description of an execution at one moment."""

    def __init__(self, execution: Execution) -> None:
        self.id, self.status, self.start_time = execution.id, execution.status, execution.start_time
        self.typed_search_attributes, self.raw_description = execution.attributes, execution.pending
        self.task_queue = "in-memory"


class Handle:
    """A handle of the latest execution with an ID."""

    def __init__(self, temporal: TemporalInMemory, id: str) -> None:
        self._temporal, self.id = temporal, id

    @property
    def _execution(self) -> Execution:
        if self.id not in self._temporal.executions:
            raise MISSING
        return self._temporal.executions[self.id]

    @property
    def _open(self) -> Execution:
        if self._execution.status is not STATUS.RUNNING:
            raise ENDED
        return self._execution

    async def describe(self) -> Described:
        return Described(self._execution)

    async def query(self, name: str, **options: Any) -> Any:
        found = self._execution
        return await self._temporal.run(lambda: found.driver.query(name))

    async def signal(self, name: str, *arguments: Any) -> None:
        found = self._open
        await self._temporal.run(lambda: found.driver.signal(name, *arguments))

    async def execute_update(self, name: str, argument: Any, *, result_type: Any) -> Any:
        driver = self._open.driver
        key = await self._temporal.run(lambda: driver.update(name, argument))
        answer = driver.updates[key]
        assert answer is not HELD, f"{name} waits"
        if isinstance(answer, BaseException):
            raise WorkflowUpdateFailedError(answer)
        return result_type.model_validate(answer)

    async def cancel(self) -> None:
        found = self._open
        await self._temporal.run(found.driver.cancel)

    async def terminate(self, reason: str = "") -> None:
        self._open.stopped = STATUS.TERMINATED

    async def result(self) -> Any:
        found = self._execution
        while found.status is STATUS.RUNNING:
            await asyncio.sleep(0.01)
        if found.status is STATUS.COMPLETED:
            return found.driver.result
        if found.status is STATUS.TERMINATED:
            raise WorkflowFailureError(cause=TerminatedError("by hand"))
        if found.status is STATUS.TIMED_OUT:
            raise WorkflowFailureError(cause=TimeoutError("too late", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[]))
        raise WorkflowFailureError(cause=CancelledError() if found.status is STATUS.CANCELED else found.driver.error)

    async def fetch_history_events(self, **options: Any) -> AsyncIterator[HistoryEvent]:
        event = HistoryEvent(event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
        started = event.workflow_execution_started_event_attributes
        started.input.payloads.extend(CONVERTER.payload_converter.to_payloads([self._execution.input]))
        yield event


class TemporalInMemory:
    """The client, and the server behind it.

    Args:
        kinds: The workflow classes by the names with which commands start them, with the answers of their activities.
        now: The clock.
    """

    namespace, data_converter = "default", CONVERTER

    def __init__(self, kinds: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]], now: Callable[[], dt.datetime]) -> None:
        self.kinds, self._now = kinds, now
        self.executions: dict[str, Execution] = {}
        self._drivers: list[Driver] = []
        self._thread = ThreadPoolExecutor(1)

    async def run(self, work: Callable[[], T]) -> T:
        """Run something in the thread of the workflows."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def run_here(self, work: Callable[[], T]) -> T:
        """Run something in the thread of the workflows, outside of an event loop."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        for driver in self._drivers:
            self.run_here(driver.close)
        self._thread.shutdown()

    def advance(self, duration: dt.timedelta) -> None:
        """Let time pass for all open workflows. The caller moves the clock."""
        for execution in self.executions.values():
            if execution.status is STATUS.RUNNING:
                self.run_here(partial(execution.driver.advance, seconds=duration.total_seconds()))

    def lose(self, id: str) -> None:
        """Forget a workflow, as after the retention period or with another database."""
        self.executions.pop(id, None)

    # ------------------------------------------------------------------ the client

    def get_workflow_handle(self, id: str, **options: Any) -> Any:
        return Handle(self, id)

    async def start_workflow(self, kind: str, input: Any, *, id: str, **options: Any) -> Any:
        before = self.executions.get(id)
        if before is not None and before.status is STATUS.RUNNING:
            if options.get("id_conflict_policy") is WorkflowIDConflictPolicy.USE_EXISTING:
                return Handle(self, id)
            raise WorkflowAlreadyStartedError(id, kind)
        reuse = options.get("id_reuse_policy", WorkflowIDReusePolicy.ALLOW_DUPLICATE)
        only_failed = reuse is WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
        if before is not None and (reuse is WorkflowIDReusePolicy.REJECT_DUPLICATE or (only_failed and before.status not in REPEATABLE)):
            raise WorkflowAlreadyStartedError(id, kind)
        workflow, answers = self.kinds[kind]
        now = self._now()
        driver = await self.run(lambda: Driver(workflow, input, answers(input), now=now))
        self._drivers.append(driver)
        self.executions[id] = Execution(id, kind, input, driver, options.get("search_attributes", TypedSearchAttributes.empty), now)
        return Handle(self, id)

    async def list_workflows(self, query: str, *, limit: int | None = None) -> AsyncIterator[Any]:
        for execution in list(self.executions.values()):
            values = execution.attributes
            kinds = (f'CrKind = "{values.get(attributes.KIND)}"', f"WorkflowType = '{execution.kind}'")
            if any(kind in query for kind in kinds) and ('"Running"' not in query or execution.status is STATUS.RUNNING):
                yield Described(execution)
