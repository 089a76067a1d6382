"""Reads a run's activities and their results from Temporal's histories. Needs the payload keyring, but no worker.

Only signed or attested parts of a history are evidence. Verification compares everything else with governance's ledger.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Internal, NotFound, PreconditionFailed
from cleanroom.identifiers import prepare_workflow_id, run_workflow_id
from cleanroom.messages.run import (
    ConsentVerdict,
    ConsentWithdrawn,
    Grant,
    Grants,
    PolicyStatement,
    Revoked,
    RunQueryInput,
    RunState,
    SparkVerdict,
)
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.service_report import ServiceReport
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.started import decode_one, start_argument

T = TypeVar("T")

_RESULTS: dict[str, Any] = {
    "build_job": JobConfig,
    "check_execution_consent": ConsentVerdict,
    "get_attestation_report": ServiceReport,
    "verify_spark": SparkVerdict,
    "get_security_policy": PolicyStatement,
    "set_secret": Grants,
    "configure_idp": Grants,
    "watch_consent": ConsentWithdrawn,
    "collect_result": ResultReceipt,
    "revoke_grants": Revoked,
}
"""Result type of every activity whose result is part of a bundle."""
_ENDED: dict[WorkflowExecutionStatus, RunState] = {
    WorkflowExecutionStatus.COMPLETED: "COMPLETED",
    WorkflowExecutionStatus.FAILED: "FAILED",
    WorkflowExecutionStatus.CANCELED: "CANCELLED",
    WorkflowExecutionStatus.TERMINATED: "FAILED",
    WorkflowExecutionStatus.TIMED_OUT: "FAILED",
}


@dataclass(frozen=True)
class CompletedActivity:
    """An activity of the run's history that completed, with its time and its decoded result."""

    name: str
    at: dt.datetime
    result: Any = None


@dataclass(frozen=True)
class RunTrace:
    """A run that has ended, as read from its histories."""

    input: RunQueryInput
    workflow_id: str
    temporal_run_id: str
    state: RunState
    started_at: dt.datetime
    closed_at: dt.datetime
    failure: dict[str, Any] | None
    completed: tuple[CompletedActivity, ...] = field(default=())
    """Completed activities of the run and of its preparation, in order of completion."""

    def last(self, name: str, kind: type[T]) -> tuple[T, dt.datetime] | None:
        """Return the result and the completion time of the last activity called ``name`` whose result is a ``kind``, or None."""
        for item in reversed(self.completed):
            if item.name == name and isinstance(item.result, kind):
                return item.result, item.at
        return None

    def grants(self) -> tuple[Grant, ...]:
        """Return every grant that was made, without duplicates."""
        made = [grant for item in self.completed if isinstance(item.result, Grants) for grant in item.result.grants]
        return tuple(dict.fromkeys(made))

    def steps(self) -> dict[str, dt.datetime]:
        """Return the last completion time of every activity, by name."""
        return {item.name: item.at for item in self.completed}


async def trace_run(client: Client, collaboration: str, run_id: str) -> RunTrace:
    """Read the histories of a run and of its preparation.

    Raises:
        NotFound: ``WorkflowNotFound`` (also if Temporal's retention period has passed).
        PreconditionFailed: ``RunNotEnded``.
        Internal: ``HistoryMalformed``, or an error of the payload codec.
    """
    workflow_id = run_workflow_id(collaboration, run_id)
    handle = client.get_workflow_handle(workflow_id)
    try:
        description = await handle.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFound(
                "WorkflowNotFound",
                f"Run {run_id!r} does not exist.",
                hint="`cleanroom run list` lists the runs. Temporal deletes runs after the retention period, so export in time.",
            ) from error
        raise
    state = _ENDED.get(description.status) if description.status is not None else None
    if state is None or description.close_time is None:
        raise PreconditionFailed(
            "RunNotEnded", f"run {run_id!r} has not ended, so its evidence is not complete.", hint=f"`cleanroom run watch {run_id}`"
        )
    events = [event async for event in handle.fetch_history_events()]
    converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id))
    if not events:
        raise Internal("HistoryMalformed", "The run's history is empty.")
    input = await start_argument(events[0], converter, RunQueryInput)
    done = [*await _preparation_activities(client, collaboration, run_id), *await _completed_activities(events, converter)]
    return RunTrace(
        input=input,
        workflow_id=workflow_id,
        temporal_run_id=description.run_id,
        state=state,
        started_at=description.start_time,
        closed_at=description.close_time,
        failure=await _failure(events, converter),
        completed=tuple(sorted(done, key=lambda item: item.at)),
    )


async def _preparation_activities(client: Client, collaboration: str, run_id: str) -> list[CompletedActivity]:
    workflow_id = prepare_workflow_id(collaboration, run_id)
    converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id))
    try:
        events = [event async for event in client.get_workflow_handle(workflow_id).fetch_history_events()]
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            # The run ended before its preparation began.
            return []
        raise
    return await _completed_activities(events, converter)


async def _completed_activities(events: list[HistoryEvent], converter: DataConverter) -> list[CompletedActivity]:
    names = {
        event.event_id: event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    }
    found: list[CompletedActivity] = []
    for event in events:
        if event.event_type != EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            continue
        completed = event.activity_task_completed_event_attributes
        name = names.get(completed.scheduled_event_id, "")
        kind = _RESULTS.get(name)
        result = await decode_one(converter, completed.result.payloads, kind) if kind is not None else None
        found.append(CompletedActivity(name=name, at=event.event_time.ToDatetime(dt.UTC), result=result))
    return found


async def _failure(events: list[HistoryEvent], converter: DataConverter) -> dict[str, Any] | None:
    last = events[-1]
    if last.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        error = error_from_failure(await converter.decode_failure(last.workflow_execution_failed_event_attributes.failure))
        return {"code": error.code, "message": error.message, "party": error.party, "hint": error.hint}
    if last.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        return None
    return {
        "code": EventType.Name(last.event_type).removeprefix("EVENT_TYPE_WORKFLOW_EXECUTION_"),
        "message": "",
        "party": None,
        "hint": None,
    }
